"""Recipes are read strictly, every mistake is named at once, and every option does something."""

from __future__ import annotations

import random
import re
import time
import typing
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import yaml
from PIL import Image

from tests.conftest import waves, write_pairs
from tests.covering import one_in
from tests.runs import Silent, cut_recipe, cyclegan_recipe, final_state, least_recipe
from translate.data import ComputedConfig, LabelsConfig, PairedConfig, UnpairedConfig
from translate.errors import RecipeError
from translate.foreign import read_lines
from translate.places import shipped_recipes
from translate.recipe import Recipe, find_recipe, load_recipe
from translate.schema import _is_plain, _StrictLoader, validate, write_yaml
from translate.training.loop import train

GOOD = """
name: good
data: {kind: unpaired, folder: data}
translator: {kind: cyclegan, weights: {cycle: 10.0}}
stages:
  - {resolution: 256, images: 100, batch_size: 1}
  - {resolution: 256, images: 100, lr: {kind: linear, to: 0.0}, memory: {plan: blocks}}
"""


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [line.removeprefix(f"{path}: ") for line in caught.value.lines]


def test_a_good_recipe_is_read_with_every_default_spelled_out(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    recipe = load_recipe(tmp_path / "x.yaml")
    assert recipe.optimizer.generator.lr == 2e-4 and recipe.translator.generator.blocks == 9
    (tmp_path / "resolved.yaml").write_text(recipe.dump_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_all_mistakes_are_named_at_once_with_the_nearest_word(tmp_path: Path) -> None:
    text = """
name: bad
presicion: fp32
data: {kind: unpaired, folder: data, augment: [flop]}
translator: {kind: cyclegan, weights: {cycel: 10.0}, generator: {kind: resnit}}
stages:
  - {resolution: 256, images: zero}
  - {resolution: 256, images: 100, memory: {plan: strip}}
  - {images: 10, lr: {kind: linear, two: 0}}
"""
    found = mistakes(tmp_path, text)
    for expected in ("presicion: unknown field; did you mean precision?",
                     "translator.weights.cycel: unknown field; did you mean cycle?",
                     "translator.generator.kind: 'resnit' is not a kind of generator; did you mean resnet?",
                     "stages.2.lr.two: unknown field", "stages.0.images: 'zero'",
                     "stages.1.memory.plan: 'strip' is not a plan", "data.augment.0: 'flop' is not"):
        assert any(expected in line for line in found), f"{expected} not in:\n" + "\n".join(found)
    assert len(found) == 7


def test_parts_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    text = GOOD.replace("kind: cyclegan, weights: {cycle: 10.0}", "kind: pix2pix").replace(
        "resolution: 256, images: 100, batch_size: 1", "resolution: 512, images: 101, batch_size: 4, micro_batch: 3")
    found = "\n".join(mistakes(tmp_path, text))
    assert "translator.kind: pix2pix needs pairs" in found
    assert "stages.0.resolution: a crop of 512 px is larger than the 286 px" in found
    assert "stages.0.images: 101 is no multiple of batch_size 4; use 104" in found
    assert "stages.0.micro_batch: 3 does not divide batch_size 4" in found
    small = "\n".join(mistakes(tmp_path, GOOD, "stages.0.resolution=16"))
    assert "stages.0.resolution: 16 px is less than the 24 px that the discriminator can judge" in small
    tiny = "\n".join(mistakes(tmp_path, text, "stages.0.resolution=8", "translator.discriminator={kind: pixel}",
                              "translator.weights.ssim=1"))
    assert "stages.0.resolution: 8 px is less than the 11 px that the windows of translator.weights.ssim have" in tiny
    tiny = "\n".join(mistakes(tmp_path, text, "stages.0.resolution=8", "translator.weights.ssim=1",
                              "translator.discriminator.layers=2"))
    assert "8 px is less than the 12 px that the discriminator can judge" in tiny and "weights.ssim" not in tiny
    grey = "\n".join(mistakes(tmp_path, GOOD, "data.image_a.channels=1"))
    assert "translator.weights.identity: needs as many channels in A as in B, not 1 and 3" in grey


@pytest.mark.parametrize(("text", "reason"), [
    ("name: a\nname: b\n", "the key name stands here twice"),
    ("a: &x [1]\nb: *x\n", "anchors and aliases are not allowed"),
    ("a: !!python/object/apply:os.system [touch canary]\n", "tag"),
    ("<<: {a: 1}\n", "merge keys are not allowed"),
    ("a: [", "expected"), ("- 1\n", "expected a mapping"), ("# nothing\n", "is empty; expected a mapping"),
    ("a:\n\tb: 1\n", "line 2: a tab stands here; indent with spaces"),
    ("\x00", "not YAML"), ("a: " + "[" * 5000, "not YAML"),
])
def test_yaml_that_no_person_means_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    assert reason in "\n".join(mistakes(tmp_path, text))


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML has no libyaml")
def test_whatever_is_typed_libyaml_reads_what_the_strict_reader_does(tmp_path: Path) -> None:
    """Pieces of recipes with signs typed into them. Of what libyaml refuses, the strict reader has the last word."""
    from translate.schema import _QuickLoader  # which is not there without libyaml

    draw, texts = random.Random(0), [path.read_text() for path in shipped_recipes()]
    texts.append(cyclegan_recipe(tmp_path).dump_yaml())
    num_read = 0
    for _ in range(200):
        lines = draw.choice(texts).splitlines(keepends=True)
        start = draw.randrange(len(lines))
        text = "".join(lines[start:start + draw.randint(1, 5)])
        for _ in range(draw.randint(0, 2)):
            place = draw.randrange(len(text) + 1)
            text = text[:place] + draw.choice([*"{}[],:#&*!|>'\"%@?-\\ \n\r\t\ufeff\u2028", "- ", "1e3"]) + text[place:]
        with suppress(yaml.YAMLError, ValueError):
            if _is_plain(text):
                read = yaml.load(text, Loader=_QuickLoader)
                assert read == yaml.load(text, Loader=_StrictLoader), text
                num_read += 1
    assert num_read > 50 and _is_plain(texts[-1]), "and so it reads what a run's folder holds"


def test_a_document_is_written_as_pyyaml_writes_it_whatever_its_names_are() -> None:
    """Libyaml would escape an emoji, and cannot write the name of a file that is in no encoding."""
    words = ["", "…/photos", "日本", "😀", "a: b", "'", '"', "#c", "x" * 200, "word " * 60, "null", "1e5", "\t", "a\nb",
             "\x00", "\u2028", " x ", "no", "[a]", "{", "%", "&", "|", "\udc80", "a\\b", "\ufeff", "2026-01-01"]
    for document in (*(load_recipe(path).dump() for path in list(shipped_recipes())[::9]), {"words": words},
                     *({"name": {"of": word}} for word in words)):
        assert write_yaml(document) == yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def test_a_yaml_bomb_is_refused_in_a_moment(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    start = time.monotonic()
    mistakes(tmp_path, bomb)
    mistakes(tmp_path, "a: " + "x" * 300_000)
    assert time.monotonic() - start < 1


def test_a_part_whose_kind_is_left_out_is_of_the_kind_that_stands_there_by_default(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ndata: {kind: unpaired, folder: x}\ntranslator: {kind: cyclegan}\n"
                    "stages: [{resolution: 256, images: 4}]\n")
    recipe = load_recipe(path, ["optimizer.generator.lr=1e-3", "stages.0.lr.factor=0.5",
                                "translator.discriminator.layers=2", "translator.generator.width=8"])
    plain = load_recipe(path)
    assert recipe.optimizer.generator == plain.optimizer.generator.model_copy(update={"lr": 1e-3})
    assert recipe.stages[0].lr == plain.stages[0].lr.model_copy(update={"factor": 0.5})
    assert recipe.translator.generator.kind == "resnet" and recipe.translator.generator.width == 8
    assert recipe.translator.discriminator.layers == 2
    with pytest.raises(RecipeError, match=r"--set stages.0.lr.to: unknown field; kind: linear has it"):
        load_recipe(path, ["stages.0.lr.to=0"])


def test_overrides_change_fields_and_name_their_mistakes(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    recipe = load_recipe(tmp_path / "x.yaml", ["stages.0.images=7", "translator.pool=3", "data.resize=null",
                                               "optimizer.generator.kind=adam", "optimizer.generator.lr=1e-3"])
    assert (recipe.stages[0].images, recipe.translator.pool, recipe.data.resize) == (7, 3, None)
    assert recipe.optimizer.generator.lr == 1e-3
    for override, reason in [("stages.5.images=1", "there are 2 entries"), ("noequals", "expected field.path=value"),
                             ("translator.pool=many", "translator.pool: 'many'")]:
        with pytest.raises(RecipeError, match=reason):
            load_recipe(tmp_path / "x.yaml", [override])


@pytest.mark.parametrize(("overrides", "expected"), [
    (["stage.0.images=4"], "--set stage.0.images: stage: unknown field; did you mean stages?"),
    (["resolution=64"], "--set resolution: unknown field; did you mean stages.0.resolution or "),
    (["seed=true"], "--set seed: 'true': expected a whole number"),
    (["stages.0={resolution: 64}"], "--set stages.0: stages.0.images: missing"),
    (["stages.0.batch_size=3", "seed=1"], "FILE: stages.0.images: 100 is no multiple of batch_size 3; use 102"),
    (["stages.0.images=7", "stages.0.batch_size=2"], "--set stages.0.images: 7 is no multiple"),
    (["data.kind=labels"], "--set data.kind: data.classes: missing"),
    (["data.card=monet2photo"], "FILE with --set data.card: data: card and folder: say once"),
    (["every.lag=3"], "--set every.lag: unknown field; did you mean log?"),
    (["seed=[1"], "--set seed, line 1: "),
])
def test_a_mistake_of_an_override_is_not_blamed_on_the_file(overrides: list[str], expected: str,
                                                            tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(GOOD)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    assert caught.value.lines[0].startswith(expected.replace("FILE", str(file)))


@pytest.mark.parametrize(("override", "expected"), [
    ("ids=cityscape", "ids: 'cityscape': expected cityscapes, a mapping of whole numbers to whole numbers or null"),
    ("ids={7: road}", "ids.7: 'road': expected a whole number"),
    ("exclude=[15188]", "exclude.0: 15188: expected text, as in \"15188\""),
])
def test_a_mistake_about_labels_says_what_may_stand_there(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(find_recipe("gta2cityscapes"), [f"adapt.source.{override}"])
    assert caught.value.lines[0].endswith(f" adapt.source.{expected}")


def test_a_recipe_is_found_by_path_or_by_the_name_of_a_shipped_one() -> None:
    assert find_recipe("monet2photo").name == "monet2photo.yaml"
    assert find_recipe("my.yaml") == Path("my.yaml")
    with pytest.raises(RecipeError, match="did you mean monet2photo"):
        find_recipe("monet2foto")
    with pytest.raises(RecipeError, match=r"gone/facade.yaml: No such file.*did you mean facades\?"):
        load_recipe(Path("gone/facade.yaml"))


# -- shipped recipes ---------------------------------------------------------------------------------------------------


def write_layout(recipe: Recipe, root: Path) -> None:
    """Toy images where the recipe's card would have put its data, in the layout the recipe reads."""
    data, folder = recipe.data, root / str(recipe.data.card or recipe.data.folder)
    if isinstance(data, UnpairedConfig):
        write_pairs(folder)
        return
    for split in ("train", "test"):
        for number in range(4):
            image = waves(number, (72, 80))
            files: dict[str, np.ndarray] = {}
            if isinstance(data, ComputedConfig):
                files[f"{split}/{number}.png"] = image
            elif isinstance(data, LabelsConfig):
                names = f"{split}_label/a_{number}_gtFine_instanceIds.png", f"{split}_img/a_{number}_leftImg8bit.png"
                files |= {names[0]: image[..., 0] // 32 * np.uint16(1000), names[1]: image}
            elif data.card == "earth":
                files |= {f"{split}A/{number}.png": image, f"{split}B/{number}.png": 255 - image}
            else:
                assert isinstance(data, PairedConfig)
                files[f"{split}/{number}.png"] = np.concatenate([image, 255 - image], axis=1)
            for name, pixels in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_every_shipped_recipe_validates_and_opens_with_its_use(path: Path) -> None:
    first = path.read_text().splitlines()
    assert first[0].startswith("# ") and any(line.startswith("# Train:") for line in first[:6])
    assert load_recipe(path).name == path.stem


TRANSLATING = [path for path in shipped_recipes() if "kind: images" not in path.read_text()]


@pytest.mark.parametrize("path", one_in(14, TRANSLATING), ids=lambda path: path.stem)
def test_every_shipped_recipe_trains_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On toy images in its own layout, with its own networks made narrow. Those from noise: tests/test_noise.py."""
    recipe = load_recipe(path)
    write_layout(recipe, tmp_path)
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    document = recipe.dump()
    generator = document["translator"]["generator"]
    generator |= {"width": 2} | ({"downs": 6} if generator["kind"] == "unet" else {"blocks": 1})
    document["translator"]["discriminator"] |= {"width": 2, "layers": 1}
    document["data"]["resize"] = 72 if recipe.data.resize else None
    if recipe.data.folder is not None:
        document["data"]["folder"] = str(tmp_path / recipe.data.folder)
    document["stages"] = [stage | {"resolution": 64 * 2**stage["levels"], "resize": None, "images": stage["batch_size"]}
                          for stage in document["stages"][:2]]
    document |= {"workers": 0, "every": {"log": 1, "sample": 1, "checkpoint": 1}}
    train(validate(Recipe, document, str(path)), tmp_path / "run", Silent())
    trained = [record for record in read_lines(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "train"]
    assert len(trained) == len(document["stages"])
    losses = {name: value for name, value in trained[-1].items() if isinstance(value, float)}
    assert all(np.isfinite(value) for value in losses.values())


# -- every option changes something ------------------------------------------------------------------------------------


def weights(run: Path) -> Any:
    """The checksums of the trained networks."""
    return {name: entry for name, entry in final_state(run).items() if "rator" in name or "images" in name}


def lines(run: Path) -> Any:
    return [(record["images"], record["kind"]) for record in read_lines(run / "metrics.jsonl")]


def last_evaluation(run: Path) -> Any:
    return [record for record in read_lines(run / "metrics.jsonl") if record["kind"] == "evaluation"][-1]


def listing(folder: str) -> Any:
    return lambda run: sorted(path.name for path in (run / folder).iterdir())


SGD = {"kind": "sgd", "lr": 0.01, "momentum": 0.5}
SMALL_STAGE = {"resolution": 16, "images": 8, "batch_size": 2}
CHANGES: dict[str, tuple[Any, Any]] = {  # option: another value, and where the change must be seen
    "name": ("other", lambda run: (run / "recipe.yaml").read_text()),
    "seed": (1, weights), "precision": ("bf16", weights),
    "optimizer.generator.kind": (SGD, weights), "optimizer.generator.lr": (1e-3, weights),
    "optimizer.generator.betas": ([0.9, 0.99], weights), "optimizer.generator.weight_decay": (0.1, weights),
    "optimizer.generator.momentum": (0.9, weights), "optimizer.generator.alpha": (0.5, weights),
    "optimizer.discriminator.kind": (SGD, weights), "optimizer.discriminator.lr": (1e-3, weights),
    "optimizer.discriminator.betas": ([0.9, 0.99], weights), "optimizer.discriminator.weight_decay": (0.1, weights),
    "optimizer.discriminator.momentum": (0.9, weights), "optimizer.discriminator.alpha": (0.5, weights),
    "optimizer.generator.clip": (1e-3, weights), "optimizer.discriminator.clip": (1e-3, weights),
    "stages.0.resolution": (20, weights), "stages.0.images": (6, weights), "stages.0.batch_size": (4, weights),
    "stages.0.levels": (1, weights),
    "stages.0.resize": (30, weights), "stages.0.lr.kind": ({"kind": "linear", "to": 0.0}, weights),
    "stages.0.lr.factor": (0.5, weights), "stages.0.lr.start": (0.3, weights), "stages.0.lr.to": (0.9, weights),
    "every.log": (2, lines), "every.probe": (4, lines), "every.sample": (4, listing("samples")),
    "every.checkpoint": (2, listing("checkpoints")),
    "every.evaluate": (4, lines), "keep_checkpoints": (3, listing("checkpoints")),
    "evaluate.metric": ("l1", lambda run: last_evaluation(run)["decided_by"]),
    "evaluate.images": (3, lambda run: last_evaluation(run)["num_held_out"]),
    "evaluate.patience": (1, lambda run: (run / "release" / "release.json").read_text()),  # the best, not the last
    "trackers": (["tensorboard"], lambda run: sorted(path.name for path in run.iterdir())),
    "translator.kind": (None, None),  # two translators: every other test
    "translator.weights.adversarial": (2.0, weights), "translator.weights.cycle": (1.0, weights),
    "translator.weights.identity": (0.0, weights), "translator.weights.l1": (1.0, weights),
    "translator.weights.features": (1.0, weights), "translator.weights.ssim": (1.0, weights),
    "translator.weights.nce": (3.0, weights),
    "translator.temperature": (0.2, weights), "translator.patches": (4, weights),
    "translator.flip_equivariance": (False, weights),
    "translator.pool": (0, weights), "translator.objective.kind": ({"kind": "hinge"}, weights),
    "translator.objective.smoothing": (0.1, weights), "translator.objective.flips": (0.4, weights),
    "translator.objective.clip": (0.02, weights),
    "translator.objective.gamma": (0.7, weights), "translator.objective.rate": (0.5, weights),
    "translator.penalty.kind": ({"kind": "r1"}, weights), "translator.penalty.weight": (1.0, weights),
    "translator.penalty.every": (3, weights),
    "translator.noise.sigma": (0.5, weights), "translator.noise.images": (100, weights),
    "translator.augment": (["cutout"], weights), "translator.cycle_noise": (0.2, weights),
    "translator.pace.generator": (2, weights), "translator.pace.discriminator": (2, weights),
    "translator.pace.warmup": (4, weights),
    "translator.orthogonal": (0.1, weights),
    "translator.ema": (0.5, lambda run: sorted(final_state(run))),
}
MADE_BY = {  # options that pix2pix does not have, and BEGAN's: its balance there stays 0 in the few steps here
    **dict.fromkeys(("translator.weights.cycle", "translator.weights.identity", "translator.pool",
                     "translator.cycle_noise", "translator.objective.gamma", "translator.objective.rate"),
                    cyclegan_recipe),
    "translator.weights.nce": cut_recipe, "translator.temperature": cut_recipe, "translator.patches": cut_recipe,
    "translator.flip_equivariance": cut_recipe,
}
ELSEWHERE = {  # proven by tests of their own, some because they must not change a result
    "workers": ("test_data_stream.py", "workers"),
    "data": ("test_data_layouts.py", "test_every_option_of_the_data_changes_what_is_read"),
    "guard": ("test_guard.py", "test_every_option_of_the_guard_changes_what_it_does"),
    "stages.0.micro_batch": ("test_update.py", "test_micro_batches_give_the_gradients_of_the_whole_batch"),
    "stages.0.fade": ("test_growing.py", "test_gradients_reach_a_level_as_soon_as_it_fades_in"),
    "start": ("test_starting.py", "test_a_run_begins_with_all_networks"),
    "stages.0.freeze": ("test_growing.py", "test_a_level_that_is_trained_alone"),
    "stages.0.hold_statistics": ("test_statistics.py", "gradients_are_those_of_the_network_that_translates"),
    "memory": ("test_memory.py", "gradients"), "stages.0.memory": ("test_memory.py", "gradients"),
    "translator.semantic": ("test_semantic.py", "test_every_option_of_the_consistency_changes_the_gradients"),
    "evaluate.classifier": ("test_generation_metrics.py", "test_a_training_counts_the_classes_of_what_it_draws"),
    "adapt": ("test_adapt.py", "test_every_option_of_an_adaptation_changes_what_comes_of_it"),
    "translator.pace.first": ("test_published_steps.py", "test_the_other_order_is_another_step"),
    "translator.generator": ("test_networks.py", "test_every_option_of_a_network_changes_its_output"),
    "translator.perceptual": ("test_perceptual.py", "kind_and_weight_of_the_perceptual_loss_change_the_gradients"),
    "translator.registration": ("test_registration.py", "test_every_option_of_the_registration_changes_the_gradients"),
    "translator.discriminator": ("test_networks.py", "test_every_option_of_a_network_changes_its_output"),
    **dict.fromkeys(("translator.codes", "translator.styles", "translator.conditioned", "translator.mismatched",
                    "translator.divergence", "translator.objective.drift"), (
        "test_noise_training.py", "test_every_option_of_a_translator_from_noise_changes_its_gradients")),
    **dict.fromkeys(("translator.encoder", "translator.feature_generator", "translator.feature_discriminator",
                     "translator.weights.conditional", "translator.weights.entropy"), (
        "test_stacked.py", "test_every_option_changes_the_gradients")),
}


def options(model: type[pydantic.BaseModel], prefix: str = "") -> set[str]:
    """The path of every option that a recipe can have."""
    found = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if path in ELSEWHERE:
            found.add(path)
            continue
        inner = [part for part in parts(field.annotation)
                 if isinstance(part, type) and issubclass(part, pydantic.BaseModel)]
        for member in inner:
            found |= options(member, f"{path}.{'0.' if name == 'stages' else ''}")
        if not inner:
            found.add(path)
    return found


def parts(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    return [part for argument in arguments for part in parts(argument)] if arguments else [annotation]


def test_every_option_has_a_test() -> None:
    """A new option without an entry here could be a dead one."""
    assert options(Recipe) == (CHANGES.keys() | ELSEWHERE.keys())
    for file, name in ELSEWHERE.values():
        tests = re.findall(r"def (test_\w+)", (Path(__file__).parent / file).read_text())
        assert any(name in test for test in tests), f"{file} has no test of {name}"


def test_without_a_cadence_there_is_a_picture_of_the_end_alone(shared_pairs: Path, tmp_path: Path) -> None:
    train(least_recipe(shared_pairs, stages=[SMALL_STAGE], every={"sample": None}), tmp_path / "run", Silent())
    assert [re.findall(r"\d+", path.stem)[-1].lstrip("0") for path in (tmp_path / "run" / "samples").iterdir()] == ["8"]


OPTIONS = [option for option in CHANGES if CHANGES[option][1]]
QUICK_OPTIONS = {*OPTIONS[::20], "translator.weights.ssim"}  # no other test trains with that


@pytest.mark.parametrize("option", [pytest.param(option, marks=() if option in QUICK_OPTIONS else pytest.mark.slow)
                                    for option in OPTIONS])
def test_every_option_of_a_recipe_changes_something(option: str, shared_pairs: Path,
                                                    trained: Callable[[Recipe], Path]) -> None:
    value, observed = CHANGES[option]
    make = MADE_BY.get(option, least_recipe)
    document = make(shared_pairs).dump() | {"precision": "fp32", "every": {"log": 4, "sample": 8, "checkpoint": 4},
                                            "evaluate": {"images": 2}}
    document["stages"] = [SMALL_STAGE]
    document["translator"] |= {"ema": None} | ({"pool": 1} if make is cyclegan_recipe else {})
    if option == "translator.objective.clip":
        document["translator"]["objective"] = {"kind": "wasserstein"}
    if option.startswith("translator.penalty."):
        document["translator"]["penalty"] = {"kind": "wgan_gp"}
    if option in ("translator.objective.gamma", "translator.objective.rate"):
        document["translator"] |= {"objective": {"kind": "began", "rate": 0.1},
                                   "discriminator": {"kind": "autoencoder", "width": 2}}
    if option.startswith("translator.noise."):
        document["translator"]["noise"] = {"sigma": 0.2, "images": 6}
    if "momentum" in option:
        document["optimizer"][option.split(".")[1]] = SGD
    if option.endswith(".alpha"):
        document["optimizer"][option.split(".")[1]] = {"kind": "rmsprop"}
    if option.startswith("stages.0.lr.") and option[-4:] != "kind":
        document["stages"] = [SMALL_STAGE | {"lr": {"kind": "constant" if option.endswith("factor") else "linear"}}]
    changed = validate(Recipe, document, "toy").dump()
    if option == "keep_checkpoints":
        document["every"]["checkpoint"] = changed["every"]["checkpoint"] = 2
    place = changed
    *path, last = option.split(".")
    for step in path:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if last == "kind":
        place.clear()
        place.update(value)
    else:
        place[last] = value
    before, after = (trained(validate(Recipe, each, "toy")) for each in (document, changed))
    assert observed(before) != observed(after)
