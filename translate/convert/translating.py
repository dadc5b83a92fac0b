"""One image translated: the only place where the converter and the Python face meet the generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from translate import tiling
from translate.convert.scaling import Scaling
from translate.data.scale import HeightWidth
from translate.errors import ImageError
from translate.images.pages import Page
from translate.images.pictures import Picture
from translate.images.reading import fit
from translate.images.resized import ResizedSink, resized_image
from translate.images.sinks import RowSink
from translate.images.tensors import to_tensor
from translate.precision import Format, autocast, choose_device, choose_precision
from translate.runs.release import Release
from translate.sizes import num_bytes

Precision = Literal["auto", "fp32", "bf16", "fp16"]
AS_IT_IS = Scaling()


@dataclass(frozen=True)
class Translating:
    """A generator on its device, and how it is to compute."""

    release: Release
    device: torch.device
    precision: Format
    memory: str | None = None
    scaling: Scaling = AS_IT_IS

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
        if labels is not None:
            return given_back, labels.planes(shown.pixels)
        return given_back, to_tensor(shown.pixels, self.release.image_in)

    @torch.inference_mode()
    def translate(self, image: Tensor, path: Path, shape: HeightWidth) -> Tensor:
        """Translate an image (C, H, W) in [-1, 1] to (C', *shape) float32 in [-1, 1], on the CPU.

        The whole image at once, or, with `memory` (such as "2GB"), in strips that need no more and give the same
        output. Raises `ImageError` naming `path` for an output that is not finite.
        """
        with autocast(self.device, self.precision):
            whole, generator = image[None].to(self.device), self.release.generator
            fake = generator(whole) if self.memory is None else tiling.apply(generator, whole, memory=self.memory)
            assert fake is not None, "without a sink the output is returned"
            fake = fake[0].to("cpu", torch.float32)
        if not torch.isfinite(fake).all():
            raise ImageError(path, "convert", "the generator's output is not finite; try precision fp32")
        return resized_image(fake, shape)

    @torch.inference_mode()
    def translate_rows(self, source: Page, sink: RowSink, shape: HeightWidth) -> None:
        """Translate what is read by rows into what is written by rows: in strips, so that neither need be in memory.

        `shape` is the (height, width) of what is written. Without `memory` the whole image is computed at once all the
        same.
        """
        if shape != (source.height, source.width):
            sink = ResizedSink(sink, (source.height, source.width), shape)
        with autocast(self.device, self.precision):
            if self.memory is not None:
                tiling.apply(self.release.generator, source, memory=self.memory, out=sink)
            else:
                sink.write(0, self.release.generator(source.read(0, source.shape[2]).to(self.device)))
