"""The Python face: what goes into `translate.load(path).convert(image)`, and what comes out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import nn

import translate
from tests.conftest import waves
from tests.conversions import Identity, noise, release_of, tiny_release
from tests.runs import cyclegan_recipe
from translate.convert import convert
from translate.convert.python_api import Model
from translate.convert.translating import Translating
from translate.data.labels import Labelling
from translate.errors import ImageError, UsageError
from translate.images.pictures import Bits
from translate.images.reading import read_image
from translate.images.writing import write_image
from translate.recipe import Recipe
from translate.runs.release import Release


def model_of(generator: nn.Module | None = None, channels: int = 3, bits: Bits = 8) -> Model:
    release = tiny_release() if generator is None else release_of(generator, channels, bits)
    return Model(Translating.with_release(release, precision="fp32"))


def test_a_loaded_model_gives_what_the_converter_writes(shared_pairs: Path, tmp_path: Path,
                                                        trained: Callable[[Recipe], Path]) -> None:
    """From a run folder, in both directions and within a memory."""
    run = trained(cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 2, "batch_size": 2}]))
    Image.fromarray(waves(1, (33, 47))).save(tmp_path / "x.png")
    for direction in ("ab", "ba"):
        model = translate.load(run, direction, precision="fp32")
        release = model._translating.release
        convert(tmp_path / "x.png", tmp_path / f"{direction}.png", release, precision="fp32")
        written = np.asarray(Image.open(tmp_path / f"{direction}.png"))
        with Image.open(tmp_path / "x.png") as image:
            np.testing.assert_array_equal(np.asarray(model.convert(image)), written)
            in_strips = translate.load(str(run), direction, precision="fp32", memory="1GB").convert(image)
        assert abs(np.asarray(in_strips).astype(int) - written).max() <= 1
        np.testing.assert_array_equal(model.convert(waves(1, (33, 47))), written)
    assert (written != np.asarray(Image.open(tmp_path / "ab.png"))).any()
    with pytest.raises(UsageError, match="is not a size of memory"):
        translate.load(run, memory="lots")


def images_of_all_modes() -> list[Image.Image]:
    colour = Image.fromarray(noise(9, 14))
    images = [colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "RGBX")]
    palette = colour.quantize(8)
    palette.info["transparency"] = 2
    see_through = Image.fromarray(noise(9, 14, 4))
    return [*images, palette, see_through, see_through.convert("RGBa"), see_through.convert("PA")]


@pytest.mark.parametrize("image", images_of_all_modes(), ids=lambda image: image.mode)
def test_every_mode_of_pil_is_taken_as_pillow_itself_understands_it(image: Image.Image) -> None:
    """Colours and alpha of an identity model are Pillow's own conversion to RGB and RGBA."""
    given = image.copy()
    made = model_of(Identity()).convert(image)
    assert made.mode == ("RGBA" if image.has_transparency_data or image.mode == "RGBa" else "RGB")
    np.testing.assert_array_equal(np.asarray(made), np.asarray(image.convert(made.mode)))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(given))  # and the caller's image is untouched


def test_grey_deep_and_float_pil_images_keep_their_depth() -> None:
    deep = Image.fromarray(noise(8, 9, 1, dtype=np.uint16)[..., 0])
    for image in (deep, Image.fromarray(np.asarray(deep).astype(np.int32))):  # I;16, and I as Pillow opens some files
        made = model_of(Identity(), 1, 16).convert(image)
        assert made.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(made), np.asarray(deep))
    floats = Image.fromarray(np.linspace(-1, 1, 72, dtype=np.float32).reshape(8, 9))
    np.testing.assert_array_equal(np.asarray(model_of(Identity(), 1, "float").convert(floats)), np.asarray(floats))
    see_through = Image.merge("LA", [Image.fromarray(noise(8, 9, 1, seed)[..., 0]) for seed in (1, 2)])
    np.testing.assert_array_equal(np.asarray(model_of(Identity(), 1).convert(see_through)), np.asarray(see_through))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_samples_that_pillow_would_cut_are_refused_before_it_does(channels: int, tmp_path: Path) -> None:
    """The command line refuses the same file by a recipe of 8 bits, and reads all of it by one of 16."""
    array = noise(20, 20, channels, dtype=np.uint16)
    colours, alpha = (array, None) if channels == 3 else (array[..., :-1], array[..., -1])
    write_image(tmp_path / "deep.png", colours, alpha=alpha)
    model = model_of(Identity(), 1 if channels == 2 else 3)
    with pytest.raises(UsageError, match=r"of a PNG with 16-bit samples, .* NumPy array of uint16, or the file"):
        model.convert(Image.open(tmp_path / "deep.png"))


