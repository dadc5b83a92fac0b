"""Regions that must not change: the input's own samples, at every depth, in every format that keeps them, in strips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from torch import Tensor, nn

from tests.cluster import Elsewhere
from tests.conversions import noise, release_of, tree
from tests.covering import each_value
from translate.convert import Summary, convert
from translate.convert.protecting import Composing, num_changed
from translate.convert.translating import Translating
from translate.errors import TranslateError
from translate.images.decoder_process import DecoderProcess
from translate.images.decoding import decode, read_content
from translate.images.pictures import Picture
from translate.images.row_readers import FilePage
from translate.images.writing import write_image
from translate.networks.layers import Generator
from translate.runs.release import Release
from translate.tiling import Settings

HEIGHT, WIDTH = 40, 36


class Changed(Generator):
    """The negative, blurred: every sample changes."""

    multiple, smallest = 4, 8

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.constant_(self.conv.weight, -0.09)

    def translate(self, image: Tensor) -> Tensor:
        return self.conv(image)


def model(channels: int = 3, bits: Any = 8, **fields: Any) -> Release:
    return release_of(Changed(channels), channels, bits, **fields)


def blob(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A round region, one that touches the border, and a single pixel."""
    down, right = np.indices((height, width))
    mask = (np.hypot(down - 15, right - 14) < 10) | ((down > height - 6) & (right > width // 2))
    mask[2, width - 2] = True
    return np.where(mask, 255, 0).astype(np.uint8)


def floats() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (HEIGHT, WIDTH, 2)).astype(np.float32)


def with_alpha() -> np.ndarray:
    pixels = noise(HEIGHT, WIDTH, 4)
    pixels[..., 3] = np.where(np.arange(WIDTH) < 12, 90, 255)
    return pixels


# What a file holds, its suffix, and the fields of its side in a recipe
STORED: dict[str, tuple[np.ndarray, str, dict[str, Any]]] = {
    "rgb": (noise(HEIGHT, WIDTH), ".png", {"channels": 3}),
    "grey": (noise(HEIGHT, WIDTH, 1), ".bmp", {"channels": 1}),
    "webp": (noise(HEIGHT, WIDTH), ".webp", {"channels": 3}),
    "deep png": (noise(HEIGHT, WIDTH, 3, dtype=np.uint16), ".png", {"channels": 3, "bits": 16}),
    "five deep channels": (noise(HEIGHT, WIDTH, 5, dtype=np.uint16), ".tif", {"channels": 5, "bits": 16}),
    "floats": (floats(), ".tif", {"channels": 2, "bits": "float"}),
    "transparent": (with_alpha(), ".png", {"channels": 3, "background": "white"}),
    "alpha as a channel": (with_alpha(), ".png", {"channels": 4}),
    "twelve bits": (noise(HEIGHT, WIDTH, 1, dtype=np.uint16) // 16, ".tif", {
        "channels": 1, "bits": 16, "range": (0, 4095)}),
}


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.shape[2] == 4:
        Image.fromarray(pixels).save(path)
    elif path.suffix == ".tif" and pixels.shape[2] in (2, 5):
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    else:
        write_image(path, pixels)
    return path


def samples(path: Path) -> np.ndarray:
    picture = decode(read_content(path), path)
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])


def run(folder: Path, release: Release, **options: Any) -> Summary:
    return convert(folder / "in", folder / "out", release, workers=0, protect=folder / "masks", **options)


