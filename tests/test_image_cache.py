"""Images that are loaded faster: kept on the disk at their size, with the same pixels; or decoded at a part of it."""

from __future__ import annotations

import errno
import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from tests.conversions import noise
from tests.runs import UNSEEN, Silent, cyclegan_recipe, final_state
from tests.test_data_layouts import config_of, members_of_the_union, two_data_sets
from translate import data
from translate.data import image_cache, samples
from translate.data.image_cache import NUM_PARTS, ImageCache
from translate.data.layout import CACHE_FOLDER
from translate.errors import RunError
from translate.images.reading import ImageConfig, read_image
from translate.recipe import Recipe
from translate.runs.folder import refuse_changes
from translate.schema import validate
from translate.training.loop import train


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where prepared data sets lie, and the cache among them."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    return tmp_path


def entries(root: Path) -> list[Path]:
    return sorted(path for path in (root / CACHE_FOLDER).rglob("*") if path.is_file() and path.name != image_cache.LOCK)


def photographs(folder: Path, number: int = 4, size: tuple[int, int] = (90, 120), suffix: str = ".jpg") -> Path:
    """Smooth images, as photographs are."""
    folder.mkdir(parents=True)
    for seed in range(number):
        small = Image.fromarray(noise(size[0] // 15, size[1] // 15, seed=seed))
        small.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{seed}{suffix}", quality=95)
    return folder


def stream(fields: dict[str, Any], root: Path, workers: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = config_of(**fields).build("train", root)
    return [(batch.a, batch.b) for batch in data.batches(found, seed=0, start=0, stop=2 * len(found), batch_size=1,
                                                         size=(16, 16), workers=workers)]


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", members_of_the_union())
def test_a_training_sees_the_same_pixels_with_the_cache_and_without(
        kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = two_data_sets(kind, root) | {"resize": 18}
    without = stream(fields, root)
    first = stream(fields | {"cache": "64MB"}, root)
    assert entries(root)
    monkeypatch.setattr(samples, "read_image", lambda *_, **__: pytest.fail("decoded again"))
    monkeypatch.setattr("translate.data.labels.read_labels", lambda *_: pytest.fail("decoded again"))
    later = stream(fields | {"cache": "64MB"}, root)
    for one, two, three in zip(without, first, later, strict=True):
        assert all(torch.equal(one[side], each[side]) for each in (two, three) for side in (0, 1))


def test_a_trained_network_is_bit_identical_with_the_cache(root: Path) -> None:
    photographs(root / "photos/trainA")
    photographs(root / "photos/trainB", 3, (70, 60), ".png")
    recipe = cyclegan_recipe(root / "photos", every=UNSEEN,
                             stages=[{"resolution": 16, "images": 4, "batch_size": 2}])
    document = recipe.dump()
    document["data"] |= {"resize": 20}
    found = []
    for name, cache, workers in (("without", None, 0), ("first", "64MB", 0), ("second", "64MB", 2)):
        each = document | {"data": document["data"] | {"cache": cache}, "workers": workers}
        train(validate(Recipe, each, "toy"), root / name, Silent())
        found.append({file: entry for file, entry in final_state(root / name).items() if file != "recipe.json"})
    assert len(entries(root)) == 7 and found[0] == found[1] == found[2]


def test_a_resume_may_turn_the_cache_on_and_must_not_turn_drafts_on(root: Path) -> None:
    """A run of before goes on with the pixels that it has begun with."""
    photographs(root / "photos/trainA")
    photographs(root / "photos/trainB")
    saved = cyclegan_recipe(root / "photos")

    def changed(**fields: object) -> Recipe:
        document = saved.dump()
        document["data"] |= fields
        return validate(Recipe, document, "toy")

    refuse_changes(saved, changed(cache="1GB"), root)
    with pytest.raises(RunError, match=r"data\.draft"):
        refuse_changes(saved, changed(draft=True), root)


def test_another_file_size_or_option_is_another_entry(root: Path) -> None:
    folder = photographs(root / "photos")
    fields: dict[str, Any] = {"kind": "computed", "folder": folder, "resize": 20, "cache": "64MB"}

    def num_new(**changes: Any) -> int:
        before = len(entries(root))
        stream(fields | changes, root)
        return len(entries(root)) - before

    assert num_new() == 4 and num_new() == 0 and num_new(resize=24) == 4 and num_new() == 0
    assert num_new(image_b={"background": "black"}) == 4 and num_new(draft=True) == 4
    assert num_new(resize=None) == 0, "in their own size they are read as fast from their files"
    Image.fromarray(noise(90, 120, seed=77)).save(folder / "0.jpg")
    assert num_new() == 1
    (folder / "1.jpg").rename(folder / "9.jpg")
    assert num_new() == 0, "of the same content"


@pytest.mark.parametrize("name", [*image_cache.LIBRARIES, *image_cache.WITHIN_PILLOW])
def test_another_version_of_what_decodes_or_resizes_is_another_entry(
        name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Albumentations resizes, and a wheel of Pillow brings a libjpeg of its own: their updates gave stale pixels."""
    (tmp_path / "x").write_bytes(b"x")
    before = ImageCache(tmp_path, 1).key(tmp_path / "x", 1)
    assert ImageCache(tmp_path, 1).key(tmp_path / "x", 1) == before
    home: Any = features if name in image_cache.WITHIN_PILLOW else importlib.metadata
    usual = home.version
    monkeypatch.setattr(home, "version", lambda asked: "999.0" if asked == name else usual(asked))
    assert ImageCache(tmp_path, 1).key(tmp_path / "x", 1) != before


def test_a_cache_that_may_only_be_read_gives_what_it_has(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use of an entry could not be noted there, and so each was decoded again, an hour after it was made and for ever.
    """
    cache, image = ImageCache(root, 10**9), noise(20, 20)
    cache.put("0" * 64, image, (99, 77))
    (path,) = root.rglob("0" * 64)
    os.utime(path, (0, time.time() - 2 * image_cache.NOTED_SECONDS))

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)  # root, as whom tests may run, is refused nothing
    found = cache.get("0" * 64)
    assert found is not None and found[1] == (99, 77) and np.array_equal(found[0], image)


def test_it_takes_no_more_than_it_may_and_what_is_old_makes_room(tmp_path: Path) -> None:
    cache, image = ImageCache(tmp_path, 3100 * NUM_PARTS), noise(20, 20)
    keys = [f"{number * NUM_PARTS:08x}" + f"{number:056x}" for number in range(6)]  # all of one part
    for key in keys:
        cache.put(key, image, (99, 77))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*"))
    assert [cache.get(key) is not None for key in keys] == [True] * 2 + [False] * 4
    found = cache.get(keys[0])
    assert found is not None and found[1] == (99, 77) and np.array_equal(found[0], image)

    # Entries of a week ago go; one that is used meanwhile stays.
    for path in tmp_path.rglob("*0*"):
        if path.is_file():
            os.utime(path, (0, time.time() - 8 * 24 * 3600))
    assert cache.get(keys[0]) is not None
    cache.put(keys[4], image, (99, 77))
    assert [cache.get(key) is not None for key in keys] == [True, False, False, False, True, False]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) == size
    cache.put(keys[5], noise(200, 20), (1, 1))  # more than a part
    assert cache.get(keys[5]) is None and cache.get(keys[0]) is not None


@pytest.mark.parametrize("harm", ["one byte", "cut", "empty", "no array", "a folder"])
def test_a_damaged_entry_is_made_again(harm: str, root: Path) -> None:
    fields = {"kind": "computed", "folder": photographs(root / "photos", 1), "resize": 20, "cache": "64MB"}
    expected = stream(fields, root)
    (path,) = entries(root)
    content = path.read_bytes()
    if harm == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"one byte": content[:99] + bytes([content[99] ^ 1]) + content[100:], "cut": content[:-5],
                          "empty": b"", "no array": b"x" * 200}[harm])
    again = stream(fields, root)
    assert all(torch.equal(one[1], two[1]) for one, two in zip(expected, again, strict=True))
    assert harm == "a folder" or entries(root)[0].read_bytes() == content


def test_a_disk_that_fails_keeps_nothing_and_costs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"kind": "computed", "folder": photographs(root / "photos", 1), "resize": 20, "cache": "64MB"}
    (root / CACHE_FOLDER).write_text("no folder")
    assert len(stream(fields, root)) == 2
    (root / CACHE_FOLDER).unlink()

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert len(stream(fields, root)) == 2
    monkeypatch.undo()
    os.environ["DIPTYCH_DATA"] = str(root)
    (half,) = entries(root)
    assert half.name.startswith(".tmp-") and len(stream(fields, root)) == 2
    assert not half.exists() and len(entries(root)) == 1


