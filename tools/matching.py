"""How near to an adaptation's target each classical change brings its source: what `adapt.match` is chosen by.

    python tools/matching.py digits

Needs the data of the recipe and the features (`translate data features`), and no label. For nothing and for each change
it prints the kernel distance of some changed source images to the target's training images, as `preservation.json` has
it; the distance of two halves of the target to each other, which is what scatters around 0; and which share of the
images' variance is detail that the target's resolution cannot hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

from translate.adapt.examples import Examples
from translate.adapt.matching import towards
from translate.data.transforms import ClassicalAdaptation, at_resolution_of, resized
from translate.evaluation.heldout import evenly_spaced
from translate.images.reading import read_image
from translate.images.resampling import target_shape
from translate.images.tensors import to_tensor
from translate.metrics.distribution import kernel_distance
from translate.metrics.features import MobileNet, find_mobilenet
from translate.places import data_root
from translate.recipe import Recipe, find_recipe, load_recipe

NUM_COMPARED = 128  # images of each side, as `adapt make` compares them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    words = parser.parse_args()
    torch.set_num_threads(1)

    recipe = load_recipe(find_recipe(words.recipe), words.changes)
    weights = find_mobilenet()
    assert recipe.adapt is not None and weights is not None, "an adaptation, and `translate data features`"
    network, config = MobileNet(weights, torch.device("cpu")), recipe.data.image_b

    # Some images of both sides as they lie on the disk, spread alike.
    everything = recipe.data.build("train", data_root()).files_b
    paths = [everything[number] for number in evenly_spaced(len(everything), 2 * NUM_COMPARED)]
    target = [read_image(path, config) for path in paths]
    likes = Examples(recipe.adapt.source, everything, everything, config, None)
    source = recipe.adapt.source.find("train", data_root())
    numbers = evenly_spaced(len(source), NUM_COMPARED)
    plain = [read_image(source.files[number], recipe.data.image_a) for number in numbers]

    def features(images: Sequence[np.ndarray]) -> list[torch.Tensor]:
        return [network(to_tensor(enlarged(recipe, image), config))[network.name] for image in images]

    half, other = features(target[::2]), features(target[1::2])
    print("| images | kernel distance | finer than the target |\n|---|---|---|")
    print(f"| target, half to half | {kernel_distance(other, half).value:.3f} | "
          f"{fineness(recipe, target, target):.1%} |")
    for kind in (None, *get_args(ClassicalAdaptation)):
        change = None if kind is None else towards(kind, likes, recipe.seed)
        images = plain if change is None else [change(image, number) for image, number in zip(plain, numbers,
                                                                                              strict=True)]
        print(f"| source, {kind or 'as it is'} | {kernel_distance(features(images), half).value:.3f} | "
              f"{fineness(recipe, images, target):.1%} |", flush=True)


def enlarged(recipe: Recipe, image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) at the size that the translator is trained at."""
    return resized(image, target_shape(image.shape[:2], recipe.data.resize))


def fineness(recipe: Recipe, images: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> float:
    """Return the share of the images' variance that is gone at the resolution of a target image and back."""
    lost = total = 0.0
    for each in images:
        image = enlarged(recipe, each)
        coarse = resized(at_resolution_of(image, target[0]), image.shape[:2]).astype(float)
        lost += float(((image - coarse) ** 2).sum())
        total += float(((image - image.mean((0, 1))) ** 2).sum())
    return lost / total


if __name__ == "__main__":
    main()
