"""A validation error in words: where the mistake is in a person's document, what arrived, and what to do."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple

import pydantic

WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}  # what a field of a type holds
BOUNDS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than",
          "less_than_equal": "at most"}


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[str]:
    """One line for each mistake: where it is, what arrived, what to do."""
    found: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "missing" and location and isinstance(location[-1], int):
            location = location[:-1]  # what is wrong is the list: it is too short
        place = _locate(location, model)
        found.setdefault(place.where, []).append(_line(detail, place, model))
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


class _Place(NamedTuple):
    """Where a mistake is: the path a person wrote, the model that its last step belongs to (`kinds`: those that could
    stand in its place), and what it may hold."""

    where: str
    owner: Any
    kinds: Sequence[Any]
    holds: Any


def _locate(location: Sequence[int | str], model: type[pydantic.BaseModel]) -> _Place:
    """Follow pydantic's location through the types of a model.

    At a union, pydantic adds a step that names the member it tried (`data.labels.classes`), by its tag or its type; a
    recipe has no such level, so it is left out. Only the types tell it from a field of the same name.
    """
    written: list[str] = []
    owner: Any = None
    kinds: Sequence[Any] = ()
    around: Sequence[Any] = ()
    here: Any = model
    holds: Any = model
    for step in location:
        members = _members(here)
        if len(members) > 1:
            here, around = _untagged(next((member for member in members if step in _names(member)), Any)), members
            continue
        written.append(str(step))
        owner = members[0] if members and _is_model(members[0]) else None
        kinds, around = around, ()
        here = holds = _inside(members[0] if members else Any, step)
    return _Place(".".join(written), owner, kinds, holds)


def _inside(holder: Any, step: int | str) -> Any:
    """What a model's field, or an entry of a list, may hold."""
    if _is_model(holder):
        return holder.model_fields[step].annotation if step in holder.model_fields else Any
    entries = [argument for argument in typing.get_args(holder) if argument is not ...]
    if typing.get_origin(holder) is dict:
        return entries[1]
    return entries[min(step, len(entries) - 1)] if isinstance(step, int) and entries else Any


