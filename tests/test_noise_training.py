"""Trainings from noise: the shipped recipes run, every option counts, a killed run goes on bit for bit, two processes
do as one, the planner knows what a step takes, and the guard tells a collapsed generator from a healthy one."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from PIL import Image

from tests.bounds import RoundingBound, worst_error
from tests.covering import one_in
from tests.mobilenet import write_mobilenet
from tests.runs import Silent, final_state, train_until
from tests.steps import gradients, peak_of_real_step, step
from tests.test_noise import SIDES, SMALL, batch_of, built, config_of
from translate.evaluation.scoring import evaluate_run
from translate.foreign import read_lines
from translate.networks.memory import PLANS
from translate.optimizers import Optimizers
from translate.places import shipped_recipes
from translate.precision import Format
from translate.recipe import Recipe, Stage
from translate.recipe.recipe_files import load_recipe
from translate.runs.manifest import read_tensors
from translate.schema import validate
from translate.training.loop import Run, train
from translate.training.plan import advise
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.training.update import Update

FROM_NOISE = [path for path in shipped_recipes() if "kind: images" in path.read_text()]
NARROW: dict[str, dict[str, Any]] = {  # of each family, what makes its networks small
    "mlp": {"widths": [4]}, "dcgan": {"width": 2}, "began": {"width": 4}, "pggan": {"width": 4},
    "biggan": {"width": 1}, "stackgan": {"width": 4}, "autoencoder": {"width": 2, "downs": 1}}
PGGAN = {"generator": {"kind": "pggan", "width": 4, "latent": 5}, "discriminator": {"kind": "pggan", "width": 4}}


def write_bars(folder: Path, num_classes: int = 2, channels: int = 1, num: int = 6) -> Path:
    """Write toy images of 16 px, a folder for each class: bars along rows, or along columns; train and test."""
    chance = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in range(num_classes):
            (folder / part / f"{kind:02d}").mkdir(parents=True)
            for number in range(num):
                image = chance.integers(0, 60, (16, 16) if channels == 1 else (16, 16, channels)).astype(np.uint8)
                image[chance.integers(16)] = chance.integers(150, 255)
                Image.fromarray(image.swapaxes(0, 1) if kind else image).save(
                    folder / part / f"{kind:02d}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    """A GAN that grows twice, told of classes and with codes: all that a checkpoint must hold of one from noise."""
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "images", "folder": str(folder), "image_b": {"channels": 1}, "classes": 2,
                                "resize": 16, "augment": []},
        "translator": {"kind": "noise", **PGGAN, "codes": {"categorical": [3], "continuous": 1}, "ema": 0.9,
                       "penalty": {"kind": "r1", "every": 2}},
        "stages": [{"resolution": 4, "resize": 4, "images": 8, "batch_size": 4},
                   {"resolution": 8, "resize": 8, "levels": 1, "fade": True, "images": 16, "batch_size": 4},
                   {"resolution": 16, "levels": 2, "fade": True, "images": 16, "batch_size": 4}],
        "every": {"log": 4, "sample": 20, "checkpoint": 4, "probe": 8, "evaluate": None}, "workers": 0, **changes},
        "toy")


@pytest.mark.parametrize("path", one_in(9, FROM_NOISE), ids=lambda path: path.stem)
def test_every_shipped_recipe_from_noise_trains_two_steps(path: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """On toy images in its own layout, with its own networks made narrow, in its first two stages."""
    document = load_recipe(path).dump()
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    write_bars(tmp_path / "toy", channels=document["data"]["image_b"]["channels"])
    document["data"] |= {"card": None, "folder": str(tmp_path / "toy")}
    if document["data"]["vectors"] is not None:  # toy images have classes, which are vectors as well
        document["data"] |= {"vectors": None, "classes": 2}
    if document["data"]["classes"] is not None:
        document["data"]["classes"] = 2
    for part in ("generator", "discriminator"):
        document["translator"][part] |= NARROW[document["translator"][part]["kind"]]
    if path.stem == "biggan":
        document["data"]["resize"] = 32
        for part in ("generator", "discriminator"):
            document["translator"][part] |= {"side": 32, "attention": 16}
        document["stages"][0]["resolution"] = 32
    document["stages"] = [stage | {"images": 4, "batch_size": 4, "micro_batch": None}
                          for stage in document["stages"][:2]]
    document |= {"workers": 0, "every": {"log": 1, "sample": 4, "checkpoint": 4, "evaluate": None}}
    train(validate(Recipe, document, str(path)), tmp_path / "run", Silent())


@pytest.mark.parametrize("path", FROM_NOISE, ids=lambda path: path.stem)
def test_what_a_header_says_to_set_can_be_set(path: Path) -> None:
    """A paragraph of it is one command: "# Vary:" and the lines that go on with it."""
    header = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
    starts = [number for number, line in enumerate(header) if re.match(r"\w[\w ]*:  ", line)] + [len(header)]
    commands = [" ".join(header[start:end]) for start, end in itertools.pairwise(starts)]
    changes = [found for command in commands if (found := re.findall(r"--set ([\w.]+=[^\s,;)]+)", command))]
    assert changes, "each recipe says how to vary it"
    for found in changes:
        load_recipe(path, found)


@pytest.mark.slow
def test_a_run_that_is_killed_while_a_level_fades_in_goes_on_bit_for_bit(bars: Path, tmp_path: Path) -> None:
    """With classes and codes, in the middle of the first level's fade, and again a step before the second's end."""
    first, second, third = recipe_of(bars).stages
    recipe = recipe_of(bars, stages=[first.model_copy(update={"images": 4}), second.model_copy(update={"images": 8}),
                                     third.model_copy(update={"images": 12})])
    train(recipe, tmp_path / "whole", Silent())
    train_until(recipe, tmp_path / "killed", 8)
    train_until(recipe, tmp_path / "killed", 20, resume=True)
    train(recipe, tmp_path / "killed", Silent(), resume=True)
    assert final_state(tmp_path / "killed") == final_state(tmp_path / "whole")


@pytest.mark.slow
def test_a_training_scores_what_it_draws_beside_real_images(bars: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel distance, at every level; `evaluate` finds the same of the finished run, with its averaged weights.
    Nothing is compared with an input: there is none."""
    write_mobilenet(tmp_path, monkeypatch)
    train(recipe_of(bars, every={"log": 4, "checkpoint": 20, "evaluate": 20}), tmp_path / "run", Silent())
    scored = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert [line["images"] for line in scored] == [20, 40] and scored[-1]["decided_by"] == "kernel_distance"
    assert scored[-1]["verdict"] == "" and "ssim" not in scored[-1]
    assert not list((tmp_path / "run" / "held_out").glob("*input*"))
    results = evaluate_run(tmp_path / "run")
    assert results.scores["kernel_distance"].value == pytest.approx(scored[-1]["kernel_distance"], rel=0.05, abs=1e-3)


