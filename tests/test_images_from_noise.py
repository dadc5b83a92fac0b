"""Images to be drawn from noise: the published layouts, and what each image is drawn under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_data_layouts import config_of, coordinates, save, write_beside
from translate import data
from translate.data.check import check
from translate.errors import DataError, Mistake
from translate.mistakes import Mistakes
from translate.networks import PatchGANConfig
from translate.translators import CycleGANConfig, Pix2PixConfig

# As their authors pack them: CelebA aligned and cropped, a category of LSUN exported by its own script, CIFAR-10 as
# folders, CUB-200-2011.
PUBLISHED: dict[str, tuple[list[str], dict[str, Any], int, int]] = {
    "celeba": (["img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg"], {}, 2, 0),
    "lsun": (["bedroom_train/0/0/0/a1.webp", "bedroom_train/0/f/3/b2.webp", "bedroom_train/c/c/c/c3.webp"], {}, 3, 0),
    "cifar10": (["train/airplane/0001.png", "train/truck/0001.png", "test/airplane/0001.png", "test/truck/0001.png"],
                {"classes": ["airplane", "truck"]}, 2, 2),
    "cub": (["images/001.Black_footed_Albatross/Black_0001.jpg", "images/002.Laysan_Albatross/Laysan_0002.jpg"], {}, 2,
            0),
    "cub by species": (["001.Black_footed_Albatross/Black_0001.jpg", "002.Laysan_Albatross/Laysan_0002.jpg"],
                       {"classes": 2}, 2, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set_is_read_as_it_is_packed(name: str, tmp_path: Path) -> None:
    files, fields, num_train, num_test = PUBLISHED[name]
    for number, file in enumerate(files):
        save(tmp_path / file, coordinates(blue=number))
    (tmp_path / "list_attr.txt").write_text("not an image")
    config = config_of(kind="images", folder=tmp_path, **fields)
    assert len(config.build("train", tmp_path)) == num_train
    assert num_test == 0 or len(config.build("test", tmp_path)) == num_test
    assert not [finding for finding in check(config, tmp_path) if finding.severity == "error"]


def test_a_batch_carries_the_class_and_the_vector_of_each_image_beside_it(tmp_path: Path) -> None:
    """First the class as one-hot numbers, then the vector; each is its own image's, in whatever order they come."""
    write_beside(tmp_path / "train", 5)
    config = config_of(kind="images", folder=tmp_path, classes=["cats", "dogs"], vectors={"size": 3, "column": "text"},
                       resize=None, augment=["flip"])
    samples = config.build("train", tmp_path)
    seen = []
    for batch in data.batches(samples, seed=3, start=0, stop=10, batch_size=2, size=(24, 32)):
        assert batch.a.shape == (2, 5, 1, 1) and batch.b.shape == (2, 3, 24, 32) and not batch.has_unknown
        for condition, image in zip(batch.a[..., 0, 0], batch.b, strict=True):
            number = round((float(image[2, 0, 0]) + 1) * 127.5)
            assert condition.tolist() == [number % 2 == 0, number % 2 == 1, number, 0.5, -2]
            seen.append(number)
    assert sorted(seen) == sorted([*range(5)] * 2)


@pytest.mark.parametrize("fields", [{"classes": ["cats", "dogs"]}, {"vectors": {"size": 3, "column": "text"}}, {}],
                         ids=["classes", "vectors", "neither"])
def test_another_images_condition_differs_and_depends_on_the_sample_alone(fields: dict[str, Any],
                                                                          tmp_path: Path) -> None:
    """In any batches and processes; each other condition comes up."""
    write_beside(tmp_path / "train", 5)
    samples = config_of(kind="images", folder=tmp_path, resize=None, **fields).build("train", tmp_path)

    def drawn(batch_size: int, rank: int = 0, world: int = 1) -> dict[int, tuple[list[float], list[float]]]:
        found = {}
        for batch in data.batches(samples, seed=3, start=0, stop=16, batch_size=batch_size, size=(24, 32), rank=rank,
                                  world=world):
            assert (batch.other is None) == (not fields)
            for piece in batch.micro_batches(1) if fields else ():
                assert piece.other is not None
                found[piece.keys[0]] = piece.a.flatten().tolist(), piece.other.flatten().tolist()
        return found

    together = drawn(8)
    assert together == drawn(2) == drawn(4, 0, 2) | drawn(4, 1, 2)
    assert all(own != other for own, other in together.values())
    if fields:
        others = {tuple(samples.other_condition(0, key).flatten().tolist()) for key in range(50)}
        assert others == {tuple(samples.condition(index).flatten().tolist()) for index in range(5)} - {
            tuple(samples.condition(0).flatten().tolist())}


