"""The ledger against what may happen to an output folder: damage, copies, other converters, lines that are none."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conversions import Identity, fill, last_rows, noise, release_of, tree
from translate import files
from translate.convert import LEDGER, Entry, Shard, Summary, convert, ledger_files, ledger_rows
from translate.convert import ledger as ledger_module
from translate.convert.converter import Converter
from translate.convert.jobs import Naming, plan_jobs
from translate.convert.ledger import CHANGED_SINCE, MADE_BEFORE, OTHERWISE_MADE, Ledger
from translate.convert.saving import Input, Saving, remove_leftovers
from translate.errors import DiskError
from translate.foreign import each_line, read_lines
from translate.images.decoder_process import Request, read_file
from translate.images.reading import ImageConfig
from translate.images.writing import write_image
from translate.runs.release import load_release

EARLIER = Path(__file__).parent / "data" / "run-b2bf1ce"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    fill(tmp_path / "in", 4)
    return tmp_path / "in"


def converted(source: Path, out: Path, **options: object) -> Summary:
    return convert(source, out, release_of(Identity()), workers=0, **options)  # type: ignore[arg-type]


def test_an_output_whose_folder_is_a_link_fails_and_the_others_are_written(tmp_path: Path) -> None:
    """`OUT/sub -> IN` had outputs written among the images, over them with `overwrite`."""
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "sub/b.png", "deep/er/c.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(source / name, noise(6, 5))
    (tmp_path / "elsewhere").mkdir()
    write_image(tmp_path / "elsewhere" / "b.png", noise(4, 4))
    before = (tmp_path / "elsewhere" / "b.png").read_bytes()
    out.mkdir()
    for name in ("sub", "deep"):
        (out / name).symlink_to(tmp_path / "elsewhere")
    summary = converted(source, out, overwrite=True)
    assert summary.converted == 1 and {entry.path for entry in summary.failed} == {"sub/b.png", "deep/er/c.png"}
    assert all("is a link, which is not written through" in str(entry.message) for entry in summary.failed)
    assert (tmp_path / "elsewhere" / "b.png").read_bytes() == before
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["b.png"]


def damage(path: Path, keep_time: bool = False) -> None:
    """Change one byte in the middle of a file, as a bad disk or an editor does."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns if keep_time else status.st_mtime_ns + 1))


def test_what_an_earlier_version_has_converted_is_not_made_again(tmp_path: Path) -> None:
    """A new version took every output for one of another model, and weeks of work began anew without a word.

    The key is what e7aad37 wrote for this file, by the release of `tests/data/run-b2bf1ce`.
    """
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.ppm").write_bytes(b"P6\n16 16\n255\n" + bytes(number % 251 for number in range(768)))
    convert(tmp_path / "in", tmp_path / "out", load_release(EARLIER / "release"), precision="fp32", workers=0)
    assert last_rows(tmp_path / "out")["a.ppm"]["key"] == (
        "787b5dc6338b58f5a7a7f9b64c6d09914addaed09860e78f439af46b66a8df7a")

    # But for files that name a value for "no data": what is made of these is another image now.
    keys = []
    for name, tags in (("plain", []), ("gaps", [(42113, "s", 2, b"0", True)])):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((8, 8), np.uint8), extratags=tags)
        request = Request(tmp_path / f"{name}.tif", 100, "salt")
        content = hashlib.sha256(request.path.read_bytes()).digest()
        keys.append(read_file(request).key == hashlib.sha256(content + b"salt").hexdigest())
    assert keys == [True, False]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["one byte", "cut", "empty", "longer", "another image", "a folder", "removed"])
