"""What someone new is told by the command itself, and not only by a page: what is missing, and what is as it should be.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from tests.covering import one_in
from tests.runs import Silent, pix2pix_recipe, train_until, unseen_recipe
from tests.theirs import ResNetOfTheirs
from translate.cli import training
from translate.cli.options import KINDS_OF_DATA
from translate.data.check import check
from translate.data.recognising import Kind
from translate.data.scale import Scale
from translate.errors import Stopped
from translate.evaluation.heldout import Evaluator
from translate.foreign import read_lines
from translate.training.loop import train


def unlike(pairs: Path, a: Path, b: Path, split: str = "train") -> None:
    """Copy the images of a split into two folders, under names that do not pair."""
    shutil.copytree(pairs / f"{split}A", a)
    shutil.copytree(pairs / f"{split}B", b)
    for path, name in zip(sorted(b.iterdir()), ("sea", "wood", "hill", "mill", "street", "field"), strict=True):
        path.rename(path.with_name(f"{name}.png"))


@pytest.mark.parametrize("command", [("data", "check"), pytest.param(("new",), marks=pytest.mark.slow)])
def test_unpaired_images_without_features_are_said_to_have_no_scores(
        command: tuple[str, ...], shared_pairs: Path, tmp_path: Path, said: io.StringIO,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """README said it, and the commands did not: a training of days had no scores."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        unlike(shared_pairs, tmp_path / "photos" / f"{split}A", tmp_path / "photos" / f"{split}B", split)
    assert call(monkeypatch, *command, tmp_path / "photos") == 0
    assert "`translate data features`" in said.getvalue()
    said.truncate(0)
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    assert call(monkeypatch, *command, shared_pairs) == 0
    assert "translate data features" not in said.getvalue(), "pairs have a truth"


