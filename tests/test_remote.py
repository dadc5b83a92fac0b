"""Conversion between folders in object storage: whole objects alone, whatever happens to server or process."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.commands import call
from tests.conversions import fill, noise, tiny_release, tree
from tests.object_storage import SECRET, WRONG_KEY, Door, s3
from tests.runs import cyclegan_recipe
from translate.convert import Summary, convert, remote, storage
from translate.convert.converter import Converter
from translate.convert.jobs import Naming
from translate.convert.ledger import source_of
from translate.convert.protecting import Protection
from translate.convert.remote import Remote
from translate.convert.storage import Store, address, in_words, local
from translate.errors import DataError, DiskError, NetworkError, TranslateError, UsageError
from translate.images.reading import ImageConfig
from translate.images.writing import write_image
from translate.recipe import Recipe

ROOT = Path(__file__).parent.parent
fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install 'diptych[remote]'")
MemoryFile = pytest.importorskip("fsspec.implementations.memory").MemoryFile


def converted(source: str | Path, out: str | Path, **options: Any) -> Summary:
    with Remote(Path(source), Path(out)) as folders:
        return convert(Path(source), Path(out), tiny_release(), device="cpu", precision="fp32", workers=0,
                       remote=folders, **options)


def whole(folder: Path) -> dict[str, str]:
    """What one process makes of a folder on a disk."""
    convert(folder, folder.parent / "whole", tiny_release(), device="cpu", precision="fp32", workers=0)
    return tree(folder.parent / "whole")


def objects(files: Any, root: str) -> dict[str, str]:
    files.invalidate_cache()
    found = [path for path in files.find(root) if path != root]  # s3fs: the folder, if its first object comes meanwhile
    return {path.removeprefix(root).lstrip("/"): hashlib.sha256(files.cat_file(path)).hexdigest() for path in found
            if not path.removeprefix(root).lstrip("/").startswith(".translate-ledger")}


# -- without a server --------------------------------------------------------------------------------------------------


def test_an_address_is_known_and_one_with_credentials_refused_without_showing_them() -> None:
    assert address(Path("s3://bucket/a b/c")) == "s3://bucket/a b/c" and address(Path("photos/s3:x")) is None
    assert address(Path("/photos")) is None and address(Path("memory://x")) == "memory://x"
    assert local(Path("file:///photos/x")) == Path("/photos/x")
    for start in ("key:{}@bucket", "key:{}/def@bucket", "key:pa@{}@host", "key:a/{}@host", "key@bucket", "key:{}",
                  "bucket/a:{}@b"):
        with pytest.raises(UsageError, match="holds credentials") as raised:
            address(Path(f"s3://{start.format(SECRET)}/x"))
        assert not any(part in str(raised.value) for part in (SECRET, "key", "pa", "def", "host", "bucket"))
    with pytest.raises(UsageError, match="holds credentials"):
        address(Path(f"S3://key:{SECRET}@bucket/x"))
    with pytest.raises(UsageError, match="ftp:// is no storage"):
        address(Path("ftp://bucket/x"))
    for words in (f"me:{SECRET}@host/x?sig={SECRET}", f"me:a/{SECRET}@host", f"me:a@{SECRET}@host"):
        assert SECRET not in in_words(ValueError(f"cannot reach https://{words} now"))


def test_an_azure_container_is_no_credential_and_its_library_is_not_called_missing(
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs", reason="needs adlfs: pip install 'diptych[remote]'")
    assert address(Path("abfs://container@account.dfs.core.windows.net/x")) is not None
    with pytest.raises(UsageError, match="holds credentials"):
        address(Path(f"abfs://me:{SECRET}@container@account.dfs.core.windows.net/x"))
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="ValueError") as raised:
        Store(Path("abfs://container/x"))
    assert "pip install" not in str(raised.value) and "environment variables" in str(raised.value)


def test_a_folder_in_memory_is_converted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WINDOW", 4)
    fill(tmp_path / "in", 10)
    (tmp_path / "in" / "notes.txt").touch()
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    first = converted("memory://b/in", "memory://b/out")
    assert (first.converted, first.skipped, first.exit_code) == (10, ["notes.txt"], 0)
    assert objects(files, "/b/out") == whole(tmp_path / "in")
    assert converted("memory://b/in", "memory://b/out").already == 10

    # An input that has changed, an output that is gone, one that is another, and one that nobody has made.
    files.pipe_file("/b/in/003.png", (tmp_path / "in" / "000.png").read_bytes())
    files.rm_file("/b/out/006.png")
    files.pipe_file("/b/out/009.png", b"longer or shorter than before")
    files.pipe_file("/b/in/x.png", (tmp_path / "in" / "000.png").read_bytes())
    files.pipe_file("/b/out/x.png", b"mine")
    again = converted("memory://b/in", "memory://b/out")
    assert (again.converted, again.already, [row.path for row in again.failed]) == (3, 7, ["x.png"])
    assert files.cat_file("/b/out/x.png") == b"mine"

    # Here and there
    assert converted("memory://b/in", tmp_path / "here").exit_code == 0
    assert converted(tmp_path / "in", "memory://c/out").exit_code == 0
    assert objects(files, "/c/out") == whole(tmp_path / "in")

    # Another size is told of storage as of a folder.
    assert not first.resized and converted("memory://b/in", "memory://d/out", resize=8).resized
    assert not converted("memory://b/in", "memory://d/out", resize=8, size="input").resized


@pytest.fixture
def memory(tmp_path: Path) -> Any:
    """An empty storage in memory, and four images in `tmp_path / "in"`."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    fill(tmp_path / "in", 4)
    return files