def test_an_output_that_is_not_what_was_written_is_made_again(harm: str, source: Path, tmp_path: Path) -> None:
    """A damaged output counted as done, although the ledger held its checksum."""
    out = tmp_path / "out"
    converted(source, out)
    before, path, content = tree(out), out / "000.png", (out / "000.png").read_bytes()
    {"one byte": lambda: damage(path), "cut": lambda: path.write_bytes(content[:-9]),
     "empty": lambda: path.write_bytes(b""), "longer": lambda: path.write_bytes(content + b"x"),
     "another image": lambda: shutil.copy(out / "002.png", path), "removed": path.unlink,
     "a folder": lambda: (path.unlink(), path.mkdir())}[harm]()

    told: list[Entry] = []
    again = converted(source, out, on_progress=lambda entry, number, total: told.append(entry))
    if harm == "a folder":  # which nobody removes for the user
        assert (again.converted, again.already, len(again.failed)) == (0, 3, 1)
        return
    assert (again.converted, again.already, again.failed) == (1, 3, []) and tree(out) == before
    said = [entry.message for entry in told if entry.status == "done"]
    assert said == [None if harm == "removed" else "was changed after it was made, and is made again"]
    assert converted(source, out).already == 4


def test_verify_reads_what_has_kept_its_size_and_its_time(source: Path, tmp_path: Path) -> None:
    """A disk that loses bits changes no time."""
    out = tmp_path / "out"
    converted(source, out)
    before = tree(out)
    damage(out / "000.png", keep_time=True)
    assert converted(source, out).already == 4
    assert converted(source, out, verify=True, dry_run=True).todo == 1 and tree(out) != before
    assert converted(source, out, verify=True).converted == 1 and tree(out) == before
    assert converted(source, out, verify=True).already == 4


