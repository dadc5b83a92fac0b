"""The Python face checks what the command checks: a second way in that checks less gives silent wrong results."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conversions import Identity, noise, release_of
from translate.convert import convert
from translate.convert.python_api import Model
from translate.convert.translating import Translating
from translate.data.label_planes import label_planes
from translate.data.labels import Labelling
from translate.errors import DoesNotFit, ImageError, TranslateError, UsageError
from translate.report.run_contents import read_run
from translate.runs.release import Release


class FirstThree(Identity):
    def translate(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3]


def label_release(**fields: object) -> Release:
    return replace(release_of(FirstThree()), labels=Labelling(classes=4, **fields))


def model_of(release: Release) -> Model:
    return Model(Translating.with_release(release, "cpu", "fp32"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_label_map_is_turned_as_the_command_turns_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    """A label map that its camera had stored sideways came out sideways in a notebook, and upright by the command."""
    numbers = np.random.default_rng(0).integers(0, 4, (6, 9)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(numbers).save(tmp_path / f"x{suffix}", exif=exif)
    convert(tmp_path / f"x{suffix}", tmp_path / "out.png", label_release(), workers=0)
    with Image.open(tmp_path / f"x{suffix}") as image, Image.open(tmp_path / "out.png") as expected:
        made = model_of(label_release()).convert(image)
        np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))
        assert made.size == ((6, 9) if orientation in (6, 8) else (9, 6))


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_that_is_stored_turned_is_the_same_to_both(tmp_path: Path, orientation: int) -> None:
    """Pillow 13.0 gives other pixels for it, opened by its name, than it has."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(6, 9)).save(tmp_path / "x.tif", exif=exif)
    convert(tmp_path / "x.tif", tmp_path / "out.png", release_of(Identity()), workers=0)
    with Image.open(tmp_path / "x.tif") as image, Image.open(tmp_path / "out.png") as expected:
        np.testing.assert_array_equal(np.asarray(model_of(release_of(Identity())).convert(image)), np.asarray(expected))


@pytest.mark.parametrize("array", [
    np.dstack([np.full((6, 9), 2, np.uint8)] * 3), noise(6, 9), np.full((6, 9), 9, np.uint8),
    np.full((6, 9), 1.5, np.float32), np.full((6, 9), 3, np.int32), np.full((6, 9), True)],
    ids=["grey as colours", "colours", "no class", "fractions", "32 bits", "one bit"])
def test_label_maps_of_other_kinds_are_taken_or_refused_alike(tmp_path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(tmp_path / "x.tif")
    summary = convert(tmp_path / "x.tif", tmp_path / "out.png", label_release(), workers=0)
    with Image.open(tmp_path / "x.tif") as image:
        if summary.failed:
            with pytest.raises(TranslateError):
                model_of(label_release()).convert(image)
        else:
            np.testing.assert_array_equal(np.asarray(model_of(label_release()).convert(image)),
                                          np.asarray(Image.open(tmp_path / "out.png")))


@pytest.mark.parametrize("change", [lambda planes: planes * 0.5, lambda planes: planes * 2 - 1, torch.ones_like,
                                    lambda planes: planes - 0.25 * planes[:1]],
                         ids=["halves", "of [-1, 1]", "all classes at once", "almost"])
@pytest.mark.parametrize("edges", [False, True])
def test_a_tensor_that_is_not_one_hot_is_refused(change: Callable[[torch.Tensor], torch.Tensor], edges: bool) -> None:
    """Photographs with as many channels as there are classes were taken for label maps."""
    labels = Labelling(classes=4, edges=edges)
    model = model_of(replace(label_release(), labels=labels))
    planes = label_planes(labels, np.arange(54).reshape(6, 9, 1).astype(np.uint8) % 4)
    model.convert(planes)
    model.convert(torch.zeros_like(planes))  # all ignored
    with pytest.raises(UsageError, match="one-hot"):
        model.convert(change(planes))
    with pytest.raises(UsageError, match="one-hot"):
        model.convert(torch.stack([planes, change(planes)]))


def cut_off() -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(noise(60, 60)).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:3000]))


def closed() -> Image.Image:
    image = Image.new("RGB", (5, 5))
    image.close()
    return image


@pytest.mark.parametrize(("image", "kind", "words"), [
    (Image.new("RGB", (0, 5)), UsageError, "empty PIL image"), (closed(), ImageError, "closed"),
    (cut_off(), ImageError, "truncated"), (torch.empty(3, 8, 8, device="meta"), UsageError, "a meta tensor"),
    (torch.zeros(3, 8, 8).to_sparse(), UsageError, "a sparse"),
    (np.ma.masked_equal(noise(8, 8), 3), UsageError, "masked"),
], ids=["empty", "closed", "truncated", "meta", "sparse", "masked"])
@pytest.mark.parametrize("labels", [False, True])
def test_what_others_raise_becomes_an_error_of_ours(image: object, kind: type[Exception], words: str,
                                                    labels: bool) -> None:
    if isinstance(image, torch.Tensor) and labels:
        image = torch.zeros(4, 8, 8, device="meta")
        kind, words = UsageError, "a meta tensor"
    with pytest.raises(kind, match=words):
        model_of(label_release() if labels else release_of(Identity())).convert(image)  # type: ignore[call-overload]


def test_too_little_memory_is_said_as_the_command_says_it() -> None:
    class Hungry(Identity):
        def translate(self, image: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DoesNotFit, match="memory"):
        model_of(release_of(Hungry())).convert(noise(8, 8))


def test_colours_that_pillow_would_cut_are_refused_in_every_format(tmp_path: Path) -> None:
    """The command refuses such a file by a recipe of 8 bits; in memory its lower bits went without a word."""
    (tmp_path / "x.ppm").write_bytes(b"P6 4 4 65535\n" + noise(4, 4, dtype=np.uint16).astype(">u2").tobytes())
    with pytest.raises(UsageError, match="PPM with 16-bit samples"):
        model_of(release_of(Identity())).convert(Image.open(tmp_path / "x.ppm"))
    (tmp_path / "y.ppm").write_bytes(b"P6 4 4 255\n" + noise(4, 4).tobytes())
    made = model_of(release_of(Identity())).convert(Image.open(tmp_path / "y.ppm"))
    np.testing.assert_array_equal(np.asarray(made), noise(4, 4))


def test_damaged_lines_in_the_middle_of_a_log_are_counted_and_said(tmp_path: Path) -> None:
    """They vanished from curves without a word: half of a training's numbers could be gone."""
    (tmp_path / "recipe.yaml").write_text(Path("recipes/monet2photo.yaml").read_text())
    lines = [f'{{"images": {number}, "kind": "train", "l1": 0.5}}' for number in range(1, 9)]
    lines[2], lines[4] = lines[2][:20], "\0\0\0"
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    record = read_run(tmp_path)
    assert [each["images"] for each in record.training] == [1, 2, 4, 6, 7, 8]
    (fault,) = [fault for fault in record.faults if "metrics.jsonl" in fault]
    assert "line 3 and 1 more" in fault
