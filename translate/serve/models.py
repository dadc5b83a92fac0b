"""What is on offer: models, the directions they translate, and what an image takes of the memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from translate import tiling
from translate.convert.memory_share import MemoryShare
from translate.convert.scaling import Resize, Scaling, Size
from translate.convert.translating import Precision, Translating
from translate.errors import DoesNotFit, UsageError
from translate.precision import autocast
from translate.runs.release import Release, find_weights, load_release
from translate.serve.limits import Refused
from translate.sizes import format_bytes, num_bytes
from translate.translators import Direction

READ_AHEAD = 1  # images in flight beside the one that is translated, by which memory is shared out


@dataclass(frozen=True)
class Offer:
    """One direction of one model, ready to translate."""

    model: str
    translating: Translating
    planned: Translating  # its twin for forecasts: the same weights in modules of its own, which another thread may use

    @classmethod
    def of(cls, model: str, release: Release, device: str = "auto", precision: Precision = "auto",
           memory: str | None = None) -> Offer:
        """Move a generator to its device. Raises as `Translating.with_release` does."""
        translating = Translating.with_release(release, device, precision, memory)
        generator = release.generator
        shared = {id(tensor): tensor for tensor in [*generator.parameters(), *generator.buffers()]}
        share = MemoryShare.of(READ_AHEAD, on_cuda=translating.device.type == "cuda")
        twin = replace(release, generator=copy.deepcopy(generator, shared))
        return cls(model, translating, replace(translating, release=twin, room=share.for_one))

    @property
    def release(self) -> Release:
        return self.translating.release

    def scaling(self, resize: str | None, size: str | None) -> Scaling:
        """Read how an image is to be scaled. Raises `Refused`."""
        side: Resize | None = None
        if resize == "trained":
            side = "trained"
        elif resize:
            if not (resize.isascii() and resize.isdigit() and 0 < len(resize) < 7):
                raise Refused(422, "resize: expected trained, or a short side in pixels, such as 512")
            side = int(resize)
        if size and size not in get_args(Size):
            raise Refused(422, f"size: expected {' or '.join(get_args(Size))}")
        try:
            return Scaling.of(side, size or "resized", self.release.scale)  # type: ignore[arg-type]
        except UsageError as error:
            raise Refused(422, str(error)) from None

    def about(self) -> dict[str, Any]:
        """Return what people choose by, as JSON."""
        release = self.release
        sides = {name: {"channels": config.channels, "bits": config.bits}
                 for name, config in (("in", release.image_in), ("out", release.image_out))}
        return {"direction": release.direction, **sides, "fingerprint": release.fingerprint,
                "labels": None if release.labels is None else release.labels.classes,
                "scale": None if release.scale is None else list(release.scale.sides),
                "scale_in_words": None if release.scale is None else str(release.scale)}

    def memory(self, height: int, width: int, scaling: Scaling) -> dict[str, Any]:
        """Return what an image will take beside weights and itself, and how it will be computed, as JSON."""
        planned = self.planned
        height, width = scaling.shape_of((height, width))
        shape = (1, planned.num_planes, height, width)
        room = planned.room().bytes if planned.memory is None else num_bytes(planned.memory)
        said = {"height": height, "width": width, "may_take_bytes": room}
        try:
            way = planned.way(height, width)
            if way.strips is not None:
                with autocast(planned.device, planned.precision):
                    needed = tiling.forecast(planned.release.generator, shape, settings=way.strips).peak_bytes
            else:
                needed = tiling.whole_bytes(planned.release.generator, shape)
        except (DoesNotFit, tiling.TilingError) as error:
            return said | {"fits": False, "in_strips": False, "bytes": None, "in_words": str(error)}
        how = "in strips, which give the same output" if way.strips is not None else "at once"
        return said | {"fits": True, "in_strips": way.strips is not None, "bytes": needed,
                       "in_words": f"{format_bytes(needed)} {how}; {format_bytes(room)} may be taken"}


class Models:
    """All offers, by the name of a model and its direction."""

    def __init__(self, offers: Sequence[Offer]):
        self.offers = {(each.model, each.release.direction): each for each in offers}

    @classmethod
    def load(cls, folders: Sequence[Path], device: str, precision: Precision, memory: str | None,
             loaded: Callable[[str, Release], None]) -> Models:
        """Load models in all directions that they translate. `loaded` is told of each. Raises as `load_release`."""
        offers, names = [], set[str]()
        for folder in folders:
            held = find_weights(folder).weights
            directions: list[Direction] = [way for way in get_args(Direction)
                                           if (held / f"generator_{way}.safetensors").is_file()]
            name = ""
            for direction in directions or get_args(Direction)[:1]:  # reading what is not there says so
                release = load_release(folder, direction)
                name = name or distinct(release.name, names)
                offers.append(Offer.of(name, release, device, precision, memory))
                loaded(name, release)
            names.add(name)
        return cls(offers)

    def find(self, model: str | None, direction: str | None) -> Offer:
        """Return an offer; of what is not named, the first. Raises `Refused`."""
        named = {key: offer for key, offer in self.offers.items()
                 if (not model or key[0] == model) and (not direction or key[1] == direction)}
        if not named:
            known = ", ".join(f"{name} ({way})" for name, way in self.offers)
            raise Refused(404, f"there is no such model or direction; there are: {known}")
        return next(iter(named.values()))

    def about(self) -> list[dict[str, Any]]:
        """Return what is on offer, as JSON."""
        names = dict.fromkeys(name for name, _ in self.offers)
        return [{"name": name, "directions": [offer.about() for (model, _), offer in self.offers.items()
                                              if model == name]} for name in names]


def distinct(name: str, taken: set[str]) -> str:
    """Return a name that no other model has."""
    return next(each for each in (name, *(f"{name}-{number}" for number in range(2, 1000))) if each not in taken)