def test_a_copied_output_folder_is_read_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All times are others; what a ledger of an earlier version knows has none."""
    first, out, read = tmp_path / "first", tmp_path / "out", []
    converted(source, first)
    lines = [{name: value for name, value in row.items() if name not in ("size", "mtime_ns")}
             for row in read_lines(first / LEDGER)]
    shutil.copytree(first, out, copy_function=shutil.copyfile)
    (out / LEDGER).write_text("".join(json.dumps(line) + "\n" for line in lines))
    real = files.checksum
    monkeypatch.setattr(files, "checksum", lambda path: read.append(path.name) or real(path))
    assert converted(source, out, dry_run=True).already == 4 and len(read_lines(out / LEDGER)) == len(lines)
    assert converted(source, out).already == 4 and len(read) == 8
    assert converted(source, out).already == 4 and len(read) == 8
    assert tree(out) == tree(first)


# -- several converters ------------------------------------------------------------------------------------------------


def test_what_another_converter_has_written_meanwhile_is_not_foreign(source: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Two converters over one folder reported failures that were none: each read the ledger once, and called foreign
    what the other had written."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    converted(source, whole)
    real, other = Converter.run, []

    def run(self: Converter, jobs: list, stop: object) -> Iterator[Entry]:
        if not other:  # a second converter does all of it after this one has read the ledgers
            other.append(None)
            other[0] = converted(source, out)
        return real(self, jobs, stop)

    monkeypatch.setattr(Converter, "run", run)
    mine = converted(source, out)
    assert (other[0].converted, mine.converted, mine.already, mine.failed) == (4, 0, 4, [])
    assert tree(out) == tree(whole) and {row["status"] for row in last_rows(out).values()} == {"done"}


@pytest.mark.parametrize("shards", [(None, None), (Shard(1, 2), None), (Shard(1, 2), Shard(1, 2)),
                                    (Shard(1, 2), Shard(2, 2))])
def test_converters_at_the_same_time_end_with_all_files_done_once(shards: tuple[Shard | None, ...], source: Path,
                                                                  tmp_path: Path) -> None:
    out, whole, summaries = tmp_path / "out", tmp_path / "whole", []
    fill(source, 12)
    converted(source, whole)
    threads = [threading.Thread(target=lambda shard=shard: summaries.append(converted(source, out, shard=shard)))
               for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(summaries) == 2 and [row for summary in summaries for row in summary.failed] == []
    assert {name: value for name, value in tree(out).items() if "ledger" not in name}.items() <= tree(whole).items()
    last = converted(source, out)
    assert not last.failed and last.converted + last.already == 12
    assert {name for name in tree(out) if "ledger" not in name} == set(tree(whole))


def test_what_is_being_written_is_no_leftover(source: Path, tmp_path: Path) -> None:
    """A converter in another container may have the same process number: its half file was removed under its hands."""
    out = tmp_path / "out"
    jobs, _ = plan_jobs(source, out, Naming(ImageConfig()))
    out.mkdir()
    start = files.temporary_start(out / "000.png")
    left = [out / f"{start}{os.getpid()}", out / f"{start}{os.getpid()}-0123abcd", out / f"{start}4194305-0123abcd"]
    for path in left:
        path.write_bytes(b"half")
    (out / f"{start}1-0123abcd").write_bytes(b"half")  # process 1 runs
    with files.replacing(out / "000.png") as file:
        file.write(b"whole")
        remove_leftovers(jobs)
    assert sorted(path.name for path in out.iterdir()) == [f"{start}1-0123abcd", "000.png"]


def test_what_nobody_has_written_is_still_foreign(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "000.png").write_bytes(b"mine")
    summary = converted(source, out)
    assert len(summary.failed) == 1 and "is not from a conversion" in str(summary.failed[0])
    assert (out / "000.png").read_bytes() == b"mine"


def test_a_disk_on_which_ledgers_cannot_be_read_ends_the_call(source: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told as the fault of one file, and the next ones were translated, though nobody knew whose they were."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "000.png").write_bytes(b"another process's, or mine")
    opened = Ledger.open

    def broken(_: Path) -> list[Path]:
        raise OSError(errno.EIO, "Input/output error")

    def open_and_break(self: Ledger) -> None:
        opened(self)
        monkeypatch.setattr(ledger_module, "find_ledgers", broken)

    monkeypatch.setattr(Ledger, "open", open_and_break)
    with pytest.raises(DiskError, match="Input/output error"):
        converted(source, out)
    assert not (out / "inner" / "001.png").exists()


# -- lines that are none -----------------------------------------------------------------------------------------------

LINES = [b"[" * 20_000, b"[1, 2, 3]", b'"text"', b"null", b"7", b'{"path": ' * 900, b"{", b"\xff\xfe", b'{"path": 7}',
         b'{"path": ["000.png"], "status": "done"}', b'{"path": "000.png", "status": "done", "run": "newest"}',
         b'{"path": "000.png", "status": {"done": 1}}', b'{"path": "000.png", "status": "done", "run": 1e400}',
         b'{"path": "000.png", "status": "done", "output": ["000.png"], "run": 9}',
         b'{"path": "000.png", "status": "done", "sha256": 7, "run": 9}',
         b'{"path": "000.png", "status": "done", "output": "000.png", "mtime_ns": "x", "run": 9}',
         b'{"path": "000.png", "status": "done", "key": {}, "run": ' + b"9" * 30 + b"}", b"9" * 5000]


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_lines_that_are_none_block_no_folder(ending: bytes, source: Path, tmp_path: Path) -> None:
    """A ledger with a line of nested brackets ended every conversion into its folder, until somebody removed it."""
    out = tmp_path / "out"
    converted(source, out)
    before = tree(out)
    for number, line in enumerate(LINES):
        with (out / LEDGER).open("ab") as file:
            file.write(line + ending)
        (out / f".translate-ledger-{number + 1}-of-99.jsonl").write_bytes(line)
    summary = converted(source, out)
    assert (summary.converted, summary.already, summary.failed) == (0, 4, [])
    assert Ledger(out).run <= 10  # of no line whose number cannot be one
    for path in out.glob(".translate-ledger-*"):
        path.unlink()
    assert tree(out) == before


def test_threads_that_meet_a_malformed_line_together_find_the_earlier_one(tmp_path: Path) -> None:
    """One thread read all lines anew, and to the others nothing was done meanwhile."""
    rows = [{"path": "a.png", "status": "done", "output": "a.png", "key": key, "run": run}
            for run, key in enumerate(["whole", 5], 1)]
    (tmp_path / LEDGER).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Ledger(tmp_path).last("a.png")["key"] == "whole"
    for _ in range(10):
        ledger, together, found = Ledger(tmp_path), threading.Barrier(4), list[object]()

        def look(ledger: Ledger = ledger, together: threading.Barrier = together,
                 found: list[object] = found) -> None:
            together.wait()
            found.append((ledger.last_row("a.png") or {}).get("key"))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["whole"] * 4


def test_a_line_of_the_highest_run_leaves_a_folder_that_can_be_gone_on_with(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    converted(source, out)
    with (out / LEDGER).open("ab") as file:
        file.write(b'{"path": "other.png", "status": "done", "output": "other.png", "run": %d}\n' % 2**53)
    first, second, *_ = sorted(source.rglob("*.png"))
    first.write_bytes(second.read_bytes())
    assert (summary := converted(source, out)).converted == 1 and not summary.failed
    assert converted(source, out).already == 4


@pytest.mark.parametrize("target", ["nowhere", ".translate-ledger-x.jsonl"])
def test_a_link_that_leads_nowhere_among_ledgers_holds_nobody_up(target: str, source: Path, tmp_path: Path) -> None:
    """Such a link was looked for again and again, for ever."""
    out = tmp_path / "out"
    converted(source, out)
    link = out / ".translate-ledger-x.jsonl"
    link.symlink_to(target)
    ledger = Ledger(out)
    assert converted(source, out).already == 4 and link.is_symlink()

    # Also where a ledger becomes one while it is in use
    other = out / ".translate-ledger-y.jsonl"
    (out / LEDGER).rename(other)
    ledger.look_again()
    other.rename(tmp_path / "kept")
    other.symlink_to(target)
    assert ledger.last("000.png") == {}


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a link"])
def test_a_ledger_that_is_no_file_stops_the_call_before_any_work(what: str, source: Path, tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_bytes(b"mine")
    {"a folder": (out / LEDGER).mkdir, "a pipe": lambda: os.mkfifo(out / LEDGER),
     "a link": lambda: (out / LEDGER).symlink_to(precious)}[what]()
    with pytest.raises(DiskError, match=LEDGER):
        converted(source, out)
    assert precious.read_bytes() == b"mine" and [path.name for path in out.iterdir()] == [LEDGER]


# -- ledgers of many processes -----------------------------------------------------------------------------------------


@pytest.fixture
def on_a_shared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_shared", lambda folder: True)


def entry(name: str, **fields: object) -> Entry:
    return Entry(name, "done", name, "a" * 64, sha256="b" * 64, **fields)  # type: ignore[arg-type]


def test_no_two_processes_add_to_one_ledger(tmp_path: Path) -> None:
    """Two containers have the same host name and process number; on one machine a lock tells, elsewhere chance."""
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    for each in (first, second):
        each.open()
        each.append(entry(str(each is first)))
    assert first.path == tmp_path / LEDGER and second.path != first.path
    first.close()
    second.close()
    third = Ledger(tmp_path)
    third.open()
    assert third.path == first.path and {third.last("True")["key"], third.last("False")["key"]} == {"a" * 64}
    third.close()


def test_on_a_shared_disk_every_call_has_a_ledger_of_its_own(tmp_path: Path, on_a_shared_disk: None) -> None:
    """A lock may be told to the processes of one machine only, and two that append to one file overwrite each other."""
    paths = []
    for _ in range(2):
        ledger = Ledger(tmp_path, Shard(1, 2))
        ledger.open()
        ledger.append(entry("a.png"))
        ledger.close()
        paths.append(ledger.path)
    assert paths[0] != paths[1] and all(path and path.name.startswith(".translate-ledger-1-of-2-") for path in paths)


def test_on_a_shared_disk_a_fresh_half_file_is_another_machine_s(source: Path, tmp_path: Path,
                                                                 on_a_shared_disk: None) -> None:
    """Where locks hold within one machine, the file that another one was writing was removed under its hands."""
    out = tmp_path / "out"
    out.mkdir()
    half = [out / f"{files.temporary_start(out / '000.png')}4194305-{number}123abcd" for number in (0, 1)]
    for path in half:
        path.write_bytes(b"half")
    os.utime(half[0], (1, 1))
    converted(source, out)
    assert [path.exists() for path in half] == [False, True]


def test_a_row_is_true_of_what_its_process_has_written(source: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process replaced the output before it was noted: the row named the other's content under its own key."""
    converted(source, tmp_path / "whole")
    real, whole = files.sync_folder, (tmp_path / "whole" / "000.png").read_bytes()

    def meanwhile(folder: Path) -> None:
        real(folder)
        if (folder / "000.png").exists():
            (folder / "000.png").write_bytes(b"what another process has made of it, by another model")

    monkeypatch.setattr(files, "sync_folder", meanwhile)
    converted(source, tmp_path / "out")
    row = last_rows(tmp_path / "out")["000.png"]
    assert (row["sha256"], row["size"]) == (hashlib.sha256(whole).hexdigest(), len(whole))


