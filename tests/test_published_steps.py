"""The whole step of the published code, of pix2pix and of CycleGAN, in float64: networks, losses, order, Adam, pools.

Nothing of the package computes here but in the training that is compared: the networks are written out as functions of
their weights, and the optimizer by its formula.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from tests.steps import build
from translate.data import Batch
from translate.networks import memory
from translate.optimizers import Adam
from translate.training.update import Update
from translate.translators import CycleGANConfig, Pix2PixConfig, Translator

Weights = dict[str, Tensor]
STEPS = 3
RATE, BETAS, EPS = 2e-4, (0.5, 0.999), 1e-8
UNET = {"kind": "unet", "width": 2, "downs": 3}
RESNET = {"kind": "resnet", "width": 2, "blocks": 1}


def standardised(x: Tensor, over: tuple[int, ...]) -> Tensor:
    mean = x.mean(over, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(over, keepdim=True) + 1e-5).sqrt()


def unet(w: Weights, a: Tensor) -> Tensor:
    """Section 6.1.1 of Isola et al. 2017, three levels deep; batch norm, no dropout at this depth."""
    def norm(x: Tensor, name: str) -> Tensor:
        return (standardised(x, (0, 2, 3)) * w[f"{name}.norm.weight"].view(1, -1, 1, 1)
                + w[f"{name}.norm.bias"].view(1, -1, 1, 1))

    def down(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, w[f"down.{level}.layer.conv.weight"], stride=2, padding=1)

    def up(x: Tensor, level: int, bias: Tensor | None = None) -> Tensor:
        return F.conv_transpose2d(torch.relu(x), w[f"up.{level}.layer.conv.weight"], bias, stride=2, padding=1)

    first = down(a, 0)
    second = norm(down(F.leaky_relu(first, 0.2), 1), "down.1")
    y = norm(up(down(F.leaky_relu(second, 0.2), 2), 2), "up.2")
    y = norm(up(torch.cat([second, y], 1), 1), "up.1")
    return torch.tanh(up(torch.cat([first, y], 1), 0, w["up.0.layer.conv.bias"]))


def resnet(w: Weights, a: Tensor) -> Tensor:
    """The appendix of Zhu et al. 2017, with one residual block: c7s1, d, d, R, u, u, c7s1."""
    def conv(x: Tensor, name: str, stride: int = 1, reflect: int = 0, padding: int = 0) -> Tensor:
        x = F.pad(x, (reflect,) * 4, mode="reflect") if reflect else x
        return F.conv2d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], stride, padding)

    def active(x: Tensor) -> Tensor:
        return torch.relu(standardised(x, (2, 3)))

    y = active(conv(a, "head.0", reflect=3))
    y = active(conv(y, "head.1", stride=2, padding=1))
    y = active(conv(y, "head.2", stride=2, padding=1))
    inside = active(conv(y, "trunk.0.chain.0", reflect=1))
    y = y + standardised(conv(inside, "trunk.0.chain.1", reflect=1), (2, 3))
    for level in (0, 1):
        y = active(F.conv_transpose2d(y, w[f"tail.{level}.conv.weight"], w[f"tail.{level}.conv.bias"], stride=2,
                                      padding=1, output_padding=1))
    return torch.tanh(conv(y, "tail.2", reflect=3))


def patchgan(w: Weights, x: Tensor, over: tuple[int, ...]) -> Tensor:
    """C2-C4-C8 and a last convolution to one channel; `over` says which norm the second and third have."""
    for layer, stride in enumerate((2, 2, 1, 1)):
        if layer:
            if layer > 1:
                x = standardised(x, over)
            if f"{layer}.norm.weight" in w:
                x = x * w[f"{layer}.norm.weight"].view(1, -1, 1, 1) + w[f"{layer}.norm.bias"].view(1, -1, 1, 1)
            x = F.leaky_relu(x, 0.2)
        x = F.conv2d(x, w[f"{layer}.conv.weight"], w.get(f"{layer}.conv.bias"), stride, 1)
    return x


class ByHand:
    """Adam (Kingma and Ba 2015, algorithm 1) of named networks, which are updated in place."""

    def __init__(self, networks: dict[str, Weights]):
        self.weights = [value for weights in networks.values() for value in weights.values()]
        self.moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in self.weights]
        self.steps = 0

    def minimise(self, loss: Tensor) -> None:
        self.steps += 1
        found = torch.autograd.grad(loss, self.weights)
        for value, gradient, (first, second) in zip(self.weights, found, self.moments, strict=True):
            first.mul_(BETAS[0]).add_(gradient * (1 - BETAS[0]))
            second.mul_(BETAS[1]).add_(gradient.square() * (1 - BETAS[1]))
            unbiased = first / (1 - BETAS[0]**self.steps), second / (1 - BETAS[1]**self.steps)
            value.data -= RATE * unbiased[0] / (unbiased[1].sqrt() + EPS)


class Pix2PixByHand:
    """The published pix2pix: D moves first, and G plays against what it has become, with the same fake."""

    def __init__(self, networks: dict[str, Weights]):
        self.g, self.d = networks["generator_ab"], networks["discriminator_b"]
        self.train_g, self.train_d = ByHand({"g": self.g}), ByHand({"d": self.d})

    def judged(self, a: Tensor, image: Tensor, real: bool) -> Tensor:
        logits = patchgan(self.d, torch.cat([a, image], 1), (0, 2, 3))
        return F.softplus(-logits if real else logits).mean()  # −log σ(x), −log(1 − σ(x))

    def step(self, a: Tensor, b: Tensor) -> None:
        fake = unet(self.g, a)
        self.train_d.minimise((self.judged(a, fake.detach(), real=False) + self.judged(a, b, real=True)) / 2)
        self.train_g.minimise(self.judged(a, fake, real=True) + 100 * (fake - b).abs().mean())


class CycleGANByHand:
    """The published CycleGAN: both generators move first; pools that are not full give back what they are shown."""

    def __init__(self, networks: dict[str, Weights]):
        self.ab, self.ba, self.judge_a, self.judge_b = (networks[name] for name in (
            "generator_ab", "generator_ba", "discriminator_a", "discriminator_b"))
        self.train_g = ByHand({"ab": self.ab, "ba": self.ba})
        self.train_d = [ByHand({"a": self.judge_a}), ByHand({"b": self.judge_b})]

    @staticmethod
    def score(judge: Weights, image: Tensor, target: float) -> Tensor:
        return (patchgan(judge, image, (2, 3)) - target).square().mean()

    def step(self, a: Tensor, b: Tensor) -> None:
        fake_b, fake_a = resnet(self.ab, a), resnet(self.ba, b)
        loss = self.score(self.judge_b, fake_b, 1) + self.score(self.judge_a, fake_a, 1)
        loss = loss + 10 * ((resnet(self.ba, fake_b) - a).abs().mean() + (resnet(self.ab, fake_a) - b).abs().mean())
        loss = loss + 5 * ((resnet(self.ba, a) - a).abs().mean() + (resnet(self.ab, b) - b).abs().mean())
        self.train_g.minimise(loss)
        for judge, train_judge, real, fake in zip((self.judge_a, self.judge_b), self.train_d, (a, b), (fake_a, fake_b),
                                                  strict=True):
            train_judge.minimise((self.score(judge, real, 1) + self.score(judge, fake.detach(), 0)) / 2)


PUBLISHED: dict[str, tuple[Any, Any]] = {
    "pix2pix": (Pix2PixConfig, Pix2PixByHand), "cyclegan": (CycleGANConfig, CycleGANByHand)}


def small(kind: str, **changes: Any) -> Translator:
    """A translator with its published defaults, but small, whose losses all pull noticeably."""
    config = PUBLISHED[kind][0]
    generator = UNET if kind == "pix2pix" else RESNET
    norm = "batch" if kind == "pix2pix" else "instance"
    return build(config(generator=generator, discriminator={
        "kind": "patchgan", "width": 2, "layers": 2, "norm": norm}, **changes))


def weights_of(translator: Translator) -> dict[str, Weights]:
    return {name: {parameter: value.detach().clone().requires_grad_() for parameter, value in
                   network.named_parameters()} for name, network in translator.networks.items()}


def three_batches() -> list[Batch]:
    chance = torch.Generator().manual_seed(1)
    return [Batch(*(torch.rand(2, 3, 32, 32, generator=chance, dtype=torch.float64) * 2 - 1 for _ in range(2)),
                  keys=(2 * number, 2 * number + 1)) for number in range(STEPS)]


def trained(translator: Translator, plan: str) -> dict[str, Weights]:
    """What three steps under a memory plan make of the networks."""
    optimizers = {phase: Adam(lr=RATE, betas=BETAS).build(
        parameter for network in networks.values() for parameter in network.parameters())
        for phase, networks in translator.phases.items()}
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    for number, batch in enumerate(three_batches()):
        translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS[plan], "fp32",
                                      number=number, images=2 * number))
    return weights_of(translator)


def by_hand(kind: str) -> dict[str, Weights]:
    networks = weights_of(small(kind))
    hand = PUBLISHED[kind][1](networks)
    for batch in three_batches():
        hand.step(batch.a, batch.b)
    return networks


def farthest(found: dict[str, Weights], expected: dict[str, Weights]) -> float:
    """The largest difference of any weight, as a part of what Adam moves one in a step.

    Biases whose only way is through a norm have no gradient: what Adam makes of its rounding is left out.
    """
    return max(((found[network][name] - value).abs().max() / RATE).item() for network, weights in expected.items()
               for name, value in weights.items() if not has_norm_behind(network, name))


def has_norm_behind(network: str, name: str) -> bool:
    if not name.endswith("conv.bias"):
        return False
    if network.startswith("generator"):
        return name not in ("up.0.layer.conv.bias", "tail.2.conv.bias")
    return name not in ("0.conv.bias", "3.conv.bias")


@pytest.mark.parametrize(("kind", "plan"), [("pix2pix", "split"), ("pix2pix", "plain"), ("pix2pix", "strips_blocks"),
                                            ("cyclegan", "split")])
def test_three_steps_equal_those_of_the_published_code(kind: str, plan: str) -> None:
    """Whoever repeats pix2pix's numbers trained G against a D that was one step behind, and could not know."""
    expected = by_hand(kind)
    assert farthest(weights_of(small(kind)), expected) > 1, "the steps must move something"
    assert farthest(trained(small(kind), plan), expected) < 1e-5


@pytest.mark.parametrize(("kind", "first"), [("pix2pix", "generator"), ("cyclegan", "discriminator")])
def test_the_other_order_is_another_step(kind: str, first: str) -> None:
    """The proof that the test above can fail, and that the order is an option."""
    assert farthest(trained(small(kind, pace={"first": first}), "split"), by_hand(kind)) > 1e-2
