"""The generator of pix2pixHD (Wang et al. 2018, section 3.1): a global generator, and enhancers around it.

The global generator is a ResNet, trained first, on images of half the size. An enhancer is a small one around it: it
sees the image at its full size, and what the generator inside makes of the image at half the size, its last features,
joins what it has itself at that scale. So the picture as a whole is made at the scale where it was learnt, and the
enhancer adds what only the full size shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from translate.errors import Mistake
from translate.networks.growing import Growable, LevelStage
from translate.networks.layers import Generator, Norm, ResNetDownsample, Upsample, downsampled_3x3
from translate.networks.resnet import ResNet
from translate.networks.weights import Initialisation, prepared


class CoarseToFineConfig(Growable):
    """pix2pixHD's generator: the defaults are the published ones, 182.44 M parameters, 182.70 M with an enhancer.

    It begins as the global generator alone. Each of a stage's `levels` is an enhancer, for images of twice the size;
    with `freeze` an enhancer is trained alone, as the paper does at first.
    """

    kind: Literal["coarse_to_fine"] = "coarse_to_fine"
    # of the global generator; each enhancer has half as many channels as what is inside
    width: int = Field(64, ge=2, le=4096)
    blocks: int = Field(9, ge=0, le=256)
    downs: int = Field(4, ge=1, le=6)  # downsamplings in the global generator
    fine_blocks: int = Field(3, ge=0, le=256)  # of each enhancer, at half its resolution
    norm: Norm = "instance"
    upsample: Upsample = "transposed"  # resize, bilinear: slower, and free of checkerboards
    downsample: ResNetDownsample = "strided"  # as of the ResNet generator
    attention: bool = False  # among the blocks of the global generator, at its coarsest scale, where it costs little
    spectral: bool = False  # spectral norm: each convolution's largest singular value is one
    init: Initialisation = "normal"

    fades: ClassVar[bool] = False

    def build(self, in_channels: int, out_channels: int) -> CoarseToFine:
        coarse = ResNet(in_channels, out_channels, self.width, self.blocks, self.norm, self.upsample, self.downs,
                        self.downsample, self.attention)
        return CoarseToFine(prepared(coarse, self.init, self.spectral), in_channels, out_channels)

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has norms that count statistics, which a stage may hold."""
        return self.norm == "batch"

    def grow(self, network: CoarseToFine) -> None:
        """Add an enhancer, of half as many channels as what is inside; it is there at once."""
        width, odd = divmod(self.width, 2**(network.levels + 1))
        assert not odd, f"a recipe refuses {network.levels + 1} levels of {self.width} channels"
        fine = ResNet(network.in_channels, network.out_channels, width, self.fine_blocks, self.norm, self.upsample, 1,
                      self.downsample)
        network.grow(prepared(fine, self.init, self.spectral))

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        """Yield what is wrong with the stages' levels, and a width that does not halve once for each level."""
        yield from super().level_problems(stages, begun)
        for number, stage in enumerate(stages):
            if self.width % 2**stage.levels:
                yield Mistake("translator.generator.width", f"{self.width} cannot be halved {stage.levels} times, "
                              f"once for each of stages.{number}.levels", f"use a multiple of {2**stage.levels}")


class CoarseToFine(Generator):
    """A global generator for images of one size, and `levels` enhancers, each for images of twice the size."""

    levels = 0

    def __init__(self, coarse: ResNet, in_channels: int, out_channels: int):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.multiple, self.smallest = coarse.multiple, coarse.smallest
        self.coarse, self.fine = coarse, nn.ModuleList()

    def translate(self, image: Tensor) -> Tensor:
        # The image at every size that a network sees, the full one first.
        sizes = [image]
        for _ in self.fine:
            sizes.append(downsampled_3x3(sizes[-1]))

        # From the inside out: each hands its features on to the next, and the outermost makes the image.
        inside: Tensor | None = None
        for network in [self.coarse, *self.fine][:-1]:
            inside = cast(ResNet, network).full_size_features(sizes.pop(), inside)
        return cast(ResNet, self.fine[-1] if self.levels else self.coarse).translate(sizes.pop(), inside)

    def trunk_parts(self) -> list[nn.Module]:
        return [cast(ResNet, network).trunk for network in [self.coarse, *self.fine]]

    def grow(self, fine: ResNet) -> None:
        """Put an enhancer around; what was outermost gives features from now on, and no image."""
        cast(ResNet, self.fine[-1] if self.levels else self.coarse).drop_last_convolution()
        self.fine.append(fine)
        self.levels, self.multiple, self.smallest = self.levels + 1, 2 * self.multiple, 2 * self.smallest

    def drop_faded(self) -> None:
        """Do nothing: an enhancer is there at once, and replaces nothing."""

    def newest(self) -> list[nn.Module]:
        """Return the enhancer that was added last; none before."""
        return [self.fine[-1]] if self.levels else []