def test_what_another_machine_has_noted_may_show_late(source: Path, tmp_path: Path, on_a_shared_disk: None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS shows a folder as it was up to a minute ago: the other's output, and not yet its ledger."""
    out = tmp_path / "out"
    converted(source, out)
    (out / "mine.png").write_bytes(b"mine")
    os.utime(out / "mine.png", (1, 1))
    shutil.copy(source / "000.png", source / "mine.png")
    monkeypatch.setattr(ledger_module, "SECONDS_UNTIL_SEEN", 8.0)
    monkeypatch.setattr(ledger_module, "SECONDS_BETWEEN_LOOKS", 0.05)
    shown, real = time.monotonic() + 1.0, ledger_module.find_ledgers
    monkeypatch.setattr(ledger_module, "find_ledgers", lambda folder: real(folder) if time.monotonic() > shown else [])
    summary = converted(source, out)
    assert (summary.already, [row.path for row in summary.failed]) == (4, ["mine.png"])


def many_ledgers(folder: Path, num: int, lines: int = 3) -> dict[str, str | None]:
    """Ledgers at rest of as many processes, which have done, failed and renamed things. Returns the keys that count."""
    keys: dict[str, str | None] = {}
    for number in range(num):
        rows = [{"path": "failed.png", "status": "failed", "output": "failed.png", "run": number + 1},
                {"path": "again.png", "status": "started", "output": f"again{number}.png", "run": number + 1},
                {"path": "again.png", "status": "done", "output": f"again{number}.png", "key": str(number),
                 "run": number + 1}]
        rows += [{"path": f"{number}-{line}.png", "status": "done", "output": f"{number}-{line}.png", "key": str(line),
                  "run": 1, "size": 7} for line in range(lines)]
        keys |= {str(row["path"]): row.get("key") for row in rows}  # type: ignore[misc]
        path = folder / f".translate-ledger-{number}-of-{num}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"path": "cut')
        os.utime(path, (1, 1))
    return keys


def test_many_ledgers_become_one_that_says_the_same(tmp_path: Path) -> None:
    keys = many_ledgers(tmp_path, 20)
    other = Ledger(tmp_path)  # has read them, and looks again after they are gone
    ledger = Ledger(tmp_path)
    ledger.open()
    assert len(list(tmp_path.glob(".translate-ledger-*"))) == 1
    job, _ = plan_jobs(source_of(tmp_path, "x.png"), tmp_path, Naming(ImageConfig()))
    for each in (ledger, other, Ledger(tmp_path)):
        assert {path: each.last(path).get("key") for path in keys} == keys
        for number in range(20):  # every output that was ever written is ours
            (tmp_path / f"again{number}.png").touch()
            assert not each.is_foreign(replace(job[0], output=tmp_path / f"again{number}.png",
                                               output_name=f"again{number}.png"))
        (tmp_path / "failed.png").touch()
        assert each.is_foreign(replace(job[0], output=tmp_path / "failed.png", output_name="failed.png"))
    assert Ledger(tmp_path).run == 21


def source_of(folder: Path, name: str) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / name).touch()
    return folder / "in"