def test_a_photograph_is_turned_upright_once_and_keeps_profile_and_camera(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    Image.fromarray(noise(6, 9)).save(tmp_path / "x.png", exif=exif, icc_profile=profile)
    with Image.open(tmp_path / "x.png") as image:
        made = model_of(Identity()).convert(image)
    np.testing.assert_array_equal(np.asarray(made), np.rot90(noise(6, 9), -1))
    file = io.BytesIO()
    made.save(file, "PNG", exif=made.info["exif"])
    with Image.open(file) as again:
        assert again.info["icc_profile"] == profile
        assert again.getexif()[0x010F] == "A camera" and 0x0112 not in again.getexif()


@pytest.mark.parametrize("bits", [8, 16, "float"])
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_arrays_come_back_in_the_recipe_s_depth(bits: Bits, channels: int) -> None:
    model = model_of(Identity(), channels, bits)
    floats = np.random.default_rng(0).uniform(-1, 1, (10, 13, channels)).astype(np.float32)
    half = {8: 127.5, 16: 32767.5, "float": None}[bits]
    expected = floats if half is None else np.rint((floats + 1) * np.float32(half))
    made = model.convert(floats)
    assert made.dtype == {8: np.uint8, 16: np.uint16, "float": np.float32}[bits] and made.shape == (10, 13, channels)
    np.testing.assert_array_equal(made, expected.astype(made.dtype))
    np.testing.assert_array_equal(model.convert(made), made)  # and go in in that depth
    if channels == 1:
        np.testing.assert_array_equal(model.convert(floats[..., 0]), made[..., 0])


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_protected_in_memory_is_what_the_converter_protects(bits: Bits, tmp_path: Path) -> None:
    model = model_of(tiny_release().generator, bits=bits)
    image, mask = noise(20, 30, 3, 0, np.uint8 if bits == 8 else np.uint16), np.zeros((20, 30), np.uint8)
    mask[3:9, 5:20] = 255
    for folder, pixels in (("in", image), ("masks", mask[..., None])):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "x.png", pixels)
    convert(tmp_path / "in", tmp_path / "out", model._translating.release, precision="fp32", protect=tmp_path / "masks")
    made = model.convert(image, protect=mask)
    np.testing.assert_array_equal(made, read_image(tmp_path / "out" / "x.png", model.image_out))
    np.testing.assert_array_equal(made[mask > 0], image[mask > 0])
    np.testing.assert_array_equal(made[mask == 0], model.convert(image)[mask == 0])
    if bits == 8:
        shown = model.convert(Image.fromarray(image), protect=Image.fromarray(mask > 0))
        np.testing.assert_array_equal(np.asarray(shown), made)


def test_a_mask_in_memory_that_cannot_be_meant_is_refused() -> None:
    model, image = model_of(), noise(20, 30)
    for given, mask, words in (
            (image, np.zeros((30, 20), np.uint8), r"mask \(30, 20\)"), (image, np.zeros((20, 30)), "float64"),
            (torch.zeros(3, 20, 30), np.zeros((20, 30), bool), "got a tensor")):
        with pytest.raises(UsageError, match=words):
            model.convert(given, protect=mask)
    with pytest.raises(UsageError, match="outputs of another size"):
        model.convert(image, resize=10, protect=np.zeros((20, 30), bool))