def noise_png(folder: Path, side: int) -> bytes:
    write_image(folder / "noise.png", noise(side, side))
    return (folder / "noise.png").read_bytes()


def force(files: Any, name: str, content: bytes) -> None:
    """Store an object under any name, as other storages allow it."""
    files.store[name] = MemoryFile(files, name, content)


def test_no_name_of_an_object_leads_out_of_the_folders_that_were_named(memory: Any, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "deep" / "temporary"))
    (tmp_path / "deep" / "temporary").mkdir(parents=True)
    image = (tmp_path / "in" / "000.png").read_bytes()
    names = ["../../../evil.png", "a/../../../../evil.png", "/evil.png", f"/{tmp_path}/evil.png", "a/./evil.png"]
    for name in names:
        force(memory, f"/b/in/{name}", image)
    force(memory, "/b/in/good.png", image)
    for name in (".translate-ledger/../../../evil.jsonl", ".translate-ledger/../../../../evil.jsonl"):
        force(memory, f"/b/out/{name}", b"{}")
    before = set(tmp_path.rglob("*"))
    for out in ("memory://b/out", tmp_path / "here" / "out"):
        summary = converted("memory://b/in", out)
        assert set(summary.skipped) == {name for name in names if "./" in name}  # hidden, as all that begin with a dot
        assert summary.converted == (3 if out == "memory://b/out" else 1)
        assert all(row.path in names and "a part of its name is empty" in str(row.message) for row in summary.failed)
        assert summary.converted + len(summary.failed) == 3
        assert all(Store(Path(out)).refusal(name) for name in names if "./" in name)
    new = {path.relative_to(tmp_path).as_posix() for path in {*tmp_path.rglob("*")} - before}
    assert {name for name in new if ".translate-ledger" not in name} == {"here", "here/out", "here/out/good.png"}


