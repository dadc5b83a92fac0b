"""What the tests of domain adaptation share: small labelled sets in every layout, and a recipe for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from translate.recipe import Recipe
from translate.schema import validate

SIDE = 16


def stripes(number: int, upright: bool, target: bool = False) -> np.ndarray:
    """A grey (16, 16) uint8 picture of stripes, upright or lying; those of the target are dark and noisy."""
    random = np.random.Generator(np.random.PCG64([number, upright, target]))
    phase, width = random.uniform(0, 6), random.uniform(2.5, 4.0)
    line = np.sin(np.arange(SIDE) * 2 * np.pi / width + phase)
    image = np.tile(line, (SIDE, 1)) if upright else np.tile(line[:, None], (1, SIDE))
    image = image * (0.4 if target else 1.0) + random.normal(0, 0.15 if target else 0.03, image.shape)
    return (127.5 + 100 * image - (40 if target else 0)).clip(0, 255).astype(np.uint8)


def scene(number: int, target: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A (32, 32, 3) picture of a disc on a ground under a sky, and its label map: 0 sky, 1 ground, 2 disc, 255 edge."""
    random = np.random.Generator(np.random.PCG64([number, target, 7]))
    rows, columns = np.mgrid[:32, :32]
    horizon, centre, radius = random.integers(12, 20), random.uniform(8, 24, 2), random.uniform(4, 8)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    labels = np.where(rows < horizon, 0, 1)
    labels[distance < radius] = 2
    labels[np.abs(distance - radius) < 0.6] = 255
    colours = np.array([[110, 170, 250], [60, 150, 60], [220, 60, 50]], float)
    if target:
        colours = colours[:, [2, 0, 1]] * 0.6 + 20
    image = colours[np.where(labels == 255, 2, labels)] + random.normal(0, 14 if target else 4, (32, 32, 3))
    return image.clip(0, 255).astype(np.uint8), labels.astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_stripes(folder: Path, num: int = 12) -> Path:
    """source/{train}, target/{train,test}: a folder for each class; `num` images of each class and split."""
    for side, split in (("source", "train"), ("target", "train"), ("target", "test")):
        for upright, name in ((True, "upright"), (False, "lying")):
            for number in range(num):
                place = folder / side / split / name / f"{number:03d}.png"
                save(place, stripes(number + 1000 * (split == "test"), upright, side == "target"))
    return folder


def write_scenes(folder: Path, num: int = 12) -> Path:
    """source/{train}, target/{train,test}, each with images and masks."""
    for side, split in (("source", "train"), ("target", "train"), ("target", "test")):
        for number in range(num):
            image, labels = scene(number + 1000 * (split == "test"), side == "target")
            save(folder / side / split / "images" / f"{number:03d}.png", image)
            save(folder / side / split / "masks" / f"{number:03d}.png", labels)
    return folder


def write_image_folder(folder: Path, num: int = 6) -> Path:
    """`train` with a metadata.jsonl whose lines nobody would write again in just this way."""
    lines = []
    for number in range(num):
        save(folder / "train" / "deep" / f"{number}.png", stripes(number, number % 2 == 0))
        lines.append(json.dumps({"label": "upright" if number % 2 == 0 else 1, "file_name": f"deep/{number}.png",
                                 "note": "ä"}, ensure_ascii=bool(number % 2)) + ("\r\n" if number == 1 else "\n"))
    (folder / "train" / "metadata.jsonl").write_bytes("".join(lines).encode())
    return folder


CLASSES = {"kind": "classes", "names": ["upright", "lying"]}


def stripes_recipe(folder: Path, **changes: Any) -> Recipe:
    """A CycleGAN of grey stripes, and its adaptation."""
    adapt = {"source": CLASSES | {"folder": str(folder / "source")}, "seeds": 2,
             "target": CLASSES | {"folder": str(folder / "target")},
             "task": {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": SIDE, "images": 160,
                      "batch_size": 8, "lr": 0.01}}
    return validate(Recipe, {
        "name": "stripes", "data": {"kind": "unpaired", "a": str(folder / "source" / "train"), "resize": None,
                                    "b": str(folder / "target" / "train"), "augment": [],
                                    "image_a": {"channels": 1}, "image_b": {"channels": 1}},
        "translator": {"kind": "cyclegan", "generator": {"kind": "resnet", "width": 2, "blocks": 1}, "pool": 0,
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}, "weights": {"identity": 0}},
        "stages": [{"resolution": SIDE, "images": 8, "batch_size": 4}], "precision": "fp32", "workers": 0,
        "memory": {"plan": "split"}, "every": {"log": 8, "sample": None, "checkpoint": 4, "evaluate": None},
        **changes, "adapt": adapt | changes.pop("adapt", {})}, "stripes")


def scenes_recipe(folder: Path, **changes: Any) -> Recipe:
    """A CycleGAN of scenes in colour, and its adaptation with label maps."""
    masks = {"kind": "masks", "classes": 3, "names": ["sky", "ground", "disc"]}
    adapt = {"source": masks | {"folder": str(folder / "source")}, "seeds": 2,
             "target": masks | {"folder": str(folder / "target")},
             "task": {"network": {"kind": "fcn", "width": 4, "downs": 2}, "resolution": 24, "images": 80,
                      "batch_size": 4, "lr": 0.01, "augment": ["flip"]}}
    return validate(Recipe, {
        "name": "scenes", "data": {"kind": "unpaired", "a": str(folder / "source/train/images"), "resize": None,
                                   "b": str(folder / "target/train/images")},
        "translator": {"kind": "cyclegan", "generator": {"kind": "resnet", "width": 2, "blocks": 1}, "pool": 0,
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}, "weights": {"identity": 1}},
        "stages": [{"resolution": 24, "images": 8, "batch_size": 4}], "precision": "fp32", "workers": 0,
        "memory": {"plan": "split"}, "every": {"log": 8, "sample": None, "checkpoint": 4, "evaluate": None},
        **changes, "adapt": adapt | changes.pop("adapt", {})}, "scenes")


def briefly(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with task networks of one seed and two steps, for what is made or shown whatever was learnt."""
    assert recipe.adapt is not None
    task = recipe.adapt.task.model_copy(update={"images": 2 * recipe.adapt.task.batch_size})
    return recipe.model_copy(update={"adapt": recipe.adapt.model_copy(update={"seeds": 1, "task": task} | changes)})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