def test_two_that_fold_at_once_without_locks_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of a shared disk may not tell of another machine: both fold the same ledgers, and remove them."""
    keys = many_ledgers(tmp_path, 20)
    inside = threading.Barrier(2)
    monkeypatch.setattr(ledger_files.fcntl, "flock", lambda *_: None)

    def kept(ledgers: list[Path]) -> Iterator[bytes]:
        lines = list(ledger_rows.kept_lines(ledgers))
        inside.wait(10)
        yield from lines

    threads = [threading.Thread(target=ledger_files.fold, args=(tmp_path, kept)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(tmp_path)
    assert len(list(tmp_path.glob(".translate-ledger-*"))) == 2
    assert {path: ledger.last(path).get("key") for path in keys} == keys


def test_a_ledger_that_somebody_adds_to_is_not_folded(tmp_path: Path) -> None:
    many_ledgers(tmp_path, 20)
    written = tmp_path / ".translate-ledger-7-of-20.jsonl"
    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(tmp_path / ".translate-ledger-8-of-20.jsonl")
        Ledger(tmp_path).open()
    left = {path.name for path in tmp_path.glob(".translate-ledger-*")}
    assert {written.name, ".translate-ledger-8-of-20.jsonl"} < left and len(left) == 3


@pytest.mark.slow
def test_a_million_names_are_planned_and_resumed_within_300_mb() -> None:
    """4 GB, and 5.5 µs for each line of a ledger, before a single image was opened.

    The ledger takes up to 1.7 s per 100,000 names where the machine is busy with other things.
    """
    said = subprocess.run([sys.executable, "tools/bench_names.py"], cwd=Path(__file__).parent.parent, check=True,
                          capture_output=True, text=True).stdout
    assert int(said.split("memory at most")[1].split()[0]) < 300, said
    assert float(said.split("both of the ledger")[1].split(",")[1].split()[0]) < 2.0, said


# -- two sources, two models -------------------------------------------------------------------------------------------


def test_the_output_of_another_folder_s_image_of_the_same_name_is_never_replaced_unasked(tmp_path: Path) -> None:
    """A second folder of camera names, converted into the same one, took the place of the first without a word."""
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    for folder, seed in ((one, 0), (two, 5)):
        folder.mkdir()
        for name in ("IMG_1.png", "IMG_2.png" if seed else "IMG_2.gif"):  # another name, of the same output
            Image.fromarray(noise(24, 20, seed=seed)).save(folder / name)
    shutil.copy(one / "IMG_1.png", one / "same.png")
    shutil.copy(one / "IMG_1.png", two / "same.png")
    (two / "IMG_1.png").rename(tmp_path / "whole.png")
    assert converted(one, out, precision="fp32").exit_code == 0
    before = tree(out)

    # Whether the second one can be read or not, and however often it is tried.
    for content in (b"rotten", *[(tmp_path / "whole.png").read_bytes()] * 2):
        (two / "IMG_1.png").write_bytes(content)
        summary = converted(two, out, precision="fp32")
        assert (summary.exit_code, summary.already) == (3, 1), "what is the same is done"
        assert {entry.path for entry in summary.failed} == {"IMG_1.png", "IMG_2.png"}
    told = {entry.path: str(entry.message) for entry in summary.failed}
    assert "was made from another image, one/IMG_1.png, of a folder elsewhere; choose another" in told["IMG_1.png"]
    assert "one/IMG_2.gif" in told["IMG_2.png"] and "--overwrite" in told["IMG_2.png"]
    assert before.items() <= tree(out).items()
    assert converted(one, out, precision="fp32").already == 3, "what was refused changes nothing of what is done"

    # Also once the first one's image could not be read, or somebody has begun to replace its output and was killed.
    begun = {"path": "IMG_1.png", "status": "started", "output": "IMG_1.png", "run": 9, "source": "two",
             "content": "0" * 64}
    rotten = shutil.copy(one / "IMG_1.png", tmp_path / "kept.png")
    (one / "IMG_1.png").write_bytes(b"rotten")
    assert len(converted(one, out, precision="fp32").failed) == 1
    for _ in range(2):
        assert {entry.path for entry in converted(two, out, precision="fp32").failed} == {"IMG_1.png", "IMG_2.png"}
        with (out / LEDGER).open("a") as ledger:
            ledger.write(json.dumps(begun) + "\n")
    shutil.copy(rotten, one / "IMG_1.png")
    assert before.items() <= tree(out).items() and converted(one, out, precision="fp32").already == 3
    assert all(str(row["source"]).startswith(("one ", "two")) for row in read_lines(out / LEDGER) if "source" in row)

    # A folder that has moved is the same, and what is asked for is done.
    one.rename(tmp_path / "moved")
    assert converted(tmp_path / "moved", out, precision="fp32").already == 3
    assert converted(two, out, overwrite=True, precision="fp32").exit_code == 0
    assert tree(out)["IMG_1.png"] != before["IMG_1.png"]
    assert converted(tmp_path / "moved", out, precision="fp32", owned=True).converted == 2


def test_an_output_that_another_folder_s_conversion_has_put_there_meanwhile_is_not_replaced(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls at the same time looked when they read an image: the later one took the place of the other's output."""
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    for folder, seed in ((one, 0), (two, 5)):
        folder.mkdir()
        Image.fromarray(noise(24, 20, seed=seed)).save(folder / "IMG_1.png")
    real, before = Saving.begin, dict[str, bytes]()

    def begin(self: Saving, read: Input) -> None:
        if not before:  # the other call does its work after this one has read its image
            before["IMG_1.png"] = b""
            assert converted(one, out).converted == 1
            before["IMG_1.png"] = (out / "IMG_1.png").read_bytes()
        real(self, read)

    monkeypatch.setattr(Saving, "begin", begin)
    (failed,) = converted(two, out).failed
    assert "IMG_1.png was made from another image, one/IMG_1.png" in str(failed.message)
    assert (out / "IMG_1.png").read_bytes() == before["IMG_1.png"] and converted(one, out).already == 1
    assert converted(two, out, overwrite=True).converted == 1