@pytest.mark.parametrize("name", one_in(4, ["gan_mnist", "pggan_mnist", "dcgan", "biggan_mnist"]))
def test_a_recipe_that_does_not_fit_is_told_what_would(name: str) -> None:
    """The size of its images is the generator's own: no other one is advised."""
    recipe = load_recipe(next(path for path in FROM_NOISE if path.stem == name))
    assert advise(recipe, recipe.stages[-1], len(recipe.stages) - 1, 1, "fp32") == (
        "set the networks' width to less, or draw smaller images")


STACKGAN = {"generator": SMALL["stackgan"]["generator"], "discriminator": SMALL["stackgan"]["discriminator"]}
SKETCHED = [{"resolution": 16, "images": 8, "batch_size": 4},
            {"resolution": 64, "resize": 64, "levels": 1, "freeze": True, "images": 8, "batch_size": 4}]


@pytest.mark.slow
def test_the_second_stage_of_a_stackgan_learns_alone(bars: Path, tmp_path: Path) -> None:
    """It is killed and goes on; the first stage stays as it was, and other residual blocks make another network."""
    def recipe(**changes: Any) -> Recipe:
        return recipe_of(bars, stages=SKETCHED, translator={"kind": "noise", "mismatched": 1.0} | STACKGAN | changes)

    train(recipe(), tmp_path / "whole", Silent())
    train_until(recipe(), tmp_path / "killed", 12)
    train(recipe(), tmp_path / "killed", Silent(), resume=True)
    assert final_state(tmp_path / "killed") == final_state(tmp_path / "whole")
    first, last = (read_tensors(sorted((tmp_path / "whole/checkpoints").glob("0*"))[place] / "generator_ab.safetensors")
                   for place in (0, -1))
    moved = {name for name, value in last.items() if name not in first or not torch.equal(value, first[name])}
    assert moved and all(name.startswith("second.") or "running" in name or "num_batches" in name for name in moved)
    more = recipe(generator=STACKGAN["generator"] | {"blocks": 2})
    train(more, tmp_path / "more", Silent())
    assert len(read_tensors(tmp_path / "more/release/generator_ab.safetensors")) > len(last)
    with pytest.raises(Exception, match="two stages"):
        recipe_of(bars, translator={"kind": "noise"} | STACKGAN, stages=[*SKETCHED, {
            "resolution": 256, "resize": 256, "levels": 2, "images": 8, "batch_size": 4}])


