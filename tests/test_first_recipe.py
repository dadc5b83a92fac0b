"""`translate new`: a folder of images becomes a recipe that is right for them and fits the card, or one line says why.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from translate.cli import console
from translate.data.conditioned import ImagesConfig
from translate.data.headers import look_at
from translate.data.layout import LayoutConfig
from translate.data.layouts import ComputedConfig, LabelsConfig, PairedConfig, UnpairedConfig
from translate.data.recognising import how_read, read_as
from translate.errors import DataError, TranslateError, UsageError
from translate.recipe import Recipe, load_recipe
from translate.training.first_recipe import first_recipe
from translate.training.recipe_draft import Draft, NoiseDraft

Maker = Callable[[Path], None]


def save(path: Path, number: int = 0, size: tuple[int, int] = (48, 64), mode: str = "RGB", **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(waves(number, size)).convert(mode).save(path, **how)


def sixteen_bits(folder: Path) -> None:
    for number in range(6):
        path = folder / f"train{'AB'[number % 2]}" / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.linspace(0, 4095, 48 * 64).reshape(48, 64).astype(np.uint16)  # 12 bits of them
        tifffile.imwrite(path, grey, photometric="minisblack")


def two_sides(folder: Path, a: str = "trainA", b: str = "trainB", paired: bool = False, **how: Any) -> None:
    for number in range(4):
        save(folder / a / f"{number}.png", number, **how)
        save(folder / b / f"{number if paired else number + 9}.png", number + 4, **how)


def labels(folder: Path) -> None:
    for number in range(4):
        path = folder / "train_label" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(np.uint8([0, 2, 1, 1]), 16)[None].repeat(48, axis=0)).save(path)
        save(folder / "train_img" / f"{number}.png", number)


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    two_sides(folder, "monet", "photo")
    save(folder / "photo" / "2019" / "DSC_1.JPG", 1, (64, 48), exif=exif)


def mixed(folder: Path) -> None:
    two_sides(folder)
    for number in range(4):
        save(folder / "trainB" / f"large{number}.png", number, (200, 300))


def transparent(folder: Path) -> None:
    two_sides(folder)
    save(folder / "trainA" / "alpha.png", 1, mode="RGBA")


def unequal(folder: Path) -> None:
    two_sides(folder, paired=True)
    save(folder / "trainB" / "1.png", 1, (50, 50))


def all_unequal(folder: Path) -> None:
    for number in range(7):
        save(folder / "trainA" / f"{number}.png", number)
        save(folder / "trainB" / f"{number}.png", number, (50, 50))


def halves(folder: Path) -> None:
    for number in range(4):
        save(folder / "train" / f"{number}.png", number, (48, 96))


KINDS: dict[str, tuple[Maker, dict[str, Any], str]] = {  # how to make it, what the recipe says, what is said
    "paired": (lambda folder: two_sides(folder, paired=True), {"kind": "paired"}, "only number alike: --kind unpaired"),
    "beside each other": (halves, {"kind": "paired"}, "48×48 px"),
    "unpaired": (two_sides, {"kind": "unpaired"}, "no images are held out"),
    "labels": (labels, {"kind": "labels", "classes": 3}, "A: "),
    "grey": (lambda folder: two_sides(folder, mode="L"), {"image_a": {"channels": 1}}, "grey, 8 bits"),
    "16 bits": (sixteen_bits,
                {"image_b": {"channels": 1, "bits": 16, "range": [0, 4095]}}, "grey, 16 bits"),
    "tiny": (lambda folder: two_sides(folder, size=(20, 20)), {"kind": "unpaired"}, "20×20 px"),
    "mixed sizes": (mixed, {"kind": "unpaired"}, "images are of many sizes"),
    "one image": (lambda folder: save(folder / "one.jpg"), {"kind": "computed"}, "one image alone"),
    "alpha": (transparent, {"kind": "unpaired"}, "1 may be transparent (shown on white)"),
    "nested, other names, turned": (turned, {"kind": "unpaired"}, "1 turned upright, as EXIF says"),
}


def one_file(folder: Path, kind: str) -> Path:
    """Write an image of a kind into a folder of its own, and return that folder."""
    place = folder / kind
    place.mkdir(parents=True)
    if kind in ("L", "RGBA"):
        save(place / "0.png", mode=kind)
    else:
        channels, bits = {"16 bits": (1, np.uint16), "5 channels": (5, np.uint8)}[kind]
        pixels = np.linspace(0, 200, 48 * 64 * channels).reshape(48, 64, channels).astype(bits).squeeze()
        tifffile.imwrite(place / "0.tif", pixels, photometric="minisblack",
                         planarconfig="contig" if channels > 1 else None)
    return place


def test_images_of_any_kind_on_either_side_get_a_valid_recipe(tmp_path: Path) -> None:
    """Grey drawings and colour paintings got one that its own reader refused: identity needs as many channels."""
    kinds = ("L", "RGBA", "16 bits", "5 channels")
    sides = {kind: one_file(tmp_path, kind) for kind in kinds}
    maps = one_file(tmp_path / "maps", "L")
    layouts: list[LayoutConfig] = [layout(a=a, b=b) for layout in (UnpairedConfig, PairedConfig)
                                   for a, b in itertools.product(sides.values(), repeat=2)]
    layouts += [LabelsConfig(a=maps, b=b, classes=256) for b in sides.values()]
    layouts += [layout(folder=each) for layout in (ComputedConfig, ImagesConfig) for each in sides.values()]
    for layout in layouts:
        seen = look_at(layout.build("train", tmp_path))
        make = Draft if layout.has_sources else NoiseDraft
        if isinstance(layout, ComputedConfig) and layout.folder == sides["5 channels"]:
            with pytest.raises(DataError, match=r"one set of images of 5 channels.*--kind images"):
                make(layout, seen, "mine", 48, "8GB")
            continue
        draft = make(layout, seen, "mine", 48, "8GB")
        recipe = draft.recipe(draft.stages(draft.largest_crop()))
        differ = recipe.data.channels_a != recipe.data.channels_b
        if isinstance(layout, UnpairedConfig):
            assert (recipe.translator.weights.identity == 0) == differ == any("identity" in x for x in draft.notes)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_missing_partner_is_asked_about_and_not_taken_for_two_styles(mode: str, tmp_path: Path) -> None:
    two_sides(tmp_path / "images", "edges", "photos", paired=True)
    for path in (tmp_path / "images" / "edges").iterdir():
        save(path, mode=mode)
    (tmp_path / "images" / "edges" / "2.png").unlink()
    with pytest.raises(DataError, match=r"3 of 4 names pair; photos/2.png has no partner; remove it, or .*unpaired"):
        first(tmp_path)


def test_names_that_only_number_alike_are_not_said_to_be_in_both_folders(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "xray" / f"x{number}.png", number)
        save(tmp_path / "paint" / f"p{number}.png", number)
    found = read_as(tmp_path, None)
    (line,) = how_read(found, found.build("train", Path()))
    assert "number alike, such as p0.png and x0.png;" in line and "every name" not in line


def test_of_classes_in_train_it_is_said_that_they_are_read_as_two_sides(tmp_path: Path) -> None:
    two_sides(tmp_path, "train/cat", "train/dog", paired=False)
    found = read_as(tmp_path, None)
    (line,) = how_read(found, found.build("train", Path()))
    two_sides(tmp_path / "named", "train/A", "train/B", paired=False)
    named = read_as(tmp_path / "named", None)
    assert not how_read(named, named.build("train", Path()))
    assert line.startswith("read as two sides, cat and dog") and "classes of one set of photographs: --kind" in line
    assert read_as(tmp_path, "computed").kind == "computed"  # type: ignore[attr-defined]


def test_of_three_folders_it_is_asked_which_two_are_meant(tmp_path: Path) -> None:
    """Held-out images were pooled with the others, and all were to be coloured."""
    for name in ("day", "dusk", "held/day"):
        save(tmp_path / "images" / name / "0.png")
    with pytest.raises(DataError, match="3 folders of images: day, dusk, held; call the two that are A and B trainA"):
        first(tmp_path)
    assert read_as(tmp_path / "images", "computed").kind == "computed"  # type: ignore[attr-defined]


@pytest.mark.parametrize("home", ["", "train/"])
@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("paired", [True, False])
def test_images_held_out_in_test_beside_two_folders_of_any_names_are_theirs(home: str, split: str, paired: bool,
                                                                           tmp_path: Path) -> None:
    two_sides(tmp_path, f"{home}raw", f"{home}done", paired)
    two_sides(tmp_path, f"{split}/raw", f"{split}/done", paired)
    found = read_as(tmp_path, None)
    assert found.kind == ("paired" if paired else "unpaired")  # type: ignore[attr-defined]
    for samples, where in ((found.build("train", Path()), home), (found.build("test", Path()), f"{split}/")):
        for files, name in ((samples.files_a, "done"), (samples.files_b, "raw")):
            assert list(files) == sorted((tmp_path / where / name).iterdir())
    there, back = (layout.build("test", Path()) for layout in (found, found.other_way()))
    assert there.files_a == back.files_b


@pytest.mark.parametrize(("files", "said_of_it"), [
    (["raw/0", "done/0", "test/raw/1"], "and beside them test, where images held out are to lie in folders of the same "
     "names: there are none in test/done; put some there, or take test out of this folder"),
    (["train/raw/0", "train/done/0", "val/2"], "sides train/done and train/raw, and beside them val"),
    (["raw/0", "done/0", "train/1"], "holds train, and images in done, raw beside it: it is not clear which are to be"),
    (["0", "test/1"], "no train images: beside test, they are to lie in a folder that is called train; move those"),
])
@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_a_test_folder_that_fits_nothing_is_named_as_the_cause(files: list[str], said_of_it: str, direction: Any,
                                                               tmp_path: Path) -> None:
    """It was told that the folder holds no images, or to leave --direction out."""
    for name in files:
        save(tmp_path / "images" / f"{name}.png")
    with pytest.raises(DataError) as error:
        first(tmp_path, direction=direction)
    assert said_of_it in str(error.value)


def document_holds(recipe: Recipe, wanted: dict[str, Any]) -> bool:
    def within(part: Any, whole: Any) -> bool:
        return all(within(value, whole[name]) for name, value in part.items()) if isinstance(part, dict) else (
            part == whole)

    return within(wanted, recipe.dump()["data"])


def first(tmp_path: Path, **how: Any) -> tuple[Any, Path]:
    file = tmp_path / "mine.yaml"
    made = first_recipe(tmp_path / "images", file, "8GB", **how)
    file.write_text(made.text)
    return made, file


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_folder_gets_a_recipe_of_its_own(name: str, tmp_path: Path) -> None:
    make, wanted, line = KINDS[name]
    make(tmp_path / "images")
    made, file = first(tmp_path)
    recipe = load_recipe(file)
    assert recipe == made.recipe and document_holds(recipe, wanted)
    assert line in "\n".join(made.lines) and line in made.text
    assert all(max(stage.size) <= 48 for stage in recipe.stages)  # no image is enlarged
    assert "GPU of 8GB" in made.text.splitlines()[0] and "images/s" in made.text
    assert ("out/ --model runs/mine --resize trained --size input\n" in made.text) == (name == "mixed sizes")
    assert "# Hours:    about " in made.text and "at the speed of the RTX 3060" in made.text


def test_a_heap_of_images_gets_a_recipe_that_draws_others_where_one_asks_for_it(tmp_path: Path) -> None:
    """At the largest side that the images have and the networks draw; nested folders are no sides then."""
    two_sides(tmp_path / "images", size=(70, 90))
    made, file = first(tmp_path, kind="images")
    recipe = load_recipe(file)
    assert recipe == made.recipe and (recipe.data.kind, recipe.translator.kind) == ("images", "noise")
    assert {stage.size for stage in recipe.stages} == {(64, 64)} and "8 images" in "\n".join(made.lines)
    assert "# Draw:     translate sample runs/mine" in made.text and "Convert:" not in made.text


def test_a_gpu_may_be_named(tmp_path: Path) -> None:
    two_sides(tmp_path / "images")
    made = first_recipe(tmp_path / "images", tmp_path / "mine.yaml", "rtx 4090")
    assert "on a GPU of 24GB" in made.text and "--gpu 'rtx 4090'" in made.text
    assert "; RTX 4090, by its published numbers" in made.text
    with pytest.raises(UsageError, match="no GPU that is known"):
        first_recipe(tmp_path / "images", tmp_path / "mine.yaml", "8 apples")


def two_small_steps(file: Path) -> list[str]:
    """The words that make a training of a recipe as short as it can be: narrow networks, small crops."""
    deep = "downs=4" if "unet" in file.read_text() else "blocks=1"
    return [word for change in (
        "stages=[{resolution: 16, resize: 20, images: 2}]", "translator.generator.width=2", "workers=0", "guard=null",
        f"translator.generator.{deep}", "translator.discriminator.width=2", "translator.discriminator.layers=1")
        for word in ("--set", change)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ("labels", "16 bits") else pytest.mark.slow)
                                  for name in KINDS])
def test_the_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[name][0](tmp_path / "images")
    _, file = first(tmp_path)
    assert call(monkeypatch, "train", file, *two_small_steps(file), "--run", "run") == 0, said.getvalue()
    assert (tmp_path / "run" / "release").is_dir()


@pytest.mark.parametrize(("make", "kind"), [
    (lambda folder: two_sides(folder, paired=True), None), (two_sides, None), (two_sides, "images")],
    ids=["paired", "unpaired", "images"])
def test_the_try_line_names_options_that_the_recipe_has(make: Maker, kind: Any, tmp_path: Path) -> None:
    """Full-width networks took a quarter of an hour where minutes were promised."""
    make(tmp_path / "images")
    made, file = first(tmp_path, kind=kind)
    (line,) = (line for line in made.text.splitlines() if line.startswith("# Try:"))
    words = shlex.split(line)
    tried = load_recipe(file, [after for word, after in itertools.pairwise(words) if word == "--set"])
    assert tried.translator.generator.width == tried.translator.discriminator.width == 16
    assert tried.num_images <= 208 and getattr(tried.translator.generator, "blocks", 2) == 2


def test_the_lines_of_the_readme_lead_from_a_folder_to_a_translated_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> None:
    """Each is run as it stands, one after the other; only the training is made short."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    _, block, _, python, *_ = readme.split("## Your own images")[1].split("```")
    lines = [re.split(r"\s{2,}", line)[0] for line in block.splitlines() if line.startswith("translate ")]
    assert [line.split()[1] for line in lines] == ["new", "data", "train", "convert", "evaluate", "report"]

    monkeypatch.chdir(tmp_path)
    for folder in ("trainA", "trainB", "testA", "testB"):
        for number in range(3):
            save(Path("photos") / folder / "holiday" / f"IMG {number} {folder}.JPG", number)
    for line in lines:
        _, *words = shlex.split(line)
        short = two_small_steps(Path("photos.yaml")) if words[0] == "train" else []
        assert call(monkeypatch, *words, *short) == 0, said.getvalue()
        if words[0] == "train":
            assert len(list(Path("runs/photos/held_out").glob("*-output.jpg"))) == 3, "pictures need no features"
    save(Path("photo.jpg"))
    exec(python.removeprefix("python"), {})
    assert Image.open("translated.jpg").size == (64, 48)
    assert sorted(path.name for path in Path("out/holiday").glob("*.JPG")) == [
        f"IMG {number} testA.JPG" for number in range(3)]
    assert "train B: 3 images, 64×48 px, colour, 8 bits; few" in said.getvalue()  # said by `data check`
    assert "IN OUT --model runs/photos --resize trained --size input" in said.getvalue(), "it was shown 20 px of 48"
    assert Path("runs/photos/report.html").is_file() and "written: photos.yaml" in said.getvalue()


