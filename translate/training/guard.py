"""The guard: tells a training that is lost from one that is merely having a hard time.

It never looks at single losses: those of healthy trainings swing by factors of ten. It looks for signs of what no
healthy training does, each of which must last (`patience`, in images), by two sorts of numbers:

    of the probe (`training.probe`), at every look  of the game (`Update.observed`), as means between two looks
    constant    all outputs are the same            blind      D says the same of whatever it sees
    saturated   all values are at the ends          won        D is sure, and right, of everything
    copy        the output is the input             fooled     D takes real for fake and fake for real
    lost        as bad as the mean colour, and it   vanished   a gradient is a millionth of what it was
                was twice as good                   exploded   a gradient is a thousand times what it was

and for numbers that are not finite: `Update` keeps those out of weights and buffers, and leaves the step out; too many
in a row are a sign as well. What each sign means and what to change is in docs/training.md.

What the guard remembers is plain numbers, which a checkpoint holds: a resumed run judges as an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from translate.agreement import by_main_process
from translate.recipe import GuardConfig, Sign
from translate.training.processes import Means

# Where the limits lie is justified by docs/training.md, from runs of tools/guard_zoo.py.
DIVERSITY_OF_CONSTANT = 0.02
SATURATION_LIMIT = 0.9
CHANGE_OF_COPY = 0.02
ERROR_RATIO_OF_LOST = 2.0  # to the best error there was
SHARE_OF_SURE = 0.98  # of the way from the threshold between real and fake to a score with nothing left to learn
RIGHT_SHARE_OF_WON = 0.995
RIGHT_SHARE_OF_FOOLED = 0.25  # a discriminator that knows nothing is right half the time
SPREAD_OF_BLIND = 1e-6
GRADIENT_RATIO_OF_VANISHED = 1e-6  # to the usual norm of this gradient
GRADIENT_RATIO_OF_EXPLODED = 1e3
SLOW_SIGN_PATIENCES = 5  # times `patience`: D may win for a while, and a beginning takes its time
OVERFLOW_LIMIT = 32  # steps in a row that fp16's scaler left out: by then 2^16 has become 2^-16
USUAL_NORM_LOOKS = 5  # after so many looks the usual norm of a gradient is known
TOLD_SKIPS = 10  # report each of the first 10 steps that are left out
SKIPS_BETWEEN_TELLING = 100  # later one in a hundred

WORDS: dict[Sign, str] = {  # the first that is there is named as the cause
    "not_finite": "{where}",
    "saturated": "{where} gives nothing but the ends of the range",
    "constant": "{where} gives nearly the same output whatever goes in",
    "copy": "{where} gives back its input",
    "blind": "{where} says the same of every image",
    "won": "{where} is sure of every image, and right: the generator can learn nothing from it any more",
    "fooled": "{where} takes real images for fakes and fakes for real ones",
    "vanished": "the gradient of the {where} phase has vanished",
    "exploded": "the gradient of the {where} phase has exploded",
    "lost": "{where} is as bad on held-out images as their mean colour would be, and it was twice as good"}


@dataclass(frozen=True)
class Trouble:
    """A sign that has lasted. `since`: images at the last look before it."""

    sign: Sign
    where: str
    since: int

    def __str__(self) -> str:
        return f"{self.sign}: {WORDS[self.sign].format(where=self.where)}, since {self.since:,} images"


@dataclass
class GuardState:
    """What the guard remembers: its part of a checkpoint, in plain numbers. The fields are the keys of its JSON."""

    looked: int = 0  # images at the last look
    clear: int = 0  # images at the last look that showed no sign: the run was healthy then
    since: dict[str, int] = field(default_factory=dict)  # for each present sign, images at the last look before it
    error: dict[str, float] = field(default_factory=dict)  # of the probe, smoothed
    best: dict[str, float] = field(default_factory=dict)  # the smallest such error so far
    level: dict[str, tuple[float, int]] = field(default_factory=dict)  # usual gradient norms: mean log10, over n looks
    skipped: int = 0  # steps
    skipped_in_a_row: int = 0
    overflows_in_a_row: int = 0
    window: dict[str, tuple[float, int]] = field(default_factory=dict)  # sums since the last look, over n steps


class Guard:
    """Watches one run. Every process calls all methods alike; the main one judges."""

    def __init__(self, config: GuardConfig, sure_scores: tuple[float, float] | None, accelerator: Accelerator):
        """Watch a game in which `sure_scores` are what a discriminator that is sure gives real images and fakes.

        None: the objective has none. A critic's values are not bounded, and BEGAN holds its errors apart on purpose.
        """
        self.config, self.sure_scores, self.accelerator = config, sure_scores, accelerator
        self.state = GuardState()
        self.window = Means()  # of what was observed since the last look
        self.why_skipped = ""

    @property
    def last_healthy(self) -> int:
        """Images at the last look that showed no sign."""
        return self.state.clear

    def count_as_healthy(self, images: int) -> None:
        """Take the run for healthy at `images`, as if a look had shown no sign."""
        self.state.looked = self.state.clear = images

    # -- numbers that are not finite

    def note(self, observed: dict[str, Tensor], overflowed: bool, why_skipped: str = "") -> str | None:
        """Take in a step: what it observed, whether fp16's scaler left a part of it out, and why the guard did.

        Returns a line for people about a step that was left out, now and then.
        """
        state = self.state
        self.window.add(observed)
        state.overflows_in_a_row = state.overflows_in_a_row + 1 if overflowed else 0
        state.skipped += bool(why_skipped)
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if why_skipped else 0
        self.why_skipped = why_skipped
        if not why_skipped or (state.skipped > TOLD_SKIPS and state.skipped % SKIPS_BETWEEN_TELLING):
            return None
        return f"a step is left out, number {state.skipped:,} of this run: {why_skipped}"

    def too_many_skipped(self) -> Trouble | None:
        """Return the trouble of too many steps in a row that taught nothing; it need not wait for the next look."""
        skipped, overflows = self.state.skipped_in_a_row, self.state.overflows_in_a_row
        if "not_finite" in self.config.ignore:
            return None
        if skipped > self.config.skips:
            return Trouble("not_finite", f"{skipped} steps in a row were left out, the last for: {self.why_skipped}",
                           self.last_healthy)
        if overflows > OVERFLOW_LIMIT:
            return Trouble("not_finite", f"gradients overflowed fp16 in {overflows} steps in a row; use precision: "
                                         "bf16 or fp32", self.last_healthy)
        return None

    # -- signs that must last

    def trouble(self, images: int, looking: bool, probed: dict[str, float], warming_up: bool) -> Trouble | None:
        """Return what calls for a rollback after a step, the same in every process; None where all is well.

        images      of the run that were seen
        looking     whether it is time for a look
        probed      what the probe saw, at a look
        warming_up  whether D is trained alone: it is meant to win, so nothing counts as a sign
        """
        found = self.too_many_skipped()
        if found is None and looking:
            observed = self.window.take(self.accelerator)
            if warming_up:
                probed, observed = {}, {}
            found = by_main_process(lambda: self.look(images, probed, observed), self.accelerator)
        return found

    def look(self, images: int, probed: dict[str, float], observed: dict[str, float]) -> Trouble | None:
        """Return the sign that has lasted, after `images` images, by a look of the probe and by the means since the
        look before. Names are those of `metrics.jsonl`. The main process alone calls this.
        """
        state = self.state

        # Note for each present sign since when it lasts.
        signs = {f"{sign} {side}": (sign, where)
                 for sign, side, where in chain(self._probe_signs(probed), self._game_signs(observed))
                 if sign not in self.config.ignore}
        state.since = {key: state.since.get(key, state.looked) for key in signs}
        state.looked = images
        if not signs:
            state.clear = images

        # One that has lasted long enough is trouble; of all present signs, the first in `WORDS` is named as the cause.
        lasting = [since for key, since in state.since.items() if self._has_lasted(signs[key][0], since)]
        if not lasting:
            return None
        sign, where = min(signs.values(), key=lambda each: list(WORDS).index(each[0]))
        return Trouble(sign, where, min(lasting))

    def _has_lasted(self, sign: Sign, since: int) -> bool:
        slow = sign == "won" or since == 0  # running statistics, too, have to be learnt before outputs differ
        return self.state.looked - since >= self.config.patience * (SLOW_SIGN_PATIENCES if slow else 1)

    def _probe_signs(self, probed: dict[str, float]) -> Iterator[tuple[Sign, str, str]]:
        """Yield the signs that the probe's numbers show: each with its direction, and where it is in words."""
        for name, value in probed.items():
            what, _, direction = name.rpartition("_")
            where = f"generator_{direction}"
            if not math.isfinite(value):
                yield ("not_finite", direction, f"what {where} gives for held-out images is not finite: its weights or "
                                                "its running statistics are broken")
            elif what == "diversity" and value < DIVERSITY_OF_CONSTANT:
                yield "constant", direction, where
            elif what == "saturation" and value > SATURATION_LIMIT:
                yield "saturated", direction, where
            elif what == "change" and value < CHANGE_OF_COPY:
                yield "copy", direction, where
            elif what == "error" and self._is_lost(direction, value):
                yield "lost", direction, where

    def _is_lost(self, direction: str, error: float) -> bool:
        """Tell whether a generator that was once better has become as bad as the mean colour; keep the best error."""
        best = self.state.best.get(direction, math.inf)
        if error >= 1 and error >= ERROR_RATIO_OF_LOST * best:
            return True
        smooth = (self.state.error.get(direction, error) + error) / 2
        self.state.error[direction], self.state.best[direction] = smooth, min(best, smooth)
        return False

    def _game_signs(self, observed: dict[str, float]) -> Iterator[tuple[Sign, str, str]]:
        """Yield the signs that the game's numbers show: each with its domain or phase, and where it is."""
        for domain in sorted({name.rpartition("_")[2] for name in observed if name.startswith("right_")}):
            where, right = f"discriminator_{domain}", observed[f"right_{domain}"]
            if observed[f"spread_{domain}"] < SPREAD_OF_BLIND:
                yield "blind", domain, where
            elif self.sure_scores is not None:
                scores = observed[f"real_{domain}"], observed[f"fake_{domain}"]
                if right > RIGHT_SHARE_OF_WON and self._is_sure(self.sure_scores, *scores):
                    yield "won", domain, where
                if right < RIGHT_SHARE_OF_FOOLED:
                    yield "fooled", domain, where
        for name, value in observed.items():
            what, _, phase = name.partition("_")
            if what == "gradient" and (sign := self._gradient_sign(phase, value)):
                yield sign, phase, phase

    @staticmethod
    def _is_sure(sure_scores: tuple[float, float], real: float, fake: float) -> bool:
        """Tell whether the mean scores have come as far as those of a discriminator that is sure."""
        at_real, at_fake = sure_scores
        middle, reach = (at_real + at_fake) / 2, (at_real - at_fake) / 2
        return real > middle + (2 * SHARE_OF_SURE - 1) * reach and fake < middle - (2 * SHARE_OF_SURE - 1) * reach

    def _gradient_sign(self, phase: str, norm: float) -> Sign | None:
        mean, looks = self.state.level.get(phase, (0.0, 0))
        logarithm = math.log10(max(norm, 1e-30)) if math.isfinite(norm) else 30.0
        if looks >= USUAL_NORM_LOOKS:
            if logarithm < mean + math.log10(GRADIENT_RATIO_OF_VANISHED):
                return "vanished"
            if logarithm > mean + math.log10(GRADIENT_RATIO_OF_EXPLODED):
                return "exploded"
        share = max(1 / (looks + 1), 0.1)  # a plain mean of ten looks, then a moving average
        self.state.level[phase] = mean + share * (logarithm - mean), looks + 1
        return None

    # -- stages and checkpoints

    def forget_scales(self) -> None:
        """Begin a stage: forget errors and gradient norms, which are other at another resolution."""
        self.state.error, self.state.best, self.state.level = {}, {}, {}

    def pack(self) -> dict[str, Any]:
        """Return what it remembers, as JSON; every process goes on from the same means."""
        if sums := self.window.sums:
            totals = self.accelerator.reduce(torch.stack([total.float() for total, _ in sums.values()]), "mean")
            self.window.sums = {name: (total, steps) for (name, (_, steps)), total in
                                zip(sums.items(), totals, strict=True)}
        self.state.window = {name: (total.item(), steps) for name, (total, steps) in self.window.sums.items()}
        return asdict(self.state)

    def unpack(self, packed: dict[str, Any]) -> None:
        """Go on from what `pack` returned."""
        self.state = GuardState(**packed)
        device = self.accelerator.device
        self.window.sums = {name: (torch.tensor(total, device=device), steps)
                            for name, (total, steps) in self.state.window.items()}