def test_tensors_come_back_as_floats_of_the_same_kind() -> None:
    """And are the generator's own output, image by image: one image's norms see nothing of another."""
    model = model_of()
    batch = torch.rand(3, 3, 12, 17) * 2 - 1
    generator = model._translating.release.generator
    with torch.no_grad():
        expected = torch.cat([generator(image[None]) for image in batch])
    torch.testing.assert_close(model.convert(batch), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.convert(batch[0]), expected[0], rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.convert(batch.clone().requires_grad_())
    made = model.convert(batch.double())
    assert made.dtype == torch.float32 and not made.requires_grad and not made.is_inference()


@pytest.mark.parametrize(("image", "words"), [
    ("photo.png", "got str; expected a PIL image"), (np.zeros((4, 4, 3)), r"\(4, 4, 3\) of float64; expected \(H, W\)"),
    (np.zeros((4, 4, 3), np.int64), "int64"), (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"), (np.full((4, 4, 3), 255, np.float32), "from 255 to 255"),
    (np.full((4, 4, 3), np.nan, np.float32), "floats from nan"), (torch.zeros(3, 4, 4, dtype=torch.uint8), "uint8"),
    (torch.zeros(4, 4, 3), r"got a tensor \(4, 4, 3\)"), (torch.full((3, 4, 4), 1.5), "to 1.5"),
    (torch.zeros(4, 4), "tensor"), (Image.new("HSV", (4, 4)), "mode HSV; expected one of 1, L"),
    (Image.fromarray(np.full((4, 4), 70000, np.int32)), "mode I"),
])
def test_what_cannot_be_translated_is_refused_in_words(image: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        model_of(Identity()).convert(image)  # type: ignore[call-overload]


def test_an_image_that_is_not_what_the_recipe_declares_is_refused() -> None:
    with pytest.raises(ImageError, match="has 2 channels, the recipe declares 3"):
        model_of(Identity()).convert(noise(4, 4, 2))
    with pytest.raises(ImageError, match="holds 16-bit samples, the recipe declares bits: 8"):
        model_of(Identity()).convert(noise(4, 4, 3, dtype=np.uint16))
    with pytest.raises(UsageError, match="cannot hold what this model gives"):
        model_of(Identity(), 3, 16).convert(Image.new("RGB", (4, 4)))


def test_a_model_of_label_maps_takes_class_numbers_and_their_one_hot_form() -> None:
    class FirstThree(Identity):
        def translate(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, :3]

    release: Release = release_of(FirstThree())
    labels = Labelling(classes=4, ignore=255)
    model = Model(Translating.with_release(Release(**vars(release) | {"labels": labels})))
    numbers = np.random.default_rng(0).choice([0, 1, 2, 3, 255], (6, 7)).astype(np.uint8)
    expected = np.where(numbers[..., None] == [0, 1, 2], 255, 128)  # a class's plane is 1 where it is, else 0
    palette = Image.fromarray(numbers)
    palette.putpalette(bytes(range(256)) * 3)
    assert palette.mode == "P"
    for given in (numbers, numbers[..., None], Image.fromarray(numbers), palette):
        np.testing.assert_array_equal(np.asarray(model.convert(given)), expected)
    one_hot = torch.from_numpy((numbers == np.arange(4)[:, None, None]).astype(np.float32))
    torch.testing.assert_close(model.convert(one_hot), one_hot[:3], rtol=0, atol=0)
    with pytest.raises(UsageError, match="class numbers 9; the recipe's are 0 … 3, ignored 255"):
        model.convert(np.full((4, 4), 9, np.uint8))
    with pytest.raises(UsageError, match="takes label maps"):
        model.convert(noise(4, 4))
