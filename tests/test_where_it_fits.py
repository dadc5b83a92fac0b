"""A network is applied at once where that fits, else in strips: the same output, in the memory that is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.covering import each_value
from tests.live_bytes import LiveBytes
from tests.networks import GENERATORS, SMALL, randomise
from tests.runs import Silent, cyclegan_recipe, least_recipe
from translate import tiling
from translate.data import Sample
from translate.errors import DoesNotFit
from translate.evaluation.heldout import translate_whole
from translate.foreign import read_lines
from translate.host import available_memory
from translate.host.available_memory import SHARE, Available
from translate.networks import memory
from translate.networks.eval_mode import evaluating
from translate.runs.records import sample_grid
from translate.tiling.where_it_fits import apply_where_it_fits, lacking
from translate.training.loop import train
from translate.training.probe import Probe

Left = Callable[[int], None]
LARGE = (3, 400, 100)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """`left(bytes)`: so much may be taken from now on."""
    def set_to(num_bytes: int) -> None:
        monkeypatch.setattr(available_memory, "available_bytes",
                            lambda: Available(int(num_bytes / SHARE) + 1, "a test's memory"))
    return set_to


@each_value(share=6, config=GENERATORS, plan=list(memory.PLANS))
def test_strips_give_what_the_network_gives_under_every_memory_plan(config: type, plan: str, left: Left) -> None:
    """A generator that is being trained has its plan on."""
    torch.manual_seed(0)
    network = randomise(config(**SMALL[config]).build(3, 3)).float()
    memory.apply(memory.PLANS[plan], network)
    image = torch.randn(1, 3, 600, 120)
    with evaluating(network), torch.no_grad():
        truth = network(image)
        left(tiling.whole_bytes(network, image.shape) - 1000)
        assert lacking(network, image.shape) is not None, "the construction does what it says"
        found = apply_where_it_fits(network, image)
    assert (found - truth).abs().max() <= 1e-4 * truth.abs().max()


@pytest.mark.parametrize("what", [
    "evaluation", *(pytest.param(each, marks=pytest.mark.slow) for each in ("picture", "probe"))])
def test_what_a_training_shows_of_large_images_keeps_to_the_memory_that_is_left(what: str, left: Left) -> None:
    """On a CPU, in a container, the first picture or evaluation of whole images killed a training whose steps fitted.
    """
    translator = cyclegan_recipe(Path("none"), translator={
        "kind": "cyclegan", "generator": {"kind": "resnet", "width": 8, "blocks": 1},
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}}).translator.build(3, 3)
    sample = Sample(torch.rand(LARGE), torch.rand(LARGE), 0)
    generator, cpu = translator.generator("ab"), torch.device("cpu")
    look = {"picture": lambda: sample_grid(translator, [sample], cpu),
            "probe": Probe([sample], translator, True, cpu, "fp32"),
            "evaluation": lambda: translate_whole(generator, sample.a, cpu, "fp32")}[what]

    def taken() -> int:
        with LiveBytes([sample.a, sample.b, *translator.networks["generator_ab"].parameters()]) as counter, \
                torch.no_grad():
            look()
        return counter.peak

    whole = taken()
    left(tiling.forecast(generator, (1, *LARGE), settings=tiling.Settings(48, 0.0)).peak_bytes)
    assert taken() < 0.7 * whole
    left(1000)
    with pytest.raises(DoesNotFit, match="are allowed"):
        look()


def test_a_training_goes_on_without_pictures_that_fit_nowhere(shared_pairs: Path, tmp_path: Path, left: Left) -> None:
    recipe = least_recipe(shared_pairs, memory={"plan": "split"}, every={"log": 2, "sample": 2, "probe": 2},
                          stages=[{"resolution": 16, "images": 4, "batch_size": 2}])
    report = Silent(lambda images: left(1000))
    train(recipe, tmp_path / "run", report)
    assert any("no look at the probe at 4 images: out of memory" in line for line in report.lines), report.lines
    assert any("no picture at 4 images: out of memory" in line for line in report.lines)
    assert any("no scores at 4 images: " in line and "are allowed" in line for line in report.lines)
    assert [line["images"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"] == [
        2, 4]