def test_another_folder_whose_outputs_stand_in_the_same_one_is_named(source: Path, tmp_path: Path) -> None:
    """Outputs of other names came to lie among those of an old run without a word."""
    out, other, warned = tmp_path / "out", tmp_path / "photos", list[str]()
    converted(source, out, warn=warned.append)
    converted(source, out, warn=warned.append)
    other.mkdir()
    shutil.copy(source / "000.png", other / "new.png")
    assert not warned
    for dry_run in (True, False):
        assert not converted(other, out, dry_run=dry_run, warn=warned.append).failed
    line = (f"{out} also holds outputs of a folder that was called {source.name}; they are kept. To have the two "
            "apart, name another folder for these outputs")
    assert warned == [line, line]
    converted(other, tmp_path / "owned", owned=True)
    converted(source, tmp_path / "owned", owned=True, warn=warned.append)
    assert len(warned) == 2


def test_a_folder_that_was_moved_is_not_said_to_be_another(source: Path, tmp_path: Path) -> None:
    out, warned = tmp_path / "out", list[str]()
    converted(source, out)
    moved = shutil.copytree(source, tmp_path / "elsewhere" / source.name)
    summary = converted(moved, out, warn=warned.append)
    assert summary.already == summary.total and not warned


def test_what_is_replaced_is_counted_by_what_it_was_made_from(source: Path, tmp_path: Path) -> None:
    """Another model's outputs went without a word."""
    out, warned = tmp_path / "out", list[str]()
    converted(source, out, precision="fp32")
    first = source / "000.png"
    write_image(first, noise(24, 20, seed=99))
    for dry_run, word in ((True, "would be"), (False, "are")):
        warned.clear()
        summary = converted(source, out, precision="bf16", dry_run=dry_run, warn=warned.append)
        assert summary.replaced == {OTHERWISE_MADE: summary.total - 1, CHANGED_SINCE: 1}
        assert sorted(warned) == [f"outputs of {what} stand here, such as {name}, and {word} replaced; another folder "
                                  "for the outputs would keep them"
                                  for what, name in ((OTHERWISE_MADE, "002.png"), (CHANGED_SINCE, "000.png"))]
    assert not converted(source, out, precision="bf16", warn=warned.append).replaced and len(warned) == 2

    # Also where a first attempt was killed.
    with (out / LEDGER).open("a") as ledger:
        ledger.write('{"path": "000.png", "status": "started", "output": "000.png", "run": 9}\n')
    summary = converted(source, out, precision="fp32")
    assert summary.replaced == {OTHERWISE_MADE: summary.total}


