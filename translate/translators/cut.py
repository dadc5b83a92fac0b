"""CUT and FastCUT: one-sided unpaired translation, held to its input patch by patch (Park et al. 2020).

A patch of the output should be more like the patch of the input at its own place than like the others: alike in the
generator's own encoder, whose features projection heads make comparable. There is no way back, and no cycle. FastCUT
is `weights: {nce: 10, identity: 0}` with `flip_equivariance: true`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from translate.data import Batch
from translate.losses import LeastSquares, Objective, patch_nce
from translate.networks import DiscriminatorConfig, EncodingConfig, PatchGANConfig, ProjectionHeads, ResNetConfig
from translate.schema import Config
from translate.translators.config import BaseTranslatorConfig, Direction
from translate.translators.stabilisers import Side
from translate.translators.translator import StepTools, Translator


class CUTWeights(Config):
    """L_GAN + λ_X L_PatchNCE(X) + λ_Y L_PatchNCE(Y) (eq. 5), each PatchNCE the mean over layers and patches.

    The paper has 1 and 1 for CUT, 10 and 0 for FastCUT. Its authors' code takes the mean of the two where both are
    used, which is ½ and ½.
    """

    adversarial: float = Field(1.0, ge=0, le=1e9)
    nce: float = Field(1.0, gt=0, le=1e9)  # λ_X: more is truer to the input and changes it less
    identity: float = Field(1.0, ge=0, le=1e9)  # λ_Y: keeps an image of B as it is; 0 leaves its passes out


class CUTConfig(BaseTranslatorConfig):
    """Unpaired translation A → B: one generator, its encoder's projection heads, one discriminator."""

    kind: Literal["cut"] = "cut"
    generator: EncodingConfig = ResNetConfig()
    discriminator: DiscriminatorConfig = PatchGANConfig()
    objective: Objective = LeastSquares()
    weights: CUTWeights = CUTWeights()
    temperature: float = Field(0.07, gt=0, le=1e9)  # τ of eq. 3: less minds only the negatives that are most alike
    patches: int = Field(256, ge=2, le=65_536)  # of each image and layer; each is a negative of all the others
    flip_equivariance: bool = False  # half of the images are translated mirrored: features must be mirrored too

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)
    published_first: ClassVar[Side] = "discriminator"
    needs_pairs: ClassVar[bool] = False
    needs_equal_channels: ClassVar[str | None] = "compares input and output by one encoder"

    def build(self, channels_a: int, channels_b: int, seed: int = 0, num_classes: int = 0) -> CUT:
        return CUT(self, channels_a, channels_b)


class CUT(Translator):
    """One generator A → B, whose encoder also looks at what it made; `heads` and it are trained as one.

    The authors give the heads an optimizer of their own with the generator's settings. One Adam for both takes the same
    steps, and their gradients come from the same backward passes, which belong into one phase.
    """

    reads_fakes: ClassVar[bool] = True

    def __init__(self, config: CUTConfig, channels_a: int, channels_b: int):
        self.weights, self.temperature, self.patches = config.weights, config.temperature, config.patches
        self.flip_equivariance = config.flip_equivariance
        self.generator_ab = config.generator.build(channels_a, channels_b)
        self.heads = ProjectionHeads(self.generator_ab.feature_channels)
        self.discriminator_b = config.discriminator.build(channels_b)
        super().__init__(config, {"generator_ab": self.generator_ab}, {"discriminator_b": self.discriminator_b}, {},
                         beside={"heads": self.heads})

    def train_generators(self, batch: Batch, update: StepTools) -> list[Tensor]:
        """Fool the discriminator, and keep every patch like its own (eq. 5); return the fakes, one a micro-batch."""
        fakes = []
        for a, b in update.micro_batches(batch):
            flipped = self.flipped(update)
            with update.fake(self.generator_ab, mirrored(a, flipped), shared=True) as fake:
                fooled = self.fool(update, self.discriminator("b"), fake, b)
                update.backward("adversarial", self.weights.adversarial * fooled)
                self.keep_protected(update, mirrored(fake, flipped), a)
                update.backward("nce", self.weights.nce * self.patch_nce_loss(update, "nce", a, fake, flipped))
            if self.weights.identity:
                with update.fake(self.generator_ab, mirrored(b, flipped)) as same:
                    loss = self.patch_nce_loss(update, "identity", b, same, flipped)
                    update.backward("identity", self.weights.identity * loss)
            fakes.append(fake.detach())
        return fakes

    def train_discriminators(self, batch: Batch, fakes: list[Tensor] | None, update: StepTools) -> None:
        """Tell real images of B from fakes (eq. 1)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake = fakes[number] if fakes else update.translated(
                self.generator_ab, mirrored(a, self.flipped(update)), shared=True)
            self.tell_apart(update, self.discriminator("b"), b, fake)

    def flipped(self, update: StepTools) -> Tensor | None:
        """Return which samples (N,) of the micro-batch are translated mirrored; None: none ever."""
        return update.uniform("flip") < 0.5 if self.flip_equivariance else None

    def patch_nce_loss(self, update: StepTools, name: str, real: Tensor, fake: Tensor,
                       flipped: Tensor | None) -> Tensor:
        """Return L_PatchNCE (eq. 4): how far patches of `fake` are from their own in `real` and near the others there.

        The gradient goes into the heads, the encoder and `fake`. The keys, which are of `real`, take none.
        """
        with update.without_graph():
            keys = self.projected(update, name, real, None)
        queries = self.projected(update, name, fake, flipped)
        with update.full_precision():
            losses = [patch_nce(query, key, self.temperature) for query, key in zip(queries, keys, strict=True)]
        return torch.stack(losses).mean()

    def projected(self, update: StepTools, name: str, image: Tensor, flipped: Tensor | None) -> list[Tensor]:
        """Return unit vectors (N, S, 256) of S places in every layer of the encoder.

        The places are those that the draw `name` says, or their mirror images where `flipped` (N,).
        """
        def at_places(layer: int, features: Tensor) -> Tensor:
            height, width = features.shape[2:]
            rows, columns = update.places(f"{name} {layer}", self.patches, (height, width))
            if flipped is not None:
                columns = torch.where(flipped[:, None], width - 1 - columns, columns)
            samples = torch.arange(len(features), device=features.device)[:, None]
            return features[samples, :, rows, columns]

        taken = self.generator_ab.features(image, at_places)
        with update.full_precision():
            return self.heads(taken)


def mirrored(images: Tensor, flipped: Tensor | None) -> Tensor:
    """Return images (N, C, H, W), left and right exchanged where `flipped` (N,)."""
    return images if flipped is None else torch.where(flipped[:, None, None, None], images.flip(3), images)
