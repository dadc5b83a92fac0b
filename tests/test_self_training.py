"""What a table's networks learn from the target without labels, and how often each class is believed to occur there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from tests.adaptation import CLASSES, save, scenes_recipe, stripes, stripes_recipe, write_scenes, write_stripes
from tests.runs import Silent
from translate.adapt import evaluate, make, train_rows
from translate.adapt.examples import Examples, TrainingExamples
from translate.adapt.self_training import beliefs, pseudo_labelled, self_trained, with_norms_of, without_labels
from translate.adapt.table import compare_shares, nothing_learnt, warnings_of
from translate.adapt.task_training import train_task
from translate.convert import Shard
from translate.data.labelled_layouts import ClassesConfig, MasksConfig
from translate.errors import RecipeError
from translate.images.reading import ImageConfig
from translate.metrics.class_shares import class_shares, share_that_differs
from translate.recipe import Recipe, SelfTraining

CPU, GREY = torch.device("cpu"), ImageConfig(channels=1)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Examples, Examples]:
    """The folder of some stripes; those of the source with their labels, and those of the target without."""
    folder = write_stripes(tmp_path_factory.mktemp("lines"), 12)
    source, target = (ClassesConfig(folder=folder / side, names=CLASSES["names"]) for side in ("source", "target"))
    examples = Examples.of(source, source.find("train", folder), GREY, None)
    return folder, examples, without_labels(Examples.of(target, target.find("train", folder), GREY, None))


class Certain(nn.Module):
    """Says with a probability of its own choice that an image, or a pixel, which is bright is of class 1."""

    def __init__(self, probability: float, per_pixel: bool = False):
        super().__init__()
        self.logit, self.per_pixel = float(np.log(probability / (1 - probability))), per_pixel

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(1, keepdim=True) if self.per_pixel else images.mean((1, 2, 3))[:, None]
        sign = torch.where(bright > 0, 1.0, -1.0)
        return torch.cat([-sign, sign], 1) * self.logit / 2


def test_norms_of_the_target_have_its_mean_and_variance(lines: tuple[Path, Examples, Examples]) -> None:
    """Of what reaches them, as numpy computes it; weights and the network that was given stay as they are."""
    _, _, unlabelled = lines
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(),
                            nn.LazyLinear(2)).eval()
    images = torch.stack([unlabelled.whole(number)[0] for number in range(len(unlabelled))])
    network(images)  # shapes of the lazy layer
    adapted = with_norms_of(network, unlabelled, CPU)
    reached = network[0](images).detach().numpy()
    np.testing.assert_allclose(adapted[1].running_mean, reached.mean((0, 2, 3)), rtol=1e-4)  # type: ignore[index]
    np.testing.assert_allclose(adapted[1].running_var, reached.var((0, 2, 3), ddof=1), rtol=1e-4)  # type: ignore[index]
    assert torch.equal(network[1].running_mean, torch.zeros(3)) and not adapted.training  # type: ignore[arg-type]
    assert torch.equal(network[0].weight, adapted[0].weight)  # type: ignore[index, arg-type]


def test_a_norm_that_one_value_reaches_keeps_the_statistics_it_has(lines: tuple[Path, Examples, Examples],
                                                                   tmp_path: Path) -> None:
    """After a pooling over the whole image, as in DeepLab, a variance needs more images than one."""
    _, _, unlabelled = lines
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3),
                            nn.Flatten()).eval()
    source = torch.full((3,), 0.5)
    network[3].running_mean.copy_(source)  # type: ignore[union-attr, operator]

    def means(of: Examples) -> list[Tensor]:
        adapted = with_norms_of(network, of, CPU)
        adapted(torch.zeros(2, 1, 16, 16))
        assert not any(module.training for module in adapted.modules()), "nothing is counted after it"
        return [adapted[1].running_mean, adapted[3].running_mean]  # type: ignore[index, list-item]

    reached = network[0](unlabelled.whole(0)[0][None]).detach().numpy()
    first, last = means(unlabelled.part([0]))
    np.testing.assert_allclose(first, reached.mean((0, 2, 3)), rtol=1e-4)
    assert torch.equal(last, source)

    save(tmp_path / "narrow.png", stripes(1, True)[:, :15])  # of another size: a batch of its own
    narrow = Examples(unlabelled.layout, [tmp_path / "narrow.png"], [0], GREY, None)
    (first, last), (first_of_all, last_of_all) = means(unlabelled), means(unlabelled + narrow)
    assert torch.equal(last_of_all, last) and not torch.equal(last, source) and not torch.equal(first_of_all, first)


def test_only_answers_that_are_sure_enough_become_labels(lines: tuple[Path, Examples, Examples]) -> None:
    _, _, unlabelled = lines
    bright = [float(unlabelled.whole(number)[0].mean()) > 0 for number in range(len(unlabelled))]
    sure = pseudo_labelled(Certain(0.95), unlabelled, 0.9, CPU)
    assert sure.files == unlabelled.files
    assert [int(sure.classes(number)[0]) for number in range(len(sure))] == list(map(int, bright))
    assert len(pseudo_labelled(Certain(0.85), unlabelled, 0.9, CPU)) == 0


def test_unsure_pixels_are_ignored_and_sure_ones_learnt(tmp_path: Path) -> None:
    """A network that is sure of bright pixels alone; what is trained on sees them beside their image, cropped alike."""
    layout = MasksConfig(folder=write_scenes(tmp_path, 3) / "source", classes=2, ignore=255)
    files = [*(tmp_path / "target" / "train" / "images").iterdir()]
    unlabelled = Examples(layout, files, [np.full(1, -1)] * 3, ImageConfig(channels=3), None)

    class Half(Certain):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return torch.where(images.mean(1, keepdim=True) > 0, logits, torch.zeros_like(logits))

    sure = pseudo_labelled(Half(0.99, per_pixel=True), unlabelled, 0.9, CPU)
    task = scenes_recipe(tmp_path).adapt.task.model_copy(update={"augment": ("flip",)})  # type: ignore[union-attr]
    for number in range(3):
        image, label = TrainingExamples(sure, task, 0).sample(number)
        assert torch.equal(label, torch.where(image.mean(0) > 0, 1, 255)) and 0 < (label == 1).float().mean() < 1


def test_self_training_tells_apart_what_its_teacher_could_not(lines: tuple[Path, Examples, Examples]) -> None:
    """A teacher that is sure of the truth: the student is trained on it, and on the source not alone."""
    folder, examples, unlabelled = lines
    config = stripes_recipe(folder).adapt.task  # type: ignore[union-attr]
    truth = {path: int(path.parent.name == "lying") for path in unlabelled.files}

    class Knowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            across, down = ((images.diff(dim=axis)**2).mean((1, 2, 3)) for axis in (3, 2))
            return 1000 * torch.stack([across - down, down - across], 1)

    plain = train_task(config, examples, 0, CPU)
    student, taken = self_trained(SelfTraining(confidence=0.9, rounds=1), config, examples, Knowing(), unlabelled, 0,
                                  CPU)
    assert taken == [len(unlabelled)]
    right = {name: np.mean([int(belief.argmax()) == truth[path] for belief, path in zip(
        beliefs(network, unlabelled, CPU), unlabelled.files, strict=True)])
        for name, network in (("plain", plain), ("student", student), ("teacher", Knowing()))}
    assert right["teacher"] > 0.9 and right["student"] > max(0.9, right["plain"])


def test_a_teacher_that_is_sure_of_nothing_comes_back_and_it_is_said(lines: tuple[Path, Examples, Examples]) -> None:
    folder, examples, unlabelled = lines
    teacher, config = Certain(0.85), stripes_recipe(folder).adapt.task  # type: ignore[union-attr]
    how = SelfTraining(confidence=0.9, rounds=3)
    assert self_trained(how, config, examples, teacher, unlabelled, 0, CPU) == (teacher, [0])
    results = [{"seed": 0, "num_sure": [4, 0]}, {"seed": 1, "num_sure": [4, 5]}, {"seed": 2}]
    (line,) = nothing_learnt({"fda": results, "source": results[1:]})
    assert line.startswith("FDA, self-training: the network was sure of no image of the target (seed 0, round 2)")


@pytest.mark.parametrize("option", [{"confidence": 0.99}, {"rounds": 1}])
def test_every_option_of_self_training_changes_what_is_learnt(option: dict[str, Any],
                                                              lines: tuple[Path, Examples, Examples]) -> None:
    folder, examples, unlabelled = lines
    config = stripes_recipe(folder).adapt.task.model_copy(update={"images": 40})  # type: ignore[union-attr]
    teacher = train_task(config, examples, 0, CPU)  # unsure, and wrong now and then

    def weights(**how: Any) -> Tensor:
        network, _ = self_trained(SelfTraining(**{"confidence": 0.6, "rounds": 2, **how}), config, examples, teacher,
                                  unlabelled, 0, CPU)
        return torch.cat([each.flatten() for each in network.parameters()])

    assert torch.equal(weights(), weights()) and not torch.equal(weights(), weights(**option))


def test_with_self_training_each_row_but_the_oracle_has_two_more_and_none_is_trained_twice(tmp_path: Path) -> None:
    folder = write_stripes(tmp_path, 3)
    task = {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": 16, "images": 16, "lr": 0.01}

    def with_confidence(confidence: float) -> Recipe:
        return stripes_recipe(folder, adapt={"seeds": 1, "task": task, "semantic": None, "self_training": {
            "confidence": confidence, "rounds": 1}})

    recipe = with_confidence(0.6)
    make(recipe, tmp_path / "out", Silent(), device="cpu")
    parts = [train_rows(recipe, tmp_path / "out", Silent(), shard=Shard(index, 2), device="cpu")[1]
             for index in (1, 2)]
    assert [sum(map(len, part.values())) for part in parts] == [4, 4]
    table = evaluate(recipe, tmp_path / "out", Silent(), device="cpu")
    assert {path.name: len(path.read_bytes().splitlines()) for path in (tmp_path / "out").glob("results*")} == {
        "results-1-of-2.jsonl": 4, "results-2-of-2.jsonl": 4}, "shards leave nothing to train"
    plain = ["source", "histogram_matching", "fda", "pixel_distribution", "resolution", "translated",
             "translated_and_source"]
    assert list(table["rows"]) == [f"{row}{use}" for row in plain for use in ("", "+adabn", "+self_training")] + [
        "oracle"]
    assert table["strongest_classical"].split("+")[0] not in ("translated", "translated_and_source", "oracle")
    assert table["rows"]["fda+adabn"]["title"] == "FDA, AdaBN"
    assert "FDA, self-training" in (tmp_path / "out" / "table.html").read_text()
    assert sum(share["mean"] for share in table["class_shares"]["target"].values()) == pytest.approx(1)

    assert evaluate(recipe, tmp_path / "out", Silent(), device="cpu")["rows"] == table["rows"]
    unsure = evaluate(with_confidence(0.9999), tmp_path / "out", Silent(), device="cpu")
    assert len((tmp_path / "out" / "results.jsonl").read_bytes().splitlines()) == 7, "the oracle does not see it"
    assert any(line.startswith("source only, self-training: the network was sure of no") for line in unsure["missing"])
    assert not any("self-training" in line for line in table["missing"])


def test_self_training_of_pixels_without_an_ignored_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"self_training: pixels that a network is not sure of are ignored, and"):
        scenes_recipe(tmp_path, adapt={"self_training": {}, "source": {"kind": "masks", "folder": "x", "classes": 3,
                                                                       "ignore": None}})


# -- how often each class occurs ---------------------------------------------------------------------------------------


def test_shares_are_the_most_likely_ones_and_near_the_truth() -> None:
    """Three classes of Gaussians, equal in training, 70, 25 and 5 % in the target; against a direct maximum."""
    chance, means = np.random.default_rng(3), np.array([0.0, 2.0, 4.0])
    truth, prior = np.array([0.7, 0.25, 0.05]), np.full(3, 1 / 3)
    seen = np.concatenate([chance.normal(mean, 1, round(4000 * share)) for mean, share in zip(means, truth,
                                                                                            strict=True)])
    likely = stats.norm.pdf(seen[:, None], means)
    beliefs_of_training = likely * prior / (likely * prior).sum(1, keepdims=True)
    found = class_shares(beliefs_of_training, prior)

    def surprise(logits: np.ndarray) -> float:
        shares = np.exp(logits) / np.exp(logits).sum()
        return -float(np.log(likely @ shares).mean())

    direct = optimize.minimize(surprise, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x
    np.testing.assert_allclose(found, np.exp(direct) / np.exp(direct).sum(), atol=1e-4)
    assert share_that_differs(found, truth) < 0.02
    assert share_that_differs(beliefs_of_training.mean(0), truth) > 0.05, "uncorrected, they lean towards training"


def test_a_person_is_warned_of_shares_that_differ_and_only_of_those() -> None:
    source, names = np.array([0.5, 0.5]), ["cat", "dog"]
    lean = [{"target_shares": [0.8, 0.2]}, {"target_shares": [0.78, 0.22]}, {"target_shares": [0.82, 0.18]}]
    found = compare_shares(lean, source, names)
    assert found is not None and found["differs"]["mean"] == pytest.approx(0.3)
    (line,) = warnings_of(found)
    assert "30% of it" in line and "dog 50% and 20%" in line
    doubtful = [{"target_shares": [0.9, 0.1]}, {"target_shares": [0.5, 0.5]}, {"target_shares": [0.55, 0.45]}]
    for calm in (doubtful, [{"target_shares": [0.55, 0.45]}], [{"target_shares": []}]):
        assert warnings_of(compare_shares(calm, source, names)) == []
