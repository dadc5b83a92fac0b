"""A fake that discriminators see before the generators' turn is made once, and the step is as if it were made twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from tests.bounds import RoundingBound
from tests.steps import LR, build, gradients, make_batch, step, worst_error
from translate.data import Batch
from translate.networks import PatchGANConfig, UNetConfig
from translate.networks.latent.dcgan import DCGANConfig, DCGANDiscriminatorConfig
from translate.training.previews import Previews
from translate.translators import CUTConfig, Pix2PixConfig, Translator
from translate.translators.noise import NoiseConfig

# Batch norm advances statistics in every pass, and dropout draws: both must be as if the fake had been made twice.
UNET, PATCH = UNetConfig(width=2, downs=4), PatchGANConfig(width=2, layers=2, norm="batch")
CONFIGS = {"pix2pix": Pix2PixConfig(generator=UNET, discriminator=PATCH),
           "cut": CUTConfig(generator=UNET, discriminator=PATCH, patches=20),
           "noise": NoiseConfig(generator=DCGANConfig(side=32, width=2),
                                discriminator=DCGANDiscriminatorConfig(side=32, width=2))}


def stepped(config: Any, plan: str, micro_batch: int | None = None) -> Translator:
    translator = build(config)
    step(translator, batch_for(translator), plan, micro_batch, lr=LR)
    return translator


def batch_for(translator: Translator) -> Batch:
    """Two samples; what images from noise are drawn under has no sides."""
    batch = make_batch((32, 32))
    return batch if translator.needs_sources else dataclasses.replace(batch, a=batch.a[:, :, :1, :1])


def making_twice(patch: pytest.MonkeyPatch) -> None:
    within = Previews.within
    patch.setattr(Previews, "within", lambda self, generators, may_keep: within(self, generators, False))


def assert_same(found: Translator, expected: Translator, bound: RoundingBound) -> None:
    assert worst_error(gradients(found), gradients(expected)) <= bound
    for name, network in expected.networks.items():
        for buffer, value in network.named_buffers():
            torch.testing.assert_close(found.networks[name].get_buffer(buffer), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", ["plain", "preact", "blocks"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_step_that_makes_the_fake_once_equals_one_that_makes_it_twice(kind: str, plan: str,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    once = stepped(CONFIGS[kind], plan)
    with monkeypatch.context() as patch:
        making_twice(patch)
        twice = stepped(CONFIGS[kind], plan)
        bound = RoundingBound(gradients(twice), lambda: gradients(stepped(CONFIGS[kind], plan)))
        assert_same(once, twice, bound)  # its bound takes another step, which also makes it twice


@pytest.mark.parametrize(("kind", "plan", "micro_batch", "passes"), [
    ("pix2pix", "plain", None, 1), ("pix2pix", "split", None, 1), ("pix2pix", "blocks", None, 1),
    ("pix2pix", "split", 1, 4), ("pix2pix", "replay", None, 2), ("cut", "split", None, 2), ("noise", "split", None, 1)])
def test_the_generator_makes_its_fake_once_a_step(kind: str, plan: str, micro_batch: int | None, passes: int) -> None:
    """Every step took a forward pass more than it must.

    Of several micro-batches none is kept: the graphs of all would be alive at once. `replay` lets none wait. CUT's
    generator also makes b of b.
    """
    translator, seen = build(CONFIGS[kind]), []
    translator.generators["generator_ab"].register_forward_hook(lambda *_: seen.append(1))
    step(translator, batch_for(translator), plan, micro_batch)
    assert len(seen) == passes


@pytest.mark.parametrize("phase", ["train_discriminators", "train_generators"])
@pytest.mark.parametrize("plan", ["plain", "split"])
def test_a_phase_that_runs_out_of_memory_after_the_fake_was_kept_leaves_no_trace(
        phase: str, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm would have seen the same image twice, or a graph that was used up have been used again."""
    expected = stepped(CONFIGS["pix2pix"], plan)
    bound = RoundingBound(gradients(expected), lambda: gradients(stepped(CONFIGS["pix2pix"], plan)))
    kind, left = type(expected), [True]
    train = getattr(kind, phase)

    def once(self: Any, *arguments: Any) -> Any:
        found = train(self, *arguments)
        if left and left.pop():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return found

    monkeypatch.setattr(kind, phase, once)
    found = stepped(CONFIGS["pix2pix"], plan)
    assert not left
    assert_same(found, expected, bound)


def test_a_stem_that_is_frozen_stays_frozen() -> None:
    """The graph is made while the generator is frozen: only what its own phase trains is thawed for it."""
    translator = build(CONFIGS["pix2pix"])
    first: nn.Parameter = next(translator.generators["generator_ab"].parameters()).requires_grad_(False)
    step(translator, make_batch((32, 32)))
    assert first.grad is None and not first.requires_grad
    assert all(each.requires_grad for network in translator.networks.values() for each in network.parameters()
               if each is not first)
