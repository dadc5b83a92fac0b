"""One image translated: the only place where the converter and the Python face meet the generator."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from translate import tiling
from translate.convert.copies import Copies
from translate.convert.label_rows import LabelRows
from translate.convert.scaling import Scaling
from translate.data.label_planes import label_planes
from translate.errors import DoesNotFit, ImageError
from translate.host.available_memory import Available, usable_memory
from translate.images.pages import Page
from translate.images.pictures import Picture
from translate.images.reading import fit
from translate.images.resampling import HeightWidth
from translate.images.resized import ResizedSink, resized_image
from translate.images.sinks import RowSink
from translate.images.tensors import to_tensor
from translate.precision import Format, autocast, choose_device, choose_precision
from translate.runs.release import Release
from translate.sizes import format_bytes, num_bytes
from translate.tiling.where_it_fits import lacking

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Way:
    """How an image is to be computed: at once (`strips` is None) or in strips, and why, where nobody asked for them."""

    strips: tiling.Settings | None = None
    reason: str | None = None


AS_IT_IS = Scaling()


@dataclass(frozen=True)
class Translating:
    """A generator on its device, and how it is to compute."""

    release: Release
    device: torch.device
    precision: Format
    memory: str | None = None
    scaling: Scaling = AS_IT_IS
    room: Callable[[], Available] = usable_memory  # what an image may take now where `memory` is not given

    @classmethod
    def with_release(cls, release: Release, device: str = "auto", precision: Precision = "auto",
                     memory: str | None = None, scaling: Scaling = AS_IT_IS) -> Translating:
        """Move a generator to a device.

        The precision `auto` computes outputs of 8 bits in the device's fast format, deeper ones in fp32. Raises
        `UsageError` for a device or format that is not there, and for a memory that is no size.
        """
        where = choose_device(device)
        if precision == "auto" and release.image_out.bits != 8:
            precision = "fp32"
        chosen = choose_precision(precision, where)
        if memory is not None:
            num_bytes(memory)
        release.generator.to(where)
        return cls(release, where, chosen, memory, scaling)

    def prepare(self, picture: Picture) -> tuple[Picture, Tensor]:
        """Return a picture in the depth of the recipe, and what the generator is shown of it: (C, H, W) in [-1, 1].

        The picture has the size that its translation is given back in. Raises `ImageError` where it is not what the
        recipe declares.
        """
        labels = self.release.labels
        if labels is None:
            picture = fit(picture, self.release.image_in)
        shown, given_back = self.scaling.picture(picture, labels is not None)
        image = to_tensor(shown.pixels, self.release.image_in) if labels is None else label_planes(labels, shown.pixels)
        return given_back, image.pin_memory() if self.device.type == "cuda" else image

    def way(self, height: int, width: int, beside: int = 0, beside_whole: int = 0) -> Way:
        """Choose how to compute an image, of which other forms take so many bytes `beside`, and more `beside_whole`.

        With `memory`, in strips that keep to it. Without it, at once where that fits into what may be taken now, else
        in strips, which give the same output. On CUDA at once: there a lack of memory is an error, and kills nobody.

        Raises `DoesNotFit` where neither fits, `TilingError` for a network without exact strips under `memory`.
        """
        shape = (1, self.num_planes, height, width)
        if self.memory is not None:
            return Way(self._strips(shape, num_bytes(self.memory)))
        if self.device.type == "cuda":
            return Way()

        why = lacking(self.release.generator, shape, self.room, beside, beside_whole)
        if why is None:
            return Way()
        room = why.room
        try:
            strips = self._strips(shape, max(room.bytes - beside, 1))
        except DoesNotFit as error:
            also = f", {format_bytes(beside)} of it by the image itself" if beside else ""
            raise DoesNotFit(f"{error.what}. {format_bytes(room.bytes)} may be taken{also}: {room.limit_from}",
                             advice="free memory, or use a machine with more") from error
        except tiling.TilingError as error:
            raise DoesNotFit(f"{why}; and it cannot be computed in strips: {error}") from error
        return Way(strips, str(why))

    @property
    def num_planes(self) -> int:
        """How many channels the generator is shown."""
        labels = self.release.labels
        return self.release.image_in.channels if labels is None else labels.channels

    def _strips(self, shape: tuple[int, ...], memory: int) -> tiling.Settings:
        with autocast(self.device, self.precision):
            return tiling.forecast(self.release.generator, shape, memory=memory).settings

    def translate(self, image: Tensor, path: Path, shape: HeightWidth, way: Way | None = None) -> Tensor:
        """Translate an image (C, H, W) in [-1, 1] to (C', *shape) float32 in [-1, 1], on the CPU.

        In the `way` that was chosen for it, or in the one that is chosen now. Raises `ImageError` naming `path` for an
        output that is not finite, and what `way` raises.
        """
        return self.begin(image, path, shape, way)()

    @torch.inference_mode()
    def begin(self, image: Tensor, path: Path, shape: HeightWidth, way: Way | None = None) -> Callable[[], Tensor]:
        """Begin to do so; a GPU then works on while its caller does something else. What is returned waits for it.

        That may be called in another thread, and raises what is the matter with the output.
        """
        way, copies = way or self.way(image.shape[1], image.shape[2]), self._copies
        with autocast(self.device, self.precision):
            whole = image[None].to(self.device) if copies is None else copies.there(image[None])
            generator = self.release.generator
            fake = generator(whole) if way.strips is None else tiling.apply(generator, whole, settings=way.strips)
            fake = fake[0].to(torch.float32)
        arrived = (lambda: fake.to("cpu")) if copies is None else copies.back(fake)

        def finish() -> Tensor:
            made = arrived()
            if not all(math.isfinite(end) for end in made.aminmax()):  # NaN is the least and the largest of all
                raise ImageError(path, "convert", "the generator's output is not finite; try precision fp32")
            return resized_image(made, shape)

        return finish

    @functools.cached_property
    def _copies(self) -> Copies | None:
        return Copies(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def translate_rows(self, source: Page | LabelRows, sink: RowSink, shape: HeightWidth, way: Way) -> None:
        """Translate what is read by rows into what is written by rows: in strips, neither need be in memory.

        `shape` is the (height, width) of what is written.
        """
        if shape != (source.height, source.width):
            sink = ResizedSink(sink, (source.height, source.width), shape)
        with autocast(self.device, self.precision):
            if way.strips is not None:
                tiling.apply(self.release.generator, source, settings=way.strips, out=sink)
            else:
                sink.write(0, self.release.generator(source.read(0, source.shape[2]).to(self.device)))
