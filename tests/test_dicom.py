"""DICOM and TIFF of several pages: what their numbers mean is what networks see, in training and conversion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.conversions import Identity, last_rows, release_of
from tests.runs import Silent
from tests.test_value_ranges import recipe
from translate.convert import convert
from translate.data.check import check
from translate.data.layouts import PairedConfig
from translate.errors import ImageError
from translate.images.decoding import decode, inspect
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.runs.release import load_release
from translate.training.loop import train

STORED = np.random.default_rng(0).integers(0, 4096, (24, 20)).astype(np.uint16)


def write_dicom(path: Path, stored: np.ndarray, **elements: Any) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored = 12 if stored.dtype == np.uint16 else dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((values.astype(np.float64) - low) / (high - low) * 2 - 1).clip(-1, 1)


CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}
HOUNSFIELD = STORED.astype(np.float64) - 1024
CASES = {
    # What a file holds, what a recipe says, and what a network is to see, by the standard and by hand
    "all that 12 bits hold": (STORED, {}, {}, unit(STORED, 0, 4095)),
    "slope and intercept": (STORED, {"RescaleSlope": 2, "RescaleIntercept": -1000}, {"range": (-1000, 3000)},
                            unit(STORED * 2.0 - 1000, -1000, 3000)),
    "a slope that is no whole number": (STORED, {"RescaleSlope": 0.25, "RescaleIntercept": 0.5}, {"range": (0, 1024)},
                                        unit(STORED * 0.25 + 0.5, 0, 1024)),
    "its own window": (STORED, CT | {"WindowCenter": 40, "WindowWidth": 400}, {}, unit(HOUNSFIELD, -160, 239)),
    "the first of several windows": (STORED, CT | {"WindowCenter": [40, 600], "WindowWidth": [400, 2000]}, {},
                                     unit(HOUNSFIELD, -160, 239)),
    "an exact window": (STORED, CT | {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, {},
                        unit(HOUNSFIELD, -160, 240)),
    "the recipe's window": (STORED, CT | {"WindowCenter": 40, "WindowWidth": 400}, {"window": (0, 1000)},
                            unit(HOUNSFIELD, -500, 500)),
    "stored inverted": (STORED, {"PhotometricInterpretation": "MONOCHROME1"}, {}, unit(4095.0 - STORED, 0, 4095)),
    "inverted, with a window": (STORED, {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1000,
                                         "WindowWidth": 401}, {}, -unit(STORED, 799.5, 1199.5)),
    "with a sign": ((STORED.astype(np.int16) - 2000), {}, {"range": (-2000, 2095)}, unit(STORED, 0, 4095)),
    "eight bits": ((STORED >> 4).astype(np.uint8), {}, {"bits": 8}, unit(STORED >> 4, 0, 255)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_network_sees_what_the_standard_says(tmp_path: Path, name: str) -> None:
    stored, elements, fields, expected = CASES[name]
    write_dicom(tmp_path / "x.dcm", stored, **elements)
    config = ImageConfig(**{"channels": 1, "bits": 16} | fields)
    seen = to_tensor(read_image(tmp_path / "x.dcm", config), config)[0].numpy()
    assert np.abs(seen - expected).max() < 1e-5


def test_colours_are_those_of_any_other_file_and_padding_is_no_data(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    write_dicom(tmp_path / "x.dcm", colours)
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm", ImageConfig()), colours)
    stored = np.where(STORED < 300, 0, STORED)
    write_dicom(tmp_path / "y.dcm", stored, PixelPaddingValue=0)
    read = read_image(tmp_path / "y.dcm", ImageConfig(channels=1, bits=16))
    np.testing.assert_array_equal(np.isnan(read[..., 0]), stored == 0)
    write_dicom(tmp_path / "z.dcm", STORED, PixelPaddingValue=300, PixelPaddingRangeLimit=100)
    read = read_image(tmp_path / "z.dcm", ImageConfig(channels=1, bits=16))
    np.testing.assert_array_equal(np.isnan(read[..., 0]), (STORED >= 100) & (STORED <= 300))


@pytest.mark.parametrize(("workers", "memory"), [(0, None), (0, "1GB"), (1, "1GB")])
def test_a_conversion_gives_16_bits_and_the_values_of_the_recipe_s_range(tmp_path: Path, memory: str | None,
                                                                         workers: int) -> None:
    """Into a PNG, or a TIFF where values have a sign: hospitals' CTs had to be exported by hand, and lost their
    units."""
    write_dicom(tmp_path / "in/x.dcm", STORED, **CT)
    for low, high, name in ((-1024, 3071, "x.tif"), (0, 3071, "x.png"))[workers:]:
        config = {"channels": 1, "bits": 16, "range": (low, high)}
        out = tmp_path / name
        summary = convert(tmp_path / "in", out, release_of(Identity(), **config), workers=workers, memory=memory)
        assert summary.exit_code == 0 and last_rows(out)["x.dcm"]["output"] == name
        made = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(made, HOUNSFIELD.clip(low, high))
    if workers:
        return
    plain = release_of(Identity(), 1, 16)
    convert(tmp_path / "in", tmp_path / "plain", plain, workers=0, memory=memory)
    made = cv2.imread(str(tmp_path / "plain/x.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(made - STORED / 4095 * 65535).max() <= 0.51


def test_padding_is_no_data_whether_an_image_is_read_by_rows_or_whole(tmp_path: Path) -> None:
    """Within a memory, what the network makes of nothing stood in the corners of a scan as if it were tissue."""
    stored = np.where(STORED < 300, 0, STORED)
    write_dicom(tmp_path / "in/x.dcm", stored, PixelPaddingValue=0, **CT)
    for memory in (None, "1GB"):
        release = release_of(Identity(), channels=1, bits=16, range=(-2000, 3071))
        convert(tmp_path / "in", tmp_path / f"{memory}", release, workers=0, memory=memory)
        made = cv2.imread(str(tmp_path / f"{memory}" / "x.tif"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(made == -32768, stored == 0)


def test_what_is_no_single_image_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "film.dcm", STORED, NumberOfFrames=2, PixelData=STORED.tobytes() * 2)
    write_dicom(tmp_path / "report.dcm", STORED)
    dataset = pydicom.dcmread(tmp_path / "report.dcm")
    del dataset.PixelData
    dataset.save_as(tmp_path / "report.dcm")
    write_dicom(tmp_path / "x.dcm", STORED)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "x.dcm").read_bytes()[:-300])
    for name, words in (("film", "2 frames"), ("report", "without an image"), ("cut", "read: ")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / f"{name}.dcm", ImageConfig(channels=1, bits=16))
    with pytest.raises(ImageError, match="above the limit"):
        decode((tmp_path / "x.dcm").read_bytes(), tmp_path / "x.dcm", max_pixels=100)
    assert inspect(tmp_path / "x.dcm").size == "20×24"

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"reading DICOM needs pydicom; run: pip install 'diptych\[dicom\]'"):
        read_image(tmp_path / "x.dcm", ImageConfig(channels=1, bits=16))


def test_a_training_reads_dicom_and_the_check_says_whose_windows_differ(tmp_path: Path) -> None:
    for split in ("trainA", "trainB", "testA", "testB"):
        for number in range(2):
            write_dicom(tmp_path / split / f"{number}.dcm", STORED, **CT, WindowCenter=40 * number, WindowWidth=400)
    config = ImageConfig(channels=1, bits=16)
    found = [each for each in check(PairedConfig(folder=tmp_path, image_a=config, image_b=config))
             if "its own window" in each.what]
    assert len(found) == 2 and all(each.severity == "warning" for each in found)
    window = ImageConfig(channels=1, bits=16, window=(40, 400))
    assert not [each for each in check(PairedConfig(folder=tmp_path, image_a=window, image_b=window))
                if "its own window" in each.what]
    train(recipe(tmp_path, window, every={"sample": None, "evaluate": None}), tmp_path / "run", Silent())
    assert load_release(tmp_path / "run").image_out.value_range == (-160, 240)


# ---- pages of a TIFF as channels


BANDS = np.random.default_rng(1).integers(0, 65536, (5, 24, 20)).astype(np.uint16)


def test_pages_are_channels_where_the_recipe_says_so(tmp_path: Path) -> None:
    """A satellite's bands, or a microscope's stains, lie in pages: such files were refused in training, and converted
    as if each page were an image."""
    tifffile.imwrite(tmp_path / "x.tif", BANDS, photometric="minisblack")
    config = ImageConfig(channels=5, bits=16, pages="channels")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", config), np.moveaxis(BANDS, 0, 2))
    tifffile.imwrite(tmp_path / "one.tif", np.moveaxis(BANDS, 0, 2), photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "one.tif", config), np.moveaxis(BANDS, 0, 2))
    with pytest.raises(ImageError, match=r"5 frames or pages.*pages: channels"):
        read_image(tmp_path / "x.tif", ImageConfig(channels=5, bits=16))
    with pytest.raises(ImageError, match="has 5 channels, the recipe declares 4"):
        read_image(tmp_path / "x.tif", ImageConfig(channels=4, bits=16, pages="channels"))
    with pytest.raises(ImageError, match="above the limit"):
        read_image(tmp_path / "x.tif", config, max_pixels=24 * 20)
    with tifffile.TiffWriter(tmp_path / "other.tif") as writer:
        for page in (BANDS[0], BANDS[1, :12], BANDS[2].astype(np.uint8)):
            writer.write(page, photometric="minisblack", metadata=None)
    with pytest.raises(ImageError, match="not of one size and type"):
        read_image(tmp_path / "other.tif", config)


@pytest.mark.parametrize(("workers", "memory"), [(0, None), (0, "1GB"), (1, "1GB")])
def test_pages_come_out_as_pages(tmp_path: Path, memory: str | None, workers: int) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/x.tif", BANDS, photometric="minisblack")
    release = release_of(Identity(), 5, 16, pages="channels")
    assert convert(tmp_path / "in", tmp_path / "out", release, workers=workers, memory=memory).exit_code == 0
    with tifffile.TiffFile(tmp_path / "out/x.tif") as tiff:
        assert len(tiff.pages) == 5
        np.testing.assert_array_equal(np.stack([page.asarray() for page in tiff.pages]), BANDS)


def test_a_training_takes_pages_as_channels(tmp_path: Path) -> None:
    for split in ("trainA", "trainB"):
        (tmp_path / split).mkdir()
        tifffile.imwrite(tmp_path / split / "0.tif", BANDS, photometric="minisblack")
    config = ImageConfig(channels=5, bits=16, pages="channels")
    assert not [each for each in check(PairedConfig(folder=tmp_path, image_a=config, image_b=config))
                if each.severity == "error" or "channels" in each.what]
    train(recipe(tmp_path, config, every={"sample": None, "evaluate": None}), tmp_path / "run", Silent())
    assert load_release(tmp_path / "run").image_in.pages == "channels"
