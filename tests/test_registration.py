"""A network that learns what pairs are off by: under every memory plan, exact in resume, and in no release."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from tests.bounds import RoundingBound
from tests.covering import one_in
from tests.runs import Silent, final_state, pix2pix_recipe, train_until
from tests.steps import LR, build, gradients, make_batch, peak_of_step, step, worst_error
from tests.textbook import deformed, pix2pix_reference
from translate.images.tensors import UNKNOWN, hide_unknown
from translate.networks import PatchGANConfig, RegistrationConfig, UNetConfig, memory
from translate.networks.registration import warped
from translate.report.arrows import with_arrows
from translate.training.loop import train
from translate.training.update import Update
from translate.translators import Pix2PixConfig

PATCH = PatchGANConfig(width=4, layers=2)
CONFIG = Pix2PixConfig(generator=UNetConfig(width=4, downs=4, norm="instance"), discriminator=PATCH,
                       registration=RegistrationConfig(width=4, smoothness=3.0))


@functools.cache
def joint(size: tuple[int, int]) -> tuple[dict[str, Tensor], RoundingBound]:
    def found() -> dict[str, Tensor]:
        return pix2pix_reference(build(CONFIG), make_batch(size), LR)

    return found(), RoundingBound(found(), found)


@pytest.mark.parametrize("plan", one_in(2, list(memory.PLANS)))
def test_gradients_equal_one_joint_backward_pass_under_every_plan(plan: str) -> None:
    """Those of the network itself among them, which is not in the way of any plan."""
    translator, size = build(CONFIG), (33, 50)
    update = step(translator, make_batch(size), plan, lr=LR)
    expected, bound = joint(size)
    assert worst_error(gradients(translator), expected) <= bound
    assert update.losses["smoothness"] > 0 and update.observed["deformation"] > 0.05
    assert all(gradients(translator)[f"registration.{name}"].abs().max() > 0
               for name, _ in translator.networks["registration"].named_parameters())


def test_a_deformation_reads_where_it_says() -> None:
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    field = torch.randn(2, 2, 9, 12, dtype=torch.float64) * 3
    torch.testing.assert_close(warped(images, field), deformed(images, field))
    still = torch.zeros_like(field)
    still[:, 0], still[:, 1] = 2, -1
    torch.testing.assert_close(warped(images, still)[..., 1:, :-2], images[..., :-1, 2:])


def test_every_option_of_the_registration_changes_the_gradients() -> None:
    def found(**options: float) -> dict[str, Tensor]:
        config = CONFIG.model_copy(update={"registration": RegistrationConfig(**{"width": 4, **options})})
        translator = build(config)
        step(translator, make_batch((32, 32)))
        return gradients(translator)

    usual, rough = found(), found(smoothness=1.0)
    assert not torch.equal(usual["registration.first.weight"], rough["registration.first.weight"])
    assert found(width=5)["registration.first.weight"].shape[0] == 5
    assert RegistrationConfig.model_fields.keys() == {"smoothness", "width"}


@pytest.mark.slow
def test_it_learns_what_a_pair_is_off_by() -> None:
    """Both images are given, and the second lies 3 px to the left of the first."""
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(4, 3, 12, 12), (48, 48), mode="bicubic") * 2 - 1
    network = RegistrationConfig(width=8).build(3)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    made, truth = image[..., :-3], image[..., 3:]
    for _ in range(60):
        optimizer.zero_grad()
        (warped(made, network(made, truth)) - truth).abs().mean().backward()
        optimizer.step()
    right, down = network(made, truth)[..., 8:-8, 8:-8].mean((0, 2, 3)).tolist()
    assert 2 < right < 3.3 and abs(down) < 0.3


class Shifted(nn.Module):
    """Says that all is 2 px off, whatever it sees."""

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        field = torch.zeros(len(made), 2, *made.shape[2:], dtype=made.dtype)
        field[:, 0] = 2
        return field


@pytest.mark.parametrize("gap_in", ["a", "b"])
def test_pixels_without_data_count_nowhere_also_where_they_are_moved_to(gap_in: str) -> None:
    """A perfect output beside a gap: no known pixel of it is called wrong."""
    translator, batch = build(CONFIG), make_batch((32, 34))
    translator.registration = Shifted()
    whole, a = batch.b, batch.a[..., :-2].clone()
    truth = whole[..., 2:].clone()
    (a if gap_in == "a" else truth)[:, :, 5:9, 10:20] = UNKNOWN
    update = Update(translator, {}, Accelerator(cpu=True), memory.PLANS["split"], "fp32")
    update.has_unknown = True
    fake = hide_unknown(whole[..., :-2], a, truth)
    laid = translator.laid_on_truth(update, fake, a, truth)  # type: ignore[attr-defined]
    torch.testing.assert_close(laid[..., :-2], truth[..., :-2], rtol=0, atol=1e-12)
    update.has_unknown = False
    assert (translator.laid_on_truth(update, fake, a, truth) - truth).abs()[..., :-2].max() > 0.1  # type: ignore[attr-defined]


def registering(folder: Path) -> object:
    return pix2pix_recipe(folder, translator={
        "kind": "pix2pix", "generator": {"kind": "unet", "width": 2, "downs": 6}, "registration": {"width": 2},
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "norm": "batch"}})


@pytest.mark.slow
def test_a_run_resumes_bit_identically_and_releases_no_registration(shared_pairs: Path, tmp_path: Path) -> None:
    recipe = registering(shared_pairs)
    train(recipe, tmp_path / "whole", Silent())  # type: ignore[arg-type]
    train_until(recipe, tmp_path / "broken", 6)  # type: ignore[arg-type]
    train(recipe, tmp_path / "broken", Silent(), resume=True)  # type: ignore[arg-type]
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")
    assert list((tmp_path / "whole" / "checkpoints").glob("*/registration.safetensors"))
    assert not list((tmp_path / "whole" / "release").glob("*registration*"))


def of_one_process(folder: str) -> None:
    """One of two processes, with its half of the batch."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    translator, own = build(CONFIG), make_batch((33, 50)).micro_batches(1)[rank]
    step(translator, own, "preact", accelerator=accelerator, lr=LR)
    torch.save(gradients(translator), Path(folder) / f"{rank}.pt")


