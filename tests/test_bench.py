"""The benchmark, as far as it goes without a GPU: floors, a page that loses no earlier run, the public code's step."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from tools import bench
from translate.data.samples import Sample
from translate.networks import PatchGANConfig, ResNetConfig
from translate.translators import CycleGANConfig

MEASURED = "## 2026-11-28, NVIDIA H200, commit 02c068d\n\n| plan | ms |\n|---|---|\n| `plain` | 291 |\n"
ON_A_CPU = "## 2026-11-30, a CPU (AVX2), commit 71af654\n\n| step | `plain` |\n|---|---|\n| cycle_gan | 0.98 |\n"


@pytest.mark.slow
def test_without_a_gpu_floors_are_written_and_nothing_that_was_measured_is_lost(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Benchmarks\n\nOld words.\n\n## 2026-11-01, not measured, floors of an H200, commit x\n\nold\n\n"
                    f"{ON_A_CPU}\n{MEASURED}")
    monkeypatch.setattr(bench, "SIZES", ((32, 1),))
    small = CycleGANConfig(generator=ResNetConfig(width=2, blocks=1), discriminator=PatchGANConfig(width=2, layers=2))
    monkeypatch.setattr(bench, "games", lambda width: (small, small))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(page)])
    bench.main()
    said, text = capsys.readouterr().out, page.read_text()
    assert "CycleGAN, 32×32 px, batch 1" in said and "| `strips_blocks` |" in said and "not measured" in said
    assert text.count("\n## ") == 3 and MEASURED in text and ON_A_CPU in text and "\nold\n" not in text
    assert text.index("NVIDIA H200, commit 02c068d") < text.index("not measured, floors of an H200")


@pytest.mark.slow
def test_gradients_are_held_against_float64_under_every_plan() -> None:
    said = bench.correctness(torch.device("cpu"))
    errors = [float(word.strip(".,")) for word in said.split() if "e-" in word]
    assert len(errors) == 7 and max(errors) < 1e-5, said


def test_the_public_codes_step_is_made_by_its_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stand-in with its interface: a copy of that code is not kept here."""
    (tmp_path / "options").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "options/base_options.py").write_text("# parser.add_argument('--gpu_ids')\n")
    (tmp_path / "options/train_options.py").write_text(
        "import argparse\nclass TrainOptions:\n    def parse(self):\n        parser = argparse.ArgumentParser()\n"
        "        for name in ('dataroot', 'name', 'model', 'checkpoints_dir', 'gpu_ids'):\n"
        "            parser.add_argument('--' + name)\n        return parser.parse_args()\n")
    (tmp_path / "models/__init__.py").write_text(
        "class Made:\n    steps = 0\n    def setup(self, options): self.options = options\n"
        "    def set_input(self, given): self.given = given\n"
        "    def optimize_parameters(self): Made.steps += 1\n"
        "def create_model(options): return Made()\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = sys.argv
    try:
        step = bench.public_step(tmp_path, "cycle_gan", 32, torch.device("cpu"))
        made = sys.modules["models"].Made
        assert made.steps == bench.WARM and sys.argv is before
        step()
        assert made.steps == bench.WARM + 1
    finally:
        for name in ("models", "options", "options.train_options"):
            sys.modules.pop(name, None)


def test_the_tool_for_patches_scores_a_perfect_translation_as_perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples as the loader gives them, whatever else they carry."""
    monkeypatch.syspath_prepend(str(Path(bench.__file__).parent))
    patches = importlib.import_module("patches")
    image = torch.rand(3, 192, 192) * 2 - 1
    for apply in (patches.whole, patches.in_tiles, patches.in_overlapping_tiles):
        found = patches.scores(lambda shown: -shown, apply, [Sample(image, -image, 0)], 48, "cpu")
        assert found["colour"] < 1e-6 and found["ssim"] > 0.9999 and found["seams"] == pytest.approx(1, abs=1e-4)


def test_seams_are_steps_at_the_borders_of_tiles_and_not_pixels_that_an_enlarging_repeats(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(bench.__file__).parent))
    patches = importlib.import_module("patches")
    truth = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 516, 516, generator=torch.Generator().manual_seed(0)), 5, 1)
    repeated = torch.nn.functional.avg_pool2d(truth, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert patches.seams(repeated, truth, 128) == pytest.approx(1, abs=0.05)
    stepped = truth.clone()
    stepped[..., 128:256] += 0.1
    assert patches.seams(stepped, truth, 128) > 1.5
