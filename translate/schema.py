"""The strict parent of every config class, and validation that reports all mistakes of a document at once.

A config is frozen, refuses unknown fields, and stands beside the component it builds. Numbers written as text are
accepted, as PyYAML reads `2e-4` as a string; everything else must be of its type. `validate` names every mistake:

    recipes/x.yaml: translator.weights.cycel: unknown field; did you mean cycle?

The YAML reader refuses what YAML allows and a person never means: duplicate keys, aliases, anchors, tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml

from translate.errors import Mistake, RecipeError
from translate.mistakes import explain, leaves, no_mapping, shown

MAX_DOCUMENT_BYTES = 256 * 1024  # bytes; a recipe or a card is a page of text
MAX_SIDE = 65_536  # px
MAX_QUICK_DEPTH = 50  # levels of YAML; what is deeper is no document of ours, and refused in the usual way
MAX_EXACT_INTEGER = 2**53  # up to here, every whole number is a float


class Config(pydantic.BaseModel):
    """A part of a recipe or a card: immutable, and without unknown fields."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, document: Any) -> Any:
        """Accept `1e3` as a whole number and refuse `true` as a number: pydantic does neither."""
        if not isinstance(document, Mapping):
            return document
        return {name: _number(value, set(leaves(cls.model_fields[name].annotation)))
                if name in cls.model_fields else value for name, value in document.items()}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_default_kind(cls, document: Any) -> Any:
        """Fill in the default's kind where none is given: `optimizer.generator: {lr: 1e-4}` is an Adam."""
        if not isinstance(document, Mapping):
            return document
        kinds = {name: {"kind": field.default.kind} for name, field in cls.model_fields.items()
                 if isinstance(field.default, Config) and hasattr(field.default, "kind")}
        return {name: kinds[name] | dict(value) if name in kinds and isinstance(value, Mapping) else value
                for name, value in document.items()}


def _number(value: Any, types_of_field: set[Any]) -> Any:
    """Return a value, or the list of values, as the number that it means to a field of these types."""
    if isinstance(value, list):
        return [_number(item, types_of_field) for item in value]
    if isinstance(value, bool) and types_of_field & {int, float} and bool not in types_of_field:
        return shown(value)  # as text, which the field refuses
    if isinstance(value, str) and int in types_of_field and str not in types_of_field:
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER else value
    return value


def _named(value: str) -> str:
    """Return `value`, or raise `ValueError` where it should not name a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(f"{shown(value)}: a folder gets this name; use letters (a to z, A to Z), digits, and after "
                         "the first also . _ - (100 at most)")
    return value


def _sized(value: int | tuple[int, int]) -> int | tuple[int, int]:
    """Return a side or two. Raises `ValueError` for what is no size."""
    sides = value if isinstance(value, tuple) else (value,)
    if min(sides) < 1 or max(sides) > MAX_SIDE:
        raise ValueError(f"{value} is not a size in pixels, 1 to {MAX_SIDE:,}")
    return value


Size = Annotated[int | tuple[int, int], pydantic.AfterValidator(_sized)]  # px: of a square, or (height, width)
Name = Annotated[str, pydantic.AfterValidator(_named)]  # of a run or a card
Model = TypeVar("Model", bound=pydantic.BaseModel)


def validate(model: type[Model], document: Any, source: str | Callable[[str], str]) -> Model:
    """Build `model` from a plain document (what a YAML file holds); raise `RecipeError` with every mistake in it.

    `source` is what a person has to edit (a file, an option), or a function that returns it for the path of a field.
    """
    tell = source if callable(source) else lambda where: source
    if not isinstance(document, Mapping):
        raise RecipeError(Mistake("", *no_mapping(document), source=tell("")))
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        raise RecipeError(*(mistake._replace(source=tell(mistake.path)) for mistake in explain(error, model))) from None


def read_document(path: Path, advice: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds. `advice` says what to do where it cannot be read."""
    try:
        with path.open("rb") as file:  # which may be endless
            text = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise RecipeError(Mistake("", str(error.strerror), advice, path)) from None
    if len(text) > MAX_DOCUMENT_BYTES:
        what = f"more than {MAX_DOCUMENT_BYTES:,} bytes, which is no recipe or card"
        raise RecipeError(Mistake("", what, source=path))
    document = read_yaml(text.decode(errors="replace"), str(path))
    if not isinstance(document, dict):
        raise RecipeError(Mistake("", *no_mapping(document), source=path))
    return document


def write_yaml(document: dict[str, Any]) -> str:
    """Return a plain document as YAML text, its fields in their order: by libyaml, in a quarter of PyYAML's time.

    What libyaml would escape is written by PyYAML, which keeps it readable: an emoji, a name in no encoding.
    """
    if yaml.__with_libyaml__:
        with suppress(UnicodeEncodeError):
            text: str = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
            if "\\" not in text:
                return text
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


READ_DIFFERENTLY = re.compile("[\t?|>\ufeff]")  # libyaml allows them in places where `_StrictLoader` does not


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """Mappings without duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen or name == "<<":
                problem = "merge keys are not allowed" if name == "<<" else f"the key {name} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _StrictLoader(_UniqueKeys, yaml.SafeLoader):
    """YAML without duplicate keys, aliases and tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.constructor.ConstructorError(None, None, f"tag {event.tag} is not allowed", event.start_mark)
        return super().compose_node(parent, index)


if yaml.__with_libyaml__:
    class _QuickLoader(_UniqueKeys, yaml.CSafeLoader):
        """The same of a text that is plain, in a tenth of the time: by libyaml."""


def _is_plain(text: str) -> bool:
    """Tell whether libyaml may read a text: nothing in it but what `_StrictLoader` reads alike, and not deeply nested.
    """
    if not yaml.__with_libyaml__ or READ_DIFFERENTLY.search(text) or yaml.reader.Reader.NON_PRINTABLE.search(text):
        return False
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            return False
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_QUICK_DEPTH:
            return False
    return True


def read_yaml(text: str, source: str) -> Any:
    """Return the plain values of a YAML text. Raises `RecipeError`, which names the line in `source`."""
    # What is wrong is said by the other reader, so that words and lines do not depend on libyaml's version.
    with suppress(yaml.YAMLError, ValueError):
        if _is_plain(text):
            return yaml.load(text, Loader=_QuickLoader)  # a SafeLoader as well
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader that allows less
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        tab = "a tab stands here; indent with spaces" if "'\\t'" in str(error.problem) else error.problem
        raise RecipeError(Mistake("", str(tab), source=f"{source}{line}")) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(Mistake("", f"not YAML: {str(error).splitlines()[0]}", source=source)) from None
