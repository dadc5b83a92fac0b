"""Recipes that ask for too much: a number, a network, thousands of fields. They are refused in seconds and in words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.covering import one_in
from tests.runs import Silent, cyclegan_recipe
from tests.test_foreign import EARLIER
from tests.test_mistakes import CASES, kind_of, lines_of
from translate import files
from translate.errors import CheckpointError, DoesNotFit
from translate.networks.task_networks import RECORD, FCNConfig, load_task, save_task
from translate.recipe import Recipe, load_recipe
from translate.runs.manifest import seal
from translate.runs.release import load_release
from translate.schema import leaves
from translate.training.loop import train

TOGETHER = {"ids", "band", "latitudes"}  # bounded by other fields beside them, which a document of one field lacks
SINGLE = {"betas": 2}  # lists of so many numbers; others take one as well


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_a_recipe_has_bounds(case: str) -> None:
    """`width: 1e9` and `blocks: 1e9` took memory until the process was killed."""
    root, path, model, wrap = CASES[case]
    for name, field in model.model_fields.items():
        types = set(leaves(field.annotation))
        if name in TOGETHER or bool in types or not types & {int, float}:
            continue
        for value in (10**15 + 1, -(10**15)):
            lines = lines_of(root, wrap(kind_of(model) | {name: [value] * SINGLE[name] if name in SINGLE else value}))
            about = [line for line in lines if line.startswith(f"{path}{name}") and str(abs(value)) in line]
            assert about, f"{path}{name} may be {value}"


@pytest.mark.parametrize("override", [
    "translator.generator.width=1e9", "translator.generator.blocks=1e9", "translator.discriminator.width=1e9",
    "workers=1e9", "stages.0.batch_size=1e12", "stages.0.resolution=1e9", "keep_checkpoints=1e12",
    "optimizer.generator.betas=[5, 5]"])
def test_a_number_beyond_its_bounds_is_named_at_once(override: str, tmp_path: Path) -> None:
    from translate.errors import RecipeError

    file = tmp_path / "x.yaml"
    file.write_text(cyclegan_recipe(tmp_path).dump_yaml())
    start = time.process_time()
    with pytest.raises(RecipeError, match=r"must be at most|must be less than|is not a size"):
        load_recipe(file, [override])
    assert time.process_time() - start < 2


def test_networks_that_no_machine_has_room_for_are_refused_before_they_are_built(shared_pairs: Path,
                                                                                 tmp_path: Path) -> None:
    """Each number within its bounds, and all together more than 600 GB of weights."""
    recipe = cyclegan_recipe(shared_pairs, translator={
        "kind": "cyclegan", "generator": {"kind": "resnet", "width": 4096, "blocks": 16},
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}})
    match = r"the weights of these networks alone take .* GiB, and there are .*; use a smaller"
    with pytest.raises(DoesNotFit, match=match):
        train(recipe, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("generator", [{"width": 4096, "blocks": 200}, {"width": 512, "blocks": 9},
                                       {"kind": "unet", "width": 1024, "downs": 12}])
def test_a_release_that_names_a_larger_network_than_it_holds_is_refused(generator: dict[str, Any],
                                                                        tmp_path: Path) -> None:
    """Who is sent a release is sent the numbers that a network is built by."""
    import shutil

    import yaml

    release = Path(shutil.copytree(EARLIER / "release", tmp_path / "release"))
    recipe = yaml.safe_load((release / "recipe.yaml").read_text())
    if "kind" in generator:
        recipe["translator"]["generator"] = generator
    else:
        recipe["translator"]["generator"] |= generator
    (release / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    seal(release)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="holds the weights of another network"):
        load_release(release)
    assert time.process_time() - start < 5


def test_a_task_folder_that_names_a_larger_network_than_it_holds_is_refused(tmp_path: Path) -> None:
    config = FCNConfig(width=2, downs=1)
    record = save_task(tmp_path, config.build(3, 2), config, 3, 2)
    files.write_json(tmp_path / RECORD, record | {"network": {"kind": "fcn", "width": 4096, "downs": 12}})
    with pytest.raises(CheckpointError, match="holds the weights of another network"):
        load_task(tmp_path, 3)


KEYS = {f"k{number:05d}": 1 for number in range(20_000)}
STAGE = {"images": 1}


@pytest.mark.parametrize("document", one_in(2, [
    KEYS, {"data": {"kind": "paired"} | KEYS}, {"translator": {"kind": "cut", "generator": {"kind": "resnet"} | KEYS}},
    {"stages": [STAGE | KEYS]}, {"stages": [STAGE | {"imagse": 1}] * 5_000}, {"data": {"kind": "x" * 100_000}},
    {"x" * 200_000: 1}, {"stages": [STAGE | {"lr": {"kind": "linear"} | KEYS}]}]),
    ids=["on top", "data", "generator", "stage", "stages", "long word", "long key", "deep"])
def test_thousands_of_unknown_fields_are_refused_in_a_second(document: dict[str, Any]) -> None:
    """20,000 of them took more than a minute."""
    start = time.process_time()
    lines = lines_of(Recipe, document)
    assert time.process_time() - start < 2 and 2 <= len(lines) <= 201
    assert ("more mistakes" in lines[-1]) != any("x" * 50 in line for line in lines)  # a long word is one mistake


def test_a_file_of_thousands_of_fields_is_refused_in_a_second(tmp_path: Path) -> None:
    from translate.errors import RecipeError

    file = tmp_path / "x.yaml"
    file.write_text("".join(f"{name}: 1\n" for name in KEYS))
    start = time.process_time()
    with pytest.raises(RecipeError, match=r"19,8.. more mistakes, which are told when these are mended"):
        load_recipe(file)
    assert time.process_time() - start < 4


@pytest.mark.parametrize("name", [
    "/dev/zero", "large.yaml", "a folder.yaml", "nested.yaml", "no text.yaml",
    pytest.param("nested on one line.yaml", marks=pytest.mark.slow)])
def test_a_file_that_is_no_recipe_is_refused_whatever_it_holds(name: str, tmp_path: Path) -> None:
    """A recipe that has no end was read until memory was."""
    from translate.errors import RecipeError

    file = tmp_path / name
    if name == "a folder.yaml":
        file.mkdir()
    elif name != "/dev/zero":
        contents = {"large.yaml": b"#" * 300_000, "nested.yaml": b"[\n" * 20_000, "no text.yaml": b"\xff\x00",
                    "nested on one line.yaml": b"[" * 20_000}
        file.write_bytes(contents[name])
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert len(str(caught.value)) < 400
