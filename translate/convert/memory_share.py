"""How much of the memory that is left a conversion takes: a share, out of which every image gets its part.

Several images are in flight at once: some are decoded ahead, one is with the generator, some are being written. A part
of the share is for all of these, in equal parts (`workers` has fewer of them where that is too little); an image that
needs more than one of them waits for its turn and is then alone. The rest of the share is for the one that is being
translated, where that takes this memory.

What may be taken is asked anew for every image, as other programs may have taken more meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from translate.host.available_memory import Available, usable_memory
from translate.images.pictures import DTYPES
from translate.images.reading import ImageConfig

IN_FLIGHT = 0.25  # of the share: for images that are decoded ahead, or being written
IN_FLIGHT_OF_CUDA = 0.6  # the same where translating takes the memory of a GPU
COPIES_WRITTEN = 5  # of an output's samples, while it is encoded: the array, Pillow's, the file
FLOAT_BYTES = 4


@dataclass(frozen=True)
class MemoryShare:
    """What a conversion may take: `total`, as it was when it began, with `num_in_flight` images at once.

    in_flight   of the total: for all of these, but for translating one of them
    alone       the bytes for an image whose turn it is, or that is alone
    """

    total: Available
    num_in_flight: int
    in_flight: int
    alone: int

    @classmethod
    def of(cls, workers: int, on_cuda: bool = False) -> MemoryShare:
        """Measure it. With workers, as many images are read ahead and written behind, and as many wait in between."""
        total, num = usable_memory(), num_in_flight(workers)
        if not on_cuda:
            return cls(total, num, int(total.bytes * IN_FLIGHT), int(total.bytes * (1 - IN_FLIGHT)))

        # Beside one that is alone nothing is being written, and of all others at most half are read ahead.
        in_flight = int(total.bytes * IN_FLIGHT_OF_CUDA)
        return cls(total, num, in_flight, total.bytes - in_flight // 2)

    def shared_by(self, workers: int) -> MemoryShare:
        """Return the same, shared by the images of so many workers."""
        return replace(self, num_in_flight=num_in_flight(workers))

    @property
    def for_each(self) -> float:
        """Return the bytes that each of the images in flight may take, for all but its translation."""
        return self.in_flight / self.num_in_flight

    def for_one(self) -> Available:
        """Return what the image whose turn it is may take now."""
        return min(Available(self.alone, self.total.limit_from), usable_memory(), key=lambda each: each.bytes)


def num_in_flight(workers: int) -> int:
    """Return how many images a conversion holds at once."""
    return 2 * workers + 3 if workers else 1


def sample_bytes(image: ImageConfig) -> int:
    """Return what a pixel takes as samples."""
    return image.channels * DTYPES[image.bits]().itemsize


def encoded_bytes(image_out: ImageConfig) -> int:
    """Return what a pixel of an output takes while it is encoded as a whole."""
    return COPIES_WRITTEN * sample_bytes(image_out)


def pixel_bytes(image_in: ImageConfig, num_planes: int, image_out: ImageConfig) -> int:
    """Return what a pixel of an image in flight takes besides being decoded.

    Its samples and the floats that the generator is shown (`num_planes` channels), then those that it gives, and what
    encoding them takes.
    """
    read = sample_bytes(image_in) + num_planes * FLOAT_BYTES
    return read + image_out.channels * FLOAT_BYTES + encoded_bytes(image_out)
