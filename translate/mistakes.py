"""Pydantic's validation errors as mistakes in a recipe or a card: which field, what arrived, and what to do."""

from __future__ import annotations

import difflib
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple

import pydantic

from translate.errors import Mistake

TYPE_WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false"}
MAX_TOLD = 200  # mistakes of a document; a file with more of them is none of ours
BOUND_WORDS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than",
               "less_than_equal": "at most"}


class Mistakes(ValueError):
    """Several mistakes that a model's own check has found, each with the path of its field in the model."""

    def __init__(self, mistakes: Sequence[Mistake]):
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[Mistake]:
    """Return the mistakes that pydantic found: the path of each field, what arrived, what to do."""
    # By path, the first thing that is wrong there.
    found: dict[str, list[Mistake]] = {}
    details = [detail for detail in error.errors(include_url=False)
               if detail["type"] != "default_factory_not_called"]  # it depends on a field that is wrong and named
    for detail in details[:MAX_TOLD]:
        location = detail["loc"]
        if detail["type"] == "missing" and location and isinstance(location[-1], int):
            location = location[:-1]  # what is wrong is the list: it is too short
        place = _locate(location, model)
        if place.where not in found:
            found[place.where] = list(_mistakes(detail, place, model))

    # Pydantic also reports the other members of a plain union (`auto | {plan: …}`) and the containers around a
    # mistake; only the innermost path says what a person got wrong.
    around = {where[:end] for where in found for end, letter in enumerate(where) if letter == "."}
    told = [mistake for where, mistakes in found.items() for mistake in mistakes if where not in around]
    left = len(details) - MAX_TOLD
    return [*told, Mistake("", f"{left:,} more mistakes, which are told when these are mended")] if left > 0 else told


def nearest(word: str, known: Sequence[str]) -> str:
    """Return advice for a word that is not among those known: the most similar one, and all of them."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    words = ", ".join(known)
    return f"did you mean {close[0]}? ({words})" if close else f"expected one of {words}"


class _Place(NamedTuple):
    """Where a mistake is. As an example, the values for `data.classes: many` where data.kind is labels."""

    where: str  # the path that a person wrote: "data.classes"
    owner: Any  # the model that the last step of the path is a field of: LabelsConfig
    kinds: Sequence[Any]  # the models that could stand in the owner's place: the members of DataConfig
    holds: Any  # the type of what may stand here: int


def _locate(location: Sequence[int | str], model: type[pydantic.BaseModel]) -> _Place:
    """Follow pydantic's location of a mistake through the types of a model.

    At a union, pydantic adds a step that names the member it tried (`data.labels.classes`), by its tag or its type. A
    recipe has no such level, so this step is left out. Only the types tell it from a field of the same name.
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
    """Return the type of a model's field, of a dict's values, or of an entry of a list."""
    if _is_model(holder):
        return holder.model_fields[step].annotation if step in holder.model_fields else Any
    entries = [argument for argument in typing.get_args(holder) if argument is not ...]
    if typing.get_origin(holder) is dict:
        return entries[1]
    return entries[min(step, len(entries) - 1)] if isinstance(step, int) and entries else Any


def _members(annotation: Any) -> list[Any]:
    """Return the types of a union without None, or the one type that an annotation is."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and not any(isinstance(extra, pydantic.Tag) for extra in arguments[1:]):
        return _members(arguments[0])
    if origin in (typing.Union, UnionType):
        return [member for argument in arguments for member in _members(argument) if member is not type(None)]
    return [annotation]


def _untagged(member: Any) -> Any:
    return typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member


def _names(member: Any) -> set[Any]:
    """Return the names that pydantic may give to a member of a union."""
    if typing.get_origin(member) is Annotated:
        return {extra.tag for extra in typing.get_args(member)[1:] if isinstance(extra, pydantic.Tag)}
    return {*_tags(member), getattr(member, "__name__", None), str(member), str(member).replace(" ", "")}


def _tags(member: Any) -> tuple[Any, ...]:
    return typing.get_args(member.model_fields["kind"].annotation) if _is_model(member) and (
        "kind" in member.model_fields) else ()


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _mistakes(detail: Any, place: _Place, root: type[pydantic.BaseModel]) -> Iterator[Mistake]:
    """Yield the mistakes of one error of pydantic: several, where a model's own check has found them."""
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, Mistakes):
        for mistake in fault.mistakes:
            yield mistake._replace(path=".".join(filter(None, (place.where, mistake.path))))
    else:
        yield _mistake(detail, place, root)