@each_value(name=list(STORED), strip_rows={"at once": None, "in strips": 7})
def test_protected_samples_are_the_inputs_to_the_byte(name: str, strip_rows: int | None, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """And all others are those of a translation without masks, to the byte."""
    monkeypatch.setattr(Translating, "_strips", lambda *arguments: Settings(strip_rows or 1))
    memory = None if strip_rows is None else "1GB"
    pixels, suffix, fields = STORED[name]
    source = write(tmp_path / "in" / f"x{suffix}", pixels)
    write(tmp_path / "masks" / "x.png", blob()[..., None])
    release = model(**fields)
    summary = run(tmp_path, release, memory=memory)
    assert summary.exit_code == 0, summary.failed
    convert(tmp_path / "in", tmp_path / "free", release, workers=0, memory=memory)
    given, made, free = (samples(tmp_path / each / source.name) for each in ("in", "out", "free"))
    mask = blob() > 0
    assert made.dtype == given.dtype
    np.testing.assert_array_equal(made[mask], given[mask])
    np.testing.assert_array_equal(made[~mask], free[~mask])
    assert (free[mask] != given[mask]).any(-1).mean() > 0.9, "without masks they would have changed"


@pytest.mark.parametrize("feather", [0.0, 3.0, 4.5])
def test_every_height_of_strips_composes_alike(feather: float) -> None:
    """A feather looks at rows above and below its own."""
    image, made = noise(HEIGHT, WIDTH, 3, 1), noise(HEIGHT, WIDTH, 3, 2)

    def composing() -> Composing:
        page, mask = (FilePage.of_picture(Picture(Path("x.png"), each)) for each in (image, blob()[..., None]))
        return Composing(page, mask, Path("mask.png"), feather)

    whole = composing()(0, made)
    for rows in range(1, HEIGHT):
        strips = composing()
        np.testing.assert_array_equal(np.concatenate([
            strips(start, made[start:start + rows]) for start in range(0, HEIGHT, rows)]), whole)


def test_a_feather_stays_inside_of_the_mask(tmp_path: Path) -> None:
    """The translation fades into the input: nothing outside of the mask is touched, and its core is the input's."""
    image, made = np.full((HEIGHT, WIDTH, 3), 200, np.uint8), np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    page, mask = (FilePage.of_picture(Picture(Path("x.png"), each)) for each in (image, blob()[..., None]))
    found = Composing(page, mask, Path("mask.png"), 3.0)(0, made)
    down, right = np.indices((HEIGHT, WIDTH))
    away = np.hypot(down - 15, right - 14)
    assert (found[blob() == 0] == 100).all() and (found[away < 5.9] == 200).all()
    profile = found[15, 14:26, 0].astype(int)
    assert (np.diff(profile) <= 0).all() and len(set(profile)) >= 4


@pytest.mark.parametrize(("break_it", "said"), [
    (lambda masks: (masks / "x.png").unlink(), "holds no mask for 1 of 2 images: "),
    (lambda masks: write(masks / "x.png", blob(HEIGHT + 1)[..., None]), "x.png: is 36×41 pixels, and its image"),
    (lambda masks: write(masks / "x.png", noise(HEIGHT, WIDTH)), "is no mask: a mask has one channel"),
    (lambda masks: write(masks / "x.bmp", blob()[..., None]), "has the name of x.bmp, and masks are found by name"),
    (lambda masks: (masks / "x.png").write_bytes(b"nothing"), "x.png: read: "),
], ids=["missing", "size", "colours", "two", "unreadable"])
def test_a_wrong_mask_is_named_before_anything_is_converted(break_it: Any, said: str, tmp_path: Path) -> None:
    for name in ("a", "x"):
        write(tmp_path / "in" / f"{name}.png", noise(HEIGHT, WIDTH))
        write(tmp_path / "masks" / f"{name}.png", blob()[..., None])
    break_it(tmp_path / "masks")
    with pytest.raises(TranslateError) as caught:
        run(tmp_path, model())
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_kept_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "in" / "x.jpg", noise(HEIGHT, WIDTH))
    write(tmp_path / "masks" / "x.png", blob()[..., None])
    for options, said in (({}, "does not keep pixels"), ({"resize": 20}, "of another size"),
                          ({"file_format": "webp", "quality": 80}, "lose something"), ({"feather": -1.0}, "feather")):
        with pytest.raises(TranslateError, match=said):
            run(tmp_path, model(), **options)
    with pytest.raises(TranslateError, match="is of a folder of masks, and none is named"):
        convert(tmp_path / "in", tmp_path / "out", model(), workers=0, feather=2.0)
    assert run(tmp_path, model(), file_format="png").exit_code == 0
    mask = blob() > 0
    np.testing.assert_array_equal(samples(tmp_path / "out" / "x.png")[mask], samples(tmp_path / "in" / "x.jpg")[mask])

    # Soft borders are no mask, and are found when it is the file's turn
    write(tmp_path / "masks" / "x.png", noise(HEIGHT, WIDTH, 1))
    summary = run(tmp_path, model(), file_format="png")
    assert "more values than 0 and one other" in str(summary.failed[0])


