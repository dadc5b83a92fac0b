"""What a person types, and what comes back: words, exit codes, and files."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.commands import Command, call, launch
from tests.conftest import waves
from tests.runs import UNSEEN, Silent, cyclegan_recipe, pix2pix_recipe, unseen_recipe
from translate.cli import console, progress
from translate.cli.app import TorchCommand, command_line
from translate.cli.converting import is_of_the_other_side
from translate.cli.existence import NEEDED, refuse_missing
from translate.cli.progress import Display
from translate.errors import CheckpointError
from translate.foreign import read_lines
from translate.recipe import Recipe
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train


@pytest.fixture(scope="module")
def run(shared_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    stages = [{"resolution": 16, "images": 4, "batch_size": 2}]
    train(cyclegan_recipe(shared_pairs, stages=stages, every=UNSEEN), folder, Silent())
    return folder


def test_train_prints_the_resolved_recipe_where_it_is_asked_for_and_how_to_go_on(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.yaml").write_text(unseen_recipe(shared_pairs).dump_yaml())
    words = ("train", tmp_path / "toy.yaml", "--run", tmp_path / "run", "--set", "seed=7")
    assert call(monkeypatch, *words, "--show-recipe") == 0
    printed = said.getvalue()
    assert "seed: 7" in printed and "betas:" in printed and f"--model {tmp_path / 'run'}" in printed
    assert "images/s" in printed
    assert call(monkeypatch, *words) == 2
    assert "is not overwritten" in said.getvalue()
    assert call(monkeypatch, "train", "--resume", "--run", tmp_path / "run") == 0
    assert call(monkeypatch, "train", tmp_path / "run", "--resume") == 2
    assert f"is a run, and no recipe; to go on with it: translate train --resume --run {tmp_path / 'run'}" in " ".join(
        said.getvalue().split())
    assert call(monkeypatch, "train", "--resume", "--run", tmp_path / "run", "--from", tmp_path / "none") == 2
    assert f"{tmp_path / 'none'}: no such folder" in " ".join(said.getvalue().split())
    (tmp_path / "run").rename(tmp_path / "facades")
    monkeypatch.chdir(tmp_path)
    refuse_missing("train", {"recipe": "facades"})  # the shipped one


def test_what_a_command_is_looked_through_for_before_pytorch_is_loaded_are_arguments_that_it_has() -> None:
    for command, needed in NEEDED.items():
        name, _, option = command.partition(" --")
        found = command_line()
        for word in name.split():
            found = found.commands[word]
        taken = {parameter.name for parameter in found.params}
        assert isinstance(found, TorchCommand) and taken >= {*needed, *([option] if option else [])}, command


def test_convert_keeps_tree_names_and_sizes_and_counts_what_failed(run: Path, shared_pairs: Path, tmp_path: Path,
                                                                   said: io.StringIO,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    Image.fromarray(waves(1, (33, 47))).save(source / "deep" / "x.png")
    (source / "broken.png").write_bytes(b"no image")
    (source / "notes.txt").write_text("hello")
    assert call(monkeypatch, "convert", source, out, "--model", run) == 3
    with Image.open(out / "deep" / "x.png") as image:
        assert image.size == (47, 33)
    printed = said.getvalue()
    assert "broken.png: read:" in printed and "notes.txt" in printed
    assert "direction: A to B; the other way, B to A: --direction ba" in printed
    assert "1 converted, 0 done before, 1 failed, 1 skipped, of 2 images" in printed
    assert call(monkeypatch, "convert", source, out, "--model", run) == 3
    assert "0 converted, 1 done before, 1 failed" in said.getvalue()
    (source / "broken.png").unlink()
    words = ("--model", run / "release", "--direction", "ba", "--overwrite")
    assert call(monkeypatch, "convert", source, out, *words) == 0
    assert "direction: B to A; the other way, A to B: --direction ab" in said.getvalue()


def test_a_conversion_in_bounded_memory_gives_the_same_images(run: Path, tmp_path: Path, said: io.StringIO,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips, with every norm's statistics over the whole image: no tile differs from its neighbour."""
    (tmp_path / "in").mkdir()
    Image.fromarray(waves(3, (400, 500))).save(tmp_path / "in" / "x.png")
    words = ("convert", tmp_path / "in", "--model", run, "--precision", "fp32")
    assert call(monkeypatch, *words[:2], tmp_path / "whole", *words[2:]) == 0
    assert call(monkeypatch, *words[:2], tmp_path / "strips", *words[2:], "--memory", "72MB") == 0
    whole, strips = (np.asarray(Image.open(tmp_path / name / "x.png")).astype(int) for name in ("whole", "strips"))
    assert abs(whole - strips).max() <= 1  # a rounding of the last digit may fall on the other side
    assert call(monkeypatch, *words[:2], tmp_path / "none", *words[2:], "--memory", "1MB") == 4
    assert "memory" in said.getvalue() and "1 failed" in said.getvalue()