def _mistake(detail: Any, place: _Place, root: type[pydantic.BaseModel]) -> Mistake:
    """Return one error of pydantic as a mistake, in words that a person uses."""
    kind, value, context, where = detail["type"], detail["input"], detail.get("ctx", {}), place.where
    name = where.split(".")[-1]

    # A field that is unknown or missing, or a word that is none of those allowed.
    if kind == "extra_forbidden":
        return Mistake(where, "unknown field", _advice(name, value, place, root))
    if kind == "missing" and isinstance(value, Mapping):
        return Mistake(where, "missing", "this field is needed")
    if kind == "literal_error" and len(_members(place.holds)) == 1:
        allowed = [str(word) for word in typing.get_args(_members(place.holds)[0])]
        article = "an" if name[0] in "aeiou" else "a"
        what = "allowed here" if name.isdigit() or name.endswith("s") else f"{article} {name.replace('_', ' ')}"
        return Mistake(where, f"{shown(value)} is not {what}", nearest(value, allowed))

    # The kind of a part, which decides what its other fields are.
    tags = [tag for member in _members(place.holds) for tag in _tags(member)]
    if kind == "union_tag_invalid":
        return Mistake(f"{where}.kind", f"{shown(context['tag'])} is not a kind of {name}",
                       nearest(context["tag"], tags))
    if kind == "union_tag_not_found":
        return Mistake(f"{where}.kind", "missing", f"say which {name} this is ({', '.join(tags)})")

    # A value that a model's own check, a bound or a type refuses.
    if kind in ("value_error", "assertion_error"):
        return Mistake(where, str(context.get("error", detail["msg"])))
    if kind == "too_short":
        return Mistake(where, f"{shown(value)}: too few entries", f"at least {context['min_length']} is needed")
    if kind in BOUND_WORDS:
        (bound,) = context.values()
        return Mistake(where, f"{value}: must be {BOUND_WORDS[kind]} {int(bound) if bound == int(bound) else bound}")
    if kind == "finite_number":
        return Mistake(where, f"{value}: must be a finite number")
    if kind.endswith(("_type", "_parsing", "_from_float", "_attributes_type")) or kind in ("missing", "too_long",
                                                                                           "literal_error"):
        return Mistake(where, f"{shown(value)}: expected {_expected(place.holds)}{_example(place.holds, value)}")
    return Mistake(where, f"{shown(value)}: {detail['msg'][0].lower()}{detail['msg'][1:]}")


def _advice(name: str, value: Any, place: _Place, root: type[pydantic.BaseModel]) -> str:
    """Return what may have been meant by an unknown field: a field of another kind of this part, a field of the same
    name elsewhere in the document, or one of a similar name here."""
    fields = list(place.owner.model_fields) if place.owner else []
    models = [member for member in map(_untagged, place.kinds) if _is_model(member) and name in member.model_fields]
    whole = [member for member in models if _has_fields(member.model_fields[name].annotation, value)]
    if having := [tag for member in whole or models for tag in _tags(member)]:
        return f"kind: {_or(having)} has it, this is {_or(_tags(place.owner))}"
    elsewhere = [path for path in _fields(root).get(name, ()) if path != place.where]
    if 1 <= len(elsewhere) <= 6:  # of more, such as `kind`, none is likelier than another
        return f"did you mean {_or(sorted(elsewhere, key=lambda path: path.count('.'))[:4])}?"
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known fields: {', '.join(fields)}"


