"""What every translator is: named networks, the phases that train them, pools, and a step."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from translate.data import Batch
from translate.losses import non_orthogonality, over_scales, weighted_l1
from translate.networks.discriminators import Discriminator, Logits
from translate.networks.growing import Growable, Grown, LevelStage, add_level, fade_in
from translate.networks.layers import Generator
from translate.networks.statistics import hold_statistics
from translate.precision import layout_for
from translate.translators.augmentation import cut_out, moved, recoloured
from translate.translators.config import BaseTranslatorConfig, Direction
from translate.translators.pool import ImagePool
from translate.translators.step_tools import StepTools


class Translator(ABC):
    """Generators, discriminators and the step that trains them.

    `phases` names every network: a phase trains its own and freezes all others. Optimizers, exponential moving
    averages, checkpoints and releases follow these names. `generator_ab` maps domain A to domain B and
    `discriminator_b` judges images of B. Images are (N, C, H, W) in [-1, 1].
    """

    reads_fakes: ClassVar[bool] = False  # a generator also reads fakes (CycleGAN, CUT)

    def __init__(self, config: BaseTranslatorConfig, generators: dict[str, nn.Module],
                 discriminators: dict[str, nn.Module], pools: dict[str, ImagePool],
                 beside: dict[str, nn.Module] | None = None):
        """Take the networks by name. `beside` are trained with the generators, and nobody translates with them."""
        self.directions, self.needs_sources, self.inputs = config.directions, config.needs_sources, config.inputs
        self.objective, self.penalty, self.orthogonal = config.objective, config.penalty, config.orthogonal
        self.augment, self.noise, self.pace, self.first = config.augment, config.noise, config.pace, config.first
        self.generators = generators
        self.phases = {"generator": generators | (beside or {}), "discriminator": discriminators}
        self.pools = pools
        self.frozen: dict[str, nn.Module] = {}  # networks used by losses; rebuilt from the recipe, not saved
        self.ema = config.ema
        self.growing: dict[str, Growable] = {
            name: cast(Growable, each)
            for networks, each in ((generators, config.generator), (discriminators, config.discriminator))
            for name in networks if config.grows and each.grows}
        self.fading = False
        self.ema_generators = {name: frozen_copy(network) for name, network in generators.items()} if self.ema else {}

    @property
    def graphs_wait(self) -> bool:
        """Tell whether the graph of a fake waits while other networks work, unless the memory plan makes it again."""
        return self.reads_fakes or self.first == "discriminator"

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that is trained, by name."""
        return {name: network for networks in self.phases.values() for name, network in networks.items()}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every network there is: the trained ones, and the moving averages of generators as `ema_<name>`."""
        return self.networks | {f"ema_{name}": network for name, network in self.ema_generators.items()}

    @property
    def has_begun_to_draw(self) -> bool:
        """Tell whether what the generators make can be looked at: all that it takes has begun to learn."""
        return True

    def step(self, batch: Batch, update: StepTools) -> None:
        """Train on one batch: the generators and the discriminators, where it is their turn, in the order of `first`.

        Discriminators that move first see the fakes that the generators are about to be trained by.
        """
        pace, fakes = self.pace, None
        generators_turn = update.images >= pace.warmup and update.number % pace.generator == 0
        discriminators_turn = update.images < pace.warmup or update.number % pace.discriminator == 0
        discriminators_first = discriminators_turn and generators_turn and self.first == "discriminator"
        if discriminators_first:
            with update.previewing(self.generators, len(batch)):
                self.improve_discriminators(batch, None, update)
        if generators_turn:
            fakes = update.phase("generator", self.improve_generators, batch)
            self.after_generators(update)
        if discriminators_turn and not discriminators_first:
            self.improve_discriminators(batch, fakes, update)

    def improve_generators(self, batch: Batch, update: StepTools) -> list[Any]:
        """Backpropagate the generators' losses and the regularisation of their filters; return the fakes."""
        fakes = self.train_generators(batch, update)
        if self.orthogonal:
            with update.full_precision():
                apart = torch.stack([non_orthogonality(network) for network in self.generators.values()]).sum()
                update.regularise("orthogonal", self.orthogonal * apart)
        return fakes

    def after_generators(self, update: StepTools) -> None:  # noqa: B027
        """Keep what the generators' phase has found, where a translator does: `update.mean` is of all processes."""

    def improve_discriminators(self, batch: Batch, fakes: list[Any] | None, update: StepTools) -> None:
        """Train the discriminators; then the objective moves what it keeps of the game."""
        update.phase("discriminator", self.train_discriminators, batch, fakes)
        update.losses |= self.objective.after_step(self.phases["discriminator"], update.mean, update.left_out)

    @abstractmethod
    def train_generators(self, batch: Batch, update: StepTools) -> list[Any]:
        """Backpropagate the generators' losses; return the fakes, one entry a micro-batch."""

    @abstractmethod
    def train_discriminators(self, batch: Batch, fakes: list[Any] | None, update: StepTools) -> None:
        """Backpropagate the discriminators' losses; without `fakes`, those of the generators as they are."""

    def discriminator(self, domain: str, condition: Tensor | None = None) -> Discriminator:
        """Return the discriminator of images of `domain` (a or b) as it is played against; see `Discriminator`."""
        name = f"discriminator_{domain}"
        return Discriminator(name, self.phases["discriminator"][name], condition)

    def fool(self, update: StepTools, discriminator: Discriminator, fake: Tensor, real: Tensor,
             draw: str = "") -> Tensor:
        """Return the generator's adversarial loss, of the logits of `fake` and, where the objective needs them, `real`.

        `draw` names the noise that they are seen with; empty: the name of the discriminator.
        """
        name = draw or discriminator.name
        logits = [discriminator(self.seen(update, f"fool {name}", fake))]
        if self.objective.needs_real_logits:
            logits.append(discriminator(self.seen(update, f"real {name}", real)))
        return over_scales(self.objective.generator_loss, *logits)

    def keep_protected(self, update: StepTools, fake: Tensor, real: Tensor) -> None:
        """Hold a fake of A's image `real` to it where the data say that nothing may change."""
        if update.protected is not None:
            update.backward("protected", weighted_l1(fake, real, update.protected))

    def tell_apart(self, update: StepTools, discriminator: Discriminator, real: Tensor, fake: Tensor) -> None:
        """Backpropagate and record the loss of a discriminator, and its penalty.

        Real and fake images go through it in two batches, so that batch norm cannot mix their statistics.
        """
        name, domain = discriminator.name, discriminator.domain
        real, fake = self.seen(update, f"real {name}", real), self.seen(update, f"fake {name}", fake)
        logits_real, logits_fake = discriminator(real), discriminator(fake)

        # For the log and the guard: the mean scores, how often D is right, how much its scores vary.
        verdict = self.objective.verdict(together(logits_real), together(logits_fake))
        for what, value in verdict._asdict().items():
            update.observe(f"{what}_{domain}", value)

        update.backward(name, self.objective.total_discriminator_loss(discriminator, logits_real, logits_fake,
                                                                update.uniform))
        del logits_real, logits_fake, verdict  # frees their graph before that of the penalty is built
        if self.penalty is not None:
            update.penalise(self.penalty, discriminator, real, fake)

    def seen(self, update: StepTools, name: str, images: Tensor) -> Tensor:
        """Return `images` as a discriminator sees them; `name` says which draw of noise is theirs."""
        if "color" in self.augment:
            images = recoloured(images, *map(update.uniform, ("brightness", "saturation", "contrast")))
        images = self.in_place(update, images)
        sigma = self.noise.at(update.images) if self.noise else 0.0
        return images + sigma * update.normal(f"noise {name}", images) if sigma else images

    def in_place(self, update: StepTools, images: Tensor) -> Tensor:
        """Return `images` moved and cut as everything is that discriminators see of these samples in this step."""
        if "translation" in self.augment:
            with update.full_precision():  # in half precision the coordinates of a large image would run together
                images = moved(images, update.uniform("down"), update.uniform("right"))
        if "cutout" in self.augment:
            images = cut_out(images, update.uniform("row"), update.uniform("column"))
        return images

    def take_shape(self, stage: LevelStage) -> None:
        """Give the networks the shape they have in `stage`: grow, let go of what has faded out, freeze and thaw,
        hold the statistics of batch norm.

        The shape is a function of the stage alone, so this may be called again, and after a `build` for any stage: a
        resumed run does so before it loads weights. New levels have fresh weights, the same in a network and its
        average. They are where their network is, in no memory plan yet, and no optimizer knows them
        (`translate.optimizers.follow`).
        """
        for name, config in self.growing.items():
            network, ema = self.networks[name], self.ema_generators.get(name)
            pair = [network] if ema is None else [network, ema]

            # Grow; the moving average begins the level with the very weights of its network.
            while cast(Grown, network).levels < stage.levels:
                for each in pair:
                    add_level(config, each)
                if ema is not None:
                    for own, new in zip(cast(Grown, ema).newest(), cast(Grown, network).newest(), strict=True):
                        own.load_state_dict(new.state_dict())
                    ema.requires_grad_(False).eval()
                for each in pair:
                    each.to(memory_format=layout_for(next(each.parameters()).device))

            # A level that does not fade in is there for good, and what it replaces is gone.
            if not stage.fade:
                for each in pair:
                    cast(Grown, each).drop_faded()

        # Of a generator all is trained, or the newest level alone, or all but the trunk, as the stage says.
        for name, network in self.generators.items():
            network.requires_grad_(stage.freeze is not True)
            for part in cast(Grown, network).newest() if name in self.growing else []:
                part.requires_grad_(True)
            for part in cast(Generator, network).trunk_parts() if stage.freeze == "trunk" else []:
                part.requires_grad_(False)
            hold_statistics(network, stage.hold_statistics)
        self.fading = stage.fade
        self.fade_in(0.0)

    def fade_in(self, share: float) -> None:
        """Set how much of a level that fades in is there, from 0 to 1: the share of its images the stage has seen."""
        for network in self.modules.values():
            fade_in(network, share if self.fading else 1.0)

    def generator(self, direction: Direction) -> nn.Module:
        """Return the generator one translates with: its moving average where one is kept."""
        name = f"generator_{direction}"
        return self.ema_generators.get(name, self.phases["generator"][name])

    def deformation(self, made: Tensor, truth: Tensor) -> Tensor | None:
        """Return how far the place of each pixel of `truth` in `made` is from its own, where that is learnt: (2, H, W),
        right and down, px. Both images are (C, H, W)."""
        return None

    def update_ema(self, num_images: int, seen: int) -> None:
        """Update the generators' exponential moving averages after a step of `num_images`, `seen` images before it.

        They keep `ema` of themselves per image, so that a change of batch size does not change how far back they reach;
        early in a training less, (1 + t) / (10 + t) after t images, so that they reach back over about a ninth of it
        and nothing is left of the first, random weights (the `num_updates` of TensorFlow's ExponentialMovingAverage).
        """
        if self.ema is None:
            return
        kept = math.prod(min(self.ema, (1 + image) / (10 + image)) for image in range(seen, seen + num_images))
        follow = get_ema_multi_avg_fn(kept)
        for name, ema in self.ema_generators.items():
            network = self.phases["generator"][name]

            # Batch norm's running statistics are averaged as the weights are: others would not fit them. Of a spectral
            # norm's vectors the mean is not taken: the mean of unit vectors is not a unit vector, so copy the newest.
            states = ema.state_dict(), network.state_dict()
            names = {name for name, value in states[0].items() if value.is_floating_point()}
            vectors = {name for name in names if name.endswith(("._u", "._v"))}
            follow(*([state[name] for name in sorted(names - vectors)] for state in states), 0)
            for name in vectors:
                states[0][name].copy_(states[1][name])

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move every network, in place, into the memory layout that suits the device."""
        for network in [*self.modules.values(), *self.frozen.values()]:
            network.to(device=device, dtype=dtype).to(memory_format=layout_for(device))


def together(logits: Logits) -> Tensor:
    """Return the logits of all sizes as one tensor (N, …), each counting alike.

    Those of a discriminator that fades in are left out: it has only begun to learn.
    """
    if isinstance(logits, Tensor):
        return logits
    return torch.cat([scale.flatten(1) for scale in (logits if logits.share == 1 else logits[1:])], dim=1)


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy that is never trained by itself."""
    return copy.deepcopy(network).requires_grad_(False).eval()