def test_names_that_are_no_files_fail_alone_and_no_two_objects_share_a_file(memory: Any, tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    images = [path.read_bytes() for path in sorted((tmp_path / "in").rglob("*.png"))]
    whole(tmp_path / "in")
    made = [path.read_bytes() for path in sorted((tmp_path / "whole").rglob("*.png"))]
    for name, image in zip(["a/x.png", "a//x.png", "a.png", "a.png/x.png"], images, strict=True):
        force(memory, f"/b/in/{name}", image)
    force(memory, "/b/in/" + "n" * 300 + ".png", images[0])
    force(memory, "/b/in/" + "n/" * 520 + "x.png", images[0])
    summary = converted("memory://b/in", "memory://b/out")
    assert [memory.cat_file(f"/b/out/{name}") for name in ("a/x.png", "a//x.png")] == made[:2]
    failed = {row.path: (row.stage, row.message) for row in summary.failed}
    assert {name: stage for name, (stage, _) in failed.items() if "n/" not in name} == {  # fsspec's memory has no such
        "a.png": "read", "a.png/x.png": "read"}
    (long,) = (why for name, (stage, why) in failed.items() if "n/" in name and stage == "write")
    assert "1052 bytes there, and 1024" in str(long) and summary.converted == 3

    # Into a folder of this machine, where names are shorter.
    summary = converted("memory://b/in", tmp_path / "here")
    failed = {row.path: (row.stage, row.message) for row in summary.failed}
    assert failed["n" * 300 + ".png"] == ("write", "a part of its name has 304 bytes, and 255 may be")
    assert failed["a//x.png"][0] == "write" and (tmp_path / "here" / "a" / "x.png").read_bytes() == made[0]
    assert converted("memory://b/in", tmp_path / "here").already == summary.converted


def test_outputs_below_the_source_are_none_of_its_images(memory: Any, tmp_path: Path) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    for address_of_out in ("memory://b/in/out", "memory://b/in/out", "memory://b/in/other", "memory://b/in/out"):
        summary = converted("memory://b/in", address_of_out)
        assert summary.converted + summary.already == summary.total == 4
    with pytest.raises(UsageError, match="is the source itself"):
        converted("memory://b/in", "memory:///b/in/")


def test_outputs_above_the_source_that_would_replace_its_images_are_refused(memory: Any, tmp_path: Path) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    assert converted("memory://b/in", "memory://b").converted == 4
    memory.pipe_file("/b/in/in/000.png", memory.cat_file("/b/in/000.png"))
    before = dict.fromkeys(memory.store)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"the output of in/000.png would replace an image of the source"):
            converted("memory://b/in", "memory://b", overwrite=overwrite)
    assert dict.fromkeys(memory.store) == before


