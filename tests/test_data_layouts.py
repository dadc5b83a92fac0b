"""Layouts: what a recipe says about its data is what is read, and what is wrong is said before training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import tifffile
import torch
from PIL import Image

from tests.runs import cyclegan_recipe
from translate import data
from translate.data.label_planes import label_planes
from translate.data.labels import Labelling, read_labels
from translate.data.layout import LayoutConfig
from translate.data.layouts import DataConfig, UnpairedConfig
from translate.data.pairing import list_images, match
from translate.data.samples import drawn_edges, grey
from translate.data.scale import Fitting
from translate.errors import DataError, ImageError
from translate.images.reading import ImageConfig
from translate.images.tensors import to_tensor
from translate.images.writing import write_image
from translate.runs.progress import Progress
from translate.runs.release import load_release, write_release


def coordinates(height: int = 24, width: int = 32, blue: int = 0) -> np.ndarray:
    """An image whose every pixel says where it is: (row, column, blue)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, blue)], axis=-1).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG")
    return path


def config_of(**fields: Any) -> LayoutConfig:
    return pydantic.TypeAdapter(DataConfig).validate_python(fields)


def blues(samples: data.Samples) -> list[tuple[int, int]]:
    """The blue values (0 … 255) of each sample's two images, in order: which files they came from."""
    wholes = [samples.whole(index) for index in range(len(samples))]
    return [tuple(round((float(side[2, 0, 0]) + 1) * 127.5) for side in (whole.a, whole.b)) for whole in wholes]