def fill_for_ever(folder: Path) -> None:
    cache = ImageCache(folder, 20_000 * NUM_PARTS)
    for number in range(10**9):
        image = np.full((40, 40, 3), number % 100, np.uint8)
        cache.put(f"{number % 7 * NUM_PARTS:08x}" + f"{number % 100:056x}", image, (number % 100, 1))


def test_kills_and_several_writers_leave_only_whole_entries(tmp_path: Path) -> None:
    """All in one part: the bound holds, and who is killed while it holds the lock blocks nobody."""
    fork, cache = multiprocessing.get_context("fork"), ImageCache(tmp_path, 20_000 * NUM_PARTS)
    for _ in range(4):
        children = [fork.Process(target=fill_for_ever, args=(tmp_path,)) for _ in range(2)]
        for child in children:
            child.start()
        time.sleep(0.05)
        for child in children:
            child.kill()
            child.join()
    whole = [cache.get(path.name) for path in tmp_path.rglob("*") if len(path.name) == 64]
    assert len(whole) >= 2 and all(each is not None and (each[0] == each[1][0]).all() for each in whole)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if len(path.name) == 64) <= 20_000
    cache.put("00000000" + "f" * 56, np.zeros((9, 9, 3), np.uint8), (9, 9))
    assert cache.get("00000000" + "f" * 56) is not None
    assert not [path for path in tmp_path.rglob(".tmp-*") if path.is_file()]


