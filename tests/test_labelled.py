"""Labelled images are found in every layout, and what is wrong with their labels is named before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.adaptation import save, scene, stripes, write_image_folder, write_scenes, write_stripes
from translate.data.labelled import check_labels
from translate.data.labelled_layouts import (
    CITYSCAPES_NAMES,
    CityscapesConfig,
    ClassesConfig,
    GTA5Config,
    ImageFolderConfig,
    MasksConfig,
)
from translate.errors import DataError, ImageError

# trainId: (name, id), as Cityscapes publishes them
PUBLISHED = {0: ("road", 7), 1: ("sidewalk", 8), 2: ("building", 11), 3: ("wall", 12), 4: ("fence", 13),
             5: ("pole", 17), 6: ("traffic light", 19), 7: ("traffic sign", 20), 8: ("vegetation", 21),
             9: ("terrain", 22), 10: ("sky", 23), 11: ("person", 24), 12: ("rider", 25), 13: ("car", 26),
             14: ("truck", 27), 15: ("bus", 28), 16: ("train", 31), 17: ("motorcycle", 32), 18: ("bicycle", 33)}


LAYOUTS = (GTA5Config, CityscapesConfig, MasksConfig, ClassesConfig, ImageFolderConfig)


def save_fractions(path: Path, value: float) -> None:
    """In the place of a label map, one of floats."""
    path.unlink()
    Image.fromarray(np.full((32, 32), value, np.float32)).save(path.with_suffix(".tif"))


def write_gta(folder: Path, numbers: np.ndarray) -> GTA5Config:
    """One frame, and its labels as GTA5 has them: a palette image whose indices are ids."""
    save(folder / "images" / "00001.png", np.zeros((*numbers.shape, 3), np.uint8))
    image = Image.fromarray(numbers, "P")
    image.putpalette(list(range(256)) * 3)
    (folder / "labels").mkdir()
    image.save(folder / "labels" / "00001.png")
    return GTA5Config(folder=folder)


def test_gta5s_ids_become_the_19_published_train_ids(tmp_path: Path) -> None:
    numbers = np.arange(35, dtype=np.uint8).reshape(5, 7)
    config = write_gta(tmp_path, numbers)
    found = config.find("train", tmp_path)
    expected = np.full(35, 255)
    for train_id, (name, number) in PUBLISHED.items():
        expected[number] = train_id
        assert CITYSCAPES_NAMES[train_id] == name
    check_labels(config, found)
    assert (config.read(found.labels[0])[..., 0] == expected.reshape(5, 7)).all() and config.num_classes == 19


def test_an_unknown_id_is_named_with_its_file(tmp_path: Path) -> None:
    config = write_gta(tmp_path, np.array([[7, 99]], np.uint8))
    with pytest.raises(DataError, match=r"1 of 1 labels cannot be used:\n.*labels/00001.png.*unknown class numbers 99"):
        check_labels(config, config.find("train", tmp_path))


def test_cityscapes_pairs_by_city_and_frame_and_reads_train_ids(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        for number in range(2):
            name = f"{city}/{city}_{number:06d}_000019"
            image, labels = scene(number)
            save(tmp_path / f"leftImg8bit/{split}/{name}_leftImg8bit.png", image)
            save(tmp_path / f"gtFine/{split}/{name}_gtFine_labelTrainIds.png", labels)
            save(tmp_path / f"gtFine/{split}/{name}_gtFine_labelIds.png", labels + 7)
            save(tmp_path / f"gtFine/{split}/{name}_gtFine_color.png", image)
    config = CityscapesConfig(folder=tmp_path)
    assert len(config.find("train", tmp_path)) == 4 and len(config.find("test", tmp_path)) == 2
    for split in ("train", "test"):
        found = config.find(split, tmp_path)  # type: ignore[arg-type]
        check_labels(config, found)
        for path, label in zip(found.files, found.labels, strict=True):
            assert isinstance(label, Path) and path.name.split("_left")[0] == label.name.split("_gtFine")[0]


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: (folder / "masks" / "001.png").unlink(), "images/001.png"),
    (lambda folder: save(folder / "masks" / "999.png", scene(1)[1]), "masks/999.png"),
    (lambda folder: save(folder / "masks" / "001.png", scene(1)[1][:, :30]), "is 32×32 and its labels .* 30×32 pixels"),
    (lambda folder: save(folder / "masks" / "001.png", scene(1)[1] + 3), "001.png.*unknown class numbers 3, 4, 5"),
    (lambda folder: save(folder / "masks" / "001.png", scene(1)[0]), "001.png.*colours.*in one channel"),
    (lambda folder: save_fractions(folder / "masks" / "001.png", 1.7), "001.tif.*holds fractions.*whole numbers"),
    (lambda folder: save_fractions(folder / "masks" / "001.png", np.nan), "001.tif.*holds fractions.*whole numbers"),
    (lambda folder: (folder / "masks" / "001.png").write_bytes(b"no image"), "001.png.*not a label map"),
])
def test_what_is_wrong_with_label_maps_is_named(spoil: Any, message: str, tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, 3) / "source" / "train"
    config = MasksConfig(folder=tmp_path / "source", classes=3)
    check_labels(config, config.find("train", tmp_path))
    spoil(folder)
    with pytest.raises(DataError, match=message):
        check_labels(config, config.find("train", tmp_path))


def test_all_labels_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, 4) / "source" / "train" / "masks"
    for number in (1, 3):
        save(folder / f"{number:03d}.png", scene(1)[1][:20])
    config = MasksConfig(folder=tmp_path / "source", classes=3)
    with pytest.raises(DataError, match=r"2 of 4 labels cannot be used:\n.*001.png.*\n.*003.png"):
        check_labels(config, config.find("train", tmp_path))


def test_excluded_images_are_left_out_with_their_labels(tmp_path: Path) -> None:
    """By name, by a pattern, or where there is no image any more; so that what is wrong with them is gone."""
    folder = write_scenes(tmp_path, 6) / "source" / "train"
    save(folder / "masks" / "001.png", scene(1)[1][:, :30])
    (folder / "masks" / "002.png").unlink()
    (folder / "images" / "003.png").unlink()
    config = MasksConfig(folder=tmp_path / "source", classes=3, exclude=("001", "002.png", "00[34]"))
    found = config.find("train", tmp_path)
    assert [path.name for path in found.files] == ["000.png", "005.png"]
    assert [path.name for path in found.labels if isinstance(path, Path)] == ["000.png", "005.png"]
    check_labels(config, found)


def test_in_cityscapes_the_label_of_an_excluded_image_goes_with_it_though_it_is_called_otherwise(
        tmp_path: Path) -> None:
    for city, number in (("aachen", 0), ("aachen", 1), ("ulm", 0), ("ulm", 1)):
        image, labels = scene(number)
        save(tmp_path / f"leftImg8bit/train/{city}/{city}_{number}_leftImg8bit.png", image)
        save(tmp_path / f"gtFine/train/{city}/{city}_{number}_gtFine_labelTrainIds.png", labels)
    for pattern, kept in (("ulm_1_leftImg8bit", 3), ("ulm_1_gtFine_labelTrainIds.png", 3), ("ulm/*", 2)):
        found = CityscapesConfig(folder=tmp_path, exclude=(pattern,)).find("train", tmp_path)
        assert len(found) == kept and len(found.labels) == kept, pattern


def test_in_gta5_frames_are_excluded_by_their_numbers(tmp_path: Path) -> None:
    for number in (15187, 15188, 20800, 20801, 20860, 20861):
        image, labels = scene(number)
        save(tmp_path / "images" / f"{number}.png", image)
        save(tmp_path / "labels" / f"{number}.png", labels + 7)
    config = GTA5Config(folder=tmp_path, exclude=("15188", "2080[1-9]", "20860"))
    assert [path.stem for path in config.find("train", tmp_path).files] == ["15187", "20800", "20861"]


def test_excluded_images_of_the_layouts_of_classes_are_left_out(tmp_path: Path) -> None:
    write_stripes(tmp_path, 3)
    found = ClassesConfig(folder=tmp_path / "source", names=("upright", "lying"), exclude=("lying/001", "upright/*")
                          ).find("train", tmp_path)
    assert [(path.name, label) for path, label in zip(found.files, found.labels, strict=True)] == [
        ("000.png", 1), ("002.png", 1)]
    folder = write_image_folder(tmp_path / "hf")
    (folder / "train" / "deep" / "4.png").unlink()  # its row stays
    found = ImageFolderConfig(folder=folder, names=("upright", "lying"), exclude=("deep/[34].png", "0")
                              ).find("train", tmp_path)
    assert [(path.name, label) for path, label in zip(found.files, found.labels, strict=True)] == [
        ("1.png", 1), ("2.png", 0), ("5.png", 1)]


def test_a_pattern_that_excludes_nothing_is_named(tmp_path: Path) -> None:
    """Unless it is there for the images of the other split."""
    target = write_scenes(tmp_path, 3) / "target"
    config = MasksConfig(folder=target, classes=3, exclude=("001", "15188", "7*"))
    with pytest.raises(DataError, match=r"target/train/images: exclude: 15188, 7\*: matches no image"):
        config.find("train", tmp_path)
    save(target / "test" / "images" / "777.png", scene(1)[0])
    config = MasksConfig(folder=target, classes=3, exclude=("001", "777"))
    assert len(config.find("train", tmp_path)) == 2 and len(config.find("test", tmp_path)) == 2
    with pytest.raises(DataError, match="exclude: leaves none of its 3 images"):
        MasksConfig(folder=target, classes=3, exclude=("0*",)).find("train", tmp_path)


def test_all_lonely_labels_are_named_up_to_twenty(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, 24) / "source" / "train" / "masks"
    for number in range(22):
        (folder / f"{number:03d}.png").unlink()
    with pytest.raises(DataError, match=r"22 of 24 and 0 of 2 .*: .*000.png, .*/019.png, …; rename"):
        MasksConfig(folder=tmp_path / "source", classes=3).find("train", tmp_path)


def test_folders_of_classes_are_numbered_by_the_names_of_the_recipe(tmp_path: Path) -> None:
    write_stripes(tmp_path, 2)
    config = ClassesConfig(folder=tmp_path / "source", names=("upright", "lying"))
    found = config.find("train", tmp_path)
    assert [(path.parent.name, label) for path, label in zip(found.files, found.labels, strict=True)] == [
        ("lying", 1), ("lying", 1), ("upright", 0), ("upright", 0)]
    save(tmp_path / "source/train/aslant/0.png", stripes(1, True))
    with pytest.raises(DataError, match="unknown class aslant; known are upright, lying"):
        config.find("train", tmp_path)


def test_an_imagefolder_is_read_by_names_and_numbers(tmp_path: Path) -> None:
    config = ImageFolderConfig(folder=write_image_folder(tmp_path), names=("upright", "lying"))
    found = config.find("train", tmp_path)
    assert [(path.name, label) for path, label in zip(found.files, found.labels, strict=True)] == [
        (f"{number}.png", number % 2) for number in range(6)]


@pytest.mark.parametrize(("row", "message"), [
    ({"file_name": "deep/9.png", "label": 0}, "have a row and no image, the first deep/9.png"),
    ({"file_name": "deep/0.png", "label": 0}, "line 7: deep/0.png stands there twice"),
    ({"file_name": "deep/9.png", "label": "aslant"}, "line 7: unknown class 'aslant'"),
    ({"file_name": "deep/9.png", "label": 2}, "line 7: unknown class 2"),
    ({"file_name": "deep/9.png"}, "line 7: no column 'label'"),
    ({"label": 1}, "line 7: file_name: is missing; expected a JSON object"),
])
def test_what_is_wrong_with_an_imagefolder_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    metadata = write_image_folder(tmp_path) / "train" / "metadata.jsonl"
    metadata.write_bytes(metadata.read_bytes() + json.dumps(row).encode())
    config = ImageFolderConfig(folder=tmp_path, names=("upright", "lying"))
    with pytest.raises(DataError, match=message):
        config.find("train", tmp_path)


def test_an_image_without_a_row_is_named(tmp_path: Path) -> None:
    save(write_image_folder(tmp_path) / "train" / "more.png", stripes(1, True))
    with pytest.raises(DataError, match=r"1 images have no row in it, the first more.png"):
        ImageFolderConfig(folder=tmp_path, names=("upright", "lying")).find("train", tmp_path)


def test_every_option_of_a_layout_changes_what_is_read(tmp_path: Path) -> None:
    """Else it would be a dead one."""
    write_scenes(tmp_path, 2)
    source, label = tmp_path / "source", tmp_path / "source/train/masks/001.png"
    plain = MasksConfig(folder=source, classes=3)

    tried = {"kind", "card", "folder", "column"}  # which layout, and where: every other test

    def changed(**options: Any) -> MasksConfig:
        tried.update(options)
        return MasksConfig(**({"folder": source, "classes": 3} | options))

    with pytest.raises(DataError):
        changed(train="elsewhere").find("train", tmp_path)
    with pytest.raises(DataError):
        plain.find("test", tmp_path)
    assert len(changed(test="train").find("test", tmp_path)) == 2
    with pytest.raises(DataError):
        changed(images="{split}/other").find("train", tmp_path)
    with pytest.raises(DataError):
        changed(labels="{split}/other").find("train", tmp_path)
    with pytest.raises(DataError):
        changed(pattern="*_x.png").find("train", tmp_path)
    for options in ({"classes": 2}, {"ignore": 254}):
        with pytest.raises(ImageError):
            changed(**options).read(label)
    swapped = changed(ids={0: 1, 1: 0, 2: 2, 255: 255})
    assert (swapped.read(label) != plain.read(label)).any()
    assert len(changed(exclude=["001"]).find("train", tmp_path)) == 1
    assert changed(names=("a", "b", "c")).class_names == ("a", "b", "c")
    assert tried == {field for layout in LAYOUTS for field in layout.model_fields}
    renamed = write_image_folder(tmp_path / "hf") / "train" / "metadata.jsonl"
    renamed.write_bytes(renamed.read_bytes().replace(b'"label"', b'"kind"'))
    assert len(ImageFolderConfig(folder=tmp_path / "hf", names=("upright", "lying"), column="kind").find(
        "train", tmp_path)) == 6


@pytest.mark.parametrize(("options", "message"), [
    ({"folder": "x", "card": "y", "classes": 3}, "card and folder: say once"),
    ({"classes": 3}, "no image location; give card: NAME"),
    ({"folder": "x", "classes": 3, "ids": {1: 7}}, "ids: lead to 7"),
    ({"folder": "x", "classes": 3, "names": ["a"]}, "names: 1 names for 3 classes"),
    ({"folder": "x", "classes": 3, "ignore": 2}, "ignore: 2 is one of the 3 classes"),
    ({"folder": "x", "classes": 3, "images": "/data/images"}, "images: /data/images: leaves the folder"),
    ({"folder": "x", "classes": 3, "labels": "{split}/../../y"}, "labels: .*: leaves the folder; give a path below"),
    ({"folder": "x", "classes": 3, "train": "../train"}, "train: ../train: leaves the folder"),
    ({"folder": "x", "classes": 3, "test": "C:/test"}, "test: C:/test: leaves the folder"),
])
def test_options_that_do_not_fit_together_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MasksConfig(**options)
