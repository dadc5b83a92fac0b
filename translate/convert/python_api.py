"""The Python face of the converter: images in memory, through the same generator in the same way.

    model = translate.load("runs/monet2photo")
    photo = model.convert(Image.open("monet.jpg"))
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from translate.convert.protecting import protected_by, refuse_unkept
from translate.convert.scaling import Resize, Scaling, Size, outside
from translate.convert.translating import Translating
from translate.data.labels import Labelling, numbers_of
from translate.data.scale import Scale
from translate.errors import DoesNotFit, UsageError
from translate.images.decoding import decode, pillow_bits, raw_mode
from translate.images.metadata import exif_bytes, exif_of
from translate.images.pictures import Picture, as_image_errors
from translate.images.reading import ImageConfig, change_bits, under_alpha
from translate.images.resampling import HeightWidth
from translate.images.resized import resized_image
from translate.images.tensors import to_file
from translate.images.writing import holds
from translate.precision import is_out_of_memory

# By Pillow's mode: the format of file that brings an image to the decoder unchanged.
LOSSLESS_FORMATS = {"1": "PNG", "L": "PNG", "LA": "PNG", "P": "PNG", "RGB": "PNG", "RGBA": "PNG", "I;16": "PNG",
                    "PA": "TIFF", "CMYK": "TIFF", "F": "TIFF"}
# Modes that no file holds, or that Pillow does not read back as it has written them, and what they become
FILE_MODES = {"RGBX": "RGB", "YCbCr": "RGB", "RGBa": "RGBA", "La": "LA"}
Mask = np.ndarray | Image.Image  # (H, W), 0 where an image may change


class Model:
    """A generator ready to translate images. `image_in` and `image_out` say what goes in and what comes out.

    `scale` says at what scale it was trained; None where that is not known.
    """

    def __init__(self, translating: Translating):
        self._translating = translating
        self.image_in: ImageConfig = translating.release.image_in
        self.image_out: ImageConfig = translating.release.image_out
        self.scale: Scale | None = translating.release.scale
        self._warned = False

    def __repr__(self) -> str:
        release, where = self._translating.release, self._translating
        return f"<{release.name}, {release.direction}, on {where.device} in {where.precision}>"

    def sample(self, num: int, seed: int = 0, classes: Iterable[int | str] | None = None,
               truncation: float | None = None) -> list[Image.Image]:
        """Draw images from noise: what `translate.convert.from_noise.NoiseModel` does. Raises `UsageError` here."""
        raise UsageError("sample: this model translates images and draws none from noise; use convert(image)")

    @overload
    def convert(self, image: Image.Image, resize: Resize | None = None, size: Size = "resized",
                protect: Mask | None = None) -> Image.Image: ...
    @overload
    def convert(self, image: np.ndarray, resize: Resize | None = None, size: Size = "resized",
                protect: Mask | None = None) -> np.ndarray: ...
    @overload
    def convert(self, image: Tensor, resize: Resize | None = None, size: Size = "resized",
                protect: Mask | None = None) -> Tensor: ...

    def convert(self, image: Any, resize: Resize | None = None, size: Size = "resized",
                protect: Mask | None = None) -> Any:
        """Translate an image; what comes out is of the kind that went in, and of the same height and width.

        resize   translate it at another scale: a short side in px, or `trained`, the range of short sides that the
                 model was trained on (`model.scale`), into which the image's is brought by as little as can be
        size     what comes out then has the size that it was translated in (`resized`), or the image's (`input`)
        protect  a mask of the image's height and width; of a PIL image, those that it has once it is upright. Where the
                 mask is not 0, what comes out has the image's own samples. For PIL images and arrays

        PIL image    of any mode that a file read by the converter has, turned upright → L, RGB, RGBA, I;16 or F, as
                     the recipe declares; with its alpha, and its ICC profile and EXIF in `info`
        array        (H, W) or (H, W, C), uint8, uint16 or float32 in [-1, 1] → (H, W, C') of the depth that the recipe
                     declares: uint8, uint16, or float32 in [-1, 1]; (H, W) where one was given and C' is 1
        tensor       (C, H, W) or (N, C, H, W), floats in [-1, 1] → (C', H, W) or (N, C', H, W) float32 in [-1, 1], on
                     the device it came from

        A model of label maps takes class numbers, as a PIL image (L or P) or an array (H, W), or their one-hot form as
        a tensor. One `UserWarning` of a model says that an image was translated at a scale beyond the model's, by more
        than a third. Raises `UsageError` for anything else, `ImageError` for an image that is not what the recipe
        declares or cannot be read (closed, cut off), and for an output that is not finite, `DoesNotFit` where there is
        too little memory.
        """
        scaling = Scaling.of(resize, size, self.scale)
        if protect is not None:
            refuse_unkept(self._translating.release, scaling, None)
            if isinstance(image, Tensor):
                raise UsageError("protect: got a tensor, whose samples are no file's; torch.where(mask, image, output) "
                                 "does it")
        translating = replace(self._translating, scaling=scaling)
        ways: dict[type, Callable[[Any, Translating], Any]] = {
            Image.Image: functools.partial(self._convert_pil, protect=protect),
            np.ndarray: functools.partial(self._convert_array, protect=protect), Tensor: self._convert_tensor}
        convert = next((way for kind, way in ways.items() if isinstance(image, kind)), None)
        if convert is not None:
            try:
                return convert(image, translating)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            raise DoesNotFit("convert: the image needs more memory than there is; load the model with a memory (such "
                             "as 2GB), or on another device")
        raise UsageError(f"convert: got {type(image).__name__}; expected a PIL image, a NumPy array or a tensor "
                         "(files are for `translate convert`)")

    def _convert_pil(self, image: Image.Image, translating: Translating, protect: Mask | None) -> Image.Image:
        # What comes out must be an image of Pillow's as well.
        bits, channels = self.image_out.bits, self.image_out.channels
        signed = self.image_out.file_dtype == np.int16
        if signed or channels not in ((1, 3, 4) if bits == 8 else (1,)):
            raise UsageError(f"convert: a PIL image cannot hold what this model gives ({channels} channels, bits: "
                             f"{bits}{', with a sign' * signed}); pass an array or a tensor")

        # A palette's colours mean nothing to a model of label maps: its numbers are the classes.
        if 0 in image.size:
            raise UsageError(f"convert: got an empty PIL image ({image.width}×{image.height})")
        with as_image_errors(Path("image"), "read"):
            picture = Picture(Path("image"), numbers_of(loaded(image), Path("image"))) \
                if self._translating.release.labels else picture_of(image)

        # Alpha, profile and EXIF go along, and what is protected stays.
        own = picture
        picture, pixels = self._translated(picture, translating)
        alpha = None
        if picture.alpha is not None and holds(".png", channels, bits, alpha=True):
            alpha = change_bits(picture.alpha, bits)
            pixels = under_alpha(pixels, alpha, self.image_in, self.image_out)
        if protect is not None:
            pixels = protected_by(protect, own, pixels)
        if alpha is not None:
            pixels = np.dstack([pixels, alpha])
        made = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        made.info |= {name: value for name, value in (("icc_profile", picture.icc), ("exif", picture.exif)) if value}
        return made

    def _convert_array(self, array: np.ndarray, translating: Translating, protect: Mask | None) -> np.ndarray:
        if np.ma.isMaskedArray(array):
            raise UsageError("convert: got a masked array; put a value where it is masked (array.filled)")
        taken = [np.uint8, np.uint16, np.float32, *([np.int16] if self.image_in.value_range is not None else [])]
        if array.ndim not in (2, 3) or array.dtype not in taken or 0 in array.shape:
            raise UsageError(f"convert: got an array {array.shape} of {array.dtype}; expected (H, W) or (H, W, C) of "
                             "uint8, uint16, or float32 in [-1, 1]")
        pixels = array[..., None] if array.ndim == 2 else array
        if array.dtype == np.float32:
            check_range(float(array.min()), float(array.max()))
        own = Picture(Path("array"), pixels)
        _, made = self._translated(own, translating)
        if protect is not None:
            made = protected_by(protect, own, made)
        return made[..., 0] if array.ndim == 2 and made.shape[2] == 1 else made

    def _convert_tensor(self, tensor: Tensor, translating: Translating) -> Tensor:
        labels = self._translating.release.labels
        channels = self.image_in.channels if labels is None else labels.channels
        if (tensor.ndim not in (3, 4) or not tensor.is_floating_point() or tensor.shape[-3] != channels
                or 0 in tensor.shape):
            raise UsageError(f"convert: got a tensor {tuple(tensor.shape)} of {tensor.dtype}; expected floats in "
                             f"[-1, 1], ({channels}, H, W) or (N, {channels}, H, W)")
        if tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
            kind = "a meta" if tensor.is_meta else "a nested" if tensor.is_nested else "a quantized" \
                if tensor.is_quantized else f"a sparse ({tensor.layout})"
            raise UsageError(f"convert: got {kind} tensor; expected a dense one with values")
        tensor = tensor.detach()
        check_range(float(tensor.min()), float(tensor.max()))
        if labels is not None:
            check_one_hot(tensor, labels)
        images = tensor.to(torch.float32).reshape(-1, *tensor.shape[-3:])
        own = images.shape[2], images.shape[3]
        shape = translating.scaling.shape_of(own)
        self._warn_of_scale(shape, 4)
        back = own if translating.scaling.give_back == "input" else shape
        made = torch.stack([translating.translate(self._resized(image.cpu(), shape), Path("tensor"), back)
                            for image in images])
        return made.clamp(-1, 1).reshape(*tensor.shape[:-3], *made.shape[1:]).to(tensor.device)

    def _resized(self, image: Tensor, shape: HeightWidth) -> Tensor:
        """Return an image (C, H, W), or a one-hot label map, at the size in which it is translated."""
        if self._translating.release.labels is None:
            return resized_image(image, shape)
        return torch.nn.functional.interpolate(image[None], shape, mode="nearest-exact")[0]

    def _warn_of_scale(self, shape: HeightWidth, callers: int) -> None:
        """Warn once of an image that is translated in a shape beyond the model's scale.

        `callers` says whose line is to blame: as many functions up from here as to the caller of `convert`.
        """
        fault = outside(self.scale, shape)
        if fault and not self._warned:
            self._warned = True
            warnings.warn(f"the image {fault}; convert(image, resize=\"trained\", size=\"input\") translates "
                          "it at that scale, and gives it back in its own size", stacklevel=callers)

    def _translated(self, picture: Picture, translating: Translating) -> tuple[Picture, np.ndarray]:
        """Return the picture in the recipe's depth, of the size that is given back, and its translation (H, W, C')."""
        labels = translating.release.labels
        if labels is not None:
            check_classes(picture.pixels, labels)
            picture = replace(picture, pixels=labels.renumbered(picture.pixels))
        elif picture.pixels.dtype == np.float32:  # as the generator takes it, whatever the files are
            image_in = self.image_in.model_copy(update={"bits": "float", "range": None, "window": None})
            translating = replace(translating, release=replace(translating.release, image_in=image_in))
        picture, image = translating.prepare(picture)
        self._warn_of_scale((image.shape[1], image.shape[2]), 5)
        shape = picture.pixels.shape[0], picture.pixels.shape[1]
        return picture, to_file(translating.translate(image, picture.path, shape), self.image_out)


def picture_of(image: Image.Image) -> Picture:
    """Return what a file of this image would be read as.

    Raises `UsageError` for a mode that no such file has, and for an image that Pillow has opened and not yet loaded,
    whose 16-bit colours it would cut to 8 bits (the decoder of files does not).
    """
    # Upright, and with the EXIF that then goes along; nothing may be cut on the way.
    bits = 16 if ";16" in raw_mode(image) else file_bits(image)
    if bits != 8 and not image.mode.startswith(("I", "F")):
        raise UsageError(f"convert: the PIL image is of a {image.format} with {bits}-bit samples, which Pillow would "
                         "cut to 8 bits; pass them as a NumPy array of uint16, or the file to `translate convert`")
    image = ImageOps.exif_transpose(loaded(image))
    exif = exif_bytes(exif_of(image))

    # A mode that a file can hold.
    if image.mode in FILE_MODES:
        image = image.convert(FILE_MODES[image.mode])
    elif image.mode == "I":  # how Pillow opens some 16-bit files
        numbers = np.asarray(image)
        if numbers.min() >= 0 and numbers.max() <= 65535:
            image = Image.fromarray(numbers.astype(np.uint16))
    if image.mode not in LOSSLESS_FORMATS:
        raise UsageError(f"convert: got a PIL image of mode {image.mode}; "
                         f"expected one of {', '.join(LOSSLESS_FORMATS)}")

    # Through such a file, so that both ways to the generator are one.
    file, file_format = io.BytesIO(), LOSSLESS_FORMATS[image.mode]
    image.save(file, file_format, **({"compress_level": 0} if file_format == "PNG" else {}))
    picture = decode(file.getvalue(), Path("image"), image.width * image.height)
    return replace(picture, exif=exif)


def loaded(image: Image.Image) -> Image.Image:
    """Load an image that Pillow has opened. Without mapping a TIFF's file: Pillow 13.0 scrambles one stored sideways.
    """
    name = getattr(image, "filename", None)
    if image.format != "TIFF" or not name:
        return image
    try:
        image.filename = ""  # type: ignore[attr-defined]
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]
    return image


def file_bits(image: Image.Image) -> int | str:
    """Return the depth of the file of an image that Pillow has opened and not yet loaded; 8 where that is not known."""
    file = getattr(image, "fp", None)
    if image.format not in ("PPM", "HEIF", "AVIF") or file is None or file.closed:
        return 8
    place = file.tell()
    try:
        return pillow_bits(image, file)
    finally:
        file.seek(place)


def check_one_hot(tensor: Tensor, labels: Labelling) -> None:
    """Raise `UsageError` unless a tensor (…, C, H, W) is what `labels` makes of label maps: ones, and at most one class
    a pixel."""
    classes = tensor.narrow(-3, 0, labels.classes).sum(-3)
    if not ((tensor == 0) | (tensor == 1)).all() or (classes > 1).any():
        raise UsageError("convert: this model takes label maps, as a tensor one-hot: 1 in the plane of a pixel's class "
                         f"and 0 in all others; got values from {float(tensor.min()):g} to {float(tensor.max()):g}, "
                         f"and up to {float(classes.max()):g} classes a pixel")


def check_classes(numbers: np.ndarray, labels: Labelling) -> None:
    """Raise `UsageError` unless an array (H, W, 1) holds nothing but the classes of a recipe."""
    if numbers.shape[2] != 1 or numbers.dtype.kind != "u":
        raise UsageError(f"convert: this model takes label maps, one class number a pixel (H, W) of uint8 or uint16; "
                         f"got {numbers.shape} of {numbers.dtype}")
    if fault := labels.fault(numbers):
        raise UsageError(f"convert: {fault}")


def check_range(low: float, high: float) -> None:
    """Raise `UsageError` unless samples lie in [-1, 1]."""
    if not (low >= -1 and high <= 1):  # also true of NaN
        raise UsageError(f"convert: got floats from {low:g} to {high:g}; they are to lie in [-1, 1]: x / 127.5 - 1 for "
                         "samples of 8 bits")