# -- drafts ------------------------------------------------------------------------------------------------------------


def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes that images are decoded at from now on."""
    found: list[tuple[int, ...]] = []
    real = samples.read_image

    def read(*words: Any, **options: Any) -> np.ndarray:
        image = real(*words, **options)
        found.append(image.shape[:2])
        return image

    monkeypatch.setattr(samples, "read_image", read)
    return found


@pytest.mark.parametrize(("size", "resize", "expected"), [
    ((240, 320), 20, (60, 80)), ((240, 320), 30, (60, 80)), ((240, 320), 31, (120, 160)),
    ((240, 320), 61, (240, 320)), ((240, 320), None, (240, 320)), ((240, 324), 20, (60, 81)),
    ((242, 324), 20, (121, 162)), ((241, 324), 20, (241, 324))])
def test_a_jpeg_is_decoded_with_twice_the_pixels_that_remain(
        size: tuple[int, int], resize: int | None, expected: tuple[int, int], root: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"kind": "computed", "folder": photographs(root / "photos", 1, size), "resize": resize}
    without = stream(fields, root)[0][1]
    found = decoded_sizes(monkeypatch)
    draft = stream(fields | {"draft": True}, root)[0][1]
    assert found[0] == expected and draft.shape == without.shape
    if expected == size:
        assert torch.equal(draft, without)
    else:
        assert 0 < float((draft - without).abs().mean() * 127.5) < 2


def test_drafts_are_of_images_that_are_turned_and_of_jpegs_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = photographs(root / "photos", 1, (240, 480))
    Image.open(folder / "0.jpg").save(folder / "0.jpg", exif=exif, quality=95)
    Image.open(folder / "0.jpg").save(folder / "1.png")
    samples_of = config_of(kind="computed", folder=folder, resize=30, draft=True).build("train", root)
    found = decoded_sizes(monkeypatch)
    turned, png = samples_of.whole(0, 30).b, samples_of.whole(1, 30).b
    assert found == [(120, 60), (240, 480)] and turned.shape == (3, 60, 30) and png.shape == (3, 30, 60)


def test_a_pair_of_a_draft_and_of_none_keeps_one_size(root: Path) -> None:
    """The size of each is that of its file, whatever it is decoded at."""
    photographs(root / "a", 1, (132, 200))
    photographs(root / "b", 1, (132, 200), ".png")
    (root / "a/0.jpg").rename(root / "a/x.jpg")
    (root / "b/0.png").rename(root / "b/x.png")
    found = config_of(kind="paired", a=root / "a", b=root / "b", resize=29, draft=True).build("train", root)
    whole = found.whole(0, 29)
    assert whole.a.shape == whole.b.shape


def test_a_file_that_holds_both_sides_is_decoded_once_and_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(root / "pairs/train", 2, (120, 240))
    found = decoded_sizes(monkeypatch)
    stream({"kind": "paired", "folder": root / "pairs", "resize": 20, "draft": True}, root)
    assert found == [(120, 240)] * 2  # in both epochs together, as pairs are kept


def test_a_cache_that_is_no_size_is_refused(root: Path) -> None:
    for value in ("much", "20", "-1GB"):
        with pytest.raises(ValueError, match="is not a size of memory"):
            config_of(kind="computed", folder=root, cache=value)


def test_an_image_that_is_read_alone_is_the_whole_one(tmp_path: Path) -> None:
    """Evaluation and conversion show images in their own size."""
    photographs(tmp_path / "x", 1, (240, 320))
    read: Callable[..., np.ndarray] = read_image
    assert read(tmp_path / "x/0.jpg", ImageConfig()).shape == (240, 320, 3)
    assert read(tmp_path / "x/0.jpg", ImageConfig(), at_least=(30, 40)).shape == (60, 80, 3)
