"""Images drawn from noise, put to the test as labelled ones: of which classes are they, and does a network learn from
them what it would learn from real ones (TSTR: train on synthetic, test on real; Esteban et al. 2017)?

One small classifier is trained on real training images; it names the samples, and stays in the run's folder, where
trainings find it as `evaluate.classifier`. A second one, alike in everything else, is trained on samples under the
classes that were asked for. Both are tested on the real test images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from translate.adapt.examples import Examples
from translate.adapt.task_training import cached_task, opinions, train_task
from translate.data.conditioned import ImagesConfig
from translate.data.labelled_layouts import ClassesConfig
from translate.errors import UsageError
from translate.evaluation.results import Results
from translate.metrics import intervals
from translate.metrics.intervals import Estimate
from translate.metrics.modes import histogram
from translate.networks.task_networks import CNNConfig
from translate.places import data_root
from translate.recipe import Downstream
from translate.sampling.drawing import draw
from translate.sampling.output_folder import IMAGES, class_folders
from translate.sampling.planning import Wanted
from translate.sampling.sampler import Sampler

MOST_DRAWN = 5_000  # samples; fewer where there are fewer real training images
IMAGES_OF_TRAINING, BATCH = 64_000, 64  # that each classifier sees, over all epochs
SEED = 0
CLASSIFIER = "classifier"  # where the first stays in the run's folder: other trainings may ask it as well


def check_drawn(path: Path) -> None:
    """Raise what `add_drawn` would, of a run whose samples no classifier can be asked about: before it is scored."""
    data = _with_classes(Sampler.load(path), path)
    for split in ("train", "test"):
        data.labelled(split, data_root())


def _with_classes(sampler: Sampler, path: Path) -> ImagesConfig:
    """Return the data of a run from noise. Raises `UsageError` where they have no classes."""
    data = cast(ImagesConfig, sampler.recipe.data)
    if not data.num_classes:
        raise UsageError("--tstr: the data of this run have no classes", path, "set data.classes in its recipe")
    return data


def add_drawn(results: Results, path: Path, most: int | None = None, images: int = IMAGES_OF_TRAINING,
              on_progress: Callable[[int, int], object] = lambda done, total: None) -> None:
    """Add to the scores of a run from noise what a classifier says of its samples, and what it learns from them.

        as_asked          the share of samples that are of the class asked for; floor: of real test images
        rarest_class      the share of the class that the fewest samples are of; floor: of real test images
        tstr              the accuracy on real test images after training on samples; floor: after training on real ones

    The first and the last are of models that draw under classes. `most`: so many samples; `images`: that each
    classifier sees. Raises `UsageError` for data without classes, `DataError`.
    """
    sampler = Sampler.load(path)
    data, fitting = _with_classes(sampler, path), sampler.release.fitting

    # A classifier of real images, and how good it is.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names, image = data.class_names(data_root()), sampler.release.image_out
    config = Downstream(network=CNNConfig(width=16, downs=max(1, (min(fitting.crop) // 3).bit_length() - 1)),
                        resolution=fitting.crop, resize=fitting.resize, images=images, batch_size=BATCH, lr=3e-3)
    real, test = (Examples.of(*data.labelled(split, data_root()), image, fitting.resize)
                  for split in ("train", "test"))
    num = min(most or MOST_DRAWN, len(real))
    total = num + 2 * images

    def watch(before: int) -> Callable[[int, int], None]:
        def tell(done: int, _: int) -> None:
            on_progress(before + done, total)

        return tell

    judge = cached_task(path / CLASSIFIER, config, real, SEED, device, workers=0, watch=watch(num))
    right, of_test = judged(judge, test, device)

    # Samples, as many of each class, as a folder for each; of a model without classes, one for all.
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        draw(sampler, out, Wanted(num=num, seed=SEED), on_progress=lambda done, _: on_progress(done, total))
        files = sorted((out / IMAGES).rglob("*.*"))
        layout, folders = ClassesConfig(folder=out, images=IMAGES, names=names), class_folders(names)
        asked = [folders.index(path.parent.name) if sampler.num_classes else 0 for path in files]
        samples = Examples(layout, files, asked, image, fitting.resize)
        as_asked, of_samples = judged(judge, samples, device)
        shares = histogram(of_samples, len(names)) / num
        results.scores["rarest_class"] = Estimate(float(shares.min()))
        results.floor["rarest_class"] = Estimate(float(histogram(of_test, len(names)).min() / len(test)))
        results.about["drawn"] = {"num": num, "classes": dict(zip(names, map(float, shares), strict=True))}
        if sampler.num_classes:
            results.scores["as_asked"] = intervals.mean(as_asked)
            results.floor["as_asked"] = results.floor["tstr"] = intervals.mean(right)
            results.scores["tstr"] = intervals.mean(judged(
                train_task(config, samples, SEED, device, watch=watch(num + images)), test, device)[0])
    on_progress(total, total)


def judged(network: nn.Module, examples: Examples, device: torch.device) -> tuple[list[float], np.ndarray]:
    """Return, of each example, 1 where its class is found and else 0; and the classes that are found, (N,)."""
    found = [(int(classes.item()), int(truth.item())) for classes, truth in opinions(network, examples, device)]
    return [float(one == other) for one, other in found], np.array([one for one, _ in found], np.int64)
