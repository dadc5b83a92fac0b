"""A mistake is named by the path a person wrote, in words that a person uses."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

from translate.cards.cards import Card
from translate.errors import RecipeError
from translate.networks.memory import MemoryConfig
from translate.recipe import Recipe
from translate.schema import Config, validate

Wrap = Callable[[Any], dict[str, Any]]


def lines_of(model: type[Config], document: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        validate(model, document, "x")
    return [line.removeprefix("x: ") for line in caught.value.lines]


def models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


def kind_of(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """What says that a mapping is this member of a union."""
    if model is MemoryConfig:
        return {"plan": "split"}  # without it, memory says itself what to write
    return {"kind": model.model_fields["kind"].default} if "kind" in model.model_fields else {}


def places(model: type[pydantic.BaseModel], path: str = "", wrap: Wrap = lambda inner: inner) -> Iterator[Any]:
    """Every model below `model`: (its path in a document, the model, what makes a document with it at that path)."""
    yield path, model, wrap
    for name, field in model.model_fields.items():
        in_list = typing.get_origin(field.annotation) is tuple
        for member in models_in(field.annotation):
            def wrapped(inner: Any, name: str = name, in_list: bool = in_list) -> dict[str, Any]:
                return wrap(kind_of(model) | {name: [inner] if in_list else inner})

            yield from places(member, f"{path}{name}.{'0.' if in_list else ''}", wrapped)


CASES = {f"{root.__name__}.{path}{model.__name__}": (root, path, model, wrap) for root in (Recipe, Card)
         for path, model, wrap in places(root)}


@pytest.mark.parametrize("case", CASES)
def test_an_unknown_and_every_missing_field_are_named_by_their_path(case: str) -> None:
    """In every member of every union, whatever its tag is called: `labels` is a kind of data and a field of it."""
    root, path, model, wrap = CASES[case]
    written = kind_of(model)
    missing = {f"{path}{name}: missing" for name, field in model.model_fields.items()
               if field.is_required() and name not in written}
    found = lines_of(root, wrap(written | {"unknwon": 1}))
    here = {line.split(";")[0] for line in found if line.startswith(path)}
    assert here == {f"{path}unknwon: unknown field", *missing}


def test_all_unions_are_among_the_cases() -> None:
    assert {"Recipe.data.LabelsConfig", "Recipe.translator.generator.UNetConfig", "Recipe.stages.0.lr.Linear",
            "Recipe.stages.0.memory.MemoryConfig", "Card.source.files.0.RemoteFile"} <= CASES.keys()


class Deep(Config):
    kind: Literal["deep"] = "deep"
    deep: int


class Wide(Config):
    kind: Literal["wide"] = "wide"
    Wide: int = 0
    wide: Annotated[Deep | Wide, Field(discriminator="kind")] = Deep(deep=1)
    many: tuple[Deep | int, ...] = ()
    size: int | tuple[int, int] = 1


class Root(Config):
    wide: Annotated[Deep | Wide, Field(discriminator="kind")]


@pytest.mark.parametrize(("wide", "expected"), [
    ({"kind": "wide", "wid": 1}, "wide.wid: unknown field; did you mean wide?"),
    ({"kind": "wide", "wide": {"kind": "wide", "wide": {"kind": "deep"}}}, "wide.wide.wide.deep: missing"),
    ({"kind": "wide", "wide": {"kind": "deep", "deep": "x"}}, "wide.wide.deep: 'x': expected a whole number"),
    ({"kind": "wide", "Wide": "x"}, "wide.Wide: 'x': expected a whole number"),
    ({"kind": "deep", "deep": None}, "wide.deep: null: expected a whole number"),
    ({"kind": "wide", "many": [{"deep": "x"}]}, "wide.many.0.deep: 'x': expected a whole number"),
    ({"kind": "wide", "size": [1, "x"]}, "wide.size.1: 'x': expected a whole number"),
    ({"kind": "wide", "size": [1]}, "wide.size: [1]: expected a whole number or a list of 2 whole numbers"),
])
def test_a_tag_that_is_also_a_field_is_told_from_it(wide: Any, expected: str) -> None:
    (found,) = lines_of(Root, {"wide": wide})
    assert found.startswith(expected)


GOOD = {"name": "x", "data": {"kind": "unpaired", "folder": "d"}, "translator": {"kind": "cyclegan"},
        "stages": [{"images": 1}]}


@pytest.mark.parametrize(("changes", "expected"), [
    ({"data": {"kind": "unpaired", "folder": "d", "augment": "flip"}},
     "data.augment: 'flip': expected a list, as in [flip]"),
    ({"data": {"folder": "d"}},
     "data.kind: missing; say which data this is (unpaired, paired, labels, computed, images)"),
    ({"data": 5}, "data: 5: expected fields, with kind: unpaired, paired, labels, computed or images"),
    ({"data": {"kind": "computed", "folder": "d", "input": "sketch"}},
     "data.input: 'sketch' is not an input; expected one of grey, edges"),
    ({"data": {"kind": "unpaired", "folder": 3}}, "data.folder: 3: expected a path or null"),
    ({"data": {"kind": "unpaired", "folder": "d", "truth": "maybe"}}, "data.truth: 'maybe': expected true or false"),
    ({"data": {"kind": "unpaired", "folder": "d", "image_b": {"bits": 4}}},
     "data.image_b.bits: 4 is not allowed here; expected one of 8, 16, float"),
    ({"translator": {"kind": "cyclegan", "weights": 5}},
     "translator.weights: 5: expected fields (adversarial, cycle, identity)"),
    ({"translator": {"kind": "cyclegan", "ema": 2}}, "translator.ema: 2: must be less than 1"),
    ({"translator": {"kind": "noise", "weights": {"ssim": 40}}},
     "translator.weights: unknown field; kind: pix2pix has it, this is noise"),
    ({"stages": []}, "stages: []: too few entries; at least 1 is needed"),
    ({"stages": {"images": 3}}, "stages: {'images': 3}: expected a list"),
    ({"stages": [{"images": "1.5"}]}, "stages.0.images: '1.5': expected a whole number"),
    ({"stages": [{"images": 1, "lr": {"kind": "linear", "to": float("nan")}}]},
     "stages.0.lr.to: nan: must be a finite number"),
    ({"name": "../../evil"}, "name: '../../evil': a folder gets this name; use letters (a to z, A to Z), digits, and "
     "after the first also . _ - (100 at most)"),
    ({"name": 5}, "name: 5: expected text, as in \"5\""),
    ({"every": {"log": None}}, "every.log: null: expected a whole number"),
    ({"every": {"evaluate": "often"}}, "every.evaluate: 'often': expected a whole number, auto or null"),
    ({"seed": True}, "seed: 'true': expected a whole number"),
    ({"optimizer": {"generator": {"kind": "adam", "betas": [True, 0.9]}}},
     "optimizer.generator.betas.0: 'true': expected a number"),
    ({"optimizer": {"generator": {"kind": "adam", "betas": [0.5]}}},
     "optimizer.generator.betas: [0.5]: expected a list of 2 numbers"),
    ({"resolution": 64}, "resolution: unknown field; did you mean stages.0.resolution or "
     "adapt.task.resolution?"),
    ({"images": 64}, "images: unknown field; did you mean evaluate.images, translator.noise.images, stages.0.images "
     "or adapt.source.images?"),
    ({"precision": 16}, "precision: 16 is not a precision; did you mean fp16? (auto, fp32, bf16, fp16)"),
])
def test_a_mistake_is_told_in_words(changes: dict[str, Any], expected: str) -> None:
    """Not in those of the library that finds it: nobody writes a tuple or an instance into a recipe."""
    assert lines_of(Recipe, GOOD | changes) == [expected]


@pytest.mark.parametrize(("written", "images"), [("1e3", 1000), ("1.5e3", 1500), ("1_000", 1000), (2000.0, 2000)])
def test_whole_numbers_may_be_written_as_people_do(written: Any, images: int) -> None:
    assert validate(Recipe, GOOD | {"stages": [{"images": written}]}, "x").num_images == images
    assert validate(Recipe, GOOD | {"name": "1e3"}, "x").name == "1e3"  # text stays text