def test_what_a_recipe_is_for_is_on_the_screen_and_its_names_stay_as_they_are(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unlike(shared_pairs, tmp_path / "photos" / "of A", tmp_path / "photos" / "of B")
    assert call(monkeypatch, "new", tmp_path / "photos") == 0
    assert "of A and " in said.getvalue() and "either made of the other (CycleGAN)" in said.getvalue()
    assert "no GPU is here; on this machine's CPU the steps alone, without loading and scoring, take" in said.getvalue()
    written = (tmp_path / "photos.yaml").read_text()
    assert 0 < written.index("# Here:     no GPU is here") < written.index("# Hours:"), "its own hours come first"
    assert "6 images on a side, which are few" in said.getvalue()
    assert f"test/of A and test/of B in {tmp_path / 'photos'}, named in the recipe as data.test_a and data.test_b" in (
        " ".join(said.getvalue().split()))
    said.truncate(0)
    shutil.copytree(shared_pairs, tmp_path / "mine", ignore=shutil.ignore_patterns("test*"))
    assert call(monkeypatch, "new", tmp_path / "mine", "--kind", "unpaired") == 0
    assert "move some into testA and testB beside them, named in the recipe" in " ".join(said.getvalue().split())
    assert (tmp_path / "photos.yaml").read_text().startswith("# of A and of B, either made of the other")
    assert call(monkeypatch, "new", next((shared_pairs / "trainA").iterdir()), "--out", "x.yaml") != 0
    assert "is a file, and a folder of images is needed" in said.getvalue()


def test_a_bare_folder_is_checked_as_the_recipe_that_new_writes_would_load_it(tmp_path: Path) -> None:
    """286 px were assumed, which no recipe says for a folder of one's own."""
    for number in range(3):
        for side in "AB":
            path = tmp_path / "photos" / f"train{side}" / f"{side}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(waves(number, (48, 64))).save(path)
    alike = "\n".join(f"{each.what}; {each.advice}" for each in check(tmp_path / "photos"))
    assert "loaded in their own size, as by the recipe that `translate new` writes" in alike
    assert "286" not in alike and "the network will know that scale" not in alike
    Image.fromarray(waves(9, (200, 300))).save(tmp_path / "photos" / "trainB" / "large.png")
    mixed = "\n".join(f"{each.what}; {each.advice}" for each in check(tmp_path / "photos"))
    assert "loaded at a short side of 48 px" in mixed and "`convert --resize trained --size input`" in mixed


def test_the_options_of_convert_are_those_that_a_scale_asks_for() -> None:
    """README, the recipe that `new` writes and the last line of `train` named three."""
    assert Scale((70, 70), (0.97, 0.97)).convert_options == "", "their own size"
    assert Scale((70, 70), (0.4, 0.5)).convert_options == "--resize trained --size input"
    assert Scale((70, 70), (0.4, 0.5), fixed=True).convert_options == ""


def test_a_file_that_cannot_be_read_has_two_ways_out(shared_pairs: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(shared_pairs, tmp_path / "pairs"))
    (data / "trainA" / "1.png").write_bytes(b"rotten")
    config = pix2pix_recipe(data).data
    (found,) = (each for each in check(config) if each.severity == "error")
    assert str(found.advice).startswith("repair, replace or remove it; or data.on_unreadable: skip")
    (found,) = (each for each in check(config.model_copy(update={"on_unreadable": "skip"})) if each.severity == "error")
    assert found.advice == "repair, replace or remove it"


@pytest.mark.parametrize("change", one_in(3, ["renamed", "removed", "added", "none"]))
def test_a_resume_on_other_images_says_so(change: str, shared_pairs: Path, tmp_path: Path) -> None:
    """It went on without a word, and did not repeat bit for bit."""
    data, run, report = tmp_path / "pairs", tmp_path / "run", Silent()
    shutil.copytree(shared_pairs, data)
    train_until(unseen_recipe(data), run, 6)
    for side in "AB":
        first = data / f"train{side}" / "0.png"
        if change == "added":
            shutil.copy(first, first.with_name("new.png"))
        elif change == "removed":
            first.unlink()
        elif change == "renamed":
            first.rename(first.with_name("other.png"))
    if change == "none":
        shutil.move(data, tmp_path / "elsewhere")
        data = tmp_path / "elsewhere"
        saved = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(saved.replace(str(tmp_path / "pairs"), str(data)))
    train(unseen_recipe(data), run, report, resume=True)
    lines = [line for line in report.lines if "not those of before (6 + 6 files then" in line]
    assert len(lines) == (change != "none")
    assert len([each for each in read_lines(run / "events.jsonl") if "not those of before" in each["message"]]) == len(
        lines)


def test_a_stop_that_was_asked_for_is_no_error(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.yaml").write_text(pix2pix_recipe(shared_pairs).dump_yaml())

    class Asking(training.Display):
        def progress(self, *arguments: object, **named: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "Display", Asking)
    assert call(monkeypatch, "train", tmp_path / "toy.yaml", "--run", tmp_path / "run") == Stopped.exit_code
    assert "stopped by SIGINT at 2 images; everything is saved" in said.getvalue() and "error" not in said.getvalue()


def test_a_source_of_which_nothing_was_made_is_not_looked_at(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """One damaged source image, which a conversion had left out, ended the scoring of all others."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    out, source = tmp_path / "out", tmp_path / "source"
    shutil.copytree(shared_pairs / "testB", out)
    shutil.copytree(shared_pairs / "testA", source)
    (out / "3.png").unlink()
    (source / "3.png").write_bytes(b"rotten")
    assert call(monkeypatch, "evaluate", out, "--against", shared_pairs / "testB", "--source", source) == 0
    assert "note: 5 images: too few for these scores" in said.getvalue() and "the best there is" not in said.getvalue()
    assert "identity the untouched input" in said.getvalue()


def test_an_imported_model_does_not_name_a_folder_that_nobody_has_named(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(ResNetOfTheirs().state_dict(), tmp_path / "latest_net_G.pth")
    assert call(monkeypatch, "import", tmp_path / "latest_net_G.pth", "--to", tmp_path / "release") == 0
    said.truncate(0)
    assert call(monkeypatch, "evaluate", tmp_path / "release") != 0
    assert "does not say where the images lie" in said.getvalue() and "your-images" not in said.getvalue()


def test_a_report_says_what_the_newest_score_amounts_to_and_a_speed_that_counts_no_scoring(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 images/s stood beside 1.3, the speed of the steps alone."""
    score = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda *arguments: (time.sleep(1.0), score(*arguments))[1])
    train(pix2pix_recipe(shared_pairs, every={"log": 4, "sample": 12, "checkpoint": 12, "evaluate": 12}),
          tmp_path / "run", Silent())
    (scored,) = (line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "evaluation")
    page = (tmp_path / "run" / "report.html").read_text()
    assert scored["verdict"] and f"the newest is {scored['verdict']}" in page and "<p>1 evaluation of 6 images" in page
    speeds = [line["images_per_second"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")
              if line["kind"] == "train"]
    assert scored["seconds"] > 1.0 and speeds[-1] > 0.4 * speeds[-2], "four images each"


def test_a_picture_that_is_shown_alone_is_one(tmp_path: Path) -> None:
    Image.fromarray(waves(0, (48, 64))).save(tmp_path / "one.png")
    assert not [each for each in check(tmp_path) if "1 images" in each.what]


def test_kinds_of_data_have_one_set_of_words_each_of_them_explained(monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """`--kind` of one command said "as it seems", and of another nothing of what the words mean."""
    assert set(KINDS_OF_DATA) == set(get_args(Kind))
    monkeypatch.setenv("COLUMNS", "2000")
    for command, kinds in ((("new",), set(KINDS_OF_DATA)), (("data", "align"), {"paired", "labels"})):
        assert call(monkeypatch, *command, "--help") == 0
        help_of_kind = next(line for line in capsys.readouterr().out.splitlines() if "--kind" in line)
        assert {kind for kind, meaning in KINDS_OF_DATA.items() if f"{kind}: {meaning}" in help_of_kind} == kinds
