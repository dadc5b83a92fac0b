"""A network that learns what pairs are off by: under every memory plan, exact in resume, and in no release."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
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
from translate.networks.registration import RATE, common_shift, correlation, warped
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


def texture(size: int = 72) -> np.ndarray:
    """Return clouds of three scales, (H, W, 3) in about ±1, with a border to move in from."""
    chance = np.random.default_rng(4)
    return sum(cv2.resize(chance.normal(0, 0.3, (size // step, size // step, 3)), (size, size),
                          interpolation=cv2.INTER_CUBIC) for step in (3, 6, 12))


def off_by(right: float, down: float) -> tuple[Tensor, Tensor]:
    """Return a truth (1, 3, 48, 48) and what was made of it: it lies so far from it, is soft, pale and too light."""
    image = texture()
    moved = cv2.warpAffine(image, np.array([[1.0, 0, right], [0, 1, down]]), (72, 72), flags=cv2.INTER_CUBIC)
    made = 0.3 + 0.5 * cv2.GaussianBlur(moved, (0, 0), 0.8)
    truth, made = (torch.from_numpy(each[12:-12, 12:-12].transpose(2, 0, 1).copy())[None] for each in (image, made))
    return truth, made


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (3.0, -6.0), (-7.5, 2.25), (8.0, 0.5)])
def test_a_shift_of_the_whole_is_found_before_anything_is_learnt(right: float, down: float) -> None:
    truth, made = off_by(right, down)
    network = RegistrationConfig(width=2).build(3).double()
    found = network(made, truth)
    assert (found - torch.tensor([right, down]).view(2, 1, 1)).abs().max() < 0.25
    apart, laid = ((image - 0.3 - 0.5 * truth).abs()[..., 9:-9, 9:-9].mean() for image in (made, warped(made, found)))
    assert laid < 0.5 * apart or right == down == 0


def test_of_a_flat_output_no_shift_is_told() -> None:
    truth, made = off_by(3.0, 1.0)
    for flat in (torch.full_like(made, 0.4), made.mean((2, 3), keepdim=True) + 1e-5 * torch.randn_like(made)):
        assert common_shift(flat, truth).abs().max() < 0.1


def test_a_gap_that_both_have_does_not_hold_a_shift_at_none() -> None:
    truth, made = off_by(5.0, 2.0)
    truth[..., 10:30, 16:40] = UNKNOWN
    for filled in (UNKNOWN, truth):
        gap = torch.where(truth == UNKNOWN, torch.as_tensor(filled, dtype=truth.dtype), made)
        torch.testing.assert_close(common_shift(gap, truth)[0], torch.tensor([5.0, 2.0]).double(), rtol=0, atol=0.3)


def test_correlations_of_all_shifts_are_the_sums_that_they_stand_for() -> None:
    one, other = torch.randn(2, 1, 9, 7).double(), torch.randn(2, 1, 9, 7).double()
    found = correlation(one, other, [2, 1])
    wide = torch.nn.functional.pad(one, (1, 1, 2, 2))
    expected = [[(wide[..., 2 + down:11 + down, 1 + right:8 + right] * other).sum((1, 2, 3)) for right in (-1, 0, 1)]
                for down in (-2, -1, 0, 1, 2)]
    torch.testing.assert_close(found[:, 0], torch.stack([torch.stack(row, -1) for row in expected], 1))


def test_what_all_deformations_have_in_common_is_taken_off() -> None:
    """Outputs came to lie 1 px beside their inputs: no loss that compares after a deformation sees where all lie."""
    translator = build(CONFIG)
    update = step(translator, make_batch((33, 50)))
    mean = [update.observed[f"deformation_{way}"] for way in ("right", "down")]
    assert translator.registration.usual.tolist() == pytest.approx([each.item() for each in mean], rel=1e-6)

    truth, made = off_by(3.0, -2.0)
    network = RegistrationConfig(width=2).build(3).double()
    network.remember(network(made, truth).mean((0, 2, 3)))
    assert network(made, truth).mean((0, 2, 3)).abs().max() < 0.05
    network.counted.fill_(1000)  # steps later it follows slowly
    network.usual.zero_()
    first = network(made, truth).mean((0, 2, 3))
    network.remember(first)
    torch.testing.assert_close(network.usual, RATE * first)
    before = network.usual.clone(), network.counted.clone()
    network.remember(torch.full((2,), torch.nan), torch.ones(()))
    assert all(map(torch.equal, (network.usual, network.counted), before)), "a step that does not count"


@pytest.mark.slow
def test_it_learns_what_differs_from_place_to_place() -> None:
    """Pairs are bent by a wave, each by another part of it and one way or the other: no shift of the whole is in it."""
    torch.manual_seed(0)
    network, place = RegistrationConfig(width=8).build(3), torch.linspace(0, 2 * torch.pi, 64)
    wave = 2 * torch.stack([place.sin()[:, None].expand(64, 64), place.sin().expand(64, 64)])

    def bent(num: int) -> tuple[Tensor, Tensor, Tensor]:
        made = torch.nn.functional.interpolate(torch.rand(num, 3, 16, 16), (64, 64), mode="bicubic") * 2 - 1
        bend = wave * (2 * torch.rand(num, 1, 1, 1) - 1)
        return made, warped(made, bend), bend

    def off() -> Tensor:
        made, truth, bend = bent(32)
        with torch.no_grad():
            left = network(made, truth) - bend
        return left[..., 6:-6, 6:-6].norm(dim=1).mean() / bend[..., 6:-6, 6:-6].norm(dim=1).mean()

    assert off() > 0.9
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(300):
        made, truth, _ = bent(4)
        optimizer.zero_grad()
        (warped(made, network(made, truth)) - truth).abs().mean().backward()
        optimizer.step()
    assert off() < 0.5


class Shifted(nn.Module):
    """Says that all is off by so many px to the right, whatever it sees."""

    def __init__(self, right: float):
        super().__init__()
        self.right = right

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        field = torch.zeros(len(made), 2, *made.shape[2:], dtype=made.dtype)
        field[:, 0] = self.right
        return field


@pytest.mark.parametrize("right", [2.0, 2.5])
@pytest.mark.parametrize("gap_in", ["a", "b"])
def test_pixels_without_data_count_nowhere_also_where_they_are_moved_to(gap_in: str, right: float) -> None:
    """A perfect output beside a gap: no known pixel of it is called wrong.

    Half a pixel further, those up to two away mix the gap in, the outer ones by a negative weight.
    """
    translator, batch = build(CONFIG), make_batch((32, 34))
    translator.registration = shifted = Shifted(right)
    whole, a = batch.b, batch.a.clone()
    truth = warped(whole, shifted(whole, whole))
    (a if gap_in == "a" else truth)[:, :, 5:9, 10:20] = UNKNOWN
    update = Update(translator, {}, Accelerator(cpu=True), memory.PLANS["split"], "fp32")
    update.has_unknown = True
    fake = hide_unknown(whole, a, truth)
    laid = translator.laid_on_truth(update, fake, a, truth)  # type: ignore[attr-defined]
    torch.testing.assert_close(laid, truth, rtol=0, atol=1e-12)
    update.has_unknown = False
    assert (translator.laid_on_truth(update, fake, a, truth) - truth).abs().max() > 0.1  # type: ignore[attr-defined]


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