def test_a_dry_run_lists_what_would_be_done(run: Path, tmp_path: Path, said: io.StringIO,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("done.png", "new.gif"):
        Image.fromarray(waves(1, (20, 20))).save(source / name)
    (source / "broken.png").write_bytes(b"no image")
    (source / "notes.txt").touch()
    words = ("convert", source, out, "--model", run, "--format", "webp", "--workers", "0")
    assert call(monkeypatch, *("convert", source / "d*.png", *words[2:])) == 0
    assert call(monkeypatch, *words, "--dry-run") == 3
    lines = said.getvalue().splitlines()
    assert {"done: done.png → done.webp", "to do: new.gif → new.webp",
            "skipped (not an image suffix, or an earlier output): notes.txt",
            f"1 to convert, 1 done before, 1 failed, 1 skipped, of 3 images → {out}"} <= set(lines)
    assert any(line.startswith("would fail: broken.png: read: ") for line in lines)
    assert {path.name for path in out.glob("*.webp")} == {"done.webp"}


def test_shards_and_launchers_are_not_mixed(run: Path, tmp_path: Path, said: io.StringIO,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        Image.fromarray(waves(number, (20, 20))).save(tmp_path / f"in/{number}.png")
    words = ("convert", tmp_path / "in", tmp_path / "out", "--model", run)
    for part in ("1/2", "2/2"):
        assert call(monkeypatch, *words, "--shard", part) == 0
    assert call(monkeypatch, *words) == 0
    assert "0 converted, 8 done before, 0 failed" in said.getvalue()
    assert call(monkeypatch, *words, "--shard", "3/2") == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert call(monkeypatch, *words, "--shard", "1/2") == 2
    assert "the 2 processes of the launcher share the files" in said.getvalue()


def folder_for_two(source: Path) -> None:
    """Twelve images, and three files that are none."""
    source.mkdir()
    for number in range(12):
        Image.fromarray(waves(number, (200, 200))).save(source / f"{number}.png")
    for number in range(3):
        (source / f"broken{number}.png").write_bytes(b"no image")


def assert_one_account(printed: str, out: Path) -> None:
    assert "12 converted, 0 done before, 3 failed, 0 skipped, of 15 images" in printed
    assert printed.count(" done before") == 1
    assert all(f"broken{number}.png: read: " in printed for number in range(3))
    ledgers = [read_lines(path) for path in sorted(out.glob(".translate-ledger-*.jsonl"))]
    done = [{row["path"] for row in rows if row["status"] == "done"} for rows in ledgers]
    assert len(done) == 2 and all(done) and not done[0] & done[1] and len(done[0] | done[1]) == 12


def test_processes_of_a_launcher_share_a_folder_and_give_one_account(run: Path, tmp_path: Path) -> None:
    """The one with the broken file would, ending first, have the launcher end the other."""
    folder_for_two(tmp_path / "in")
    launched = launch(tmp_path, "convert", tmp_path / "in", tmp_path / "out", "--model", run)
    assert [command.wait() for command in launched] == [3, 3]
    assert_one_account("".join(command.printed.read_text() for command in launched), tmp_path / "out")


@pytest.mark.slow
def test_processes_of_torchrun_share_a_folder_and_give_one_account(run: Path, tmp_path: Path) -> None:
    folder_for_two(tmp_path / "in")
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "translate",
         "convert", tmp_path / "in", tmp_path / "out", "--model", run], capture_output=True, text=True, timeout=180)
    assert "exitcode  : 3" in ended.stderr
    assert_one_account(ended.stdout, tmp_path / "out")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_command_with_130(run: Path, tmp_path: Path) -> None:
    """In the middle of a large image; what was finished stays."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.fromarray(waves(1, (20, 20))).save(source / "a.png")
    Image.new("RGB", (6000, 6000)).save(source / "b.tif")  # of which the ledger says when it is begun
    command = Command(tmp_path / "printed", "convert", source, out, "--model", run, "--memory", "300MB",
                      "--workers", "0")
    while not any(row["path"] == "b.tif" for row in read_lines(out / ".translate-ledger.jsonl")):
        assert command.runs()
        time.sleep(0.01)
    command.send(signal.SIGINT)
    time.sleep(2.0)  # within a second, and on a busy machine somewhat more, two are taken for one
    assert command.runs(), "the image is too small for this machine"
    command.send(signal.SIGINT)
    assert command.wait(120) == 130
    assert {path.name for path in out.iterdir()} == {"a.png", ".translate-ledger.jsonl"}


@pytest.mark.parametrize(("words", "code", "message"), [
    (("train",), 2, "name a recipe"), (("train", "monet2foto"), 2, "did you mean monet2photo, "),
    (("train", "gone.yaml"), 2, "gone.yaml: No such file"),
    (("convert", "nowhere", "out", "--model", "nowhere"), 2, "a model is a run"),
    (("data", "prepare", "eart"), 2, "did you mean earth?"),
    (("data", "check", "nowhere"), 2, "nowhere: no such file or folder, and no shipped recipe"),
    (("train", "recipes/monet2foto.yaml"), 2, "did you mean recipes/monet2photo.yaml?"),
    (("data", "check", __file__), 2, "test_cli.py: is no recipe; a recipe is a YAML file"),
    (("train", "."), 2, ".: is a folder; a recipe is a YAML file"),
    (("train", "earth", "--precision", "fp8"), 2, "--precision fp8: expected one of auto"),
])
def test_mistakes_end_with_their_code_and_say_what_to_do(words: tuple[str, ...], code: int, message: str,
                                                         said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *words) == code
    assert message in said.getvalue()


def test_check_and_train_agree_on_data_without_test_images(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A note where the training goes on without scores, an error where the recipe insists on them."""
    sides = {"a": str(shared_pairs / "trainA"), "b": str(shared_pairs / "trainB")}
    small = unseen_recipe(shared_pairs).dump()
    for kind, place in (("paired", sides), ("computed", {"folder": sides["b"]})):
        for number, (evaluate, checked, trained) in enumerate((("auto", 0, 0), (4, 5, 2))):
            file = tmp_path / f"{kind}{number}.yaml"
            file.write_text(json.dumps(small | {"data": {"kind": kind, "resize": 70, **place},
                                                "every": small["every"] | {"evaluate": evaluate}}))
            assert call(monkeypatch, "data", "check", file) == checked
            assert call(monkeypatch, "train", file, "--run", tmp_path / file.stem) == trained
    printed = said.getvalue()
    assert "0 errors, 0 warnings, 1 note" in printed and "1 error, 0 warnings, 0 notes" in printed
    assert printed.count("no held-out scores: ") == 2 and printed.count("error: ") == 4


