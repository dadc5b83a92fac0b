"""Nothing is written through a link that lies in a run or output folder: whoever may write there would otherwise choose
which of the user's files is emptied or added to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from translate import files
from translate.convert.ledger import Entry, Ledger
from translate.errors import DiskError
from translate.recipe import load_recipe
from translate.report import write_report
from translate.report.showcase import Showcase
from translate.runs.folder import RunFolder

EARLIER = Path(__file__).parent / "data" / "run-b2bf1ce"
PRECIOUS = b"ten years of work"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER / "run", tmp_path / "run"))


@pytest.mark.parametrize("lead", ["a link", "a link to nowhere", "a pipe", "a folder"])
def test_lines_are_added_to_a_plain_file_alone(lead: str, precious: Path, tmp_path: Path) -> None:
    """A link called events.jsonl, metrics.jsonl or .translate-ledger.jsonl had the lines added to what it leads to."""
    path, nowhere = tmp_path / "events.jsonl", tmp_path / "nowhere"
    {"a link": lambda: path.symlink_to(precious), "a link to nowhere": lambda: path.symlink_to(nowhere),
     "a pipe": lambda: os.mkfifo(path), "a folder": path.mkdir}[lead]()
    with pytest.raises(OSError, match="link" if "link" in lead else "plain|directory"):
        files.append_line(path, {"what": "started"})
    assert precious.read_bytes() == PRECIOUS and not nowhere.exists()


def test_what_is_added_to_a_run_or_a_ledger_does_not_reach_its_snapshot(run: Path, tmp_path: Path) -> None:
    """`cp -al` makes snapshots of hard links: lines of the training that went on stood in both."""
    name, snapshot = "events.jsonl", tmp_path / "snapshot.jsonl"
    before = (run / name).read_bytes()
    snapshot.hardlink_to(run / name)
    files.append_line(run / name, {"what": "started"})
    assert snapshot.read_bytes() == before
    assert (run / name).read_bytes() == before + b'{"what": "started"}\n'

    torn = tmp_path / "out" / ".translate-ledger.jsonl"
    torn.parent.mkdir()
    torn.write_bytes(b'{"cut')
    snapshot = tmp_path / "ledger.jsonl"
    snapshot.hardlink_to(torn)
    ledger = Ledger(torn.parent)
    ledger.open()
    ledger.append(Entry("a.png", "failed", stage="read", error="ImageError", message="cut short"))
    assert snapshot.read_bytes() == b'{"cut' and torn.stat().st_size > snapshot.stat().st_size


def test_a_lock_that_is_a_link_empties_nothing(run: Path, precious: Path) -> None:
    """`.lock -> precious` was emptied by the start of a training."""
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").symlink_to(precious)
    recipe = load_recipe(run / "recipe.yaml")
    with pytest.raises(DiskError, match="is a link, which is not written through; remove it") as caught:
        RunFolder(run).claim(recipe)
    assert caught.value.path == run / ".lock"  # it named the run, which is no link, and said to remove it
    assert precious.read_bytes() == PRECIOUS
    (run / ".lock").unlink()
    (run / ".lock").write_bytes(b"")
    folder = RunFolder(run)
    folder.claim(recipe)
    folder.close()


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: files.write_bytes(path, b"new"), "json": lambda path: files.write_json(path, {}),
    "copy": lambda path: files.copy(Path(__file__), path)}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_is_replaced_replaces_a_link_at_its_name(writer: str, precious: Path, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.symlink_to(precious)
    for name in (files.temporary_start(path), f"{files.temporary_start(path)}{os.getpid()}"):  # as they were once
        path.with_name(name).symlink_to(precious)
    WRITERS[writer](path)
    assert precious.read_bytes() == PRECIOUS and not path.is_symlink() and path.read_bytes() != PRECIOUS
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".tmp-") and not each.is_symlink()]


def test_a_report_and_its_pictures_go_through_no_link(run: Path, precious: Path, toy_pairs: Path) -> None:
    """The picture of the best checkpoint was copied through a link in its place."""
    from tests.runs import pix2pix_recipe
    from translate.evaluation.heldout import HeldOut

    (run / "report.html").symlink_to(precious)
    for path in (run / "held_out").iterdir():
        path.unlink()
        path.symlink_to(precious)
    write_report(run)
    showcase = Showcase(run, HeldOut(pix2pix_recipe(toy_pairs), toy_pairs))
    image = torch.zeros(3, 8, 8)
    for number in showcase.names:
        showcase.keep(number, image, image, image)
    assert showcase.note(4, 8, best=True) == ""
    assert precious.read_bytes() == PRECIOUS
    assert not (run / "report.html").is_symlink() and not (run / "held_out" / "000000-best.jpg").is_symlink()


@pytest.mark.parametrize("name", ["samples", "held_out", "checkpoints"])
def test_a_run_writes_into_no_folder_that_a_link_leads_to(name: str, run: Path, tmp_path: Path) -> None:
    """`samples -> x` had a training put its pictures into x; the error spoke of free bytes, though no disk was full."""
    shutil.rmtree(run / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    with pytest.raises(DiskError, match=rf"{name}: {name} is a link, .*; remove it$") as caught:
        RunFolder(run).claim(load_recipe(run / "recipe.yaml"))
    assert "bytes free" not in str(caught.value) and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["translated", "set", "translator", "judge", "task"])
def test_adapt_writes_into_no_folder_that_a_link_leads_to(name: str, tmp_path: Path) -> None:
    from tests.adaptation import stripes_recipe, write_stripes
    from tests.runs import Silent
    from translate.adapt import evaluate, make

    recipe, home, elsewhere = stripes_recipe(write_stripes(tmp_path, 2)), tmp_path / "out", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / name).symlink_to(elsewhere)
    for work in (make, evaluate):
        with pytest.raises(DiskError, match=rf"{name}: {name} is a link, .*; remove it$"):
            work(recipe, home, Silent(), device="cpu")
    assert list(elsewhere.iterdir()) == []


def test_pictures_of_a_running_training_go_through_no_link(run: Path, toy_pairs: Path, tmp_path: Path) -> None:
    from tests.runs import pix2pix_recipe
    from translate.evaluation.heldout import HeldOut

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(run / "held_out")
    (run / "held_out").symlink_to(elsewhere)
    showcase = Showcase(run, HeldOut(pix2pix_recipe(toy_pairs), toy_pairs))
    image = torch.zeros(3, 8, 8)
    showcase.show_at(4)
    showcase.keep(0, image, image, image)
    assert "held_out is a link" in showcase.note(4, 8, best=True) and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["link", "link/deep/er", "sub/link", "link to nowhere"])
def test_a_folder_below_a_root_is_made_through_no_link(name: str, tmp_path: Path) -> None:
    """The root itself may be one: a person has named it."""
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    elsewhere.mkdir()
    (tmp_path / "real").mkdir()
    root.symlink_to(tmp_path / "real")
    (root / "sub").mkdir()
    for link, to in (("link", elsewhere), ("sub/link", elsewhere), ("link to nowhere", tmp_path / "nowhere")):
        (root / link).symlink_to(to)
    with pytest.raises(OSError, match="is a link, which is not written through"):
        files.make_folder(root / name, root)
    assert list(elsewhere.iterdir()) == [] and not (tmp_path / "nowhere").exists()
    files.make_folder(root / "a" / "b", root)
    files.make_folder(root, root)
    assert (tmp_path / "real" / "a" / "b").is_dir()


def test_a_folder_that_is_exchanged_takes_the_place_of_a_link_and_leaves_what_it_leads_to(tmp_path: Path) -> None:
    """A release that is a link to a folder elsewhere: the second one could not be written for what the first had left.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_bytes(PRECIOUS)
    (tmp_path / "release").symlink_to(elsewhere)
    for number in (1, 2):
        building = tmp_path / ".tmp-release"
        building.mkdir()
        (building / str(number)).touch()
        files.exchange_folder(building, tmp_path / "release")
        assert [path.name for path in (tmp_path / "release").iterdir()] == [str(number)]
    assert (elsewhere / "weights").read_bytes() == PRECIOUS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "release"]