def test_an_output_is_made_again_when_its_mask_is_another(tmp_path: Path) -> None:
    write(tmp_path / "in" / "x.png", noise(HEIGHT, WIDTH))
    write(tmp_path / "masks" / "x.png", blob()[..., None])
    assert run(tmp_path, model()).converted == 1
    assert run(tmp_path, model()).already == 1
    assert run(tmp_path, model(), feather=2.0).converted == 1
    write(tmp_path / "masks" / "x.png", 255 - blob()[..., None])
    assert run(tmp_path, model(), feather=2.0).converted == 1
    assert convert(tmp_path / "in", tmp_path / "out", model(), workers=0).converted == 1


def test_masks_are_read_by_the_processes_that_decode_the_images(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own for each image and each mask took twenty times as long as the conversion."""
    for number in range(6):
        write(tmp_path / "in" / f"{number}.png", noise(HEIGHT, WIDTH, seed=number))
        write(tmp_path / "masks" / f"{number}.tif", np.roll(blob(), number)[..., None])
    release = model()
    started, start = [], DecoderProcess._start
    monkeypatch.setattr(DecoderProcess, "_start", lambda self: started.append(self) or start(self))
    assert run(tmp_path, release).converted == 6 and not started
    convert(tmp_path / "in", tmp_path / "apart", release, workers=1, protect=tmp_path / "masks")
    assert len(started) == 1
    assert tree(tmp_path / "apart") == tree(tmp_path / "out")


def test_an_input_in_another_form_than_the_models_keeps_its_own_samples(tmp_path: Path) -> None:
    """Grey shown to a model of colours, and a file of one page that is read by rows."""
    write(tmp_path / "masks" / "x.png", blob()[..., None])
    write(tmp_path / "in" / "x.png", noise(HEIGHT, WIDTH, 1))
    assert run(tmp_path, model()).converted == 1
    before, after = (decode(read_content(path), path) for path in (tmp_path / "in/x.png", tmp_path / "out/x.png"))
    assert after.pixels.shape[2] == 3 and num_changed(before, after, blob() > 0) == 0
    assert num_changed(before, after, blob() == 0) > 1000


def test_what_of_a_protected_pixel_has_changed_is_counted() -> None:
    """Its colours, its alpha, and no NaN that stayed one."""
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    values = floats()
    values[3, 4] = np.nan
    before = Picture(Path("x.tif"), values)
    assert num_changed(before, Picture(Path("y.tif"), values.copy()), everywhere) == 0
    values = values.copy()
    values[3, 4, 0], values[7, 7, 1] = 0.0, np.nan
    assert num_changed(before, Picture(Path("y.tif"), values), everywhere) == 2

    pixels = with_alpha()
    seen, alpha = pixels[..., :3], pixels[..., 3]
    before = Picture(Path("x.png"), seen, alpha)
    faded = alpha.copy()
    faded[5, :2] = 91
    for after, expected in ((Picture(Path("y.png"), seen, alpha), 0), (Picture(Path("y.png"), seen, faded), 2),
                            (Picture(Path("y.png"), seen), 12 * HEIGHT), (Picture(Path("y.tif"), pixels), 0)):
        assert num_changed(before, after, everywhere) == expected
    opaque = Picture(Path("x.png"), seen)
    assert num_changed(opaque, Picture(Path("y.png"), seen, np.full_like(alpha, 255)), everywhere) == 0
    assert num_changed(opaque, Picture(Path("y.png"), seen.astype(np.uint16)), everywhere) == HEIGHT * WIDTH


def test_relative_paths_mean_the_same_to_workers_in_other_folders(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "x.png", noise(HEIGHT, WIDTH))
    write(tmp_path / "masks" / "x.png", blob()[..., None])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    release = model()
    summary = convert(Path("in"), Path("far"), release, protect=Path("masks"), workers=0,
                      engine=Elsewhere(tmp_path / "elsewhere"))  # type: ignore[arg-type]
    assert summary.exit_code == 0, summary.failed
    convert(Path("in"), Path("near"), release, protect=Path("masks"), workers=0)
    assert tree(tmp_path / "far") == tree(tmp_path / "near") and not list((tmp_path / "elsewhere").iterdir())
