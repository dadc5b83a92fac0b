"""Conversion between folders in object storage: whole objects alone, whatever happens to server or process."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import call
from tests.conversions import fill, tiny_release, tree
from tests.object_storage import SECRET, WRONG_KEY, Door, s3
from tests.runs import cyclegan_recipe
from translate.convert import Summary, convert, remote
from translate.convert.remote import Remote, address, in_words
from translate.errors import NetworkError, UsageError
from translate.recipe import Recipe

ROOT = Path(__file__).parent.parent
fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install 'diptych[remote]'")


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
    found = files.find(root)
    return {path.removeprefix(root).lstrip("/"): hashlib.sha256(files.cat_file(path)).hexdigest() for path in found
            if not path.removeprefix(root).lstrip("/").startswith(".translate-ledger")}


# -- without a server --------------------------------------------------------------------------------------------------


def test_an_address_is_known_and_one_with_credentials_refused_without_showing_them() -> None:
    assert address(Path("s3://bucket/a b/c")) == "s3://bucket/a b/c" and address(Path("photos/s3:x")) is None
    assert address(Path("/photos")) is None and address(Path("memory://x")) == "memory://x"
    assert remote.local(Path("file:///photos/x")) == Path("/photos/x")
    with pytest.raises(UsageError) as raised:
        address(Path(f"s3://key:{SECRET}@bucket/x"))
    assert SECRET not in str(raised.value) and "holds credentials" in str(raised.value)
    with pytest.raises(UsageError, match="ftp:// is no storage"):
        address(Path("ftp://bucket/x"))
    error = ValueError(f"cannot reach https://me:{SECRET}@host/x?sig={SECRET} now")
    assert SECRET not in in_words(error)


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
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.05)
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
def test_a_server_that_stays_busy_ends_the_call_and_the_next_one_goes_on(door: Door, bucket: tuple[Any, str],
                                                                        tmp_path: Path) -> None:
    files, name = bucket
    door.busy = 10**6
    with pytest.raises(NetworkError, match="7 times"):
        converted(f"s3://{name}/in", f"s3://{name}/out")
    door.busy = 0
    assert converted(f"s3://{name}/in", f"s3://{name}/out").exit_code == 0
    assert objects(files, f"{name}/out") == whole(tmp_path / "in")


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