def toy_folder(kind: str, root: Path) -> dict[str, Any]:
    """Three training and two test samples in the layout of a kind, and the recipe's data for them."""
    for split, num in (("train", 3), ("test", 2)):
        for number in range(num):
            image = coordinates(blue=10 * number)
            if kind == "unpaired":
                save(root / f"{split}A" / f"{number}.png", image)
                save(root / f"{split}B" / f"x{number}.png", image + np.uint8([0, 0, 100]))
            elif kind == "paired":
                save(root / split / f"{number}.png", np.hstack([image, image + np.uint8([0, 0, 100])]))
            elif kind == "labels":
                save(root / f"{split}_label" / f"{number}.png", image[..., 1] // 8)
                save(root / f"{split}_img" / f"{number}.png", image)
            elif kind == "computed":
                save(root / split / f"{number}.png", image)
            elif kind == "images":
                save(root / split / ("cats" if number else "dogs") / f"{number}.png", image)
            else:
                raise NotImplementedError(f"a new kind of data, {kind}: give it a toy folder, and these tests test it")
    classes: dict[str, Any] = {"labels": {"classes": 4}, "images": {"classes": ["cats", "dogs"]}}
    return {"kind": kind, "folder": root, **classes.get(kind, {})}


def members_of_the_union() -> list[str]:
    schema = pydantic.TypeAdapter(DataConfig).json_schema()
    return sorted(schema["discriminator"]["mapping"])


@pytest.mark.parametrize("kind", members_of_the_union())
def test_every_kind_reads_its_splits_and_states_its_channels(kind: str, tmp_path: Path) -> None:
    config = config_of(**toy_folder(kind, tmp_path))
    for split, num in (("train", 3), ("test", 2)):
        samples = config.build(split, tmp_path)
        assert (len(samples), samples.split, samples.paired) == (num, split, config.paired)
        for index in range(num):
            sample = samples.whole(index)
            side_a = (24, 32) if config.has_sources else (1, 1)  # what images from noise are drawn under has no sides
            assert sample.a.shape == (config.channels_a, *side_a) and sample.b.shape == (config.channels_b, 24, 32)
            assert sample.a.dtype == sample.b.dtype == torch.float32
            assert sample.a.min() >= -1 and sample.a.max() <= 1 and sample.b.min() >= -1 and sample.b.max() <= 1
    assert not config.has_sources or config.image_a.channels == config.channels_a  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", members_of_the_union())
def test_the_same_data_are_read_through_a_card_and_a_missing_card_says_how_to_get_it(kind: str, tmp_path: Path) -> None:
    fields = toy_folder(kind, tmp_path / "toy")
    by_card = config_of(**{key: value for key, value in fields.items() if key != "folder"}, card="toy")
    assert by_card.build("train", tmp_path).files_b == config_of(**fields).build("train", Path("/")).files_b
    with pytest.raises(DataError, match=r"elsewhere/toy: no such folder.*run: translate data prepare toy"):
        by_card.build("train", tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", members_of_the_union())
def test_an_empty_folder_is_named_with_what_was_expected_in_it(kind: str, tmp_path: Path) -> None:
    fields = {**toy_folder(kind, tmp_path / "full"), "folder": tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no .*images"):
        config_of(**fields).build("train", tmp_path)
    with pytest.raises(DataError, match="empty: holds no test images; expected test"):
        config_of(**fields).build("test", tmp_path)


def test_unpaired_folders_are_read_whole_sorted_nested_and_in_any_case(tmp_path: Path) -> None:
    for name, blue in (("b/2.PNG", 2), ("a.png", 1), ("b/10.Png", 3), (".hidden.png", 9), ("._a.png", 9)):
        save(tmp_path / "trainA" / name, coordinates(blue=blue))
    (tmp_path / "trainA" / "notes.txt").write_text("not an image")
    save(tmp_path / "trainB" / "only.png", coordinates(blue=7))
    samples = config_of(kind="unpaired", folder=tmp_path).build("train", tmp_path)
    assert [path.relative_to(tmp_path / "trainA").as_posix() for path in samples.files_a] == [
        "a.png", "b/10.Png", "b/2.PNG"]
    assert blues(samples) == [(1, 7), (3, 7), (2, 7)]  # the shorter side begins again


def test_two_folders_of_any_name_are_the_sides(tmp_path: Path) -> None:
    for name, blue in (("monet", 1), ("photo", 2), ("monet_test", 3), ("photo_test", 4)):
        save(tmp_path / name / "0.png", coordinates(blue=blue))
    config = config_of(kind="unpaired", a=tmp_path / "monet", b=tmp_path / "photo", test_a=tmp_path / "monet_test",
                       test_b=tmp_path / "photo_test")
    assert blues(config.build("train", tmp_path)) == [(1, 2)] and blues(config.build("test", tmp_path)) == [(3, 4)]


@pytest.mark.parametrize(("direction", "expected"), [("ab", (5, 105)), ("ba", (105, 5))])
def test_the_direction_says_which_half_of_an_aligned_file_is_a(direction: str, expected: tuple[int, int],
                                                               tmp_path: Path) -> None:
    save(tmp_path / "train" / "0.png", np.hstack([coordinates(blue=5), coordinates(blue=105)]))
    samples = config_of(kind="paired", folder=tmp_path, direction=direction).build("train", tmp_path)
    assert blues(samples) == [expected]
    a, b, *_ = samples.whole(0)
    assert torch.equal(a[:2], b[:2]) and a.shape == (3, 24, 32)  # coordinates are those of the half


@pytest.mark.parametrize(("direction", "expected"), [("ab", (5, 105)), ("ba", (105, 5))])
def test_paired_also_reads_train_a_and_train_b(direction: str, expected: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path / "trainA" / "0.png", coordinates(blue=5))
    save(tmp_path / "trainB" / "0.png", coordinates(blue=105))
    assert blues(config_of(kind="paired", folder=tmp_path, direction=direction).build("train", tmp_path)) == [expected]


def test_pairs_are_found_by_name_whatever_the_suffix_and_the_order(tmp_path: Path) -> None:
    for number, name in enumerate(("city/2", "city/10", "other/2")):
        save(tmp_path / "a" / f"{name}.png", coordinates(blue=number))
        save(tmp_path / "b" / f"{name}.BMP", coordinates(blue=100 + number))
    samples = config_of(kind="paired", a=tmp_path / "a", b=tmp_path / "b").build("train", tmp_path)
    assert sorted(blues(samples)) == [(0, 100), (1, 101), (2, 102)]


@pytest.mark.parametrize(("names_a", "names_b"), [
    (["aachen/aachen_0_19_gtFine_labelIds", "bonn/bonn_0_19_gtFine_labelIds"],
     ["aachen/aachen_0_19_leftImg8bit", "bonn/bonn_0_19_leftImg8bit"]),
    (["label_001", "label_002", "label_101"], ["img_001", "img_002", "img_101"]),
    (["0019_label", "0029_label"], ["0019_photo", "0029_photo"]),
    (["a1"], ["b1"]),
])
def test_names_that_differ_only_by_what_their_folder_is_pair(names_a: list[str], names_b: list[str]) -> None:
    assert match(names_a, names_b[::-1]) == (list(zip(names_a, names_b, strict=True)), [], [])


def test_a_missing_partner_is_never_hidden_by_pairing_in_order(tmp_path: Path) -> None:
    """One file missing on each side: counts are equal, and pairing by position would pair strangers."""
    pairs, only_a, only_b = match(["label_1", "label_2", "label_3"], ["img_1", "img_3", "img_4"])
    assert (pairs, only_a, only_b) == ([("label_1", "img_1"), ("label_3", "img_3")], ["label_2"], ["img_4"])
    for side, number in (("a", 1), ("a", 2), ("b", 1), ("b", 3)):
        save(tmp_path / side / f"{number}.png", coordinates())
    with pytest.raises(DataError, match=r"1 of 2 and 1 of 2 images have no partner.*a/2.png"):
        config_of(kind="paired", a=tmp_path / "a", b=tmp_path / "b").build("train", tmp_path)


def test_two_images_of_one_name_are_refused_where_names_pair(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/0.bmp", "b/0.png"):
        save(tmp_path / name, coordinates())
    with pytest.raises(DataError, match=r"0.bmp and 0.png: two images of one name"):
        config_of(kind="paired", a=tmp_path / "a", b=tmp_path / "b").build("train", tmp_path)


def test_one_side_alone_is_an_error_that_names_the_other(tmp_path: Path) -> None:
    save(tmp_path / "trainA" / "0.png", coordinates())
    with pytest.raises(DataError, match="trainB: no such folder, and trainA is there"):
        config_of(kind="unpaired", folder=tmp_path).build("train", tmp_path)


def test_a_pair_of_two_sizes_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png", coordinates(24, 32))
    save(tmp_path / "b" / "0.png", coordinates(24, 30))
    samples = config_of(kind="paired", a=tmp_path / "a", b=tmp_path / "b").build("train", tmp_path)
    with pytest.raises(DataError, match=r"a/0.png: is 32×24 and .*b/0.png 30×24 pixels"):
        samples.whole(0)


def test_an_aligned_file_of_odd_width_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train" / "0.png", coordinates(24, 33))
    with pytest.raises(ImageError, match="33 pixels wide"):
        config_of(kind="paired", folder=tmp_path).build("train", tmp_path).whole(0)


# ---------------------------------------------------------------------------------------------- labels


def test_labels_become_one_hot_and_ignored_pixels_are_of_no_class() -> None:
    labels = np.array([[0, 2], [255, 1]], np.uint8)[..., None]
    planes = label_planes(Labelling(classes=3), labels)
    expected = [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [0, 0]]]
    assert planes.tolist() == expected
    two = Labelling(classes=2, ignore=0)
    assert label_planes(two, np.array([[0, 1]], np.uint8)[..., None]).tolist() == [[[0, 0]], [[0, 1]]]


def test_a_map_of_eight_bits_holds_no_instances_and_its_numbers_are_classes() -> None:
    """1000 does not fit into its numbers."""
    labels = np.array([[0, 3], [255, 1]], np.uint8)
    labelling = Labelling(classes=4, ignore=255, instances=1000)
    assert labelling.of_class(labels).tolist() == labels.tolist() and labelling.unknown(labels) == []


def test_instances_become_their_class_and_the_edges_between_them_a_channel() -> None:
    """In Cityscapes' numbers: 2 is a class without things, 3007 a thing of class 3; 65535 is ignored as stored."""
    stored = np.array([[2, 2, 3007, 3007], [2, 2, 3007, 3008], [2, 2, 65535, 3008]], np.uint16)[..., None]
    labelling = Labelling(classes=4, ignore=65535, instances=1000, edges=True)
    planes = label_planes(labelling, stored)
    assert planes.shape == (5, 3, 4)
    assert planes[2].tolist() == [[1, 1, 0, 0]] * 3
    assert planes[3].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert planes[4].tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert label_planes(Labelling(4, 65535, 1000), stored).shape == (4, 3, 4)
    of_classes = label_planes(Labelling(classes=4, edges=True), np.minimum(stored, 3))
    assert of_classes[4].tolist() == [[0, 1, 1, 0]] * 3, "between classes, without instances"
    assert labelling.unknown(stored) == [] and labelling.unknown(stored + 2000) == [5]
    assert Labelling(4, 255, 1000).unknown(stored) == [65]


def test_edges_are_those_of_the_published_code_on_random_maps() -> None:
    """Written once more pixel by pixel: an edge where any of the four neighbours has another number."""
    numbers = np.random.default_rng(0).integers(0, 3, (9, 11)).astype(np.uint8)
    padded = np.pad(numbers.astype(int), 1, mode="edge")
    neighbours = [padded[1 + down:10 + down, 1 + right:12 + right]
                  for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    expected = np.any([neighbour != numbers for neighbour in neighbours], axis=0).astype(float)
    assert label_planes(Labelling(3, edges=True), numbers[..., None])[3].tolist() == expected.tolist()


def test_edges_are_drawn_after_a_label_map_was_resized_and_cropped(tmp_path: Path) -> None:
    """A line one pixel wide would not survive shrinking; at every size it is one pixel on either side."""
    save(tmp_path / "train_label" / "0.png", np.repeat(np.uint8([0, 1]), 40)[None].repeat(60, axis=0))
    save(tmp_path / "train_img" / "0.png", coordinates(60, 80))
    samples = config_of(kind="labels", folder=tmp_path, classes=2, edges=True).build("train", tmp_path)
    for resize in (15, 60, 90):
        a = samples.whole(0, resize).a
        assert a.shape[0] == 3 and (a[2].sum(1) == 2).all()


def test_labels_beyond_the_classes_are_named_with_their_file(tmp_path: Path) -> None:
    save(tmp_path / "train_label" / "0.png", np.array([[0, 7, 255]], np.uint8))
    save(tmp_path / "train_img" / "0.png", coordinates(1, 3))
    with pytest.raises(ImageError, match=r"0.png.*class numbers 7; the recipe's are 0 … 3"):
        config_of(kind="labels", folder=tmp_path, classes=4).build("train", tmp_path).whole(0)
    with pytest.raises(ImageError, match="class numbers 7, 255"):
        config_of(kind="labels", folder=tmp_path, classes=4, ignore=None).build("train", tmp_path).whole(0)


def test_label_maps_are_read_as_stored(tmp_path: Path) -> None:
    """A palette image holds its numbers as indices; converted to grey they would be the palette's brightness."""
    numbers = np.array([[0, 1, 2], [18, 255, 3]], np.uint8)
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.flatten().tolist())
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(numbers[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "deep.tif", numbers.astype(np.uint16) * 100)
    for name in ("palette", "grey", "rgb"):
        assert read_labels(tmp_path / f"{name}.png")[..., 0].tolist() == numbers.tolist()
    assert read_labels(tmp_path / "deep.tif").max() == 25500
    Image.fromarray(coordinates()).save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match=r"colours \(mode RGB\), and class numbers were expected"):
        read_labels(tmp_path / "colours.png")
    Image.fromarray(numbers).save(tmp_path / "lossy.jpg")
    with pytest.raises(ImageError, match="not a label map; expected one of PNG"):
        read_labels(tmp_path / "lossy.jpg")


def test_resizing_a_label_map_makes_no_new_classes(tmp_path: Path) -> None:
    labels = np.where(np.mgrid[:31, :47].sum(axis=0) % 2, 3, 0).astype(np.uint8)
    save(tmp_path / "train_label" / "0.png", labels)
    save(tmp_path / "train_img" / "0.png", coordinates(31, 47))
    samples = config_of(kind="labels", folder=tmp_path, classes=4).build("train", tmp_path)
    for resize in (20, 31, 45):
        a, b, *_ = samples.whole(0, resize)
        assert a.shape[1:] == b.shape[1:] and min(a.shape[1:]) == resize
        assert set(a.unique().tolist()) == {0.0, 1.0} and (a.sum(dim=0) == 1).all()
        assert a[1].sum() == a[2].sum() == 0


def test_a_pattern_picks_label_maps_out_of_what_lies_beside_them(tmp_path: Path) -> None:
    for kind in ("color", "labelTrainIds", "instanceIds"):
        save(tmp_path / "gtFine" / "bonn" / f"bonn_0_gtFine_{kind}.png", np.full((4, 6), 1, np.uint8))
    save(tmp_path / "leftImg8bit" / "bonn" / "bonn_0_leftImg8bit.png", coordinates(4, 6))
    config = config_of(kind="labels", a=tmp_path / "gtFine", b=tmp_path / "leftImg8bit", classes=19,
                       labels="*_labelTrainIds.png")
    samples = config.build("train", tmp_path)
    assert [path.name for path in samples.files_a] == ["bonn_0_gtFine_labelTrainIds.png"]
    assert samples.whole(0).a.shape == (19, 4, 6)


# ---------------------------------------------------------------------------------------------- computed inputs


def test_grey_is_the_luma_of_the_photograph() -> None:
    photograph = torch.rand(3, 8, 8, dtype=torch.float64).float() * 2 - 1
    red, green, blue = photograph.double()
    assert torch.allclose(grey(photograph)[0].double(), 0.299 * red + 0.587 * green + 0.114 * blue, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_are_dark_lines_where_the_photograph_steps(channels: int) -> None:
    photograph = torch.full((channels, 32, 32), -0.5)
    photograph[:, :, 16:] = 0.5
    edges = drawn_edges(photograph)
    assert edges.shape == (1, 32, 32) and set(edges.unique().tolist()) == {-1.0, 1.0}
    rows, columns = (edges[0] == -1).nonzero(as_tuple=True)
    assert set(rows.tolist()) >= set(range(2, 30)) and set(columns.tolist()) <= {15, 16}


def test_a_plain_folder_of_photographs_is_for_training_unless_a_part_is_held_out(tmp_path: Path) -> None:
    save(tmp_path / "x" / "deep" / "0.png", coordinates())
    config = config_of(kind="computed", folder=tmp_path / "x")
    assert len(config.build("train", tmp_path)) == 1
    with pytest.raises(DataError, match="expected test or val, or test_folder"):
        config.build("test", tmp_path)
    save(tmp_path / "x" / "val" / "0.png", coordinates())
    with pytest.raises(DataError, match="holds no train images"):  # else what is held out would be trained on
        config.build("train", tmp_path)


# ---------------------------------------------------------------------------------------------- every option


def two_data_sets(kind: str, root: Path) -> dict[str, Any]:
    """The toy folder of a kind as `toy`, the same with other pixels as `other`, and what a recipe says of `toy`."""
    fields = toy_folder(kind, root / "toy")
    toy_folder(kind, root / "other")
    for path in sorted((root / "other").rglob("*.png")):
        save(path, np.ascontiguousarray(np.array(Image.open(path))[::-1]))
    if kind == "labels":  # another map beside each, which a pattern picks
        for path in list((root / "toy").glob("*_label/*.png")):
            save(path.with_name(f"{path.stem}_ids.png"), np.array(Image.open(path))[:, ::-1].copy())
            path.rename(path.with_name(f"{path.stem}_old.png"))
    return fields | ({"labels": "*_old.png"} if kind == "labels" else {})


def data_options(kind: str, root: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """For every option of a kind: what is said before and after."""
    other = {"labels": "*"} if kind == "labels" else {}
    options: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "card": ({"folder": None, "card": "toy"}, {"folder": None, "card": "other", **other}),
        "folder": ({}, {"folder": root / "other", **other}),
        "image_b": ({}, {"image_b": {"channels": 3, "bits": 16} if kind == "computed" else {"channels": 1}}),
        "resize": ({}, {"resize": 40}), "augment": ({"augment": []}, {"augment": ["flip"]}),
    }
    if kind not in ("computed", "images"):
        suffixes = ("_label", "_img") if kind == "labels" else ("A", "B")
        if kind == "paired":  # two folders of their own
            for folder, blue in (("trainA", 0), ("trainB", 50), ("testA", 7), ("testB", 57)):
                for number in range(3):
                    save(root / "sides" / folder / f"{number}.png", coordinates(blue=blue + number))
        home = root / ("sides" if kind == "paired" else "toy")
        train, test = ([home / f"{split}{suffix}" for suffix in suffixes] for split in ("train", "test"))
        sides = {"folder": None, "a": train[0], "b": train[1]}
        options["a"] = (sides, sides | {"a": test[0], "b": test[1]})
        options["b"] = (sides, options["a"][1])  # of pairs, one side alone cannot be another
        options["test_a"] = options["test_b"] = (sides | {"test_a": train[0], "test_b": train[1]},
                                                 sides | {"test_a": test[0], "test_b": test[1]})
    if kind in ("unpaired", "paired"):
        options["image_a"] = ({}, {"image_a": {"channels": 1}})
    if kind == "unpaired":
        options["truth"] = ({}, {"truth": True})
    if kind == "paired":
        options["direction"] = ({}, {"direction": "ba"})
    if kind == "labels":
        options["classes"] = ({}, {"classes": 5})
        options["ignore"] = ({}, {"ignore": 0})
        options["ids"] = ({}, {"ids": {0: 1, 1: 0}})
        options["labels"] = ({}, {"labels": "*_ids.png"})
        save(root / "things" / "train_label" / "0.png", np.full((30, 30), 9, np.uint8))
        save(root / "things" / "train_img" / "0.png", coordinates(30, 30))
        things = {"folder": root / "things", "labels": "*"}
        options["instances"] = (things | {"instances": 4}, things | {"instances": 5})
        options["edges"] = ({}, {"edges": True})
    if kind == "images":
        options["classes"] = ({}, {"classes": ["dogs", "cats"]})
        for split in ("train", "test"):
            write_beside(root / "beside" / split, 3)
        beside = {"folder": root / "beside"}
        options["column"] = (beside, beside | {"column": "other"})
        options["vectors"] = (beside, beside | {"vectors": {"size": 2}})
    if kind == "computed":
        options["input"] = ({}, {"input": "edges"})
    if kind in ("computed", "images"):
        options["test_folder"] = ({}, {"test_folder": root / "other" / "train"})
    return options


def write_beside(folder: Path, num: int) -> None:
    """`num` images, with a metadata.jsonl of two columns with classes and one with vectors, and a vectors.npz."""
    lines = []
    for number in range(num):
        name = save(folder / "nested" / f"{number}.png", coordinates(blue=number)).relative_to(folder).as_posix()
        label = ("cats", "dogs")[number % 2]
        lines.append(json.dumps({"file_name": name, "label": label, "other": 1, "text": [number, 0.5, -2]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    names = [f"nested/{number}.png" for number in reversed(range(num))]
    np.savez(folder / "vectors.npz", names=np.array(names), vectors=np.arange(2.0 * num).reshape(num, 2))


def everything_read(fields: dict[str, Any], root: Path) -> str:
    """A hash of what a training and its evaluation would be shown."""
    config = config_of(**fields)
    digest = hashlib.sha256(repr(config.truth_is_known).encode())
    for name in ("train", "test"):
        try:
            samples = config.build(name, root)  # type: ignore[arg-type]
        except DataError:
            continue  # two folders without folders for testing
        for index in range(len(samples)):
            whole = samples.whole(index)
            digest.update(whole.a.numpy().tobytes() + whole.b.numpy().tobytes() + repr(whole.a.shape).encode())
        for batch in data.batches(samples, seed=0, start=0, stop=len(samples), batch_size=1, size=(20, 20)):
            digest.update(batch.a.numpy().tobytes() + batch.b.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", members_of_the_union())
def test_every_option_of_the_data_changes_what_is_read(kind: str, tmp_path: Path) -> None:
    fields = two_data_sets(kind, tmp_path)
    options = data_options(kind, tmp_path)
    assert options.keys() == type(config_of(**fields)).model_fields.keys() - {
        "kind", "on_unreadable", "cache", "draft", "protect", "scale"}, (
        "an option without a test (test_unreadable, test_image_cache, test_protected and test_scale have these)")
    known: dict[str, str] = {}

    def read(change: dict[str, Any]) -> str:
        given = {name: value for name, value in (fields | change).items() if value is not None}
        if repr(given) not in known:  # most options begin from the same
            known[repr(given)] = everything_read(given, tmp_path)
        return known[repr(given)]

    for option, (before, after) in options.items():
        assert read(before) != read(after), option


# ---------------------------------------------------------------------------------------------- depths


@pytest.mark.parametrize(("bits", "dtype", "channels"), [
    (16, np.uint16, 5), (16, np.uint16, 1), ("float", np.float32, 2)])
def test_deep_and_many_channelled_images_pass_through_resize_and_crop(bits: Any, dtype: Any, channels: int,
                                                                      tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((20, 26, channels)) * 2 - 1
    image = ((image + 1) * 32767.5).round() if bits == 16 else image
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        write_image(tmp_path / f"train{side}" / "0.tif", image.astype(dtype))
    config = config_of(kind="paired", folder=tmp_path, image_a={"channels": channels, "bits": bits}, resize=40,
                       image_b={"channels": channels, "bits": bits}, augment=["flip", "flip_vertical", "rotate90"])
    samples = config.build("train", tmp_path)
    expected = to_tensor(image.astype(dtype), ImageConfig(channels=channels, bits=bits))
    assert torch.equal(samples.whole(0).a, expected)
    batch = next(data.batches(samples, seed=0, start=0, stop=2, batch_size=2, size=(24, 24)))
    assert batch.a.shape == (2, channels, 24, 24) and torch.equal(batch.a, batch.b)
    assert -1 <= batch.a.min() < -0.5 and 0.5 < batch.a.max() <= 1


# ---------------------------------------------------------------------------------------------- held-out images


def test_held_out_samples_are_the_first_test_images_whole_or_their_middles_every_time(tmp_path: Path) -> None:
    for split, blue in (("train", 1), ("val", 2), ("test", 3)):
        for number in range(3):
            image = coordinates(blue=10 * number + blue)
            save(tmp_path / split / f"{number}.png", np.hstack([image, image]))
    config = config_of(kind="paired", folder=tmp_path, resize=None)
    for split, blue in (("test", 3), ("val", 2), ("train", 1)):
        whole, cut = (data.held_out(config, tmp_path, 2, Fitting(None, (8, 8)), most) for most in (None, 192))
        again = data.held_out(config, tmp_path, 2, Fitting(None, (8, 8)))
        assert whole[0].a.shape == (3, 24, 32) and torch.equal(whole[0].a, again[0].a)
        assert [round((float(sample.a[2, 0, 0]) + 1) * 127.5) for sample in whole] == [blue, 10 + blue]
        assert cut[0].a.shape == (3, 12, 16)
        assert ((cut[0].b[:2, 0, 0] + 1) * 127.5).round().tolist() == [6, 8]  # (24 − 12) / 2, (32 − 16) / 2
        for path in (tmp_path / split).iterdir():
            path.unlink()
        (tmp_path / split).rmdir()


def test_test_pairs_come_whole(tmp_path: Path) -> None:
    pairs = data.test_pairs(config_of(**toy_folder("paired", tmp_path), resize=12), tmp_path)
    assert len(pairs) == 2
    a, b = pairs[1]
    assert a.shape == b.shape == (3, 24, 32) and torch.equal(a[:2], b[:2]) and not torch.equal(a[2], b[2])


def test_unpaired_test_images_have_a_truth_only_where_the_recipe_says_so_and_names_pair(tmp_path: Path) -> None:
    for name, blue in (("trainA/0", 0), ("trainB/9", 0), ("testA/x", 1), ("testA/y", 2), ("testB/x", 3),
                       ("testB/y", 4)):
        save(tmp_path / f"{name}.png", coordinates(blue=blue))
    with pytest.raises(DataError, match=r"the truth of its test images is not known; where .* write truth: true"):
        data.test_pairs(config_of(kind="unpaired", folder=tmp_path), tmp_path)
    config = config_of(kind="unpaired", folder=tmp_path, truth=True)
    pairs = data.test_pairs(config, tmp_path)
    assert [round((float(b[2, 0, 0]) + 1) * 127.5) for _, b in (pairs[0], pairs[1])] == [3, 4]
    save(tmp_path / "testA" / "z.png", coordinates())
    with pytest.raises(DataError, match=r"data.truth says .* 1 of 3 and 0 of 2 .* no partner .*: .*z\.png; rename"):
        data.test_pairs(config, tmp_path)


# ---------------------------------------------------------------------------------------------- recipes' mistakes


@pytest.mark.parametrize(("fields", "message"), [
    ({"kind": "unpaired"}, "no image location; give card: NAME"),
    ({"kind": "unpaired", "card": "x", "folder": "y"}, "card and folder: say once"),
    ({"kind": "paired", "a": "x"}, "a: names the images of one side; b,"),
    ({"kind": "paired", "b": "x"}, "b: names the images of one side; a,"),
    ({"kind": "paired", "a": "x", "b": "y", "direction": "ba"}, "exchange their paths"),
    ({"kind": "paired", "a": "x", "b": "y", "test_a": "z"}, "test_a and test_b"),
    ({"kind": "unpaired", "folder": "x", "test_a": "y", "test_b": "z"}, "test_a: goes with a and b"),
    ({"kind": "paired", "a": "x", "b": "y", "test_a": "z", "test_b": "y/test"}, "test_b: y/test lies in y, so that"),
    ({"kind": "labels", "folder": "x"}, "Field required"),
    ({"kind": "labels", "folder": "x", "classes": 3, "image_a": {"channels": 3}}, "Extra inputs"),
    ({"kind": "computed", "folder": "x", "image_b": {"channels": 1}}, "grey is computed from 3 channels, not 1"),
    ({"kind": "computed", "folder": "x", "test_folder": "x/held"}, "would be trained on"),
    ({"kind": "computed", "card": "x", "test_folder": "y"}, "a card has its own"),
    ({"kind": "unpaired", "card": "../up"}, "a folder gets this name"),
    ({"kind": "unpaired", "card": "x", "augment": ["flip", "flip"]}, "each augmentation once"),
    ({"kind": "unpaired", "card": "x", "augment": ["flop"]}, "'flip', 'flip_vertical' or 'rotate90'"),
])
def test_what_does_not_fit_together_is_refused_in_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        config_of(**fields)


def test_listing_follows_linked_folders_and_survives_loops(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "1.png", coordinates())
    save(tmp_path / "set" / "0.png", coordinates())
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    assert [path.name for path in list_images(tmp_path / "set")] == ["0.png", "1.png"]


def test_domains_are_called_as_their_folders(tmp_path: Path) -> None:
    """So that `convert` can say which way a run translates."""
    def domains(a: str, b: str) -> tuple[str, str]:
        return UnpairedConfig(a=tmp_path / a, b=tmp_path / b).domains

    assert domains("summer", "winter") == domains("summer/train", "winter/train") == ("A (summer)", "B (winter)")
    assert domains("a", "B") == UnpairedConfig(folder=tmp_path).domains == ("A", "B")
    assert domains("day/images/train", "night/images/train") == ("A", "B"), "one name for both tells nothing"
    assert UnpairedConfig(a=Path("train"), b=Path("night/train")).domains == ("A", "B (night)")


@pytest.mark.parametrize(("summer", "winter"), [("summer", "winter"), ("s" * 255, "w" * 255)], ids=["short", "longest"])
def test_a_release_knows_what_its_domains_are_called(summer: str, winter: str, tmp_path: Path) -> None:
    """Its recipe leaves the folders out; those who were given it read of A and B alone. One of a folder whose name has
    230 letters could not be loaded."""
    recipe = cyclegan_recipe(tmp_path, data={"kind": "unpaired", "a": str(tmp_path / summer),
                                             "b": str(tmp_path / winter)})
    write_release(tmp_path / "release", recipe, recipe.translator.build(3, 3), Progress())
    assert load_release(tmp_path / "release", "ba").domains == (f"B ({winter})", f"A ({summer})")
    assert str(tmp_path) not in (tmp_path / "release" / "release.json").read_text()
