"""A training that begins with weights that are there: what fits goes over, and what does not is named."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.commands import call
from tests.runs import UNSEEN, Silent, cut_recipe, cyclegan_recipe, final_state, pix2pix_recipe, train_until
from tests.theirs import PatchGANOfTheirs, ResNetOfTheirs, shaken
from translate.errors import CheckpointError, RunError, UsageError
from translate.interop.importing import import_release
from translate.recipe import Recipe
from translate.runs.checkpoint import newest_checkpoint, read_progress
from translate.runs.folder import RunFolder
from translate.runs.release import load_release
from translate.training.loop import Run, train
from translate.training.processes import make_accelerator
from translate.training.starting import read_source

RESNET = {"kind": "resnet", "width": 2, "blocks": 1}
PATCH = {"kind": "patchgan", "width": 2, "layers": 1}


@pytest.fixture(scope="module")
def before(shared_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished CycleGAN, with averages."""
    folder = tmp_path_factory.mktemp("runs") / "before"
    train(cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 4, "batch_size": 2}], every=UNSEEN),
          folder, Silent())
    return folder


def begun(recipe: Recipe, folder: Path) -> Run:
    """A run before its first step."""
    return Run(recipe, RunFolder(folder), make_accelerator(recipe, folder), Silent(), None, read_source(recipe))


def same(network: nn.Module, other: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_run_begins_with_all_networks_of_another_at_twice_the_resolution(before: Path, shared_pairs: Path,
                                                                           tmp_path: Path) -> None:
    """Generators from the averages that one translates with, and the discriminators that know the data."""
    recipe = cyclegan_recipe(shared_pairs, start=str(before), stages=[{"resolution": 32, "images": 4}])
    run, source = begun(recipe, tmp_path / "run"), read_source(recipe)
    assert source is not None and set(source.states) == set(run.translator.networks)
    for name, network in run.translator.modules.items():
        assert same(network, source.states[name.removeprefix("ema_")]), name
    for way in ("ab", "ba"):
        assert same(run.translator.networks[f"generator_{way}"], dict(load_release(before, way).generator.state_dict()))
    assert not any("fresh" in note or "left" in note for note in run.notes)


def test_a_network_that_grows_begins_inside_as_it_was(before: Path, shared_pairs: Path, tmp_path: Path) -> None:
    """The weights go in before the first stage adds its level: while that has not faded in, nothing is changed."""
    recipe = cyclegan_recipe(shared_pairs, start=str(before), stages=[
        {"resolution": 32, "images": 4, "levels": 1, "fade": True}])
    run = begun(recipe, tmp_path / "run")
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        inside = load_release(before).generator(nn.functional.avg_pool2d(image, 2))
        found = run.translator.generator("ab").eval()(image)
    torch.testing.assert_close(found, nn.functional.interpolate(inside, scale_factor=2))


@pytest.mark.parametrize(("change", "said"), [
    ({"generator": RESNET | {"blocks": 2}}, r"generator_ab: fresh, as there is none: trunk\.1$"),
    ({"generator": RESNET | {"width": 4}}, r"another shape: head\.0\.conv\.weight \(4×3×7×7, there 2×3×7×7\)"),
    ({"generator": RESNET | {"norm": "none"}}, r"differs there from the recipe's: norm: 'instance' → 'none'"),
    ({"generator": RESNET | {"downsample": "antialiased"}}, "downsample: 'strided' → 'antialiased'"),
    ({"discriminator": PATCH | {"layers": 2}}, "discriminator_a: fresh, as it has another shape")], ids=str)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str, before: Path, shared_pairs: Path,
                                    tmp_path: Path) -> None:
    translator = {"kind": "cyclegan", "generator": RESNET, "discriminator": PATCH} | change
    recipe = cyclegan_recipe(shared_pairs, start=str(before), translator=translator)
    notes = "\n".join(begun(recipe, tmp_path / "run").notes)
    assert re.search(said, notes, re.MULTILINE), notes


def test_another_translator_takes_what_it_has_too(before: Path, shared_pairs: Path, tmp_path: Path) -> None:
    run = begun(cut_recipe(shared_pairs, start=str(before)), tmp_path / "run")
    notes = "\n".join(run.notes)
    assert same(run.translator.networks["generator_ab"], dict(load_release(before).generator.state_dict()))
    assert "heads: fresh, there is none" in notes and "generator_ba: left there" in notes


