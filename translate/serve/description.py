"""The addresses of the server as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, get_args

from translate.images.listing import SUFFIXES
from translate.serve.limits import Limits
from translate.serve.models import Models
from translate.serve.uploads import FILE_FIELD
from translate.sizes import format_bytes
from translate.translators import Direction


def document(models: Models | None, limits: Limits, with_token: bool) -> dict[str, Any]:
    """Describe every address, with the limits of this server; with its models, unless they are not to be told."""
    names = {"enum": list(dict.fromkeys(name for name, _ in models.offers))} if models else {}
    choice = {
        "model": {"type": "string", **names, "description": "which model translates, as /models lists them; else the "
                  "first"},
        "direction": {"type": "string", "enum": list(get_args(Direction)),
                      "description": "ab: A to B; ba: B to A; else the model's first"},
        "resize": {"type": "string", "pattern": "^(trained|[1-9][0-9]{0,5})$", "description": "translate at another "
                   "scale: trained, that of the model's training, or a short side in pixels; else as it is"},
        "size": {"type": "string", "enum": ["resized", "input"], "default": "resized",
                 "description": "in which size the output comes: as it was translated, or the input's"}}
    image = {FILE_FIELD: {"type": "string", "format": "binary", "description": "one image file, of at most "
                          f"{format_bytes(limits.upload_bytes)} and {limits.pixels:,} pixels: "
                          f"{', '.join(sorted(each[1:] for each in SUFFIXES))}"}}
    query = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in choice.items()]
    sides = [{"name": side, "in": "query", "required": True, "schema": {"type": "integer", "minimum": 1},
              "description": "px"} for side in ("height", "width")]
    etag = {"ETag": {"schema": {"type": "string"}, "description": "the key of the output: of the file, the model's "
                     "fingerprint and the settings, as in the ledger of `translate convert`"}}
    notes = {"X-Notes": {"schema": {"type": "string"}, "description": "what is to be said of it, percent-encoded"}}
    paths = {
        "/translate": {"post": _operation("Translate an image", {
            "200": {"description": "the file that `translate convert` writes, byte for byte", "headers": etag | notes,
                    "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
            "304": {"description": "it is the one that If-None-Match names: nothing was translated", "headers": etag},
            **_refusals(400, 404, 408, 413, 415, 422, 503, 507)}, form=image | choice, parameters=[
                {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
                {"name": "X-Ticket", "in": "header", "schema": {"type": "string", "pattern": "^[0-9a-f]{16,64}$"},
                 "description": "a name for this request, by which /progress tells of it"}])},
        "/preview": {"post": _operation("Show an image of any format as a PNG of 8 bits", {
            "200": {"description": "the image, of several the first", "content": {"image/png": {}}},
            **_refusals(400, 408, 413, 415, 422, 503, 507)}, form=image)},
        "/memory": {"get": _operation("Tell the memory that an image will take", {
            "200": _json("bytes it takes beside the weights and itself, bytes that may be taken, and how it is "
                         "computed: at once, or in strips, which give the same output"),
            **_refusals(404, 422, 503)}, parameters=[*sides, *query])},
        "/progress/{ticket}": {"get": _operation("Tell where a request stands", {
            "200": _json("state (none where there is no such request in hand, uploading, waiting, working, "
                         "sending), how many are ahead, seconds in this state, seconds expected")},
            parameters=[{"name": "ticket", "in": "path", "required": True, "schema": {"type": "string"}}])},
        "/models": {"get": _operation("List the models and the limits", {"200": _json("models, limits")})},
        "/health": {"get": _operation("Tell whether the server lives", {"200": _json("status, places, taken")})}}
    security: dict[str, Any] = {"security": [{"token": []}]} if with_token else {}
    schemes = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if with_token else {}
    return {"openapi": "3.1.0", "paths": paths, **security,
            "info": {"title": "Diptych", "version": version("diptych"), "description": "Images translated."},
            "components": {"schemas": {"Refusal": {"type": "object", "required": ["error"], "properties": {
                "error": {"type": "string", "description": "why, in words"}}}}, **schemes}}


def _operation(summary: str, responses: dict[str, Any], form: dict[str, Any] | None = None,
               parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        said["parameters"] = parameters
    if form:
        schema = {"type": "object", "required": [FILE_FIELD], "properties": form}
        said["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return said


def _json(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": {"type": "object"}}}}


def _refusals(*statuses: int) -> dict[str, Any]:
    why = {400: "no form that can be read", 404: "no such model or direction", 408: "it arrives too slowly",
           413: "too large: the file, the image once it is enlarged, or the memory that it would take",
           415: "no multipart/form-data",
           422: "an image that cannot be read or that the model does not take; a setting that means nothing",
           503: "no place is free; Retry-After says when to try again", 507: "the disk of the server is full"}
    refusal = {"schema": {"$ref": "#/components/schemas/Refusal"}}
    return {str(status): {"description": why[status], "content": {"application/json": refusal}}
            for status in statuses}