def test_what_is_called_b_is_made_into_a_where_that_is_asked_for(tmp_path: Path) -> None:
    """Of pairs and of two styles, in every way they may lie; label maps are the source, and nothing else."""
    for name, make in (("unpaired", two_sides), ("paired", lambda folder: two_sides(folder, paired=True)),
                       ("named", lambda folder: two_sides(folder, "monet", "photo")), ("halves", halves)):
        make(tmp_path / name)
        found = read_as(tmp_path / name, None)
        there, back = (layout.build("train", Path()) for layout in (found, found.other_way()))
        assert sorted(there.files_a) == sorted(back.files_b) and sorted(there.files_b) == sorted(back.files_a)
        np.testing.assert_array_equal(there.whole(0).b, back.whole(0).a)
    labels(tmp_path / "labels")
    with pytest.raises(DataError, match="and only B can be made of such data; leave --direction out"):
        read_as(tmp_path / "labels", None).other_way()


def test_large_images_are_trained_from_small_to_full_in_crops_that_the_card_takes(tmp_path: Path) -> None:
    for side in "AB":
        path = tmp_path / "images" / f"train{side}" / f"{side}.png"
        path.parent.mkdir(parents=True)
        Image.new("L", (1600, 1200)).save(path)
    made, _ = first(tmp_path)
    assert [stage.size[0] for stage in made.recipe.stages] == [280, 560, 1124]
    assert [stage.resize for stage in made.recipe.stages] == [299, 598, None]  # as much of the picture in each
    small = first_recipe(tmp_path / "images", tmp_path / "small.yaml", "1.5GB")
    assert small.recipe.stages[-1].size[0] < 1124 and "are the largest that fit" in "\n".join(small.lines)


