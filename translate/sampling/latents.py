"""Ways through the space of latents: from one to another, and sums of them (Radford et al. 2016, section 6.3)."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from translate.errors import UsageError
from translate.mistakes import shown
from translate.networks.latent.latents import Distribution

LARGEST_NUMBER = 2**62  # of a sample
MOST_TERMS = 32  # of a sum


def between(start: Tensor, end: Tensor, share: float, distribution: Distribution) -> Tensor:
    """Return the latent (D,) that lies `share`, in [0, 1], of the way from `start` to `end`, (D,) each.

    Normal latents of many numbers lie near a sphere, and what lies within was hardly ever trained on: they go along the
    great circle (slerp, White 2016), their length from that of the one to that of the other. Uniform ones fill a cube
    and go along the line.
    """
    if distribution == "uniform":
        return start + share * (end - start)
    lengths = start.norm(), end.norm()
    angle = torch.acos((start @ end / (lengths[0] * lengths[1])).clamp(-1, 1).double())
    if angle.sin() < 1e-6:  # one direction: there is no circle through them
        return start + share * (end - start)
    along = (torch.sin((1 - share) * angle) * start / lengths[0] + torch.sin(share * angle) * end / lengths[1])
    return (along / angle.sin() * (lengths[0] + share * (lengths[1] - lengths[0]))).to(start.dtype)


class Term(NamedTuple):
    """A part of a sum: the mean of some samples, which is added (sign 1) or taken away (−1)."""

    sign: int
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'−' if self.sign < 0 else '+'} mean of {', '.join(map(str, self.numbers))}"


def parse_sum(words: str) -> list[Term]:
    """Return the terms of a sum of samples by their numbers, such as "7,12,3 - 5,9 + 1". Raises `UsageError`."""
    fault = UsageError(f"--arithmetic {shown(words)}: expected numbers of samples, such as "
                       "\"7,12,3 - 5,9 + 1\": the mean of three, less that of two, plus one")
    pieces = [piece.strip() for piece in re.split(r"([+-])", words)]
    pieces = ["+", *pieces] if pieces[0] else pieces[1:]  # it may begin with a sign
    terms = []
    for sign, numbers in zip(pieces[::2], pieces[1::2], strict=True):
        found = [number.strip() for number in numbers.split(",")]
        if not all(number.isascii() and number.isdigit() and len(number) < 20
                   and int(number) < LARGEST_NUMBER for number in found):
            raise fault
        terms.append(Term(-1 if sign == "-" else 1, tuple(map(int, found))))
    if not terms:
        raise fault
    if len(terms) > MOST_TERMS:
        raise UsageError(f"--arithmetic: a sum of {len(terms)} terms; expected at most {MOST_TERMS}")
    return terms


def where_latents_lie(latent: Tensor, distribution: Distribution) -> Tensor:
    """Return a mean or sum of latents (D,) brought to where single ones lie.

    Means of normal latents are shorter than any of them, and sums longer: they get the length √D. Uniform ones are cut
    off at −1 and 1.
    """
    if distribution == "uniform":
        return latent.clamp(-1, 1)
    return latent * (math.sqrt(len(latent)) / latent.norm().clamp(min=1e-12))
