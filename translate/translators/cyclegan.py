"""CycleGAN: unpaired translation in both directions, held together by the cycle (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from translate.data import Batch
from translate.errors import Mistake
from translate.losses import LeastSquares, Objective, Perceptual, l1_loss, semantic_consistency
from translate.networks import DiscriminatorConfig, GeneratorConfig, PatchGANConfig, ResNetConfig
from translate.networks.discriminators import Discriminator
from translate.networks.task_networks import load_task
from translate.precision import at_least_float32
from translate.schema import Config
from translate.translators.config import BaseTranslatorConfig, DataPart, Direction, perceptual_problems
from translate.translators.pool import ImagePool
from translate.translators.translator import StepTools, Translator


class CycleGANWeights(Config):
    """L_GAN(AB) + L_GAN(BA) + λ L_cyc (eq. 3), and the identity loss of section 5.2."""

    adversarial: float = Field(1.0, ge=0, le=1e9)
    cycle: float = Field(10.0, ge=0, le=1e9)
    identity: float = Field(5.0, ge=0, le=1e9)  # keeps shared colours; 0 leaves its passes out (two forwards less)


class SemanticConfig(Config):
    """A translation is to show what its source shows, in the opinion of a frozen task network (Hoffman et al. 2018)."""

    task: Path  # its folder: `translate adapt make` trains one on labelled images of A
    weight: float = Field(1.0, ge=0, le=1e9)  # of A → B
    # of B → A; 1 in the paper, for a network that is right about most images of B
    back: float = Field(0.0, ge=0, le=1e9)


class CycleGANConfig(BaseTranslatorConfig):
    """Unpaired translation A ↔ B: two generators, two discriminators."""

    kind: Literal["cyclegan"] = "cyclegan"
    generator: GeneratorConfig = ResNetConfig()
    discriminator: DiscriminatorConfig = PatchGANConfig()
    objective: Objective = LeastSquares()
    weights: CycleGANWeights = CycleGANWeights()
    perceptual: Perceptual | None = None  # distance of a pretrained network's features round the cycle; null: none
    # Deviation of noise on the fake before it is translated back: it hides what a generator smuggles through the cycle
    # in patterns too faint to be seen (Chu et al. 2017). Images reach from −1 to 1; 0.02 is some steps of 8 bits.
    cycle_noise: float = Field(0.0, ge=0, le=1e9)
    semantic: SemanticConfig | None = None  # for domain adaptation; null: none
    pool: int = Field(50, ge=0, le=100_000)  # past fakes a discriminator may be shown, kept on the CPU as 8-bit images

    directions: ClassVar[tuple[Direction, ...]] = ("ab", "ba")
    grows: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = False
    stays_consistent: ClassVar[bool] = True

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        a, b = data.channels_a, data.channels_b
        if self.weights.identity and a != b:
            yield Mistake("translator.weights.identity", f"needs as many channels in A as in B, not {a} and {b}",
                          "set it to 0")
        if self.semantic is not None and a != b:
            yield Mistake("translator.semantic", f"one network sees images of A and B, which have {a} and {b} channels")
        if self.perceptual is not None:
            yield from perceptual_problems(data, "ab")

    def build(self, channels_a: int, channels_b: int, seed: int = 0, num_classes: int = 0) -> CycleGAN:
        return CycleGAN(self, channels_a, channels_b, seed)


class CycleGAN(Translator):
    """`generator_ab` and `generator_ba`, judged by `discriminator_b` and `discriminator_a`."""

    reads_fakes: ClassVar[bool] = True

    def __init__(self, config: CycleGANConfig, channels_a: int, channels_b: int, seed: int = 0):
        self.weights, self.cycle_noise = config.weights, config.cycle_noise
        self.generator_ab = config.generator.build(channels_a, channels_b)
        self.generator_ba = config.generator.build(channels_b, channels_a)
        self.discriminator_a = config.discriminator.build(channels_a)
        self.discriminator_b = config.discriminator.build(channels_b)
        self.pool_a, self.pool_b = ImagePool(config.pool, 2 * seed), ImagePool(config.pool, 2 * seed + 1)
        super().__init__(config, {"generator_ab": self.generator_ab, "generator_ba": self.generator_ba},
                         {"discriminator_a": self.discriminator_a, "discriminator_b": self.discriminator_b},
                         {"pool_a": self.pool_a, "pool_b": self.pool_b})
        self.perceptual = None if config.perceptual is None else config.perceptual.build()
        if self.perceptual is not None:
            self.frozen["perceptual"] = self.perceptual
        self.semantic: dict[Direction, float] = {}
        if config.semantic is not None:
            self.semantic = {"ab": config.semantic.weight, "ba": config.semantic.back}
            self.frozen["task"] = load_task(config.semantic.task, channels_a)

    def train_generators(self, batch: Batch, update: StepTools) -> list[tuple[Tensor, Tensor]]:
        """Train both directions (eq. 3); return (fake_a, fake_b), one a micro-batch."""
        fakes = []
        for a, b in update.micro_batches(batch):
            fake_b = self.round_trip(update, "ab", a, b, self.generator_ab, self.generator_ba, self.discriminator("b"))
            fake_a = self.round_trip(update, "ba", b, a, self.generator_ba, self.generator_ab, self.discriminator("a"))
            fakes.append((fake_a, fake_b))
        return fakes

    def round_trip(self, update: StepTools, name: Direction, real: Tensor, other: Tensor, there: nn.Module,
                   back: nn.Module, discriminator: Discriminator) -> Tensor:
        """Translate real → fake → reconstruction; return the fake.

        The fake fools the discriminator (eq. 1), its way back ends where it began (eq. 2), and an image that needs no
        change is left alone (section 5.2); with `semantic`, the fake shows what the real image does. `other` is a real
        image of the fake's domain.
        """
        with update.fake(there, real) as fake:
            fooled = self.fool(update, discriminator, fake, other, draw=name)
            update.backward(f"adversarial_{name}", self.weights.adversarial * fooled)
            if name == "ab":
                self.keep_protected(update, fake, real)
            hint = fake + self.cycle_noise * update.normal(f"cycle {name}", fake) if self.cycle_noise else fake
            self.come_back(update, name, hint, real, back)
            if self.semantic.get(name):
                opinion = self.frozen["task"](fake)
                with update.without_graph():  # an opinion is no image, of which pixels could be hidden
                    before = at_least_float32(self.frozen["task"](real))
                update.backward(f"semantic_{name}", self.semantic[name] * semantic_consistency(opinion, before))
        if self.weights.identity:
            loss = l1_loss(update.hide_unknown(back(real), real, real), real)  # no name holds the image meanwhile
            update.backward(f"identity_{name}", self.weights.identity * loss)
        return fake.detach()

    def come_back(self, update: StepTools, name: Direction, fake: Tensor, real: Tensor, back: nn.Module) -> None:
        """Hold the way back to where it began (eq. 2), and to what a pretrained network sees there, if there is one."""
        if self.perceptual is None:
            loss = l1_loss(update.hide_unknown(back(fake), real, real), real)
            update.backward(f"cycle_{name}", self.weights.cycle * loss)
            return
        with update.fake(back, fake, truth=real) as rebuilt:  # a cut of its own: this graph waits, not theirs
            update.backward(f"cycle_{name}", self.weights.cycle * l1_loss(rebuilt, real))
            update.backward(f"perceptual_{name}", self.perceptual(rebuilt, real))

    def train_discriminators(self, batch: Batch, fakes: list[tuple[Tensor, Tensor]] | None, update: StepTools) -> None:
        """Tell real images of each domain from fakes, present and past (eq. 1; pool: section 4)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake_a, fake_b = fakes[number] if fakes else (update.translated(self.generator_ba, b),
                                                          update.translated(self.generator_ab, a))
            self.tell_apart(update, self.discriminator("a"), a, update.past(self.pool_a, fake_a))
            self.tell_apart(update, self.discriminator("b"), b, update.past(self.pool_b, fake_b))
