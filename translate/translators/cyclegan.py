"""CycleGAN: unpaired translation in both directions, held together by the cycle (Zhu et al. 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from translate.losses import Judge, LeastSquares, Objective, Perceptual, l1_loss, semantic_consistency
from translate.networks import DiscriminatorConfig, GeneratorConfig, PatchGANConfig, ResNetConfig
from translate.networks.tasks import load_task
from translate.schema import Config
from translate.translators.pool import ImagePool
from translate.translators.translator import Direction, GameConfig, Translator, Update


class CycleGANWeights(Config):
    """L_GAN(AB) + L_GAN(BA) + λ L_cyc (eq. 3), and the identity loss of section 5.2."""

    adversarial: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    identity: float = Field(5.0, ge=0)  # keeps shared colours; 0 leaves its passes out (two forwards less)


class SemanticConfig(Config):
    """A translation is to show what its source shows, in the opinion of a frozen task network (Hoffman et al. 2018)."""

    task: Path  # its folder: `translate adapt make` trains one on labelled images of A
    weight: float = Field(1.0, ge=0)  # of A → B
    back: float = Field(0.0, ge=0)  # of B → A; 1 in the paper, for a network that is right about most images of B


class CycleGANConfig(GameConfig):
    """Unpaired translation A ↔ B: two generators, two discriminators."""

    kind: Literal["cyclegan"] = "cyclegan"
    generator: GeneratorConfig = ResNetConfig()
    discriminator: DiscriminatorConfig = PatchGANConfig()
    objective: Objective = LeastSquares()
    weights: CycleGANWeights = CycleGANWeights()
    perceptual: Perceptual | None = None  # distance of a pretrained network's features round the cycle; null: none
    # Deviation of noise on the fake before it is translated back: it hides what a generator smuggles through the cycle
    # in patterns too faint to be seen (Chu et al. 2017). Images reach from −1 to 1; 0.02 is some steps of 8 bits.
    cycle_noise: float = Field(0.0, ge=0)
    semantic: SemanticConfig | None = None  # for domain adaptation; null: none
    pool: int = Field(50, ge=0)  # past fakes a discriminator may be shown, kept on the CPU as 8-bit images

    grows: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = False

    def build(self, channels_a: int, channels_b: int, seed: int = 0) -> CycleGAN:
        return CycleGAN(self, channels_a, channels_b, seed)


class CycleGAN(Translator):
    """`generator_ab` and `generator_ba`, judged by `discriminator_b` and `discriminator_a`."""

    directions: ClassVar[tuple[Direction, ...]] = ("ab", "ba")
    replays: ClassVar[bool] = True

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

    def train_generators(self, batch: Any, update: Update) -> list[tuple[Tensor, Tensor]]:
        """Both directions (eq. 3); returns (fake_a, fake_b), one a micro-batch."""
        fakes = []
        for a, b in update.micro_batches(batch):
            fake_b = self.round_trip(update, "ab", a, b, self.generator_ab, self.generator_ba, self.discriminator_b)
            fake_a = self.round_trip(update, "ba", b, a, self.generator_ba, self.generator_ab, self.discriminator_a)
            fakes.append((fake_a, fake_b))
        return fakes

    def round_trip(self, update: Update, name: Direction, real: Tensor, other: Tensor, there: nn.Module,
                   back: nn.Module, judge: Judge) -> Tensor:
        """real → fake → reconstruction: fool the judge (eq. 1), come back (eq. 2), leave alone what needs no change;
        with `semantic`, let the fake show what the real image does.

        `other` is a real image of the fake's domain.
        """
        with update.fake(there, real) as fake:
            fooled = self.fool(update, name, judge, fake, other)
            update.backward(f"adversarial_{name}", self.weights.adversarial * fooled)
            hint = fake + self.cycle_noise * update.normal(f"cycle {name}", fake) if self.cycle_noise else fake
            self.come_back(update, name, hint, real, back)
            if self.semantic.get(name):
                opinion, before = self.frozen["task"](fake), update.translated(self.frozen["task"], real)
                update.backward(f"semantic_{name}", self.semantic[name] * semantic_consistency(opinion, before))
        if self.weights.identity:
            update.backward(f"identity_{name}", self.weights.identity * l1_loss(back(real), real))
        return fake.detach()

    def come_back(self, update: Update, name: Direction, fake: Tensor, real: Tensor, back: nn.Module) -> None:
        """The way back ends where it began (eq. 2), and looks like it to a pretrained network, where there is one."""
        if self.perceptual is None:
            update.backward(f"cycle_{name}", self.weights.cycle * l1_loss(back(fake), real))
            return
        with update.fake(back, fake) as rebuilt:  # a cut of its own: the generator's graph waits, not the losses'
            update.backward(f"cycle_{name}", self.weights.cycle * l1_loss(rebuilt, real))
            update.backward(f"perceptual_{name}", self.perceptual(rebuilt, real))

    def train_discriminators(self, batch: Any, fakes: list[tuple[Tensor, Tensor]] | None, update: Update) -> None:
        """Tell real images of each domain from fakes, present and past (eq. 1; pool: section 4)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake_a, fake_b = fakes[number] if fakes else (update.translated(self.generator_ba, b),
                                                          update.translated(self.generator_ab, a))
            self.tell_apart(update, "discriminator_a", self.discriminator_a, a, update.past(self.pool_a, fake_a))
            self.tell_apart(update, "discriminator_b", self.discriminator_b, b, update.past(self.pool_b, fake_b))
