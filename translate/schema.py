"""The strict base of every config class, and validation errors a person can act on.

A config is frozen, refuses unknown fields, and stands beside the component it builds. Numbers written as text
are accepted (PyYAML reads `2e-4` as a string), anything else is checked. `validate` reports **all** mistakes of a
document at once, each as

    recipes/x.yaml: translator.weights.cycel: unknown field; did you mean cycle?

The YAML reader refuses what YAML allows and a person never means: duplicate keys, aliases, anchors, tags.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from translate.errors import RecipeError

LARGEST_DOCUMENT = 256 * 1024  # bytes; a recipe or a card is a page of text


class Config(pydantic.BaseModel):
    """A part of a recipe or a card: immutable, complete, and nothing else in it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Model = TypeVar("Model", bound=pydantic.BaseModel)


def validate(model: type[Model], document: Any, source: str) -> Model:
    """Build `model` from a plain document (what a YAML file holds); raise `RecipeError` naming every mistake.

    `source` opens each line: the file a person has to edit.
    """
    if not isinstance(document, Mapping):
        raise RecipeError([f"{source}: holds {_shown(document)}; expected a mapping of fields"])
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        raise RecipeError([f"{source}: {line}" for line in explain(error, model)]) from None


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[str]:
    """One line for each mistake: where it is, what arrived, what to do."""
    found: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        where, owner = _locate(detail, model)
        found.setdefault(where, []).append(_line(detail, where, owner))
    lines = []
    for where, reasons in found.items():
        # Of the branches of a plain union (`auto | {plan: …}`) and of the containers around a mistake, only the
        # innermost says what a person got wrong.
        if not any(other.startswith(f"{where}.") for other in found if where):
            lines += reasons[0].split("\n")
    return lines


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?` and the words that are known, for an error message."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return (f"; did you mean {close[0]}?" if close else "") + f" ({', '.join(known)})"


def _line(detail: Any, where: str, owner: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = where.split(".")[-1]
    if kind == "extra_forbidden":
        fields = list(owner.model_fields) if owner else []
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
        advice = f"did you mean {close[0]}?" if close else f"known fields: {', '.join(fields)}"
        return f"{where}: unknown field; {advice}"
    if kind == "missing":
        return f"{where}: missing; this field is needed"
    if kind == "literal_error":
        allowed = [word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")]
        what = "one of these" if name.isdigit() else f"a {name.replace('_', ' ')}"
        return f"{where}: {_shown(value)} is not {what}{nearest(value, allowed)}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{where}.kind: {_shown(context['tag'])} is not a kind of {name}{nearest(context['tag'], tags)}"
    if kind == "union_tag_not_found":
        return f"{where}.kind: missing; say which {name} this is"
    if kind in ("value_error", "assertion_error"):
        reason = str(context.get("error", detail["msg"]))
        return f"{where}: {reason}" if where else reason  # a model's own check may hold several lines
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{where}: {_shown(value)}: {message}"


def _locate(detail: Any, model: type[pydantic.BaseModel]) -> tuple[str, Any]:
    """Turn pydantic's location into the path a person wrote, and find the model that its last step belongs to.

    pydantic puts the member it tried of a union into its location (`translator.cyclegan.weights`); a recipe has no
    such level, so those steps are left out.
    """
    written: list[str] = []
    owner: Any = model
    options: list[Any] = [model]
    location = detail["loc"]
    for number, step in enumerate(location):
        models = [option for option in options if _is_model(option)]
        unknown = detail["type"] == "extra_forbidden" and number == len(location) - 1
        if isinstance(step, int):
            written.append(str(step))
            options = [inner for option in options for inner in _members(option, into_items=True)]
        elif unknown or any(step in option.model_fields for option in models):
            written.append(step)
            owner = models[0]
            options = [inner for option in models if step in option.model_fields
                       for inner in _members(option.model_fields[step].annotation)]
        else:  # a member of a union
            options = [option for option in models if step in (_tag(option), option.__name__)] or options
    return ".".join(written), owner


def _members(annotation: Any, into_items: bool = False) -> list[Any]:
    """The plain types behind an annotation: unions opened, `Annotated` stripped, containers entered on request."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _members(arguments[0], into_items)
    if origin in (typing.Union, types.UnionType):
        return [member for argument in arguments for member in _members(argument, into_items)]
    if into_items and origin in (list, tuple, set, frozenset):
        return [member for argument in arguments if argument is not ... for member in _members(argument)]
    return [annotation]


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, pydantic.BaseModel)


def _tag(option: type[pydantic.BaseModel]) -> Any:
    kind = option.model_fields.get("kind")
    return typing.get_args(kind.annotation)[0] if kind and typing.get_args(kind.annotation) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"

def read_document(path: Path, advice: str) -> dict[str, Any]:
    """The mapping a YAML file holds. `advice` tells what to do when there is no such file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError([f"{path}: {error.strerror}; {advice}"]) from None
    if len(text) > LARGEST_DOCUMENT:
        raise RecipeError([f"{path}: {len(text):,} bytes; at most {LARGEST_DOCUMENT:,} are read"])
    document = read_yaml(text.decode(errors="replace"), str(path))
    if not isinstance(document, dict):
        raise RecipeError([f"{path}: holds {_shown(document)}; expected a mapping of fields"])
    return document


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, aliases and tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.constructor.ConstructorError(None, None, f"tag {event.tag} is not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen or name == "<<":
                problem = "merge keys are not allowed" if name == "<<" else f"the key {name} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str) -> Any:
    """Plain values out of a YAML text; raises `RecipeError` naming the line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader that allows less
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError([f"{source}{line}: {error.problem}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError([f"{source}: not YAML: {str(error).splitlines()[0]}"]) from None