def test_vectors_of_a_file_are_found_by_the_paths_of_their_images(tmp_path: Path) -> None:
    write_beside(tmp_path / "train", 3)
    samples = config_of(kind="images", folder=tmp_path, vectors={"size": 2}).build("train", tmp_path)
    assert torch.stack([samples.whole(number).a.flatten() for number in range(3)]).tolist() == [[4, 5], [2, 3], [0, 1]]


def test_images_without_classes_have_a_condition_of_no_channels(tmp_path: Path) -> None:
    save(tmp_path / "0.png", coordinates())
    config = config_of(kind="images", folder=tmp_path)
    batch = next(data.batches(config.build("train", tmp_path), seed=0, start=0, stop=1, batch_size=1, size=(8, 8)))
    assert config.channels_a == 0 and batch.a.shape == (1, 0, 1, 1)


def test_classes_are_numbered_by_the_training_folders_in_both_splits(tmp_path: Path) -> None:
    """Also where a class has no test images, whose folder is then missing or empty."""
    for name in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png"):
        save(tmp_path / name, coordinates())
    config = config_of(kind="images", folder=tmp_path, classes=3)
    assert config.build("test", tmp_path).whole(0).a.flatten().tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"train: holds 3 folders, and data\.classes says 4"):
        config_of(kind="images", folder=tmp_path, classes=4).build("train", tmp_path)
    with pytest.raises(DataError, match="unknown class c; known are a, b"):
        config_of(kind="images", folder=tmp_path, classes=["a", "b"]).build("train", tmp_path)


@pytest.mark.parametrize(("arrays", "said"), [
    (None, "no such file"), ({"names": np.array(["nested/0.png"])}, "cannot be read"),
    ({"names": np.array(["nested/0.png"]), "vectors": np.zeros((1, 2))}, "has no vector of 1 images: .*1.png"),
    ({"names": np.array(["nested/0.png", "nested/1.png"]), "vectors": np.zeros((1, 2))}, "names are .2,. and vectors"),
    ({"names": np.array(["nested/0.png", "nested/1.png"]), "vectors": np.zeros((2, 3))}, "has 3 numbers for 0.png"),
    ({"names": np.array(["nested/0.png", "nested/1.png"]), "vectors": np.full((2, 2), np.nan)}, "are not finite"),
    ({"names": np.array(["nested/0.png", "nested/1.png"]), "vectors": np.full((2, 2), 1e300)}, "are not finite"),
    ({"names": np.array(["nested/0.png", "nested/1.png"]), "vectors": np.full((2, 2), "1")}, "values of type <U1"),
    ({"names": np.array(["nested/0.png"] * 2), "vectors": np.zeros((2, 2))}, "has 2 vectors of nested/0.png"),
    ({"names": np.array([]), "vectors": np.zeros((0, 2))}, "vectors .0, 2."),
    ({"names": np.array(["nested/0.png", "nested/1.png"], object), "vectors": np.zeros((2, 2))}, "cannot be read"),
])
def test_vectors_that_do_not_fit_their_images_are_named(arrays: dict[str, np.ndarray] | None, said: str,
                                                        tmp_path: Path) -> None:
    """What needs pickle is refused unread."""
    write_beside(tmp_path / "train", 2)
    file = tmp_path / "train" / "vectors.npz"
    file.unlink()
    if arrays is not None:
        np.savez(file, **arrays)
    with pytest.raises(DataError, match=rf"vectors\.npz: .*({said})"):
        config_of(kind="images", folder=tmp_path, vectors={"size": 2}).build("train", tmp_path)


@pytest.mark.parametrize(("lines", "said"), [
    ([f'{{"file_name": "0.png", "text": [1{"0" * 400}]}}'], "line 1: has numbers that are not finite"),
    (['{"file_name": "0.png", "text": [1]}', '{"file_name": "0.png", "text": [2]}'], "has 2 vectors of 0.png")])
def test_vectors_of_a_column_that_cannot_be_learnt_from_are_named(lines: list[str], said: str, tmp_path: Path) -> None:
    save(tmp_path / "train" / "0.png", coordinates())
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"metadata\.jsonl.*{said}"):
        config_of(kind="images", folder=tmp_path, vectors={"size": 1, "column": "text"}).build("train", tmp_path)


def test_a_translator_of_images_says_that_these_have_no_sources(tmp_path: Path) -> None:
    images = config_of(kind="images", folder=tmp_path)
    for config in (Pix2PixConfig(), CycleGANConfig(discriminator=PatchGANConfig())):
        problems = list(config.problems(images))
        assert [problem.what for problem in problems if "starts from images" in problem.what], problems
    assert isinstance(problems[0], Mistake) and Mistakes(problems)
