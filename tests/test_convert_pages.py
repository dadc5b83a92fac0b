"""Conversion of what is read and written by rows: pages, BigTIFF, GeoTIFF, depths and channels."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.conversions import (
    FORK,
    Identity,
    convert_in_child,
    last_rows,
    noise,
    processes_of,
    release_of,
    tiny_release,
)
from translate.convert import convert
from translate.errors import DiskError
from translate.images import decoder_process
from translate.images.writing import write_image
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise

GEO = ((33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 500000.0, 4500000.0, 0), True),
       (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True))  # pixels of 10 m, tied to UTM zone 33 N


def save_tiff(path: Path, *pages: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, bigtiff=bool(options.pop("bigtiff", False))) as writer:
        for page in pages:
            writer.write(page, contiguous=False, metadata=None, **options)  # type: ignore[arg-type]


def pages_of(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages]


@pytest.mark.parametrize("memory", [None, "500MB"])
def test_every_page_is_translated_as_it_would_be_alone(memory: str | None, tmp_path: Path) -> None:
    """Of different sizes, as the frames of a scanner are."""
    pages = [noise(40, 30, seed=1), noise(25, 44, seed=2), noise(40, 30, seed=3)]
    save_tiff(tmp_path / "in" / "scans.tif", *pages, photometric="rgb")
    for number, page in enumerate(pages):
        save_tiff(tmp_path / "alone" / f"{number}.tif", page, photometric="rgb")
    for folder in ("in", "alone"):
        assert convert(tmp_path / folder, tmp_path / f"{folder}-out", tiny_release(), memory=memory,
                       precision="fp32").exit_code == 0
    together = pages_of(tmp_path / "in-out" / "scans.tif")
    assert len(together) == 3
    for number, page in enumerate(together):
        (alone,) = pages_of(tmp_path / "alone-out" / f"{number}.tif")
        assert page.shape == pages[number].shape and np.abs(page.astype(int) - alone).max() <= 1


def test_pages_are_done_once_and_again_when_one_changes(tmp_path: Path) -> None:
    save_tiff(tmp_path / "in" / "scans.tif", noise(20, 30, seed=1), noise(20, 30, seed=2), photometric="rgb")
    for expected in ("converted", "already"):
        assert getattr(convert(tmp_path / "in", tmp_path / "out", tiny_release()), expected) == 1
    save_tiff(tmp_path / "in" / "scans.tif", noise(20, 30, seed=1), noise(20, 30, seed=4), photometric="rgb")
    assert convert(tmp_path / "in", tmp_path / "out", tiny_release()).converted == 1


def test_pages_go_to_no_format_that_cannot_hold_them(tmp_path: Path) -> None:
    save_tiff(tmp_path / "in" / "scans.tif", noise(20, 30), noise(20, 30), photometric="rgb")
    summary = convert(tmp_path / "in", tmp_path / "out", tiny_release(), file_format="png")
    assert summary.exit_code == 4 and "2 pages" in (summary.failed[0].message or "")
    assert not (tmp_path / "out" / "scans.png").exists()


@pytest.mark.parametrize("memory", [None, "500MB"])
def test_a_dry_run_foretells_which_pages_would_fail(memory: str | None, tmp_path: Path) -> None:
    """They are not decoded ahead: of pages the reader knows nothing but their number."""
    save_tiff(tmp_path / "in" / "pages.tif", noise(20, 30, seed=1), noise(20, 30, seed=2), photometric="rgb")
    save_tiff(tmp_path / "in" / "one.tif", noise(20, 30), photometric="rgb")
    save_tiff(tmp_path / "in" / "many.tif", *[noise(20, 30, 12)] * 2, photometric="minisblack", planarconfig="contig")
    dry, real = (convert(tmp_path / "in", tmp_path / "out", tiny_release(), memory=memory, file_format="png",
                         dry_run=dry_run) for dry_run in (True, False))
    assert [str(row) for row in dry.failed] == [str(row) for row in real.failed] and len(real.failed) == 2
    assert dry.todo == real.converted == 1


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_strips_give_the_files_that_the_whole_image_gives(name: str, tmp_path: Path) -> None:
    """To a level of 255, where a sum in another order rounds to the other side."""
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / name, noise(61, 47), dpi=(300.0, 300.0))
    for memory, out in ((None, "whole"), ("300MB", "strips")):
        assert convert(tmp_path / "in", tmp_path / out, tiny_release(), memory=memory, precision="fp32").exit_code == 0
    whole, strips = (np.asarray(tifffile.imread(path) if name.endswith("tif") else _pixels(path)).astype(int)
                     for path in (tmp_path / "whole" / name, tmp_path / "strips" / name))
    assert whole.shape == strips.shape and np.abs(whole - strips).max() <= (1 if name != "a.jpg" else 12)


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


@pytest.mark.parametrize("memory", [None, "300MB"])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 12), (np.uint16, 3), (np.uint16, 12), (np.float32, 5)])
def test_depth_channels_and_coordinates_survive(dtype: type, channels: int, memory: str | None, tmp_path: Path) -> None:
    bits = {np.uint8: 8, np.uint16: 16, np.float32: "float"}[dtype]
    pixels = (noise(50, 40, channels, dtype=np.uint16) / 32767.5 - 1 if dtype is np.float32
              else noise(50, 40, channels, dtype=dtype)).astype(dtype)
    save_tiff(tmp_path / "in" / "tile.tif", pixels, photometric="rgb" if channels == 3 else "minisblack",
              planarconfig="contig", tile=(16, 16), compression="zlib", extratags=GEO, bigtiff=True)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity(), channels, bits), memory=memory)
    assert summary.exit_code == 0, last_rows(tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "tile.tif") as tiff:
        assert np.array_equal(tiff.pages[0].asarray(), pixels)
        for code, _, _, value, _ in GEO:
            assert tuple(tiff.pages[0].tags.valueof(code)) == pytest.approx(value)
        assert tiff.is_bigtiff == (memory is not None), "read by rows, it is written as it was"


def files_of(process: int) -> set[Path]:
    """What a process has open."""
    found = set()
    with suppress(OSError):  # it, or one of them, is gone meanwhile
        for link in Path(f"/proc/{process}/fd").iterdir():
            found.add(link.readlink())
    return found


class Striking(Identity):
    """A generator that, the first time it is called while another process has `path` open, strikes that process."""

    def __init__(self, path: Path, strike: Callable[[int], None]):
        super().__init__()
        self.path = path
        self.strike: Callable[[int], None] | None = strike

    def translate(self, image: torch.Tensor) -> torch.Tensor:
        for child in multiprocessing.active_children():
            if self.strike is not None and child.pid is not None and self.path in files_of(child.pid):
                strike, self.strike = self.strike, None
                strike(child.pid)
        return super().translate(image)


def three_tiffs(folder: Path, num_pages: int) -> Path:
    """1.tif, 2.tif, 3.tif; the path of the second."""
    for index in range(1, 4):
        save_tiff(folder / f"{index}.tif", *[noise(40, 30, seed=index + seed) for seed in range(num_pages)],
                  photometric="rgb", tile=(16, 16), compression="zlib")
    return folder / "2.tif"


@pytest.mark.parametrize(("memory", "num_pages"), [(None, 2), ("500MB", 1)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_tiff_that_ends_the_process_that_reads_its_rows_costs_one_file(
        number: int, memory: str | None, num_pages: int, tmp_path: Path) -> None:
    """The decoders of TIFF are C; what kills one in the middle of a file must not end the run."""
    path = three_tiffs(tmp_path / "in", num_pages)
    generator = Striking(path, lambda process: os.kill(process, number))
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(generator), memory=memory, workers=1)
    assert (summary.exit_code, summary.converted, [row.path for row in summary.failed]) == (3, 2, ["2.tif"])
    row = last_rows(tmp_path / "out")["2.tif"]
    assert row["stage"] == "read" and f"was ended by {signal.Signals(number).name}" in row["message"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*tif*")) == ["1.tif", "3.tif"]
    assert not multiprocessing.active_children()
    for name in ("1.tif", "3.tif"):
        assert np.array_equal(pages_of(tmp_path / "out" / name), pages_of(tmp_path / "in" / name))


@pytest.mark.slow  # it waits for seconds; test_convert.py has a file that hangs as well
@pytest.mark.parametrize(("memory", "num_pages"), [(None, 2), ("500MB", 1)])
def test_a_tiff_whose_rows_take_for_ever_costs_one_file(memory: str | None, num_pages: int, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    path = three_tiffs(tmp_path / "in", num_pages)

    def stop(process: int) -> None:
        os.kill(process, signal.SIGSTOP)
        monkeypatch.setattr(decoder_process, "ANSWER_SECONDS", 3.0)

    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Striking(path, stop)), memory=memory, workers=1)
    assert (summary.exit_code, summary.converted, [row.path for row in summary.failed]) == (3, 2, ["2.tif"])
    row = last_rows(tmp_path / "out")["2.tif"]
    assert row["stage"] == "read" and "was not decoded within 3 seconds" in row["message"]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_kill_leaves_no_process_behind_that_has_pages_open(tmp_path: Path) -> None:
    path = tmp_path / "in" / "scans.tif"
    save_tiff(path, *[noise(96, 96, seed=seed) for seed in range(60)], photometric="rgb", tile=(16, 16))
    child = FORK.Process(target=convert_in_child, args=(tmp_path / "in", tmp_path / "out", 1))
    child.start()
    assert child.pid is not None
    began = time.monotonic()
    while not any((tmp_path / "out").glob(".tmp*")) or len(processes := processes_of(child.pid)) < 4:
        assert time.monotonic() < began + 60, "itself, the server that forks, one that reads ahead, one for the rows"
    assert any(path in files_of(process) for process in processes)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    began = time.monotonic()
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < began + 30, "one lives on"
        time.sleep(0.05)


def test_a_disk_that_fills_in_the_middle_of_a_page_stops_the_run_and_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    save_tiff(tmp_path / "in" / "scans.tif", noise(20, 30), noise(20, 30), photometric="rgb")
    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(DiskError, match="No space left"):
        convert(tmp_path / "in", tmp_path / "out", tiny_release())
    assert not any(path.suffix == ".tif" or path.name.startswith(".tmp") for path in (tmp_path / "out").iterdir())


@pytest.mark.slow
def test_10000_pixels_at_full_width_under_a_hard_limit_of_3_gb(tmp_path: Path, record_property: object) -> None:
    """A BigTIFF of 10 000², a ResNet-9 of 64 channels; the whole image would take 90 GB. Rows wait on the disk."""
    save_tiff(tmp_path / "in.tif", noise(10_000, 10_000), photometric="rgb", tile=(256, 256), bigtiff=True)
    script = Path(__file__).with_name("large_image.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "in.tif"), str(tmp_path / "out.tif"), "1500MB",
                           "3000"], capture_output=True, text=True, timeout=6 * 3600, check=True)
    found = json.loads(done.stdout)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.is_bigtiff and tiff.pages[0].shape == (10_000, 10_000, 3)
    assert found["peak_above_before"] == pytest.approx(found["predicted_bytes"], rel=0.2), found


def test_a_translated_region_is_that_of_the_whole_image(tmp_path: Path) -> None:
    """Through every layer of the converter, a real generator's rows are those of one pass over the whole tensor."""
    torch.manual_seed(0)
    generator = initialise(ResNet(3, 3, width=4, blocks=1), 0.2)
    pixels = noise(70, 52)
    save_tiff(tmp_path / "in" / "a.tif", pixels, photometric="rgb", tile=(16, 16))
    assert convert(tmp_path / "in", tmp_path / "out", release_of(generator), memory="300MB",
                   precision="fp32").exit_code == 0
    with torch.no_grad():
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = ((generator.double()(image.double()) + 1) * 127.5).round()[0].permute(1, 2, 0).numpy()
    (found,) = pages_of(tmp_path / "out" / "a.tif")
    assert (found != expected).mean() < 0.01 and np.abs(found - expected).max() <= 1