def in_a_process_of_two(names: list[str], folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    accelerator = Accelerator(cpu=True)
    for name in names:
        translator = built(config_of(name, mismatched=float(name != "began")))
        own = batch_of(SIDES[name], 4).micro_batches(2)[accelerator.process_index]
        step(translator, own, accelerator=accelerator)
        torch.save(gradients(translator), folder / f"{name} {accelerator.process_index}.pt")


def test_two_processes_give_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    """Of networks without batch norm, which is refused in several processes on a CPU."""
    names = ["mlp", "dcgan 28", "began"]
    debug_launcher(in_a_process_of_two, (names, tmp_path), num_processes=2)
    for name in names:
        def whole(name: str = name) -> dict[str, torch.Tensor]:
            translator = built(config_of(name, mismatched=float(name != "began")))
            step(translator, batch_of(SIDES[name], 4), micro_batch=2)
            return gradients(translator)

        expected = whole()
        for process in range(2):
            found = torch.load(tmp_path / f"{name} {process}.pt")
            own = {key: value for key, value in expected.items() if "generator" not in key or "dcgan" not in name}
            assert worst_error({key: found[key] for key in own}, own) <= RoundingBound(expected, whole)


@pytest.mark.parametrize(("name", "plan", "precision"), [*one_in(4, [
    (name, plan, "fp32") for plan in ("split", "preact", "blocks") for name in ("dcgan", "pggan", "biggan")]),
    ("mlp", "split", "bf16")])
def test_the_planner_foretells_the_peak_of_a_step_within_five_per_cent(name: str, plan: str, precision: Format) -> None:
    """Beside the bytes that are alive in a real step, on a CPU, of networks wide enough to count.

    Of a perceptron in bf16 within one: nearly all of them are weights, whose low-precision copies are what counts.
    """
    wide = {"dcgan": {"generator": {"width": 16}, "discriminator": {"width": 16}, "mismatched": 1.0},
            "pggan": {"generator": {"width": 64}, "discriminator": {"width": 64}},
            "biggan": {"generator": {"width": 8}, "discriminator": {"width": 8}},
            "mlp": {"generator": {"widths": [512, 1024]}, "discriminator": {"widths": [512, 1024]}}}[name]
    config, side, samples = config_of(name, **wide), SIDES[name], 4
    stage = Stage(resolution=side, images=samples, batch_size=samples)
    foretold = StepOnMeta(Networks(translator=config, optimizer=Optimizers()), (4, 1), stage).measure(
        PLANS[plan], precision, "cpu", 1)
    whole = batch_of(side, samples)
    batch = dataclasses.replace(whole, a=whole.a.float(), b=whole.b.float(), other=whole.a.roll(1, dims=0).float())
    found = peak_of_real_step(config, batch, PLANS[plan], [stage], precision)
    assert foretold.peak_bytes == pytest.approx(found, rel=0.05 if precision == "fp32" else 0.01)


class Mute(Run):
    """A training whose generator says the same of every latent from 16 images on."""

    def step(self, stage: Stage, batch: Any) -> Update:
        if self.progress.images >= 16:
            with torch.no_grad():
                for parameter in self.translator.networks["generator_ab"].parameters():
                    parameter.zero_()
        return super().step(stage, batch)


def told_by_the_guard(run: Path) -> list[str]:
    return [line["message"] for line in read_lines(run / "events.jsonl") if line["what"] == "collapse"]


def test_the_guard_sees_a_generator_that_draws_one_image_alone(bars: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"guard": {"patience": 8, "rollbacks": 0}, "every": {"log": 4, "checkpoint": 8, "probe": 4,
                                                                    "evaluate": None},
               "translator": {"kind": "noise", "generator": SMALL["mlp"]["generator"] | {"side": 16},
                              "discriminator": SMALL["mlp"]["discriminator"] | {"side": 16}},
               "stages": [{"resolution": 16, "images": 64, "batch_size": 4}]}
    train(recipe_of(bars, **changes), tmp_path / "healthy", Silent())
    assert not told_by_the_guard(tmp_path / "healthy")

    monkeypatch.setattr("translate.training.loop.Run", Mute)
    with pytest.raises(Exception, match="given up"):
        train(recipe_of(bars, **changes), tmp_path / "collapsed", Silent())
    assert "nearly the same output" in told_by_the_guard(tmp_path / "collapsed")[0]


OPTIONS: dict[str, tuple[str, Any]] = {  # an option, of which of the small networks, and another value
    "latent": ("mlp", {"generator": {"latent": 7}}),
    "distribution": ("mlp", {"generator": {"distribution": "uniform"}}),
    "mlp.widths": ("mlp", {"generator": {"widths": [8, 7]}}), "mlp.norm": ("mlp", {"generator": {"norm": "batch"}}),
    "mlp judge.widths": ("mlp", {"discriminator": {"widths": [6, 5]}}),
    "mlp judge.spectral": ("mlp", {"discriminator": {"spectral": True}}),
    "mlp judge.minibatch_kernels": ("mlp", {"discriminator": {"minibatch_kernels": 2}}),
    "dcgan.width": ("dcgan", {"generator": {"width": 3}}), "dcgan.norm": ("dcgan", {"generator": {"norm": "none"}}),
    "dcgan.spectral": ("dcgan", {"generator": {"spectral": True}}),
    "dcgan.init": ("dcgan", {"generator": {"init": "orthogonal"}}),
    "dcgan judge.width": ("dcgan", {"discriminator": {"width": 3}}),
    "dcgan judge.norm": ("dcgan", {"discriminator": {"norm": "none"}}),
    "dcgan judge.dropout": ("dcgan", {"discriminator": {"dropout": 0.3}}),
    "dcgan judge.minibatch_std": ("dcgan", {"discriminator": {"minibatch_std": True}}),
    "dcgan judge.minibatch_kernels": ("dcgan", {"discriminator": {"minibatch_kernels": 2}}),
    "dcgan judge.spectral": ("dcgan", {"discriminator": {"spectral": True}}),
    "dcgan judge.init": ("dcgan", {"discriminator": {"init": "orthogonal"}}),
    "began.width": ("began", {"generator": {"width": 5}}),
    "began.init": ("began", {"generator": {"init": "orthogonal"}}),
    "began.norm": ("began", {"generator": {"norm": "batch"}}),
    "autoencoder.init": ("began", {"discriminator": {"init": "orthogonal"}}),
    "pggan.width": ("pggan", {"generator": {"width": 7}}), "pggan.channels": ("pggan", {"generator": {"channels": 8}}),
    "pggan judge.width": ("pggan", {"discriminator": {"width": 7}}),
    "pggan judge.channels": ("pggan", {"discriminator": {"channels": 8}}),
    "biggan.width": ("biggan", {"generator": {"width": 2}}), "biggan.shared": ("biggan", {"generator": {"shared": 4}}),
    "biggan.attention": ("biggan", {"generator": {"attention": None}}),
    "biggan.spectral": ("biggan", {"generator": {"spectral": False}}),
    "biggan.init": ("biggan", {"generator": {"init": "normal"}}),
    "biggan judge.width": ("biggan", {"discriminator": {"width": 2}}),
    "biggan judge.attention": ("biggan", {"discriminator": {"attention": None}}),
    "biggan judge.spectral": ("biggan", {"discriminator": {"spectral": False}}),
    "biggan judge.init": ("biggan", {"discriminator": {"init": "normal"}}),
    "stackgan.width": ("stackgan", {"generator": {"width": 5}}),
    "stackgan.embedding": ("stackgan", {"generator": {"embedding": 4}}),
    "stackgan.init": ("stackgan", {"generator": {"init": "orthogonal"}}),
    "stackgan judge.width": ("stackgan", {"discriminator": {"width": 3}}),
    "stackgan judge.embedding": ("stackgan", {"discriminator": {"embedding": 4}}),
    "stackgan judge.norm": ("stackgan", {"discriminator": {"norm": "none"}}),
    "stackgan judge.init": ("stackgan", {"discriminator": {"init": "orthogonal"}}),
    "divergence": ("stackgan", {"divergence": 3.0}), "mismatched": ("stackgan", {"mismatched": 0.0}),
    "conditioned": ("dcgan", {"conditioned": False}),
    "codes": ("codes", {"codes": None}), "codes.categorical": ("codes", {"codes": {"categorical": [3, 3]}}),
    "codes.continuous": ("codes", {"codes": {"continuous": 1}}), "codes.weight": ("codes", {"codes": {"weight": 2.0}}),
    "codes.continuous_weight": ("codes", {"codes": {"continuous_weight": 1.0}}),
    "styles": ("styles", {"styles": None}), "styles.weight": ("styles", {"styles": {"weight": 2.0}}),
    "drift": ("mlp", {"objective": {"kind": "wasserstein", "clip": None, "drift": 0.1}}),
    "r1 and r2": ("mlp", {"penalty": {"kind": "r1_r2"}}),
}


@pytest.fixture(scope="module")
def left_by_a_step() -> Callable[..., dict[str, torch.Tensor]]:
    def left(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        translator = built(config_of(name, **changes))
        step(translator, batch_of(SIDES[name]))
        return {key: value for key, value in gradients(translator).items() if value is not None}

    return left


@pytest.mark.parametrize("option", one_in(7, list(OPTIONS)))
def test_every_option_of_a_translator_from_noise_changes_its_gradients(
        option: str, left_by_a_step: Callable[..., dict[str, torch.Tensor]]) -> None:
    name, changes = OPTIONS[option]
    compared = {"objective": {"kind": "wasserstein", "clip": None}} if option == "drift" else {}
    before, after = left_by_a_step(name, **compared), left_by_a_step(name, **changes)
    assert before.keys() != after.keys() or any(
        value.shape != after[key].shape or not torch.equal(value, after[key]) for key, value in before.items())


def test_options_of_all_networks_from_noise_are_among_them() -> None:
    fields = {(part, kind): set() for parts in SMALL.values() for part in ("generator", "discriminator")
              for kind in [parts[part]["kind"]]}
    for name, changes in OPTIONS.values():
        for part in ("generator", "discriminator"):
            fields[part, SMALL[name][part]["kind"]] |= set(changes.get(part, {}))
    shared = {"kind", "side", "latent", "distribution", "blocks"}  # sides are the stages'; blocks: see the next test
    for name, parts in SMALL.items():
        for part in ("generator", "discriminator"):
            kind, known = parts[part]["kind"], type(getattr(config_of(name), part)).model_fields.keys()
            fixed = {"norm"} if kind in ("mlp", "pggan", "biggan") and part == "discriminator" else set()
            if kind not in ("patchgan", "autoencoder"):  # tests/test_networks.py tries theirs
                assert known - shared - fixed <= fields[part, kind], (part, kind)