@pytest.mark.parametrize("fault", [NetworkError("has broken off"), DiskError("is full"), UsageError("is refused")])
def test_ledgers_that_cannot_be_looked_into_end_the_call_and_no_file_is_called_failed(
        fault: TranslateError, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    memory.put(f"{tmp_path}/in/000.png", "/b/out/000.png")  # whose? the ledgers are looked at again
    looks, starting = itertools.count(), Store.starting
    monkeypatch.setattr(Store, "starting", lambda self, start: starting(self, start) if next(looks) == 0 else fail())

    def fail() -> NoReturn:
        raise fault

    with pytest.raises(type(fault), match=fault.what):
        converted("memory://b/in", "memory://b/out")
    monkeypatch.setattr(Store, "starting", starting)
    again = converted("memory://b/in", "memory://b/out")
    assert again.converted + again.already == 3 and [row.path for row in again.failed] == ["000.png"]


def test_the_faults_of_a_folder_of_outputs_are_told_as_those_of_a_disk(memory: Any, tmp_path: Path) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        converted("memory://b/in", tmp_path / "file")
    with pytest.raises(DiskError, match="Not a directory"):
        converted("memory://b/in", tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inner").symlink_to(tmp_path / "in")
    summary = converted("memory://b/in", tmp_path / "out")
    assert summary.converted == 3 and [str(row) for row in summary.failed] == [
        "inner/001.png: write: inner is a link, which is not written through; remove it"]


def test_a_full_temporary_disk_is_called_one_at_once(memory: Any, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a file's size stands for the disk's: the system refuses to write in the same place."""
    memory.pipe_file("/b/x.png", b"x" * 4096)
    store, before = Store(Path("memory://b")), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 1e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(DiskError, match="too large"):
            store.fetch("x.png", tmp_path / "x.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_more_bytes_are_here_than_a_window_may_hold(memory: Any, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    memory.pipe_file("/b/in/large.png", noise_png(tmp_path, 60))
    largest = 2 * max(path.stat().st_size for path in (tmp_path / "in").rglob("*.png"))
    monkeypatch.setattr(remote, "WINDOW_BYTES", largest)
    windows = list[list[int]]()
    run = Converter.run

    def looked_at(self: Converter, jobs: Any, stop: object) -> Any:
        windows.append([job.source.stat().st_size for job in jobs])
        return run(self, jobs, stop)

    monkeypatch.setattr(Converter, "run", looked_at)
    assert converted("memory://b/in", "memory://b/out").converted == 5
    assert all(sum(sizes) <= largest or len(sizes) == 1 for sizes in windows)
    assert sorted(map(len, windows)) == [1, 2, 2]


def test_foreign_outputs_are_looked_up_once_in_a_window(memory: Any, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    memory.put(f"{tmp_path}/in/", "/b/out/", recursive=True)
    looks = list[str]()
    for name in ("sizes", "starting"):
        whole_one = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, *words, call=whole_one, name=name: (
            looks.append(f"{name} {self.at}"), call(self, *words))[1])
    summary = converted("memory://b/in", "memory://b/out")
    assert len(summary.failed) == 4 and "memory://b/out/000.png exists" in str(summary.failed[0].message)
    assert looks.count("sizes memory://b/out") == 1 and looks.count("starting memory://b/out") == 2

    # What another process has written since the first look is not foreign.
    with Remote(Path("memory://b/in"), Path("memory://b/out")) as folders:
        ledger = folders.ledger()
        (job,) = [each for each in folders.plan(Naming(ImageConfig()))[0] if each.name == "000.png"]
        assert ledger.is_foreign(job)
        memory.pipe_file("/b/out/.translate-ledger-x-begun.jsonl",
                         b'{"path": "000.png", "status": "started", "output": "000.png", "run": 1}\n')
        assert ledger.is_foreign(job)
        ledger.begin_window()
        assert not ledger.is_foreign(job)


def test_a_local_source_is_the_same_whatever_it_is_called(memory: Any, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders were one to the ledger, where each was `in` to who stood beside it."""
    noted = []
    for place in (tmp_path, tmp_path / "in"):
        monkeypatch.chdir(place)
        for given in ("in" if place == tmp_path else ".", str(tmp_path / "in"), "in"):
            with Remote(Path(given), Path("memory://b/out")) as folders:
                noted.append(folders.ledger().source)
    assert set(noted[:-1]) == {source_of(os.path.realpath(tmp_path / "in"))} and noted[-1] not in noted[:-1]


def test_ledgers_beyond_all_measure_are_refused(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    monkeypatch.setattr(remote, "MOST_LEDGER_BYTES", 100)
    memory.pipe_file("/b/out/.translate-ledger-x.jsonl", b"x" * 101)
    with pytest.raises(DataError, match="holds ledgers"):
        converted("memory://b/in", "memory://b/out")


def test_masks_are_looked_at_before_anything_is_fetched(memory: Any, tmp_path: Path) -> None:
    memory.put(f"{tmp_path}/in/", "/b/in/", recursive=True)
    fill(tmp_path / "masks", 4)  # of three colours
    with pytest.raises(DataError, match="is no mask"):
        converted("memory://b/in", "memory://b/out", protect=Protection.of(tmp_path / "masks", 0))
    assert memory.find("/b/out") == []


# -- a server of S3 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    pytest.importorskip("moto", reason="needs moto: pip install 'moto[server]' s3fs")
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'diptych[remote]'")
    with s3(tmp_path_factory.mktemp("moto") / "log") as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIARIGHTRIGHTRIGHT0")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield made


@pytest.fixture
def bucket(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A bucket with images in `in`."""
    monkeypatch.setattr(remote, "WINDOW", 4)
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.05)
    fill(tmp_path / "in", 12)
    files, name = fsspec.filesystem("s3", skip_instance_cache=True), f"b{random.randrange(10**9)}"
    files.mkdir(name)
    files.put(f"{tmp_path}/in/", f"{name}/in/", recursive=True)
    return files, name


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "busy", "cut"])
def test_s3_holds_whole_outputs_though_it_is_busy_or_breaks_off(fault: str, door: Door, bucket: tuple[Any, str],
                                                                tmp_path: Path) -> None:
    files, name = bucket
    door.num_faults, door.busy, door.cut = 0, 9 * (fault == "busy"), 5 * (fault == "cut")
    summary = converted(f"s3://{name}/in", f"s3://{name}/out")
    assert (summary.converted, summary.failed, door.busy, door.cut) == (12, [], 0, 0)
    assert objects(files, f"{name}/out") == whole(tmp_path / "in")
    assert converted(f"s3://{name}/in", f"s3://{name}/out").already == 12


@pytest.mark.slow
def test_s3_may_hold_an_image_with_the_name_of_a_folder(bucket: tuple[Any, str], tmp_path: Path) -> None:
    files, name = bucket
    image, key = (tmp_path / "in" / "000.png").read_bytes(), f"{name}/in"
    for each in ("a.png", "a.png/x.png", "a/x.png", "a//x.png"):
        files.pipe_file(f"{key}/{each}", image)
    assert converted(f"s3://{name}/in", f"s3://{name}/out").converted == 16
    made = objects(files, f"{name}/out")
    assert len({made[each] for each in ("000.png", "a.png", "a.png/x.png", "a/x.png", "a//x.png")}) == 1
    assert converted(f"s3://{name}/in", f"s3://{name}/out").already == 16

    # On a disk there is either the image or the folder, and one of the two a//x.png and a/x.png.
    summary = converted(f"s3://{name}/in", tmp_path / "here")
    failed = {row.path: row.stage for row in summary.failed}
    assert summary.converted == 14 and failed.pop("a//x.png") == "write"
    assert failed in ({"a.png": "write"}, {"a.png/x.png": "write"})


@pytest.mark.slow
def test_a_server_that_stays_busy_ends_the_call_and_the_next_one_goes_on(door: Door, bucket: tuple[Any, str],
                                                                        tmp_path: Path) -> None:
    files, name = bucket
    door.busy, since = 10**6, time.monotonic()
    with pytest.raises(NetworkError, match="6 times"):
        converted(f"s3://{name}/in", f"s3://{name}/out")
    assert time.monotonic() - since < 30
    door.busy = 0
    assert converted(f"s3://{name}/in", f"s3://{name}/out").exit_code == 0
    assert objects(files, f"{name}/out") == whole(tmp_path / "in")


@pytest.mark.slow
def test_a_server_that_is_gone_is_given_up_within_half_a_minute(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'diptych[remote]'")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    for name, value in (("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_ACCESS_KEY_ID", "AKIARIGHTRIGHTRIGHT0"),
                        ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    since = time.monotonic()
    with pytest.raises(NetworkError, match="6 times") as raised:
        converted("s3://bucket/in", tmp_path / "out")
    assert time.monotonic() - since < 30 and SECRET not in str(raised.value)


@pytest.mark.slow
def test_wrong_credentials_are_named_and_never_shown(bucket: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, name = bucket
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRONG_KEY)
    with pytest.raises(UsageError, match="access is refused") as raised:
        converted(f"s3://{name}/in", f"s3://{name}/out")
    assert SECRET not in str(raised.value) and "environment variables" in str(raised.value)


@pytest.mark.slow
def test_the_command_line_converts_between_buckets(bucket: tuple[Any, str], tmp_path: Path, shared_pairs: Path,
                                                   trained: Callable[[Recipe], Path], said: io.StringIO,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    files, name = bucket
    run = trained(cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 2, "batch_size": 2}]))
    words = "convert", f"s3://{name}/in", f"s3://{name}/out", "--model", run, "--workers", "0"
    assert call(monkeypatch, *words) == 0 and len(objects(files, f"{name}/out")) == 12
    assert f"12 converted, 0 done before, 0 failed, 0 skipped, of 12 images → s3://{name}/out" in said.getvalue()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRONG_KEY)
    assert call(monkeypatch, *words) == 2 and "access is refused" in said.getvalue()
    assert SECRET not in said.getvalue()


SCRIPT = """
import sys, torch
from pathlib import Path
from tests.test_remote import converted, remote
remote.WINDOW = 4
sys.exit(converted(sys.argv[1], sys.argv[2]).exit_code)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_whole_objects_and_the_next_goes_on(bucket: tuple[Any, str],
                                                                            tmp_path: Path) -> None:
    files, name = bucket
    expected, words = whole(tmp_path / "in"), [sys.executable, "-c", SCRIPT, f"s3://{name}/in", f"s3://{name}/out"]
    for number in range(4):
        process = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until and len(objects(files, f"{name}/out")) <= 2 * number:
            assert objects(files, f"{name}/out").items() <= expected.items()
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert objects(files, f"{name}/out").items() <= expected.items()
    assert converted(f"s3://{name}/in", f"s3://{name}/out").exit_code == 0
    assert objects(files, f"{name}/out") == expected
    assert converted(f"s3://{name}/in", f"s3://{name}/out").already == 12