def test_what_outputs_were_made_from_is_known_without_their_ledgers_being_read_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each output of another name than its input all lines were parsed, and a fold meanwhile ended the call."""
    rows = [{"path": f"{number}.bmp", "status": "done", "output": f"{number}.png", "run": 1, "source": "one"}
            for number in range(9)]
    (tmp_path / LEDGER).write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger, read = Ledger(tmp_path, source="two"), list[object]()
    job = plan_jobs(source_of(tmp_path, "0.gif"), tmp_path, Naming(ImageConfig(), "png"))[0][0]
    jobs = [replace(job, output=tmp_path / f"{number}.png", output_name=f"{number}.png") for number in range(9)]
    for each in jobs:
        each.output.touch()
    real = ledger_module.each_line
    monkeypatch.setattr(ledger_module, "each_line", lambda *words: read.append(words) or real(*words))
    assert [ledger.what_stands(each) for each in jobs] == rows and not read

    ledger = Ledger(tmp_path, source="two")
    (tmp_path / LEDGER).rename(tmp_path / ".translate-ledger-folded.jsonl")
    assert [ledger.what_stands(each) for each in jobs] == rows


def test_rows_know_the_last_line_of_each_path_and_what_each_output_was_last_made_from(tmp_path: Path) -> None:
    """Against a search through all lines, of random ones, before and after they are folded."""
    chance = np.random.default_rng(0)
    for _ in range(100):
        path, lines = tmp_path / "lines", list[dict[str, object]]()
        for number in range(12):
            lines.append({"path": str(chance.integers(2)), "output": str(chance.integers(2)), "pixels": number,
                          "status": ("started", "done", "failed")[chance.integers(3)], "run": int(chance.integers(4))})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for _ in range(2):
            rows, at = ledger_rows.Rows(), dict[tuple[int, int] | None, object]()
            for start, _, row in each_line(path, ledger_rows.Row):
                rows.add(row, 0, start)
                at[0, start] = row["pixels"]
            for name in "01":
                last = newest(line for line in lines if line["path"] == name)
                made = newest(line for line in lines if line["output"] == name and line["status"] == "done")
                begun = newest(line for line in lines if line["output"] == name and line["status"] == "started")
                begun = begun if begun[0] > made[0] else (-1, None)
                found = [at.get(place) for place in (rows.place_of(name), rows.made(name), rows.begun(name))]
                assert found == [last[1], made[1], begun[1]]
                assert rows.has_written(name) == any(line["output"] == name and line["status"] != "failed"
                                                     for line in lines)
            path.write_bytes(b"".join(ledger_rows.kept_lines([path])))


def newest(lines: Iterator[dict[str, object]]) -> tuple[int, object]:
    """Return the rank and the number of the line that counts; (−1, None) of none."""
    ranked = [(2 * int(str(line["run"])) + (line["status"] == "done"), line["pixels"]) for line in lines]
    return max(ranked, default=(-1, None))  # type: ignore[type-var]


def test_a_ledger_that_names_no_source_goes_on_as_before(source: Path, tmp_path: Path) -> None:
    """Those of earlier versions."""
    out = tmp_path / "out"
    converted(source, out, precision="fp32")
    rows = [{key: value for key, value in row.items() if key not in ("source", "content")}
            for row in read_lines(out / LEDGER)]
    (out / LEDGER).write_text("".join(json.dumps(row) + "\n" for row in rows))
    source.rename(tmp_path / "moved")
    assert converted(tmp_path / "moved", out, precision="fp32").converted == 0
    summary = converted(tmp_path / "moved", out, precision="bf16")
    assert summary.replaced == {MADE_BEFORE: summary.total}
