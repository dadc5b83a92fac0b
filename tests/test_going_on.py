"""A run goes on with more images, and says of itself what a person needs: at its start, while it scores, at its end."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import call
from tests.runs import UNSEEN, Interrupted, Silent, cyclegan_recipe
from translate.errors import UsageError
from translate.optimizers import Constant, Linear
from translate.recipe import Recipe
from translate.runs.checkpoint import newest_checkpoint, read_progress
from translate.runs.extending import extended, more_images, with_images_of
from translate.runs.folder import load_saved
from translate.sizes import format_speed
from translate.training.cadences import with_cadences
from translate.training.loop import train


def short(data: Path) -> Recipe:
    stage = {"resolution": 16, "images": 4, "batch_size": 2}
    return cyclegan_recipe(data, stages=[stage], every=UNSEEN | {"log": 2})


def images_seen(run: Path) -> int:
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    return read_progress(newest).images


def test_a_finished_run_sees_as_many_images_more_as_it_is_told(
        trained: Callable[[Recipe], Path], shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        said: io.StringIO) -> None:
    """`--resume` of a finished run said "finished" and nothing else; more of it took an editor and docs/runs.md."""
    run = tmp_path / "run"
    shutil.copytree(trained(short(shared_pairs)), run)
    assert call(monkeypatch, "train", "--resume", "--run", run) == 0
    assert f"has seen all of its 4 images. To add some: translate train --resume --run {run} --images +2" in (
        said.getvalue())
    said.truncate(0)
    (tmp_path / "other.yaml").write_text(short(shared_pairs).model_copy(update={"seed": 99}).dump_yaml())
    assert call(monkeypatch, "train", tmp_path / "other.yaml", "--resume", "--run", run) == 2
    assert "belongs to another recipe" in said.getvalue() and "has seen all" not in said.getvalue()
    assert call(monkeypatch, "train", "--resume", "--run", run, "--images", "+3") == 0  # whole batches
    assert "the last stage gets 4 images more, 8 in all" in said.getvalue()
    assert images_seen(run) == 8 and [stage.images for stage in load_saved(run).stages] == [8]


def test_a_rate_that_has_come_to_zero_begins_again_in_a_stage_of_its_own(shared_pairs: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs)
    longer, what = extended(recipe, 10)
    assert longer.stages[:2] == recipe.stages and longer.num_images == recipe.num_images + 10
    assert longer.stages[2].lr == Linear(start=0.5, to=0.0) and longer.stages[2].size == recipe.stages[1].size
    assert what.startswith("a stage of 10 images is added") and Constant().again() == Constant()


def test_more_images_are_refused_where_the_recipe_that_is_named_is_of_another_run(
        trained: Callable[[Recipe], Path], shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        said: io.StringIO) -> None:
    """It was ignored, and the run of the other recipe trained on."""
    run, file, recipe = tmp_path / "run", tmp_path / "named.yaml", short(shared_pairs)
    shutil.copytree(trained(recipe), run)
    for changes in ({"seed": recipe.seed + 1}, {"stages": (recipe.stages[0].model_copy(update={"resolution": 32}),)}):
        file.write_text(recipe.model_copy(update=changes).dump_yaml())
        assert call(monkeypatch, "train", file, "--resume", "--run", run, "--images", "+2") != 0
        assert "belongs to another recipe" in said.getvalue() and "images more" not in said.getvalue()
        assert images_seen(run) == 4
        said.truncate(0)
    saved, longer = load_saved(run), recipe.stages[0].model_copy(update={"images": 6})
    for stages in ((longer,), (longer, recipe.stages[0])):
        merged = with_images_of(saved.model_copy(update={"stages": stages}), recipe)
        assert merged.stages == stages, "the run's own recipe, as it was before it was given more images"


@pytest.mark.parametrize("text", ["50_000", "+", "+0", "-3", "+3 000", "+1e3", "all"])
def test_more_images_are_a_number_with_a_plus(text: str) -> None:
    assert more_images("+50_000") == more_images("+50,000") == 50_000
    with pytest.raises(UsageError, match="--images"):
        more_images(text)


def test_more_images_are_for_a_run_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 said: io.StringIO) -> None:
    assert call(monkeypatch, "train", "digits", "--run", tmp_path / "run", "--images", "+5") == 2
    assert "add --resume" in said.getvalue()
    assert call(monkeypatch, "train", "digits", "--resume", "--run", tmp_path / "run", "--images", "+5") == 2
    assert "no run here to resume" in said.getvalue() and not (tmp_path / "run").exists()


def test_a_training_begins_with_a_few_lines_and_counts_what_it_scores(shared_pairs: Path, tmp_path: Path) -> None:
    """A hundred lines of recipe hid how many images there were; an evaluation of minutes was silence."""
    told = Silent()
    stages = [{"resolution": 16, "images": 6, "batch_size": 2}, {"resolution": 24, "images": 4, "batch_size": 2}]
    train(cyclegan_recipe(shared_pairs, precision="fp32", every={"log": 4, "sample": None, "evaluate": 10},
                          stages=stages), tmp_path / "run", told)
    begun = [line for line in told.lines if line.split(":")[0] in ("data", "device", "end", "stage 1 of 2", "memory")]
    assert begun[0].startswith("data: 6 + 6 images to train on; ") and "held-out ones are scored" in begun[0]
    assert begun[1] == "device: cpu, fp32"
    assert begun[2].startswith("end: after 10 images, each of these shown 1.7 times;")
    assert begun[3].startswith("stage 1 of 2: crops of 16×16 px, 6 images, batch 2; images are shown at ")
    assert begun[4].startswith("memory: plan ") and not any("optimizer:" in line for line in told.lines)
    assert "; steps alone at " in begun[4] and "measured" in begun[4]
    ends = [line for line in told.lines if line.startswith("time, as predicted")]
    assert len(ends) == 2 and "this stage" in ends[0] and all("to the end" in line for line in ends)
    assert told.scored and told.scored[-1][0] == told.scored[-1][1]  # all that it has looked at
    assert [done for done, _ in told.scored] == list(range(len(told.scored)))


def test_scoring_that_will_take_long_is_said_before(shared_pairs: Path, tmp_path: Path) -> None:
    """At "0:00:11 left" a training of small crops stood silent for five minutes: it scored large photographs."""
    def said_at(evaluate: int, images: int) -> list[str]:
        told = Silent(stop)
        stage = {"resolution": 40, "images": images}
        with pytest.raises(Interrupted):
            train(cyclegan_recipe(shared_pairs, stages=[stage], every={"evaluate": evaluate}, guard=None),
                  tmp_path / str(images), told)
        return [line for line in told.lines if line.startswith("scoring may take about ")]

    def stop(images: int) -> None:
        raise Interrupted

    # 6 images of 40×44 px as they are shown and of 72×80 in their own size, for every 10 of 40×40 px
    assert said_at(10, 20) == ["scoring may take about 0.3 times as long as all of the training: fewer images with "
                               "--set evaluate.images=N, none with --set every.evaluate=null"]
    assert said_at(1000, 1000) == []


def test_a_short_run_has_curves_and_pictures_and_what_a_recipe_says_is_kept(shared_pairs: Path) -> None:
    hundred = {"resolution": 16, "images": 100}
    every = with_cadences(cyclegan_recipe(shared_pairs, every={"checkpoint": 4}, stages=[hundred])).every
    assert (every.log, every.sample, every.checkpoint) == (2, 10, 4)
    every = with_cadences(cyclegan_recipe(shared_pairs, every={"log": 7, "sample": None})).every
    assert (every.log, every.sample) == (7, None)
    long = {"resolution": 16, "images": 1_000_000}
    assert with_cadences(cyclegan_recipe(shared_pairs, every={}, stages=[long])).every.log == 100


def test_a_file_of_weights_is_told_what_makes_a_model_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                            said: io.StringIO) -> None:
    """`--model latest_net_G_A.pth` was "no such folder"."""
    file = tmp_path / "latest_net_G_A.pth"
    file.write_bytes(b"weights")
    assert call(monkeypatch, "convert", tmp_path, tmp_path / "out", "--model", file) == 2
    assert f"translate import {file}" in said.getvalue()


def test_a_speed_below_one_is_the_time_that_an_image_takes() -> None:
    """A step of 20 s was shown as 0.0 images/s."""
    assert format_speed(2.0) == "2.0 images/s" and format_speed(0.05) == "20.0 s/image"
    assert format_speed(0.0) == "0.0 images/s"