def _members(annotation: Any) -> list[Any]:
    """The types of a union but for None, or the one type that an annotation is."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and not any(isinstance(extra, pydantic.Tag) for extra in arguments[1:]):
        return _members(arguments[0])
    if origin in (typing.Union, UnionType):
        return [member for argument in arguments for member in _members(argument) if member is not type(None)]
    return [annotation]


def _untagged(member: Any) -> Any:
    return typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member


def _names(member: Any) -> set[Any]:
    """What pydantic may call a member of a union."""
    if typing.get_origin(member) is Annotated:
        return {extra.tag for extra in typing.get_args(member)[1:] if isinstance(extra, pydantic.Tag)}
    return {*_tags(member), getattr(member, "__name__", None), str(member), str(member).replace(" ", "")}


def _tags(member: Any) -> tuple[Any, ...]:
    return typing.get_args(member.model_fields["kind"].annotation) if _is_model(member) and (
        "kind" in member.model_fields) else ()


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _line(detail: Any, place: _Place, root: type[pydantic.BaseModel]) -> str:
    kind, value, context, where = detail["type"], detail["input"], detail.get("ctx", {}), place.where
    name = where.split(".")[-1]
    if kind == "extra_forbidden":
        return f"{where}: unknown field; {_advice(name, place, root)}"
    if kind == "missing" and isinstance(value, Mapping):
        return f"{where}: missing; this field is needed"
    if kind == "literal_error" and len(_members(place.holds)) == 1:
        allowed = [str(word) for word in typing.get_args(_members(place.holds)[0])]
        article = "an" if name[0] in "aeiou" else "a"
        what = "one of these" if name.isdigit() or name.endswith("s") else f"{article} {name.replace('_', ' ')}"
        return f"{where}: {shown(value)} is not {what}{nearest(value, allowed)}"
    if kind == "union_tag_invalid":
        tags = [tag for member in _members(place.holds) for tag in _tags(member)]
        return f"{where}.kind: {shown(context['tag'])} is not a kind of {name}{nearest(context['tag'], tags)}"
    if kind == "union_tag_not_found":
        tags = [tag for member in _members(place.holds) for tag in _tags(member)]
        return f"{where}.kind: missing; say which {name} this is ({', '.join(tags)})"
    if kind in ("value_error", "assertion_error"):
        reason = str(context.get("error", detail["msg"]))
        return f"{where}: {reason}" if where else reason  # a model's own check may hold several lines
    if kind == "too_short":
        return f"{where}: {shown(value)}: too few entries; at least {context['min_length']} is needed"
    if kind in BOUNDS:
        (bound,) = context.values()
        return f"{where}: {value}: must be {BOUNDS[kind]} {int(bound) if bound == int(bound) else bound}"
    if kind == "finite_number":
        return f"{where}: {value}: must be a finite number"
    if kind.endswith(("_type", "_parsing", "_from_float", "_attributes_type")) or kind in ("missing", "too_long",
                                                                                           "literal_error"):
        return f"{where}: {shown(value)}: expected {_expected(place.holds)}{_example(place.holds, value)}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{where}: {shown(value)}: {message}"


def _advice(name: str, place: _Place, root: type[pydantic.BaseModel]) -> str:
    """What may have been meant by an unknown field: one of another kind of this part, one of its name elsewhere, else
    one of a similar name here."""
    fields = list(place.owner.model_fields) if place.owner else []
    having = [tag for member in map(_untagged, place.kinds) if _is_model(member) and name in member.model_fields
              for tag in _tags(member)]
    if having:
        return f"kind: {_or(having)} has it, this is {_or(_tags(place.owner))}"
    elsewhere = [path for path in dict.fromkeys(_paths(root, name)) if path != place.where]
    if 1 <= len(elsewhere) <= 6:  # of more, such as `kind`, none is likelier than another
        return f"did you mean {_or(sorted(elsewhere, key=lambda path: path.count('.'))[:4])}?"
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known fields: {', '.join(fields)}"


def _paths(annotation: Any, name: str, prefix: str = "", around: tuple[Any, ...] = ()) -> Iterator[str]:
    """Where a document may hold a field of this name; of lists, in the first entry, and of a model inside itself
    (`around`: those it lies in), only the outer one."""
    for member in map(_untagged, _members(annotation)):
        if not _is_model(member):
            for argument in typing.get_args(member) if typing.get_origin(member) is tuple else ():
                yield from _paths(argument, name, f"{prefix}0.", around)
            continue
        if member in around:
            continue
        for field, info in member.model_fields.items():
            if field == name:
                yield f"{prefix}{field}"
            yield from _paths(info.annotation, name, f"{prefix}{field}.", (*around, member))


def _expected(annotation: Any) -> str:
    """What a field may hold, in words."""
    members = _members(annotation)
    tags = [tag for member in members for tag in _tags(member)]
    if len(members) > 1 and tags:
        return f"fields, with kind: {_or(tags)}"
    words = [word for member in members for word in _described(_untagged(member))]
    nullable = type(None) in leaves(annotation)
    return _or([*words, "null"] if nullable else words)


def _described(member: Any) -> list[str]:
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if origin is typing.Literal:
        return [str(word) for word in arguments]
    if _is_model(member):
        return [f"fields ({', '.join(member.model_fields)})"]
    if origin is tuple and ... not in arguments:
        return [f"a list of {len(arguments)} {WORDS.get(arguments[0], 'a value').removeprefix('a ')}s"]
    if origin is dict:
        words = [WORDS.get(each, "a value").removeprefix("a ") + "s" for each in arguments]
        return [f"a mapping of {' to '.join(words)}"]
    return ["a list"] if origin is tuple else [WORDS.get(member, "something else")]


def _example(annotation: Any, value: Any) -> str:
    """How what arrived is written as what was expected, where that is easily said."""
    (member, *others) = _members(annotation)
    if others or isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if typing.get_origin(member) is tuple and ... in typing.get_args(member):
        return f", as in [{value}]"
    return f', as in "{value}"' if member is str else ""


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def no_mapping(document: Any) -> str:
    """What to say of a document that is not a mapping of fields."""
    holds = "is empty" if document is None else f"holds {shown(document)}"
    return f"{holds}; expected a mapping of fields, as in `name: mine`"


def shown(value: Any) -> str:
    """A value as a recipe writes it, if it is short."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else (
        repr(value))
    return text if len(text) <= 60 else text[:57] + "…"


def leaves(annotation: Any) -> Iterator[Any]:
    """The types an annotation is made of, whatever stands around them."""
    if typing.get_origin(annotation) is typing.Literal:
        return
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from leaves(argument)
