"""An error is a value: its fields say what is wrong, where, and what to do, and survive the way between processes."""

from __future__ import annotations

import copy
import errno
import pickle
from pathlib import Path

import pytest

from translate import errors
from translate.errors import (
    RECIPE_PLACEHOLDER,
    CheckpointError,
    DataError,
    DiskError,
    ImageError,
    MissingExtra,
    Mistake,
    NoData,
    RecipeError,
    TranslateError,
)
from translate.schema import Config, validate

HERE = Path("data/x.png")
ONE_OF_EACH = {
    **{name: kind("is torn", HERE, "mend it") for name, kind in vars(errors).items()
       if isinstance(kind, type) and issubclass(kind, TranslateError)
       and kind not in (RecipeError, MissingExtra, ImageError)},
    "RecipeError": RecipeError(Mistake("stages.0", "is torn", "mend it", Path("x.yaml")), Mistake("name", "missing")),
    "MissingExtra": MissingExtra("tensorboard", "track", "trackers: [tensorboard]"),
    "ImageError": ImageError(HERE, "read", "is torn"),
    "DiskError.of": DiskError.of(OSError(errno.ENOSPC, "No space left"), HERE, 5),
}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_error_that_went_to_another_process_has_all_its_fields(name: str) -> None:
    """Also what was set later: the recipe that its advice is about, and notes."""
    error = ONE_OF_EACH[name]
    error.recipe = "mine"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        there = pickle.loads(pickle.dumps(error, protocol))
        assert type(there) is type(error) and vars(there) == vars(error) and there.args == error.args
        assert str(there) == str(error) and repr(there) == repr(error)
    assert str(copy.copy(error)) == str(error)


def test_the_text_is_made_of_the_fields() -> None:
    """Advice has a line of its own where it, or the fault, takes several."""
    assert str(DataError("is torn")) == "is torn"
    assert str(DataError("is torn", HERE)) == "data/x.png: is torn"
    assert str(DataError("is torn", HERE, "mend it")) == "data/x.png: is torn; mend it"
    assert str(DataError("is torn", HERE, "mend it:\n  1. glue")) == "data/x.png: is torn\nmend it:\n  1. glue"
    assert str(DataError("is torn:\n  left", HERE, "mend it")) == "data/x.png: is torn:\n  left\nmend it"
    assert str(ImageError(HERE, "read", "is torn")) == "data/x.png: read: is torn"


def test_the_recipe_that_an_advice_names_is_filled_in_by_who_knows_it() -> None:
    error = DataError("is torn", HERE, f"run: translate data check {RECIPE_PLACEHOLDER}")
    assert str(error).endswith("check RECIPE")
    error.recipe = "my {odd} recipe.yaml"
    assert str(error).endswith("check 'my {odd} recipe.yaml'") and RECIPE_PLACEHOLDER in (error.advice or "")


def test_an_error_that_is_told_as_another_keeps_its_fields() -> None:
    image = ImageError(HERE, "read", "is torn")
    error = NoData.of(image, "mend it")
    assert type(error) is NoData and (error.path, error.what, error.advice) == (HERE, "read: is torn", "mend it")
    assert DataError.of(DataError("is torn", HERE, "mend it")).advice == "mend it"


class Inner(Config):
    num: int


class Outer(Config):
    inner: Inner
    name: str


def test_every_mistake_of_a_recipe_is_a_value() -> None:
    """The path of its field, what is wrong, what to do, and which file or option to edit."""
    with pytest.raises(RecipeError) as caught:
        validate(Outer, {"inner": {"num": "few"}, "nam": "x"},
                 lambda where: "--set inner.num" if where.startswith("inner") else "x.yaml")
    assert caught.value.mistakes == (
        Mistake("inner.num", "'few': expected a whole number", None, "--set inner.num"),
        Mistake("name", "missing", "this field is needed", "x.yaml"),
        Mistake("nam", "unknown field", "did you mean name?", "x.yaml"))
    assert caught.value.lines == ["--set inner.num: 'few': expected a whole number",
                                  "x.yaml: name: missing; this field is needed",
                                  "x.yaml: nam: unknown field; did you mean name?"]
    assert str(caught.value) == "\n".join(caught.value.lines)


def test_a_single_mistake_is_the_fault_of_its_error() -> None:
    error = RecipeError(Mistake("name", "missing", "this field is needed", "x.yaml"))
    assert (error.path, error.what, error.advice) == ("x.yaml: name", "missing", "this field is needed")
    assert CheckpointError("torn").path is None
