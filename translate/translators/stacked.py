"""Stacked GAN: a stack of generators from noise, each of which inverts a layer of a classifier (Huang et al. 2017).

An encoder E learns the classes of the data; its last hidden layer are features h of an image x. One generator draws
features of a class y and a latent, G₁(y, z₁), another an image of features and a latent, G₀(h, z₀). Each has three
losses (section 3), here of G₀:

    adversarial   a discriminator D₀ takes what is drawn for real; D₁ does so for features
    conditional   the encoder finds in it what it was drawn of: (E(G₀(h, z₀)) − h)², and of G₁ the class, by
                  cross-entropy
    entropy       a head Q₀ on the discriminator's hidden features finds the latent: (Q₀(G₀(h, z₀)) − z₀)². It bounds
                  the entropy of what is drawn of the same h, so that not all of it is alike

What learns is what a stage of the recipe says:

    levels: 0                 the encoder, of real images and their classes; from then on it is fixed
    levels: 1, freeze: true   G₁ alone, judged beside features of real images
    levels: 2, freeze: true   G₀ alone, which draws images of the features of real ones
    levels: 2                 both: G₀ draws images of what G₁ draws, and what it learns reaches G₁ as well (of which
                              the authors' code lets 0.01 through for CIFAR-10, and nothing for digits)

Images are drawn by both, at any time (`translate.networks.latent.stacked.Stack`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.data import Batch
from translate.errors import Mistake
from translate.losses import NonSaturating, Objective
from translate.networks import DCGANConfig, DCGANDiscriminatorConfig, LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.growing import LevelStage, level_problems
from translate.networks.latent.latents import WholeConfig
from translate.networks.latent.recognition_heads import RecognitionHead
from translate.networks.latent.stacked import (
    EncoderConfig,
    FeatureDiscriminatorConfig,
    FeatureGeneratorConfig,
    Stack,
)
from translate.precision import at_least_float32
from translate.schema import Config
from translate.translators.config import DataPart, Direction
from translate.translators.from_noise import ConditionalDiscriminator, FromNoiseConfig
from translate.translators.translator import StepTools, Translator

ENCODER, FEATURES, IMAGES = range(3)  # levels of a stage: what learns
LEVELS = "0: the classifier, 1: features, 2: images"


class StackedWeights(Config):
    """L = adversarial + λ_c conditional + λ_e entropy, of each generator (section 3)."""

    conditional: float = Field(1.0, ge=0, le=1e9)
    # the authors' code has 10, of latents between 0 and 1: those between −1 and 1 have errors four times as large
    entropy: float = Field(2.5, ge=0, le=1e9)


class StackedConfig(FromNoiseConfig):
    """Images from noise and a class, by way of a classifier's features: `generator` and `discriminator` are of images.
    """

    kind: Literal["stacked"] = "stacked"
    encoder: EncoderConfig = EncoderConfig()
    feature_generator: FeatureGeneratorConfig = FeatureGeneratorConfig()
    feature_discriminator: FeatureDiscriminatorConfig = FeatureDiscriminatorConfig()
    generator: LatentGeneratorConfig = DCGANConfig(side=28, latent=50, distribution="uniform")
    discriminator: WholeDiscriminatorConfig = DCGANDiscriminatorConfig(side=28)
    objective: Objective = NonSaturating()
    weights: StackedWeights = StackedWeights()

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        generator, judge = self.generator, self.discriminator
        if data.num_classes < 2 or data.channels_a > data.num_classes:
            yield Mistake("translator.kind", "stacked inverts a classifier of the data's classes",
                          "set data.classes, and leave data.vectors out")
        for part, config in (("generator", generator), ("discriminator", judge)):
            if config.grows:
                yield Mistake(f"translator.{part}.kind", f"{config.kind} gains levels of its own, and those of a stack "
                              "are its generators", "use dcgan, mlp or biggan")
        if not judge.judges_whole:
            yield Mistake("translator.discriminator.kind", f"{judge.kind} judges patches, and latents are read off "
                          "hidden features of whole images", "use dcgan, mlp or biggan")
        if self.encoder.side_of_features(side := generator.side_at(0)) < 1:
            yield Mistake("translator.generator.side", f"{side} px is less than the 16 px that the encoder can see",
                          "draw larger images")
        if self.augment:
            yield Mistake("translator.augment", "changes images, and here a discriminator judges features as well",
                          "leave it out")

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        for mistake in level_problems(stages, unfading=f"translator.kind: {self.kind}", begun=begun, enlarging=False):
            meaning = f" ({LEVELS})" if mistake.path.endswith("levels") else ""
            yield mistake._replace(advice=f"{mistake.advice}{meaning}")
        side = self.generator.side_at(0)
        if stages[0].levels and not begun:
            yield Mistake("stages.0.levels", f"{stages[0].levels}, and no encoder has been trained",
                          f"use 0 ({LEVELS})")
        for number, stage in enumerate(stages):
            if stage.levels > IMAGES:
                yield Mistake(f"stages.{number}.levels", f"{stage.levels}, and a stack has two generators",
                              f"use 2 ({LEVELS})")
            if stage.size != (side, side):
                yield Mistake(f"stages.{number}.resolution", f"{stage.size[0]}×{stage.size[1]} px, and the generator "
                              f"draws {side}×{side}", f"use {side}")
            if stage.freeze == "trunk":
                yield Mistake(f"stages.{number}.freeze", "a generator from noise has no trunk between two ends",
                              "leave it out")

    @property
    def least_samples(self) -> int:
        return max(self.generator.least_samples, super().least_samples, 2)  # batch norm of features

    @property
    def num_latents(self) -> int:
        return self.generator.num_drawn + self.feature_generator.latent

    def build(self, channels_a: int, channels_b: int, seed: int = 0, num_classes: int = 0) -> Stacked:
        return Stacked(self, channels_a, channels_b)

    def build_generator(self, direction: Direction, channels_a: int, channels_b: int) -> Stack:
        upper = self.feature_generator.build(channels_a, self.encoder.features)
        return Stack(upper, self.generator.build(self.encoder.features, channels_b), self.feature_generator.latent)


class Drawn(NamedTuple):
    """What was drawn by the generators that learn."""

    features: Tensor  # (N, F, 1, 1); those of real images where only the lower generator learns
    image: Tensor | None  # (N, C, side, side); None where only the upper one does


class Stacked(Translator):
    """Two generators as one, an encoder, and beside each generator a discriminator (of features: `discriminator_h`)
    with a head that finds latents. The heads are trained with the generators and, through the features that they share,
    by the discriminators as well."""

    def __init__(self, config: StackedConfig, channels_a: int, channels_b: int):
        features, judge = config.encoder.features, config.discriminator
        assert isinstance(judge, WholeConfig)
        self.weights = config.weights
        self.generator_ab = config.build_generator("ab", channels_a, channels_b)
        self.encoder = config.encoder.build(channels_b, config.generator.side_at(0), channels_a)
        self.discriminator_h = config.feature_discriminator.build(features)
        self.discriminator_b = judge.build(channels_b)
        self.heads = {name: RecognitionHead(network.hidden_size, num) for name, network, num in (
            ("latents_h", self.discriminator_h, config.feature_generator.latent),
            ("latents_b", self.discriminator_b, config.generator.num_drawn))}
        self.draws_features = self.draws_images = False  # whether these generators learn, as a stage says
        super().__init__(config, {"generator_ab": self.generator_ab},
                         {"discriminator_h": self.discriminator_h, "discriminator_b": self.discriminator_b}, {},
                         beside={"encoder": self.encoder, **self.heads})

    def take_shape(self, stage: LevelStage) -> None:
        super().take_shape(stage)
        self.draws_images = stage.levels == IMAGES
        self.draws_features = stage.levels == FEATURES or (self.draws_images and not stage.freeze)
        learn: dict[nn.Module, bool] = {
            self.encoder: stage.levels == ENCODER,
            self.generator_ab.upper: self.draws_features, self.generator_ab.lower: self.draws_images,
            self.discriminator_h: self.draws_features, self.discriminator_b: self.draws_images,
            self.heads["latents_h"]: self.draws_features, self.heads["latents_b"]: self.draws_images}
        for network, learns in learn.items():
            network.requires_grad_(learns)

    @property
    def has_begun_to_draw(self) -> bool:
        return self.draws_images

    def step(self, batch: Batch, update: StepTools) -> None:
        if self.draws_features or self.draws_images:
            super().step(batch, update)
        else:
            update.phase("generator", self.train_encoder, batch)

    def train_encoder(self, batch: Batch, update: StepTools) -> None:
        """Learn the classes of real images."""
        for a, b in update.micro_batches(batch):
            update.backward("classes", F.cross_entropy(at_least_float32(self.encoder.classes(self.encoder(b))),
                                                       a.flatten(1)))

    def train_generators(self, batch: Batch, update: StepTools) -> list[Drawn]:
        """Fool the discriminators, be recognised by the encoder, and tell of the latents (section 3)."""
        drawn = []
        for a, b in update.micro_batches(batch):
            own, above = self.generator_ab.parts(self.inputs(a, update.keys))
            image = None
            with self.drawing_features(update, above, b) as features:
                if self.draws_features:
                    real = self.features_of(update, b) if self.objective.needs_real_logits else features
                    told = at_least_float32(self.encoder.classes(features))
                    update.backward("conditional_h", self.weights.conditional * F.cross_entropy(told, a.flatten(1)))
                    self.play(update, "h", features, real, above)
                if self.draws_images:
                    with update.fake(self.generator_ab.lower, torch.cat([own, features], dim=1)) as made:
                        found = F.mse_loss(at_least_float32(self.encoder(made)), at_least_float32(features))
                        update.backward("conditional_b", self.weights.conditional * found)
                        self.play(update, "b", made, b, own)
                    image = made.detach()
            drawn.append(Drawn(features.detach(), image))
        return drawn

    def drawing_features(self, update: StepTools, above: Tensor, b: Tensor) -> AbstractContextManager[Tensor]:
        """Draw features of a class and a latent, or take those of real images where their generator does not learn."""
        if self.draws_features:
            return update.fake(self.generator_ab.upper, above)
        return nullcontext(self.features_of(update, b))

    def play(self, update: StepTools, domain: str, drawn: Tensor, real: Tensor, given: Tensor) -> None:
        """Backpropagate what the discriminator and the head of a domain say of what was drawn."""
        judge = self.judge(domain, real)
        update.backward(f"adversarial_{domain}", self.fool(update, judge, drawn, real))
        update.backward(f"entropy_{domain}", self.entropy(update, judge, drawn, given))

    def train_discriminators(self, batch: Batch, fakes: list[Drawn] | None, update: StepTools) -> None:
        """Tell features and images of the data from drawn ones, and find the latents of these."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            own, above = self.generator_ab.parts(self.inputs(a, update.keys))
            drawn = fakes[number] if fakes else self.drawn(update, own, above, b)
            if self.draws_features:
                self.learn_to_judge(update, "h", drawn.features, self.features_of(update, b), above)
            if drawn.image is not None:
                self.learn_to_judge(update, "b", drawn.image, b, own)

    def learn_to_judge(self, update: StepTools, domain: str, drawn: Tensor, real: Tensor, given: Tensor) -> None:
        """Backpropagate the losses of a domain's discriminator."""
        judge = self.judge(domain, real)
        self.tell_apart(update, judge, real, drawn)
        update.backward(f"latents_{domain}", self.entropy(update, judge, drawn, given))

    def drawn(self, update: StepTools, own: Tensor, above: Tensor, b: Tensor) -> Drawn:
        """Draw features and images without a graph, as far as they learn."""
        features = update.translated(self.generator_ab.upper, above) if self.draws_features else self.features_of(
            update, b)
        return Drawn(features, update.translated(self.generator_ab.lower, torch.cat([own, features], dim=1))
                     if self.draws_images else None)

    def features_of(self, update: StepTools, images: Tensor) -> Tensor:
        """Return what the encoder makes of real images, (N, F, 1, 1)."""
        with update.without_graph():
            return at_least_float32(self.encoder(images))

    def judge(self, domain: str, real: Tensor) -> ConditionalDiscriminator:
        """Return the discriminator of features (h) or images (b), which sees no class beside them."""
        name = f"discriminator_{domain}"
        return ConditionalDiscriminator(name, self.phases["discriminator"][name], real[:, :0, :1, :1])

    def entropy(self, update: StepTools, judge: ConditionalDiscriminator, drawn: Tensor, given: Tensor) -> Tensor:
        """Return how far the latents that a head finds are from those that begin what was `given`, squared."""
        found = self.heads[f"latents_{judge.domain}"](judge.hidden(self.seen(update, f"latents {judge.name}", drawn)))
        latents = at_least_float32(given[:, :found.shape[1]].flatten(1))
        return self.weights.entropy * F.mse_loss(at_least_float32(found), latents)