@pytest.mark.parametrize(("make", "kind", "said_of_it"), [
    (lambda folder: None, None, "images: no such folder"),
    (lambda folder: folder.mkdir(), None, "holds no images in a layout that is known"),
    (lambda folder: (folder / "trainA").mkdir(parents=True), None, "holds no images in a layout that is known"),
    (lambda folder: save(folder / "0.png"), "unpaired", "is no data of kind unpaired: that takes two folders"),
    (lambda folder: two_sides(folder, size=(9, 9)), None, "images of 9 px"),
    (unequal, None, "1 of 4 are of two sizes: 1.png is 64×48 and its partner 50×50 px; the images"),
    (all_unequal, None, "7 of 7 are of two sizes: 0.png is 64×48 and its partner 50×50 px; 1.png "),
    (all_unequal, None, "partner 50×50 px and 2 more; the images of a pair need one size"),
], ids=["nowhere", "empty", "half", "one folder", "specks", "unequal pairs", "many",
        "not all named"])
def test_what_nothing_can_be_made_of_is_said_in_one_line(make: Maker, kind: Any, said_of_it: str,
                                                         tmp_path: Path) -> None:
    make(tmp_path / "images")
    with pytest.raises(TranslateError) as error:
        first(tmp_path, kind=kind)
    assert said_of_it in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_is_there_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   said: io.StringIO) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images.yaml").write_text("mine")
    assert call(monkeypatch, "new", "images", "--gpu", "RTX 4090", "--kind", "unpaired", "--direction", "ba") == 2
    assert ("translate new images --gpu 'RTX 4090' --kind unpaired --direction ba --out images-2.yaml"
            in " ".join(said.getvalue().split()))
    assert Path("images.yaml").read_text() == "mine"
    monkeypatch.setattr(console, "load_torch", lambda: pytest.fail("before what costs nothing to know"))
    said.truncate(0)
    assert call(monkeypatch, "new", "images", "--out", "other.yaml") != 0 and "no such folder" in said.getvalue()


def test_a_plan_and_a_training_say_which_images_they_enlarge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             said: io.StringIO) -> None:
    """A crop of 2000 px of photographs of 1600×1200 was planned with "yes", and trained on what was only blown up."""
    from tests.runs import UNSEEN, Interrupted, Silent, cyclegan_recipe
    from translate.training.loop import train

    two_sides(tmp_path / "images")
    recipe = cyclegan_recipe(tmp_path / "images", guard=None, every=UNSEEN,
                             stages=[{"resolution": 96, "resize": 100, "images": 2}])
    file = tmp_path / "mine.yaml"
    file.write_text(recipe.dump_yaml())
    assert call(monkeypatch, "plan", file, "--gpu", "8GB") == 0
    assert "usable: 80% of 8GB (7.45 GiB)" in said.getvalue() and "plain: the textbook step" in said.getvalue()
    assert "warning: stage 1 wants crops of 96×96 px from images at a short side of 100 px" in said.getvalue()

    def stop(images: int) -> None:
        raise Interrupted

    told = Silent(stop)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", told)
    assert any("they are enlarged, at most 2.1 times (64×48 px)" in line for line in told.lines)