def _has_fields(annotation: Any, value: Any) -> bool:
    """Tell whether a type has the fields of a value, and theirs: `weights` of pix2pix has `{ssim: 40}`, of CUT not."""
    if not isinstance(value, Mapping):
        return True
    return any(all(name in member.model_fields and _has_fields(member.model_fields[name].annotation, each)
                   for name, each in value.items())
               for member in map(_untagged, _members(annotation)) if _is_model(member))


@functools.lru_cache(maxsize=8)
def _fields(root: type[pydantic.BaseModel]) -> dict[str, list[str]]:
    """Return the paths at which a document may hold a field, by its name; a document may ask for hundreds of names."""
    found: dict[str, dict[str, None]] = {}
    for path in _paths(root):
        found.setdefault(path.rpartition(".")[2], {})[path] = None
    return {name: list(paths) for name, paths in found.items()}


def _paths(annotation: Any, prefix: str = "", around: tuple[Any, ...] = ()) -> Iterator[str]:
    """Yield the paths of all fields that a document may hold.

    Of a list, the first entry stands for all; a model inside itself is not entered again (`around`: those entered).
    """
    for member in map(_untagged, _members(annotation)):
        if not _is_model(member):
            for argument in typing.get_args(member) if typing.get_origin(member) is tuple else ():
                yield from _paths(argument, f"{prefix}0.", around)
            continue
        if member in around:
            continue
        for field, info in member.model_fields.items():
            yield f"{prefix}{field}"
            yield from _paths(info.annotation, f"{prefix}{field}.", (*around, member))


def _expected(annotation: Any) -> str:
    """Return in words what a field may hold."""
    members = _members(annotation)
    tags = [tag for member in members for tag in _tags(member)]
    if len(members) > 1 and tags:
        return f"fields, with kind: {_or(tags)}"
    words = [word for member in members for word in _described(_untagged(member))]
    nullable = type(None) in leaves(annotation)
    return _or([*words, "null"] if nullable else words)


def _described(member: Any) -> list[str]:
    """Return in words what a type of a union allows: each word of a literal, or one description."""
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if origin is typing.Literal:
        return [str(word) for word in arguments]
    if _is_model(member):
        return [f"fields ({', '.join(member.model_fields)})"]
    if origin is tuple and ... not in arguments:
        word = TYPE_WORDS.get(next(leaves(arguments[0])), "a value")
        return [f"a list of {len(arguments)} {word.removeprefix('a ')}s"]
    if origin is dict:
        words = [TYPE_WORDS.get(each, "a value").removeprefix("a ") + "s" for each in arguments]
        return [f"a mapping of {' to '.join(words)}"]
    return ["a list"] if origin is tuple else [TYPE_WORDS.get(member, "something else")]


def _example(annotation: Any, value: Any) -> str:
    """Return how the value would be written as what was expected, where there is a simple way, else nothing."""
    (member, *others) = _members(annotation)
    if others or isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if typing.get_origin(member) is tuple and ... in typing.get_args(member):
        return f", as in [{value}]"
    return f', as in "{value}"' if member is str else ""


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def no_mapping(document: Any) -> tuple[str, str]:
    """Return what is wrong with a document that is not a mapping of fields, and what to do."""
    holds = "is empty" if document is None else f"holds {shown(document)}"
    return holds, "expected a mapping of fields, as in `name: mine`"


def shown(value: Any) -> str:
    """Return a value as a recipe writes it, cut after 60 characters."""
    text = as_written(value)
    return text if len(text) <= 60 else text[:57] + "…"


def as_written(value: Any) -> str:
    """Return a value as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {as_written(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(as_written, value)) + "]" if isinstance(value, list) else repr(value)


def leaves(annotation: Any) -> Iterator[Any]:
    """Yield the plain types that an annotation is made of, such as int and str of `list[int | str]`."""
    if typing.get_origin(annotation) is typing.Literal:
        return
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from leaves(argument)
