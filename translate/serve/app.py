"""The addresses of the server: what comes in, what goes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from translate import files
from translate.errors import DiskError, visible
from translate.html.templates import templates_in
from translate.images.decoder_process import NoDecoder
from translate.serve import description
from translate.serve.admission import Admission
from translate.serve.connections import ABORT
from translate.serve.limits import Limits, Refused
from translate.serve.line import Line, Ticket
from translate.serve.models import Models
from translate.serve.translation import Workshop
from translate.serve.uploads import Form, drain, read_form
from translate.serve.workplace import one_folder

T = TypeVar("T")
# Of outputs. What Python knows of them depends on the system's own list.
MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp", ".bmp": "image/bmp", ".ppm": "image/x-portable-pixmap",
               **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "image/jpeg"),
               **dict.fromkeys((".tif", ".tiff"), "image/tiff")}
MOST_SIDE = 1_000_000  # px, of an image that memory is foretold for
MOST_LETTERS = 1_000  # of notes, in a header
NUM_FORECASTS = 8  # that wait at once
# A page loads nothing but from here, and what it shows are pictures that it has made itself.
HEADERS = {"content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
           "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
           "frame-ancestors 'none'",
           "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
           "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin"}
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Service:
    """All that requests share."""

    models: Models
    admission: Admission
    folder: Path  # of what is in hand
    limits: Limits = field(default_factory=Limits)
    log: Callable[[str], None] = lambda line: None
    tickets: dict[str, Ticket] = field(default_factory=dict)  # by the name that a page has given its request

    def __post_init__(self) -> None:
        self.workshop = Workshop(self.limits)
        self.line = Line(self.limits.places, "translating")
        self.forecasts = Line(NUM_FORECASTS, "planning")

    def end(self) -> None:
        """Refuse whoever is not being worked for."""
        self.line.is_closing = self.forecasts.is_closing = True

    def close(self) -> None:
        """End threads and processes."""
        for line in (self.line, self.forecasts):
            line.close()
        self.workshop.close()

    @cached_property
    def app(self) -> ASGIApp:
        routes = [("/translate", self.translate, "POST"), ("/preview", self.preview, "POST"),
                  ("/memory", self.memory, "GET"), ("/progress/{ticket}", self.progress, "GET"),
                  ("/models", self.about, "GET"), ("/health", self.health, "GET"),
                  ("/openapi.json", self.openapi, "GET"), *((path, self.static, "GET") for path in self.pages)]
        starlette = Starlette(routes=[Route(path, self.answering(handler), methods=[method])
                                      for path, handler, method in routes])
        starlette.add_exception_handler(HTTPException, of_starlette)

        async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
            """Let in whom `admission` lets in, and put our headers on every answer."""
            async def with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    known = {name.lower() for name, _ in message["headers"]}
                    message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value
                                                                 in HEADERS.items() if name.encode() not in known)]
                await send(message)

            assert scope["type"] == "http", "there are neither web sockets nor a lifespan"
            request = Request(scope, receive)
            try:
                self.admission.check(request.method, scope["path"], request.headers)
            except Refused as refused:
                await (await refusal(request, refused, self.limits))(scope, receive, with_headers)
            else:
                await starlette(scope, receive, with_headers)

        return admitted

    def answering(self, handler: Handler) -> Handler:
        """Return a handler whose errors are answers."""
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Refused as refused:
                return await refusal(request, refused, self.limits)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except (DiskError, NoDecoder) as error:
                self.log(f"error: {error}")
                status = 507 if isinstance(error, DiskError) else 500
                why = "this server cannot work at the moment; its log says why"
                return await refusal(request, Refused(status, why), self.limits)
        return answer

    # ---- images

    async def translate(self, request: Request) -> Response:
        """Answer with the translation of an image."""
        with ExitStack() as held:
            ticket = held.enter_context(self.line.place())
            name = request.headers.get("x-ticket", "")
            if re.fullmatch(r"[0-9a-f]{16,64}", name) and name not in self.tickets:
                self.tickets[name] = ticket
                held.callback(self.tickets.pop, name)

            # The image and what is to be done with it.
            folder = held.enter_context(one_folder(self.folder))
            form, source = await self.uploaded(request, folder)
            offer = self.models.find(form.values.get("model"), form.values.get("direction"))
            scaling = offer.scaling(form.values.get("resize"), form.values.get("size"))

            # Translated when it is its turn, unless the client has this output already.
            known = next(iter(re.findall(r'"([0-9a-f]{64})"', request.headers.get("if-none-match", ""))), None)
            made = await while_connected(request, self.line.run(ticket, lambda: self.workshop.translate(
                offer, scaling, source, form.stem, known, ticket)))
            headers = {"etag": f'"{made.key}"', "cache-control": "private, no-cache"}
            if made.notes:
                headers["x-notes"] = quote("; ".join(made.notes)[:MOST_LETTERS], safe=" ;:,()")
            self.log(f"{visible(form.stem)}{source.suffix}: {'unchanged' if made.file is None else 'translated'} with "
                     f"{offer.model} ({offer.release.direction})")
            if made.file is None:
                return Response(status_code=304, headers=headers)
            return HeldFile(made.file, headers, form.stem + made.file.suffix, held.pop_all(),
                            self.limits.answer_seconds)

    async def preview(self, request: Request) -> Response:
        """Answer with an image as a browser can show it."""
        with ExitStack() as held:
            ticket = held.enter_context(self.line.place())
            folder = held.enter_context(one_folder(self.folder))
            form, source = await self.uploaded(request, folder)
            shown = folder / "shown.png"
            await while_connected(request, self.line.run(ticket, lambda: self.workshop.show(source, shown)))
            return HeldFile(shown, {"cache-control": "no-store"}, f"{form.stem}.png", held.pop_all(),
                            self.limits.answer_seconds)

    async def uploaded(self, request: Request, folder: Path) -> tuple[Form, Path]:
        """Read a form, and its image into a file of `folder`. Raises as `read_form` does, and `DiskError`."""
        with files.as_disk_errors(folder):
            with (folder / "upload").open("wb") as file:
                form = await read_form(request, file, self.limits, self.line)
            return form, (folder / "upload").rename(folder / f"input{form.suffix}")

    # ---- what is asked about them

    async def memory(self, request: Request) -> Response:
        """Answer with what an image of a size will take."""
        asked = request.query_params
        sides = [asked.get("height", ""), asked.get("width", "")]
        if not all(side.isascii() and side.isdigit() and len(side) < 8 for side in sides):
            raise Refused(422, "height, width: expected numbers of pixels")
        height, width = map(int, sides)
        if min(height, width) < 1 or max(height, width) > MOST_SIDE or height * width > self.limits.pixels:
            raise Refused(422, f"{height}×{width}: expected at most {self.limits.pixels:,} pixels")
        offer = self.models.find(asked.get("model"), asked.get("direction"))
        scaling = offer.scaling(asked.get("resize"), asked.get("size"))
        shown = scaling.shape_of((height, width))
        if shown[0] * shown[1] > self.limits.pixels:
            raise Refused(422, f"would be enlarged to {shown[0]}×{shown[1]}: expected at most {self.limits.pixels:,} "
                          "pixels; ask for a smaller short side")
        with self.forecasts.place() as ticket:
            return JSONResponse(await self.forecasts.run(ticket, lambda: offer.memory(height, width, scaling)))

    async def progress(self, request: Request) -> Response:
        """Answer with where a request stands that was given a name."""
        ticket = self.tickets.get(request.path_params["ticket"])
        if ticket is None:
            return JSONResponse({"state": "none"}, headers={"cache-control": "no-store"})
        waiting = ticket.state == "waiting"
        return JSONResponse({"state": ticket.state, "ahead": self.line.ahead_of(ticket) if waiting else 0,
                             "seconds": round(ticket.seconds(), 2) if ticket.began else 0.0,
                             "expected": ticket.expected}, headers={"cache-control": "no-store"})

    async def about(self, request: Request) -> Response:
        """Answer with what is on offer."""
        return JSONResponse({"models": self.models.about(), "limits": {
            "upload_bytes": self.limits.upload_bytes, "pixels": self.limits.pixels, "places": self.limits.places}})

    async def health(self, request: Request) -> Response:
        """Answer that the server lives, and how busy it is."""
        return JSONResponse({"status": "ending" if self.line.is_closing else "ok", "places": self.line.places,
                             "taken": len(self.line.tickets)}, headers={"cache-control": "no-store"})

    async def openapi(self, request: Request) -> Response:
        """Answer with the OpenAPI document."""
        return JSONResponse(self.document)

    async def static(self, request: Request) -> Response:
        """Answer with a page, or what it is made of."""
        content, kind = self.pages[request.scope["path"]]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    @cached_property
    def document(self) -> dict[str, Any]:
        return description.document(self.models, self.limits, with_token=self.admission.token is not None)

    @cached_property
    def pages(self) -> dict[str, tuple[str, str]]:
        """Pages and what they are made of: content and type, by address."""
        templates = templates_in(Path(__file__).parent)
        parts = {"/page.css": "text/css", "/page.js": "text/javascript", "/slider.js": "text/javascript"}
        shown = {"name": "", "size": (1, 1), "left": "input", "right": "output",
                 "pictures": [("input", "data:,"), ("output", "data:,")]}
        page = templates.get_template("page.html.j2").render(shown=shown)
        for_all = description.document(None, self.limits, with_token=self.admission.token is not None)
        api = templates.get_template("api.html.j2").render(document=for_all)
        return {"/": (page, "text/html"), "/api": (api, "text/html"),
                **{path: (templates.get_template(path[1:]).render(), kind) for path, kind in parts.items()}}


class HeldFile(FileResponse):
    """A file whose folder and place in the line are held until it is sent, or has taken too long.

    Then the connection is aborted: closing it would wait for a client that takes nothing.
    """

    def __init__(self, path: Path, headers: dict[str, str], filename: str, held: ExitStack, seconds: float):
        super().__init__(path, headers=headers, filename=filename, media_type=MEDIA_TYPES[path.suffix.lower()])
        self._held, self._seconds = held, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                scope["state"][ABORT]()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work as long as the client is there. Raises `ClientDisconnect` once it is not."""
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        raise ClientDisconnect
    finally:
        leaving.cancel()


async def refusal(request: Request, refused: Refused, limits: Limits) -> Response:
    """Answer why a request is not carried out. A body that was not read to its end ends the connection."""
    headers = dict(refused.headers)
    if request.method != "GET" and (refused.status == 408 or not await drain(request, limits.drain_seconds)):
        headers["connection"] = "close"
    return JSONResponse({"error": refused.why}, refused.status, headers)


async def of_starlette(request: Request, error: Exception) -> Response:
    """Answer what starlette refuses: other addresses and methods."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
