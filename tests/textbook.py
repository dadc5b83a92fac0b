"""The step of every translator as its paper writes it: one sum, one backward pass, none of the machinery.

Where discriminators are trained first, generators play against what these have become by plain SGD with `lr`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.data import Batch, draws
from translate.losses import NonSaturating


def moved_first(translator: Any, judges: list[nn.Module], found: tuple[Tensor, ...], lr: float) -> None:
    """Move the discriminators by their gradients, where they are trained before the generators."""
    if translator.first == "discriminator":
        with torch.no_grad():
            for parameter, gradient in zip((each for judge in judges for each in judge.parameters()), found,
                                           strict=True):
                parameter -= lr * gradient


def cyclegan_reference(translator: Any, batch: Batch, lr: float = 0.0) -> dict[str, Tensor]:
    """Equation 3 of the paper as one sum and one backward pass, written without any of the machinery."""
    ab, ba, judge_a, judge_b = (copy.deepcopy(network) for network in (
        translator.generator_ab, translator.generator_ba, translator.discriminator_a, translator.discriminator_b))
    w, a, b = translator.weights, batch.a, batch.b
    fake_b = ab(a)
    fake_a = ba(b)
    judged = sum(0.5 * (((judge(real) - 1) ** 2).mean() + (judge(fake.detach()) ** 2).mean())
                 for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b)))
    of_judges = torch.autograd.grad(judged, [*judge_a.parameters(), *judge_b.parameters()])
    moved_first(translator, [judge_a, judge_b], of_judges, lr)
    loss = w.adversarial * (((judge_b(fake_b) - 1) ** 2).mean() + ((judge_a(fake_a) - 1) ** 2).mean())
    loss = loss + w.cycle * (F.l1_loss(ba(fake_b), a) + F.l1_loss(ab(fake_a), b))
    if w.identity:
        loss = loss + w.identity * (F.l1_loss(ba(a), a) + F.l1_loss(ab(b), b))
    found = torch.autograd.grad(loss, [*ab.parameters(), *ba.parameters()])
    found += of_judges
    names = [f"{name}.{parameter}" for name, network in (
        ("generator_ab", ab), ("generator_ba", ba), ("discriminator_a", judge_a), ("discriminator_b", judge_b))
        for parameter, _ in network.named_parameters()]
    return dict(zip(names, found, strict=True))


def pix2pix_reference(translator: Any, batch: Batch, lr: float = 0.0) -> dict[str, Tensor]:
    """Equation 4 of the paper as one sum and one backward pass."""
    generator, judge = copy.deepcopy(translator.generator_ab), copy.deepcopy(translator.discriminator_b)
    a, b, w = batch.a, batch.b, translator.weights
    fake = generator(a)
    log_loss = isinstance(translator.objective, NonSaturating)
    fooled = F.binary_cross_entropy_with_logits if log_loss else F.mse_loss
    condition = a if translator.registration is None else a[:, :0]  # of pairs that are off it sees no inputs
    real, judged = judge(torch.cat([condition, b], 1)), judge(torch.cat([condition, fake.detach()], 1))
    loss = 0.5 * (fooled(real, torch.ones_like(real)) + fooled(judged, torch.zeros_like(judged)))
    of_judge = torch.autograd.grad(loss, list(judge.parameters()))
    moved_first(translator, [judge], of_judge, lr)
    logits = judge(torch.cat([condition, fake], 1))
    loss = w.adversarial * fooled(logits, torch.ones_like(logits))
    networks = {"generator_ab": generator}
    if translator.registration is None:
        if w.ssim:
            loss = loss + w.ssim * dissimilarity((fake + 1) / 2, (b + 1) / 2)
        loss = loss + w.l1 * F.l1_loss(fake, b)
    else:
        networks["registration"] = copy.deepcopy(translator.registration)
        field = networks["registration"](fake, b)
        rough = ((field[:, :, 1:] - field[:, :, :-1]) ** 2).mean() + ((field[..., 1:] - field[..., :-1]) ** 2).mean()
        rows, columns = torch.meshgrid(*map(torch.arange, b.shape[2:]), indexing="ij")
        x, y = columns + field[:, 0], rows + field[:, 1]
        shown = ((x >= 0) & (x <= b.shape[3] - 1) & (y >= 0) & (y <= b.shape[2] - 1))[:, None]
        loss = loss + w.l1 * ((deformed(fake, field) - b).abs() * shown).mean() + translator.smoothness * rough / 2
    found = torch.autograd.grad(loss, [each for network in networks.values() for each in network.parameters()])
    found += of_judge
    networks["discriminator_b"] = judge
    names = [f"{name}.{parameter}" for name, network in networks.items() for parameter, _ in network.named_parameters()]
    return dict(zip(names, found, strict=True))


def dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """1 − SSIM (Wang et al. 2004) of images in [0, 1] below 44 px, in full and, from 22 px on, at half their size."""
    found = 1 - similarity(x, y).mean()
    if min(x.shape[2:]) < 22:
        return found
    return (found + 1 - similarity(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)).mean()) / 2


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of each window of 11 px, by its formula."""
    gaussian = torch.exp(-(torch.arange(-5.0, 6.0, dtype=x.dtype) ** 2) / (2 * 1.5**2))
    weights = torch.outer(gaussian, gaussian).flatten()[:, None] / gaussian.sum() ** 2
    u, v = (F.unfold(each.flatten(0, 1)[:, None], 11) for each in (x, y))
    mean_u, mean_v = ((each * weights).sum(1, keepdim=True) for each in (u, v))
    du, dv = u - mean_u, v - mean_v
    var_u, var_v, both = ((product * weights).sum(1, keepdim=True) for product in (du * du, dv * dv, du * dv))
    return ((2 * mean_u * mean_v + 1e-4) * (2 * both + 9e-4)
            / ((mean_u**2 + mean_v**2 + 1e-4) * (var_u + var_v + 9e-4)))