def test_what_points_to_the_check_names_what_to_give_it(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trainA/0.png", "trainA/1.png", "trainB/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((shared_pairs / name).read_bytes())
    (tmp_path / "my.yaml").write_text(pix2pix_recipe(tmp_path).dump_yaml())
    assert call(monkeypatch, "train", tmp_path / "my.yaml", "--run", tmp_path / "run") == 2
    assert f"`translate data check {tmp_path / 'my.yaml'}` lists all" in said.getvalue()


def test_a_folder_of_held_out_images_that_is_not_there_is_told_before_there_is_a_run(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one was "nothing is scored", and failed the run after its folder was made."""
    monkeypatch.chdir(tmp_path)
    where = {"a": shared_pairs / "trainA", "b": shared_pairs / "trainB", "test_a": shared_pairs / "testA",
             "test_b": "held/dsk"}
    recipe = cyclegan_recipe(shared_pairs).dump()
    (tmp_path / "my.yaml").write_text(json.dumps(recipe | {"data": {"kind": "unpaired"} | where}, default=str))
    assert call(monkeypatch, "train", "my.yaml", "--run", "run") == 2
    words_said = " ".join(said.getvalue().split())
    assert f"held/dsk: no such folder (a relative path; looked for: {tmp_path / 'held/dsk'})" in words_said
    assert "nothing is scored" not in words_said and not Path("run").exists()


def test_a_direction_a_model_does_not_have_is_named(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    train(unseen_recipe(shared_pairs), tmp_path / "run", Silent())
    words = ("convert", shared_pairs / "testA", tmp_path / "out", "--model", tmp_path / "run", "--direction")
    assert call(monkeypatch, *words, "ba") == 2
    words_said = " ".join(said.getvalue().split())
    assert f"{tmp_path / 'run'}: this" in words_said and "not translate b to a" in words_said
    assert "write its recipe with `translate new FOLDER --direction ba`" in words_said
    assert call(monkeypatch, *words, "ac") == 2
    assert "--direction ac: expected one of ab, ba" in said.getvalue()


def test_images_of_the_side_that_a_model_makes_are_told_of(run: Path, tmp_path: Path, said: io.StringIO,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of evening pictures was made evening again, without a word."""
    for folder, is_told in (("testA", False), ("testB", True)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / folder / "0.png")
        assert call(monkeypatch, "convert", tmp_path / folder, tmp_path / "out", "--model", run, "--dry-run") == 0
        assert (f"{folder} has the name of what this model makes" in " ".join(said.getvalue().split())) == is_told
    for folder, direction, is_told in (("day", "ab", False), ("Evening", "ab", True), ("trainA", "ba", True)):
        domains = ("A (day)", "B (evening)")[::1 if direction == "ab" else -1]
        assert is_of_the_other_side(tmp_path / folder, domains, direction) == is_told


def test_a_damaged_release_is_refused(run: Path, tmp_path: Path, said: io.StringIO,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    release = shutil.copytree(run / "release", tmp_path / "release")
    file = release / "generator_ab.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert call(monkeypatch, "convert", tmp_path, tmp_path / "out", "--model", release) == 4
    assert "generator_ab.safetensors does not have the checksum" in said.getvalue()


def test_a_model_of_label_maps_converts_label_maps(tmp_path: Path, said: io.StringIO,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Class numbers go in as they lie on the disk, and become one-hot as in training."""
    for split in ("train", "test"):
        for number in range(3):
            for side, pixels in (("label", waves(number, (64, 64))[..., 0] // 64), ("img", waves(number, (64, 64)))):
                path = tmp_path / "data" / f"{split}_{side}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    data = {"kind": "labels", "folder": str(tmp_path / "data"), "classes": 4, "resize": None}
    train(validate(Recipe, unseen_recipe(tmp_path).dump() | {"data": data}, "toy"), tmp_path / "run", Silent())
    labels = tmp_path / "data" / "test_label"
    assert call(monkeypatch, "convert", labels, tmp_path / "out", "--model", tmp_path / "run") == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(labels / "odd.png")
    assert call(monkeypatch, "convert", labels, tmp_path / "out", "--model", tmp_path / "run") == 3
    assert "class numbers 9; the recipe's are 0 … 3" in said.getvalue()


def test_the_release_says_what_it_is(run: Path) -> None:
    about = json.loads((run / "release" / "release.json").read_text())
    assert about["directions"] == ["ab", "ba"] and about["images"] == 4
    assert "cyclegan" in (run / "release" / "README.md").read_text()
    assert "--model <this folder> --resize trained --size input\n" in (run / "release" / "README.md").read_text()
    assert load_release(run / "release").name == "toy"


def test_progress_is_plain_lines_where_there_is_no_terminal_and_a_bar_where_there_is() -> None:
    for terminal in (False, True):
        text = io.StringIO()
        with Display("toy", Console(file=text, force_terminal=terminal, width=160)) as display:
            for images in range(1, 11):
                display.progress(images, 10, "stage 1/2", {"cycle": 0.25})
        assert "megapixels" not in text.getvalue()
        assert "10" in text.getvalue() and "images/s" in text.getvalue() and "cycle 0.250" in text.getvalue()
        assert ("\x1b[" in text.getvalue()) == terminal
        assert text.getvalue().count("losses: cycle: how far") == 1


def test_losses_that_a_later_stage_brings_are_explained_then_and_no_others() -> None:
    text = io.StringIO()
    with Display("toy", Console(file=text, width=300)) as display:
        for stage, losses in enumerate((["classes"], ["entropy_h"], ["entropy_b"], ["entropy_b", "entropy_h"])):
            display.progress(stage, 10, f"stage {stage + 1}/4", dict.fromkeys(losses, 0.25), stage_number=stage)
    first, second = (line for line in text.getvalue().splitlines() if line.startswith("losses: "))
    assert first.startswith("losses: classes: ") and "entropy" not in first
    assert second.startswith("losses: entropy: ") and "classes: " not in second
    assert second.rstrip().endswith("…_h: of features, …_b: of images")


def test_losses_of_which_none_is_known_are_not_announced() -> None:
    text = io.StringIO()
    with Display("toy", Console(file=text, width=160)) as display:
        display.progress(1, 10, "stage 1/2", {"novel": 0.25})
    assert "losses:" not in text.getvalue()


def test_files_that_all_failed_have_no_speed() -> None:
    """Of four damaged ones it was 2397.0 images/s, 0.0 megapixels/s."""
    text = io.StringIO()
    with Display("convert", Console(file=text, width=300)) as display:
        for images in range(1, 5):
            display.progress(images, 4, "", {}, worked=images, megapixels=0.0)
    assert "4 of 4" in text.getvalue() and "images/s" not in text.getvalue()


def test_progress_counts_only_what_took_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a resumed conversion would promise to be done in no time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    with Display("convert", Console(file=text, width=300)) as display:
        for images in range(1, 101):  # done before
            display.progress(images, 140, "", {}, worked=0, megapixels=0.0)
        for images in range(101, 121):
            now[0] += 2.0
            display.progress(images, 140, "", {}, worked=images - 100, megapixels=3.0 * (images - 100))
    last = [line for line in text.getvalue().splitlines() if line.strip()][-1]
    assert last.startswith("convert: 118 of 140 images, 2.0 s/image, 1.5 megapixels/s, 0:00:44 left")


def test_progress_tells_no_speed_where_nothing_was_done_or_one_thing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for total, worked in ((32, 0), (1, 1)):
        text = io.StringIO()
        with Display("new", Console(file=text, width=300)) as display:
            display.progress(0, total, "", {}, worked=0, megapixels=0.0)
            now[0] += 5.6
            display.progress(total, total, "", {}, worked=worked, megapixels=0.0)
        assert text.getvalue().splitlines()[-1].strip() == f"new: {total} of {total} images"


def test_progress_of_stages_tells_each_ones_speed_and_not_that_of_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a second and an evaluation of 20 s, then one a second."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    with Display("toy", Console(file=text, width=300)) as display:
        for images in range(1, 21):
            now[0] += 0.5 if images <= 10 else 1.0
            if images == 10:
                for done in range(5):
                    display.scoring(done, 4)
                    now[0] += 5.0 * (done < 4)
            display.progress(images, 20, f"stage {1 + images // 11}/2, level 1", {}, 77.0, images // 11)
            if images in (10, 20):
                assert display._bar.tasks[0].fields["speed"] == f"{20 / images:.1f} images/s"
                assert display._bar.tasks[0].fields["left"] == ("0:01:17 left" if images < 20 else "")
    assert "toy: scoring held-out images, 3 of 4, 0:00:05 left of it" in text.getvalue()


def test_recipes_and_cards_are_listed(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "recipes") == 0 and call(monkeypatch, "data", "list") == 0
    for name in ("monet2photo", "earth_unpaired", "gta2cityscapes", "facades"):
        assert name in said.getvalue()


def test_a_recipe_document_is_what_was_read(shared_pairs: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs)
    assert validate(type(recipe), recipe.dump(), "dump") == recipe


def test_loading_is_said_again_until_the_command_says_something(monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """On a busy machine a command was silent for 19 seconds after its first line."""
    monkeypatch.setattr(console, "SILENT_SECONDS", 0.01)
    monkeypatch.setattr(console, "STILL_SECONDS", 0.01)
    console.has_spoken.clear()
    loading = threading.Thread(target=console.say_what_loads)
    loading.start()
    heard, end = "", time.monotonic() + 10
    while heard.count("still loading") < 2 and time.monotonic() < end:
        time.sleep(0.01)
        heard += capsys.readouterr().err
    console.say("the command's own line")
    loading.join(10)
    assert heard.startswith("loading PyTorch …\nstill loading …\nstill loading …\n")
    assert not loading.is_alive()


def test_what_is_not_there_is_said_before_torch_is_loaded(tmp_path: Path, said: io.StringIO,
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong words were told after 7 to 11 seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "load_torch", lambda: pytest.fail("torch is loaded"))
    (tmp_path / "in").mkdir()
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    (tmp_path / "evening.yaml").touch()
    for words, expected in (
            ("train nowhere.yaml", "nowhere.yaml: No such file"), ("plan monet2phto", "did you mean monet2photo"),
            ("train evenin.yaml", "did you mean evening.yaml? `translate recipes`"),
            ("plan evening", "did you mean evening.yaml? `translate recipes`"),
            ("convert nowhere out --model in", "nowhere: no such file or folder"),
            ("convert in out --model nowhere", "nowhere: no such folder; a model is a run"),
            ("convert in out --model in --resize small", "--resize small: expected trained, or"),
            ("convert in out --model in --workers many", "--workers many: expected auto, or"),
            ("convert in out --model in --wrong", "No such option: --wrong"),
            ("evaluate runs/nowhere", "runs/nowhere: no such folder; give a run or a release; for a folder of images, "
                                      "add --against FOLDER"),
            ("convert in out --model runs/fotos", "runs/fotos: no such folder; did you mean runs/photos? a model is"),
            ("convert in out --model rnus/photos/best", "did you mean runs/photos/best? a model is"),
            ("convert inn out --model in", "inn: no such file or folder; did you mean in?"),
            ("report runs/phtos", "did you mean runs/photos? name a run"),
            ("new runs/phtos", "did you mean runs/photos?"),
            ("train --resume --run runs/phtos", "there is no run here to resume; did you mean runs/photos? to start"),
            ("evaluate nowhere --against in", "nowhere: no such folder"), ("data align nowhere out", "no such folder"),
            ("data check nowhere", "nowhere: no such file or folder, and no shipped recipe"),
            ("report nowhere", "nowhere: no such folder; name a run"), ("compare in nowhere", "no such folder; name a"),
            ("adapt make nowhere", "no shipped recipe"), ("serve in nowhere", "nowhere: no such folder; a model is"),
            ("publish nowhere org/name", "nowhere: no such folder; name a run that has ended"),
            ("plan nowhere --convert in", "nowhere: no such folder; a model is a run"),
            ("train facades --from nowhere", "nowhere: no such folder; a model is a run")):
        said.truncate(0)
        assert call(monkeypatch, *words.split()) == 2
        assert expected in said.getvalue() + capsys.readouterr().err, words
    assert call(monkeypatch, "import", "nowhere.pth") == CheckpointError.exit_code
    assert said.getvalue().endswith("nowhere.pth: no such file\n")


@pytest.mark.parametrize("words", ["train {}", "new {}", "convert {} out --model in", "convert in out --model {}"])
def test_a_name_longer_than_names_can_be_is_said_in_a_line(words: str, tmp_path: Path, said: io.StringIO,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended in a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    assert call(monkeypatch, *words.format("x" * 256).split()) == 2
    assert "x" * 256 in said.getvalue() and ": File name too long" in said.getvalue()


def test_a_folder_of_outputs_among_the_inputs_is_said(run: Path, tmp_path: Path, said: io.StringIO,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The next training on that folder would take translations for photographs."""
    (tmp_path / "in").mkdir()
    Image.fromarray(waves(1, (33, 47))).save(tmp_path / "in" / "x.png")
    for number in range(2):
        assert call(monkeypatch, "convert", tmp_path / "in", tmp_path / "in" / "out", "--model", run) == 0
        assert f"{1 - number} converted, {number} done before" in said.getvalue()
    assert "convert takes no output for an input, and a training on that folder would" in said.getvalue()


def test_a_glob_without_quotes_is_told_to_take_them(tmp_path: Path, said: io.StringIO,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell has put every image in its place."""
    assert call(monkeypatch, "convert", "a.png", "b.png", "c.png", tmp_path / "out", "--model", tmp_path) == 2
    assert "2 unexpected arguments after IN and OUT, starting with c.png; put a glob in quotes" in said.getvalue()
    assert call(monkeypatch, "convert", "a.png", tmp_path / "out", "--model", tmp_path, "--wrong") == 2
