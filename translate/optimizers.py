"""Optimizers and learning-rate schedules of a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.schema import Config

Beta = Annotated[float, Field(ge=0, lt=1)]  # the share of an average that is kept at each step


class Adam(Config):
    """Adam (Kingma & Ba 2015); lr 2e-4 and betas (0.5, 0.999) are DCGAN's, pix2pix's and CycleGAN's."""

    kind: Literal["adam"] = "adam"
    lr: float = Field(2e-4, gt=0, le=1e9)
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    weight_decay: float = Field(0.0, ge=0, le=1e9)
    # largest norm of a phase's whole gradient; a longer one is shortened
    clip: float | None = Field(None, gt=0, le=1e9)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        held = list(parameters)
        group = {"params": held, "clip": self.clip}
        return torch.optim.Adam([group], lr=self.lr, betas=self.betas, weight_decay=self.weight_decay,
                                fused=has_fused_kernels(held[0].device))

    @property
    def is_fused(self) -> bool:
        """Whether its step is one kernel for many weights, without copies of them, where the device has such."""
        return True


class SGD(Config):
    """Stochastic gradient descent. Without momentum its step is lr times the gradient, as comparisons of steps need."""

    kind: Literal["sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0, le=1e9)
    momentum: float = Field(0.0, ge=0, lt=1)
    # largest norm of a phase's whole gradient; a longer one is shortened
    clip: float | None = Field(None, gt=0, le=1e9)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        held = list(parameters)
        return torch.optim.SGD([{"params": held, "clip": self.clip}], lr=self.lr, momentum=self.momentum,
                               # None: torch chooses among its other ways
                               fused=(self.is_fused and has_fused_kernels(held[0].device)) or None)

    @property
    def is_fused(self) -> bool:
        """Whether its step is one kernel for many weights, without copies of them, where the device has such.

        With momentum torch's kernel leaves numbers that nobody has set where the first step of all is left out.
        """
        return not self.momentum


class RMSprop(Config):
    """RMSprop (Tieleman & Hinton 2012), without momentum, which makes WGAN's critic unstable (Arjovsky et al. 2017)."""

    kind: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(5e-5, gt=0, le=1e9)
    alpha: Beta = 0.99
    # largest norm of a phase's whole gradient; a longer one is shortened
    clip: float | None = Field(None, gt=0, le=1e9)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop([{"params": list(parameters), "clip": self.clip}], lr=self.lr, alpha=self.alpha)

    @property
    def is_fused(self) -> bool:
        """Whether its step is one kernel for many weights, without copies of them: torch has none."""
        return False


OptimizerConfig = Annotated[Adam | SGD | RMSprop, Field(discriminator="kind")]


def has_fused_kernels(device: torch.device) -> bool:
    """Tell whether torch's fused optimizers compute on a device. On a CPU they take a quarter of the time of others."""
    return device.type in ("cuda", "cpu")


def may_be_left_out(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a flag on the device can make an optimizer's step change nothing, see `step`."""
    return all(group.get("fused") for group in optimizer.param_groups)


def step(optimizer: torch.optim.Optimizer, is_left_out: Tensor | None = None) -> None:
    """Step an optimizer.

    is_left_out  a scalar on the device: where it is 1, weights, moments and counts of steps stay as they are. Only if
                 the optimizer `may_be_left_out`.
    """
    if is_left_out is None:
        optimizer.step()
        return
    optimizer.found_inf = is_left_out  # type: ignore[attr-defined]  # as torch's gradient scaler tells it
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def lay_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give gradients the memory layout of their weights, which autograd nearly always gives them.

    Fused steps go through a weight, its gradient and its moments as they lie in memory. On a CPU torch does not look
    whether they lie alike: where they do not, it would take each weight's gradient from another place.
    """
    for group in optimizer.param_groups:
        for weight in group["params"] if group.get("fused") else []:
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight).copy_(weight.grad)


def clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Scale the gradient of each parameter group down to the norm `clip`, in place, if longer (Pascanu et al. 2013).

    No GPU synchronisation. A gradient that is not finite stays so, and the gradient scaler skips the step.
    """
    for group in optimizer.param_groups:
        if group.get("clip") is not None:  # checkpoints of older versions have none
            nn.utils.clip_grad_norm_(group["params"], group["clip"])


def follow(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Make an optimizer train `parameters` from now on.

    The state of those that it has trained before is kept, and that of parameters that are gone is dropped. Their order
    is that of `parameters`, as in an optimizer that was built with them: a checkpoint finds parameters by their order.
    """
    (group,) = optimizer.param_groups
    group["params"] = list(parameters)
    known = {id(parameter) for parameter in group["params"]}
    for gone in [parameter for parameter in optimizer.state if id(parameter) not in known]:
        del optimizer.state[gone]


def gradient_norms(gradients: list[Tensor]) -> Tensor:
    """Return the norm of each gradient, and last that of all together as `gradient_norm` has it: (len(gradients) + 1).
    """
    norms = torch.stack(torch._foreach_norm(gradients))
    return torch.cat([norms, torch.linalg.vector_norm(norms)[None]])


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the norm of the whole gradient of an optimizer's parameters, a scalar on the device."""
    return nn.utils.get_total_norm([parameter.grad for group in optimizer.param_groups for parameter in group["params"]
                                    if parameter.grad is not None])


class Optimizers(Config):
    """One optimizer for each phase of a step."""

    generator: OptimizerConfig = Adam()
    discriminator: OptimizerConfig = Adam()


class Constant(Config):
    """The optimizer's learning rate times `factor`, in the whole stage."""

    kind: Literal["constant"] = "constant"
    factor: float = Field(1.0, ge=0, le=1e9)

    depends_on_images: ClassVar[bool] = False  # so a stage that gets more images goes on as it began

    def at(self, progress: float) -> float:
        """Return what to multiply the learning rate by; `progress` is the share of the stage that is done, 0 to 1."""
        return self.factor

    def again(self) -> Constant:
        """Return the schedule of a stage that is added after this one."""
        return self

    def __str__(self) -> str:
        return f"{self.factor:g} of the optimizers'"


class Linear(Config):
    """The optimizer's learning rate times a factor that goes from `start` to `to`, linearly over the stage's images."""

    kind: Literal["linear"] = "linear"
    start: float = Field(1.0, ge=0, le=1e9)
    to: float = Field(0.0, ge=0, le=1e9)

    depends_on_images: ClassVar[bool] = True

    def at(self, progress: float) -> float:
        """Return what to multiply the learning rate by; `progress` is the share of the stage that is done, 0 to 1."""
        return self.start + (self.to - self.start) * progress

    def again(self) -> Linear:
        """Return the schedule of a stage that is added after this one: the same way, from half as high."""
        return Linear(start=max(self.start / 2, self.to), to=self.to)

    def __str__(self) -> str:
        return f"from {self.start:g} to {self.to:g} of the optimizers'"


Schedule = Annotated[Constant | Linear, Field(discriminator="kind")]