def deformed(images: Tensor, field: Tensor) -> Tensor:
    """Bicubic interpolation by its definition (Keys 1981, eq. 4 with a = −0.75): sixteen pixels around each place."""
    def share(away: Tensor) -> Tensor:
        away = away.abs()
        return torch.where(away <= 1, 1.25 * away**3 - 2.25 * away**2 + 1,
                           -0.75 * (away**3 - 5 * away**2 + 8 * away - 4))

    height, width = images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns + field[:, 0], rows + field[:, 1]
    left, top = (((place.detach() + 99).floor() + 0.5).long() - 99 for place in (x, y))  # as `Rough` rounds as well
    samples = torch.arange(len(images))[:, None, None]
    total = torch.zeros_like(images)
    for column in (left + right for right in (-1, 0, 1, 2)):
        for row in (top + below for below in (-1, 0, 1, 2)):
            found = images[samples, :, row.clamp(0, height - 1), column.clamp(0, width - 1)].movedim(-1, 1)
            total = total + (share(x - column) * share(y - row))[:, None] * found
    return total


def cut_reference(translator: Any, batch: Batch, lr: float = 0.0) -> dict[str, Tensor]:
    """Equations 3 to 5 of the paper, patch by patch, as one sum and one backward pass; keys are constants."""
    generator, heads, judge = (copy.deepcopy(network) for network in (
        translator.generator_ab, translator.heads, translator.discriminator_b))
    a, b, w = batch.a, batch.b, translator.weights
    if hasattr(generator, "head"):
        first, layers = generator.head[0], [*generator.head[1:], *generator.trunk[:1], *generator.trunk[1:5][-1:]]
    else:
        first, layers = generator.down[0], generator.down[:4]
    flipped = draws.uniform(batch.keys, "flip", a.device) < 0.5
    if not translator.flip_equivariance:
        flipped = torch.zeros_like(flipped)

    def flip(images: Tensor) -> Tensor:
        return torch.stack([image.flip(2) if left else image for image, left in zip(images, flipped, strict=True)])

    def encoded(image: Tensor) -> list[Tensor]:
        """From a whole pass through the generator, which pads an image that does not fit."""
        found: list[Tensor] = []
        hooks = [first.register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))]
        hooks += [layer.register_forward_hook(lambda layer, inputs, out: found.append(out)) for layer in layers]
        generator(image)
        for hook in hooks:
            hook.remove()
        return found

    def contrasted(name: str, real: Tensor, fake: Tensor) -> Tensor:
        losses = []
        for number, (k, q) in enumerate(zip(encoded(real), encoded(fake), strict=True)):
            places = draws.places(batch.keys, f"{name} {number}", translator.patches, q.shape[2:], q.device)
            parts = []
            for key, query, rows, columns in zip(k, flip(q), *places, strict=True):
                vectors = [heads.heads[number](features[:, rows, columns].T) for features in (query, key)]
                v, others = (vector / vector.square().sum(1, keepdim=True).sqrt() for vector in vectors)
                alike = torch.exp(v @ others.detach().T / translator.temperature)
                parts.append((alike.sum(1) / alike.diagonal()).log())
            losses.append(torch.stack(parts).mean())
        return torch.stack(losses).mean()

    fake = generator(flip(a))
    judged = 0.5 * (((judge(b) - 1) ** 2).mean() + (judge(fake.detach()) ** 2).mean())
    of_judge = torch.autograd.grad(judged, list(judge.parameters()))
    moved_first(translator, [judge], of_judge, lr)
    loss = w.adversarial * ((judge(fake) - 1) ** 2).mean() + w.nce * contrasted("nce", a, fake)
    if w.identity:
        loss = loss + w.identity * contrasted("identity", b, generator(flip(b)))
    found = torch.autograd.grad(loss, [*generator.parameters(), *heads.parameters()])
    found += of_judge
    names = [f"{name}.{parameter}" for name, network in (
        ("generator_ab", generator), ("heads", heads), ("discriminator_b", judge))
        for parameter, _ in network.named_parameters()]
    return dict(zip(names, found, strict=True))