def test_two_processes_find_the_gradients_of_one(tmp_path: Path) -> None:
    debug_launcher(of_one_process, (str(tmp_path),), num_processes=2)
    expected, bound = joint((33, 50))
    for rank in range(2):
        assert worst_error(torch.load(tmp_path / f"{rank}.pt"), expected) <= bound


@pytest.mark.parametrize("plan", ["blocks", pytest.param("split", marks=pytest.mark.slow)])
def test_the_planner_counts_it(plan: str) -> None:
    """In images of 256 px its activations are more than its weights."""
    without = peak_of_step(CONFIG.model_copy(update={"registration": None}), 256, memory.PLANS[plan], "fp32", "cpu")
    assert peak_of_step(CONFIG, 256, memory.PLANS[plan], "fp32", "cpu") > without + 4 * 128 * 128 * 4 * 4


@pytest.mark.slow
def test_a_training_shows_what_it_has_learnt_as_arrows(shared_pairs: Path, tmp_path: Path) -> None:
    """Over held-out outputs, on the page as well; a training without registration has none."""
    for name, registration in (("with", {"width": 2}), ("without", None)):
        recipe = pix2pix_recipe(shared_pairs, translator={
            "kind": "pix2pix", "generator": {"kind": "unet", "width": 2, "downs": 4}, "registration": registration,
            "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}},
            stages=[{"resolution": 64, "images": 2, "batch_size": 2}])
        train(recipe, tmp_path / name, Silent())
        shown = sorted((tmp_path / name / "held_out").glob("*-deformation.jpg"))
        assert bool(shown) == (name == "with")
        assert ("deformation</option>" in (tmp_path / name / "report.html").read_text()) == (name == "with")


def test_arrows_lie_where_the_deformation_is_and_point_where_it_points() -> None:
    image, field = np.full((64, 96, 3), 90, np.uint8), np.zeros((2, 64, 96))
    field[0, 20:44, 30:60] = 3.0
    drawn = with_arrows(image, field)
    changed = (drawn != 90).any(-1)
    assert changed[20:44, 30:66].mean() > 3 * changed[:16, 70:].mean() > 0