@pytest.mark.parametrize(("start", "said"), [("nowhere", "no such folder"), ("page.pth", "a web page")])
def test_what_is_no_model_is_refused_before_a_run_is_made(start: str, said: str, shared_pairs: Path, tmp_path: Path
                                                          ) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises((UsageError, CheckpointError), match=said):
        train(cyclegan_recipe(shared_pairs, start=str(tmp_path / start)), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_generator_of_which_nothing_fits_is_refused(before: Path, shared_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing of it fits the recipe's generator: kind: 'resnet' → 'unet'"):
        begun(pix2pix_recipe(shared_pairs, start=str(before)), tmp_path / "run")


def test_a_checkpoint_of_another_project_is_trained_on_and_the_card_tells_where_it_began(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun from the file or from the release that it was imported as: the same training, bit for bit."""
    file = tmp_path / "latest_net_G_A.pth"
    torch.save(shaken(ResNetOfTheirs(width=2, blocks=1)).state_dict(), file)
    import_release(file, tmp_path / "release")
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 4}], every=UNSEEN)
    (tmp_path / "toy.yaml").write_text(recipe.dump_yaml())
    for name, model in (("a", file), ("b", tmp_path / "release")):
        assert call(monkeypatch, "train", tmp_path / "toy.yaml", "--from", model, "--run", tmp_path / name) == 0
    assert "generator_ab: 16 of 16 tensors" in said.getvalue() and "generator_ba: fresh" in said.getvalue()
    weights = {name: {key: value for key, value in final_state(tmp_path / name).items() if key.endswith("safetensors")}
               for name in "ab"}
    assert weights["a"] == weights["b"]
    card = (tmp_path / "a" / "release" / "README.md").read_text()
    assert "It began with the weights of" in card and "latest_net_G_A.pth, a ResNet of CycleGAN" in card


def test_discriminators_that_were_imported_play_on(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """D_A judges what G_A makes, which are images of B: here it is discriminator_b."""
    networks = {"G_A": ResNetOfTheirs(width=2, blocks=1), "G_B": ResNetOfTheirs(width=2, blocks=1),
                "D_A": PatchGANOfTheirs(width=2, layers=1), "D_B": PatchGANOfTheirs(width=2, layers=1)}
    files = {name: tmp_path / f"latest_net_{name}.pth" for name in networks}
    for seed, (name, network) in enumerate(networks.items()):
        torch.save(shaken(network, seed).state_dict(), files[name])
    assert call(monkeypatch, "import", files["G_A"], "--back", files["G_B"], "--discriminator", files["D_A"],
                "--back-discriminator", files["D_B"], "--to", tmp_path / "release") == 0
    assert "discriminator_b: latest_net_D_A.pth is a PatchGAN" in said.getvalue()
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 4}], start=str(tmp_path / "release"))
    translator = begun(recipe, tmp_path / "run").translator
    image = torch.rand(1, 3, 40, 24) * 2 - 1
    for ours, theirs in (("discriminator_b", "D_A"), ("discriminator_a", "D_B"), ("generator_ab", "G_A")):
        with torch.no_grad():
            assert torch.equal(translator.modules[ours].eval()(image), networks[theirs](image)), ours


def test_a_run_that_began_with_weights_resumes_bit_identically_and_without_them(before: Path, shared_pairs: Path,
                                                                                tmp_path: Path) -> None:
    """Also where nobody repeats what it began with, and where that is gone meanwhile."""
    def recipe(**changes: Any) -> Recipe:
        return cyclegan_recipe(shared_pairs, stages=[
            {"resolution": 16, "images": 4, "batch_size": 2, "freeze": "trunk"},
            {"resolution": 16, "images": 4, "batch_size": 2}], every=UNSEEN, **changes)

    train(recipe(start=str(before)), tmp_path / "whole", Silent())
    train_until(recipe(start=str(before)), tmp_path / "cut", 6)
    train(recipe(), tmp_path / "cut", Silent(), resume=True)
    assert final_state(tmp_path / "cut") | {"state.json": 0} == final_state(tmp_path / "whole") | {"state.json": 0}
    newest, _ = newest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert newest is not None and str(before) in read_progress(newest).began
    with pytest.raises(RunError, match="start: "):
        train(recipe(start="elsewhere"), tmp_path / "cut", Silent(), resume=True)


def test_a_frozen_trunk_rests_until_its_stage_ends(before: Path, shared_pairs: Path, tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, start=str(before), keep_checkpoints=9, every=UNSEEN, stages=[
        {"resolution": 16, "images": 4, "batch_size": 2, "freeze": "trunk"},
        {"resolution": 16, "images": 4, "batch_size": 2}])
    train(recipe, tmp_path / "run", Silent())
    states = [load_file(tmp_path / "run" / "checkpoints" / f"{images:012d}" / "generator_ab.safetensors")
              for images in (0, 4, 8)]
    moved = [{name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
             for before, after in pairwise(states)]
    assert moved == [{"head", "tail"}, {"head", "trunk", "tail"}]
