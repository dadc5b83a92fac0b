"""What every translator is: named networks, the phases that train them, pools, and a step."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from translate.losses import (
    Began,
    Judge,
    Labelled,
    Logits,
    Objective,
    Penalty,
    RelativisticAverage,
    Wasserstein,
    exchange,
    non_orthogonality,
    over_scales,
)
from translate.networks import DiscriminatorConfig, GeneratorConfig
from translate.networks.autoencoder import Autoencoder
from translate.networks.growing import Growable, Grown, add_level, fade_in
from translate.schema import Config
from translate.translators.augmentation import DiffAugmentation, cut_out, moved, recoloured
from translate.translators.pool import ImagePool
from translate.translators.stabilisers import InstanceNoise, Pace

Direction = Literal["ab", "ba"]


class Update(Protocol):
    """All that a step may ask of the machinery, which is `translate.training.update`."""

    def phase(self, name: str, body: Any, *arguments: Any) -> Any:
        """Run `body(*arguments, update)` with only this phase's networks trainable, then step its optimizer."""

    def micro_batches(self, batch: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch's (a, b) in pieces that fit into memory at once."""

    def fake(self, there: nn.Module, real: Tensor) -> Any:
        """A context: a fake image that gathers its gradient, which goes on through `there` at the end."""

    def full_precision(self) -> Any:
        """A context in which nothing is computed in half precision."""

    def without_graph(self) -> Any:
        """A context in which what is computed is not backpropagated through."""

    def translated(self, there: nn.Module, real: Tensor) -> Tensor:
        """A fake image that nothing is backpropagated through."""

    def backward(self, name: str, loss: Tensor) -> None:
        """Backpropagate a loss and record it under this name."""

    def regularise(self, name: str, loss: Tensor) -> None:
        """Backpropagate a loss of weights alone and record it, outside of micro-batches, once a phase."""

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        """Exchange fakes with a pool; the exchange counts when the phase has ended."""

    def observe(self, name: str, value: Tensor) -> None:
        """Note a mean over the micro-batch that is no loss, for the log and the guard."""

    def mean(self, name: str) -> Tensor:
        """What was observed under `name` in this step, over all processes: for after a phase."""

    losses: dict[str, Tensor]  # what this step recorded
    images: int  # images of the run that were seen before this step
    number: int  # of this step in its stage

    def uniform(self, name: str) -> Tensor:
        """A number in [0, 1) for each sample of the micro-batch (N,), the same whenever this step is done again."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like` (N, …), the same whenever this step is done again."""

    def places(self, name: str, num: int, size: tuple[int, int]) -> Tensor:
        """Rows and columns of `num` different places in a map of `size` for each sample (2, N, num), or of all places
        where there are fewer; the same whenever this step is done again."""

    def penalise(self, name: str, penalty: Penalty, discriminator: nn.Module, judge: Judge, real: Tensor,
                 fake: Tensor) -> None:
        """Backpropagate and record a penalty on `discriminator`, in float32, in the steps it is due in."""


class StagePart(Protocol):
    """What a stage of a recipe says about the networks."""

    @property
    def levels(self) -> int:
        """Outer levels that the networks have gained, each for images of twice the size."""

    @property
    def fade(self) -> bool:
        """Whether the newest fades in over the stage's images, and takes the place of what was there at its end."""

    @property
    def freeze(self) -> bool:
        """Whether of the generators the newest level is trained alone."""


class GameConfig(Config):
    """What every translator's recipe says about the game of its generators and discriminators."""

    grows: ClassVar[bool] = False  # whether its networks may gain outer levels

    kind: str
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    objective: Objective
    penalty: Penalty | None = None  # on the discriminators; null: none
    # Keeps the generators' filters apart (orthogonal regularisation, Brock et al. 2019: 1e-4); 0: leaves them alone
    orthogonal: float = Field(0.0, ge=0)
    augment: tuple[DiffAugmentation, ...] = ()  # of what the discriminators see; for little data
    noise: InstanceNoise | None = None  # on what the discriminators see; null: none
    pace: Pace = Pace()
    ema: float | None = Field(None, gt=0, lt=1)  # share of the average kept per image, e.g. 0.999


class Translator(ABC):
    """Generators, discriminators and the step that trains them.

    `phases` names every network: a phase trains its own and freezes all others. Optimizers, exponential moving
    averages, checkpoints and releases follow these names. `generator_ab` maps domain A to domain B and
    `discriminator_b` judges images of B. Images are (N, C, H, W) in [-1, 1].
    """

    directions: ClassVar[tuple[Direction, ...]]
    replays: ClassVar[bool] = False  # a generator looks at fakes: to compute these again makes room for its graph

    def __init__(self, config: GameConfig, generators: dict[str, nn.Module], discriminators: dict[str, nn.Module],
                 pools: dict[str, ImagePool], beside: dict[str, nn.Module] | None = None):
        """`beside`: networks that are trained with the generators, and that nobody translates with."""
        self.objective, self.penalty, self.orthogonal = config.objective, config.penalty, config.orthogonal
        self.augment, self.noise, self.pace = config.augment, config.noise, config.pace
        self.generators = generators
        self.phases = {"generator": generators | (beside or {}), "discriminator": discriminators}
        self.pools = pools
        self.frozen: dict[str, nn.Module] = {}  # asked and never trained; what they are, the recipe says
        self.ema = config.ema
        self.growing: dict[str, Growable] = {
            name: each for networks, each in ((generators, config.generator), (discriminators, config.discriminator))
            for name in networks if config.grows and isinstance(each, Growable)}
        self.fading = False
        self.averages = {name: frozen_copy(network) for name, network in generators.items()} if self.ema else {}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that is trained, by name."""
        return {name: network for networks in self.phases.values() for name, network in networks.items()}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every network there is: the trained ones, and their averages as `ema_<name>`."""
        return self.networks | {f"ema_{name}": network for name, network in self.averages.items()}

    def step(self, batch: Any, update: Update) -> None:
        """One update on one batch: of the generators, then of the discriminators, where it is their turn."""
        pace, fakes = self.pace, None
        if update.images >= pace.warmup and update.number % pace.generator == 0:
            fakes = update.phase("generator", self.improve_generators, batch)
        if update.images < pace.warmup or update.number % pace.discriminator == 0:
            update.phase("discriminator", self.train_discriminators, batch, fakes)
            self.settle(update)

    def settle(self, update: Update) -> None:
        """After a step of the discriminators: what their objective does besides."""
        if isinstance(self.objective, Wasserstein):
            self.objective.bound(self.phases["discriminator"].values())
        elif isinstance(self.objective, Began):
            for name in self.phases["discriminator"]:
                errors = (update.mean(f"{kind}_{name[-1]}") for kind in ("real", "fake"))
                update.losses[f"convergence_{name[-1]}"] = self.objective.rebalance(self.balance(name), *errors)

    def balance(self, name: str) -> Tensor:
        """BEGAN's k of the discriminator `name`."""
        return cast(Autoencoder, self.phases["discriminator"][name]).balance

    def improve_generators(self, batch: Any, update: Update) -> list[Any]:
        """The generators' phase: their losses, and what keeps their filters apart; returns the fakes."""
        fakes = self.train_generators(batch, update)
        if self.orthogonal:
            with update.full_precision():
                apart = torch.stack([non_orthogonality(network) for network in self.generators.values()]).sum()
                update.regularise("orthogonal", self.orthogonal * apart)
        return fakes

    @abstractmethod
    def train_generators(self, batch: Any, update: Update) -> list[Any]:
        """Backpropagate the generators' losses; returns the fakes, one entry a micro-batch."""

    @abstractmethod
    def train_discriminators(self, batch: Any, fakes: list[Any] | None, update: Update) -> None:
        """Backpropagate the discriminators' losses; without `fakes`, of the generators as they are."""

    def fool(self, update: Update, name: str, judge: Judge, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's loss: what the discriminator `name` thinks of its `fake`, and, if asked, of `real`."""
        judged = judge(self.seen(update, f"fool {name}", fake))
        if isinstance(self.objective, RelativisticAverage):
            return over_scales(self.objective.generator, judged, judge(self.seen(update, f"real {name}", real)))
        return over_scales(self.objective.generator, judged)

    def tell_apart(self, update: Update, name: str, judge: Judge, real: Tensor, fake: Tensor) -> None:
        """The loss of the discriminator `name`, and its penalty; backpropagated and recorded.

        Real and fake images go through it in two batches, so that batch norm cannot mix their statistics.
        """
        real, fake = self.seen(update, f"real {name}", real), self.seen(update, f"fake {name}", fake)
        logits, judged = judge(real), judge(fake)
        for what, value in self.objective.verdict(together(logits), together(judged))._asdict().items():
            update.observe(f"{what}_{name[-1]}", value)
        if isinstance(self.objective, Began):
            assert isinstance(logits, Tensor) and isinstance(judged, Tensor), "an autoencoder judges at one size"
            update.backward(name, self.objective.discriminator(logits, judged, self.balance(name)))
        else:
            update.backward(name, over_scales(self.told_apart(update, name), logits, judged))
        del logits, judged  # their graph goes before the penalty's comes
        if self.penalty is not None:
            update.penalise(f"penalty_{name[-1]}", self.penalty, self.phases["discriminator"][name], judge, real, fake)

    def told_apart(self, update: Update, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of the discriminator `name`, of the logits of real and fake images at one size."""
        if not (isinstance(self.objective, Labelled) and self.objective.flips):
            return self.objective.discriminator
        chosen, loss = update.uniform(f"flips {name}") < self.objective.flips, self.objective.discriminator
        return lambda real, fake: loss(*exchange(real, fake, chosen))

    def seen(self, update: Update, name: str, images: Tensor) -> Tensor:
        """`images` as a discriminator sees them; `name` says which draw of noise is theirs."""
        if "color" in self.augment:
            images = recoloured(images, *map(update.uniform, ("brightness", "saturation", "contrast")))
        images = self.in_place(update, images)
        sigma = self.noise.at(update.images) if self.noise else 0.0
        return images + sigma * update.normal(f"noise {name}", images) if sigma else images

    def in_place(self, update: Update, images: Tensor) -> Tensor:
        """`images` moved and cut as all are that discriminators see of these samples in this step."""
        if "translation" in self.augment:
            with update.full_precision():  # in half precision the coordinates of a large image would run together
                images = moved(images, update.uniform("down"), update.uniform("right"))
        if "cutout" in self.augment:
            images = cut_out(images, update.uniform("row"), update.uniform("column"))
        return images

    def enter(self, stage: StagePart) -> None:
        """Give the networks the shape they have in `stage`: grow, let go of what has faded out, freeze and thaw.

        The shape is a function of the stage alone, so this may be called again, and after a `build` for any stage: a
        resumed run does so before it loads weights. New levels have fresh weights, the same in a network and its
        average. They are where their network is, in no memory plan yet, and no optimizer knows them
        (`translate.optimizers.follow`).
        """
        for name, config in self.growing.items():
            network, average = self.networks[name], self.averages.get(name)
            pair = [network] if average is None else [network, average]
            while cast(Grown, network).levels < stage.levels:
                for each in pair:
                    add_level(config, each)
                if average is not None:
                    for own, new in zip(*(cast(Grown, each).newest() for each in pair[::-1]), strict=True):
                        own.load_state_dict(new.state_dict())
                    average.requires_grad_(False).eval()
                for each in pair:
                    each.to(memory_format=torch.channels_last)
            if not stage.fade:
                for each in pair:
                    cast(Grown, each).drop_faded()
            if name in self.phases["generator"]:
                network.requires_grad_(not stage.freeze)
                for part in cast(Grown, network).newest():
                    part.requires_grad_(True)
        self.fading = stage.fade
        self.fade_in(0.0)

    def fade_in(self, share: float) -> None:
        """The stage has seen this share of its images, from 0 to 1: so much of a level that fades in is there."""
        for network in self.modules.values():
            fade_in(network, share if self.fading else 1.0)

    def generator(self, direction: Direction) -> nn.Module:
        """The generator one uses: the averaged one where an average is kept."""
        name = f"generator_{direction}"
        return self.averages.get(name, self.phases["generator"][name])

    def average(self, num_images: int) -> None:
        """Let the averages follow the generators after a step of `num_images`.

        The average keeps `ema` of itself per image, so that a change of batch size does not change its memory.
        """
        if self.ema is None:
            return
        follow = get_ema_multi_avg_fn(self.ema**num_images)
        for name, average in self.averages.items():
            network = self.phases["generator"][name]
            # With the running statistics of batch norm: those of other weights would not fit the averaged ones. The
            # mean of a spectral norm's unit vectors is none: the newest are taken, which are nearly the average's.
            states = average.state_dict(), network.state_dict()
            names = {name for name, value in states[0].items() if value.is_floating_point()}
            vectors = {name for name in names if name.endswith(("._u", "._v"))}
            follow(*([state[name] for name in sorted(names - vectors)] for state in states), 0)
            for name in vectors:
                states[0][name].copy_(states[1][name])

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move every network, in place."""
        for network in [*self.modules.values(), *self.frozen.values()]:
            network.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)


def together(logits: Logits) -> Tensor:
    """What a discriminator says at all sizes, (N, …), each logit counting alike; what fades in, and does not know yet
    what it says, is left out."""
    if isinstance(logits, Tensor):
        return logits
    return torch.cat([scale.flatten(1) for scale in (logits if logits.share == 1 else logits[1:])], dim=1)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy that is never trained by itself."""
    return copy.deepcopy(network).requires_grad_(False).eval()
