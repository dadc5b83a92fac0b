"""`translate sample`: the same images of a seed in any number and process, ways between them, sums of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import translate
from tests.cluster import Elsewhere
from tests.commands import call
from tests.runs import Silent, pix2pix_recipe
from tests.test_data_layouts import write_beside
from translate.data import Sample
from translate.data.hashing import stable_hash
from translate.errors import DiskError, UsageError
from translate.recipe import Recipe
from translate.sampling.drawing import SHEET_PIXELS, cell_side, draw, shrunk
from translate.sampling.latents import between, parse_sum, where_latents_lie
from translate.sampling.nearest import nearest
from translate.sampling.output_folder import class_folders
from translate.sampling.planning import Wanted, planned
from translate.sampling.sampler import Sampler
from translate.sampling.sheets import training_sheet
from translate.schema import validate
from translate.training.loop import train


def noise_recipe(folder: Path, side: int = 8, **changes: Any) -> Recipe:
    """A generator of small images, after a few steps: what it draws does not matter, but that it is the same."""
    networks = {"generator": {"kind": "mlp", "side": side, "widths": [16], "latent": 6},
                "discriminator": {"kind": "mlp", "side": side, "widths": [8]}}
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "images", "folder": str(folder), "classes": ["cats", "dogs"], "resize": side,
                                "augment": []} | changes.pop("data", {}),
        "translator": {"kind": "noise"} | networks, "stages": [{"resolution": side, "images": 16, "batch_size": 4}],
        "optimizer": {"generator": {"kind": "adam", "lr": 0.02}},
        "every": {"evaluate": None}, "guard": None, "workers": 0, **changes}, "toy")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    chance = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(5):
            image = Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(folder / "train" / name / f"{name}{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(noise_recipe(toy), folder, Silent())
    return folder


def written(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out / "images").as_posix(): path.read_bytes()
            for path in sorted((out / "images").rglob("*.png"))}


def test_a_seed_draws_the_same_images_however_many_and_in_shares(run: Path, tmp_path: Path) -> None:
    """Also those of the Python face, in the bits of floats; another seed draws others."""
    sampler = Sampler.load(run)
    draw(sampler, tmp_path / "one", Wanted(num=11))
    draw(sampler, tmp_path / "few", Wanted(num=3))
    for rank in range(3):
        draw(sampler, tmp_path / "three", Wanted(num=11), rank=rank, world=3)
    one, few = written(tmp_path / "one"), written(tmp_path / "few")
    assert len(one) == 11 and len(set(one.values())) == 11
    assert one == written(tmp_path / "three") and few == {name: one[name] for name in few}
    assert (tmp_path / "one/sheet.png").read_bytes() == (tmp_path / "three/sheet.png").read_bytes()

    model = translate.load(run)
    assert torch.equal(model.draw(11)[:3], model.draw(3))  # type: ignore[attr-defined]
    for number, image in enumerate(model.sample(3)):
        file = tmp_path / "one/images" / ("cats", "dogs")[number % 2] / f"{number:08d}.png"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(file)))
    assert not torch.equal(model.draw(3, seed=1), model.draw(3))  # type: ignore[attr-defined]


def test_a_sample_is_its_latent_under_its_class_through_the_generator(run: Path) -> None:
    """By torch's own generator of random numbers, and the network as it is."""
    sampler = Sampler.load(run, precision="fp32")
    latent = torch.randn(6, generator=torch.Generator().manual_seed(stable_hash(stable_hash(9, "sample", 4), "latent")))
    expected = sampler.generator(torch.cat([latent, torch.tensor([0.0, 1.0])])[None, :, None, None])[0]
    torch.testing.assert_close(next(sampler.sample([4], 9, [1])), expected)


def test_every_option_draws_other_images(run: Path, tmp_path: Path) -> None:
    """One image of each is none of those that are drawn without it."""
    sampler = Sampler.load(run)
    draw(sampler, tmp_path / "plain", Wanted(num=4))
    plain = written(tmp_path / "plain").values()
    for option, image, wanted in (
            ("seed", "cats/00000000", Wanted(num=4, seed=1)),
            ("classes", "dogs/00000000", Wanted(num=4, classes="dogs")),
            ("truncation", "cats/00000000", Wanted(num=4, truncation=0.3)), ("num", "cats/00000004", Wanted(num=5)),
            ("grid", "dogs/00000000", Wanted(num=4, grid=True)),
            ("interpolate", "cats/00000000-00000001_001", Wanted(num=4, interpolate=3)),
            ("arithmetic", "cats/result", Wanted(arithmetic="0 - 1 + 2"))):
        draw(sampler, tmp_path / option, wanted)
        assert written(tmp_path / option)[f"{image}.png"] not in plain, option
    assert len(written(tmp_path / "grid")) == 8 and len(written(tmp_path / "interpolate")) == 12


def test_a_grid_has_a_row_for_each_class_and_a_column_for_each_latent(run: Path, tmp_path: Path) -> None:
    sampler = Sampler.load(run)
    draw(sampler, tmp_path, Wanted(num=3, grid=True, classes="dogs,cats"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    for row, number in enumerate((1, 0)):
        for column in range(3):
            image = next(sampler.sample([column], 0, [number]))
            expected = ((image + 1) / 2 * 255).byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(sheet[2 + 10 * row:10 + 10 * row, 2 + 10 * column:10 + 10 * column], expected)


def test_a_grid_of_a_model_with_codes_has_a_row_for_each_value_of_the_first(toy: Path, tmp_path: Path) -> None:
    recipe = noise_recipe(toy, data={"classes": None})
    document = recipe.dump()
    document["translator"]["codes"] = {"categorical": [3, 2], "continuous": 1}
    train(validate(Recipe, document, "toy"), tmp_path / "run", Silent())
    sampler = Sampler.load(tmp_path / "run", precision="fp32")
    draw(sampler, tmp_path / "out", Wanted(num=2, grid=True))
    assert len(written(tmp_path / "out")) == 6
    latents, codes = sampler.latents([1], 0)
    code = torch.cat([torch.tensor([0.0, 0.0, 1.0]), codes[0, 3:]])
    image = sampler.generator(torch.cat([latents[0], code])[None, :, None, None])[0]
    found = np.asarray(Image.open(tmp_path / "out/images/value_2/00000001.png")).astype(float)
    np.testing.assert_allclose(found, ((image + 1) * 127.5).permute(1, 2, 0).detach().numpy(), atol=0.51)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_normal_latents_go_along_the_sphere_and_uniform_ones_along_the_line(share: float) -> None:
    """The angle grows evenly, in the plane of the two, and the length from the one's to the other's."""
    chance = np.random.default_rng(1)
    one, other = chance.normal(size=50), 2 * chance.normal(size=50)
    made = between(torch.tensor(one), torch.tensor(other), share, "normal").numpy()

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))

    assert angle(one, made) == pytest.approx(share * angle(one, other), abs=1e-6)
    assert angle(made, other) == pytest.approx((1 - share) * angle(one, other), abs=1e-6)
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    assert np.linalg.norm(made) == pytest.approx((1 - share) * lengths[0] + share * lengths[1])
    line = between(torch.tensor(one), torch.tensor(other), share, "uniform").numpy()
    np.testing.assert_allclose(line, (1 - share) * one + share * other)


def test_a_way_begins_and_ends_at_its_samples(run: Path, tmp_path: Path) -> None:
    sampler = Sampler.load(run)
    draw(sampler, tmp_path / "way", Wanted(num=2, interpolate=5, classes="cats"))
    draw(sampler, tmp_path / "ends", Wanted(num=4, classes="cats"))
    way, ends = written(tmp_path / "way"), written(tmp_path / "ends")
    for start, end in ((0, 1), (2, 3)):
        for number, step in ((start, 0), (end, 4)):
            assert way[f"cats/{start:08d}-{end:08d}_{step:03d}.png"] == ends[f"cats/{number:08d}.png"]


def test_a_sum_of_samples_is_that_of_their_mean_latents_beside_the_nearest_real_images(run: Path, toy: Path,
                                                                                      tmp_path: Path) -> None:
    sampler = Sampler.load(run, precision="fp32")
    drawn = draw(sampler, tmp_path, Wanted(arithmetic="3,1 - 2 + 0,5", classes="dogs"))
    latents, _ = sampler.latents([0, 1, 2, 3, 5], 0)
    total = (latents[3] + latents[1]) / 2 - latents[2] + (latents[0] + latents[4]) / 2
    total = total / total.norm() * 6**0.5
    expected = sampler.generator(torch.cat([total, torch.tensor([0.0, 1.0])])[None, :, None, None])[0]
    found = np.asarray(Image.open(tmp_path / "images/dogs/result.png")).astype(float)
    np.testing.assert_allclose(found, ((expected + 1) * 127.5).permute(1, 2, 0).detach().numpy(), atol=0.51)

    # The nearest by another way of counting: all real images at once.
    files = sorted((toy / "train").rglob("*.png"))
    reals = np.stack([np.asarray(Image.open(file)) for file in files]).astype(float)
    distances = ((reals - found) ** 2).mean((1, 2, 3))
    about = json.loads((tmp_path / "samples.json").read_text())
    assert about["nearest"][-1]["file"] == files[int(distances.argmin())].name
    assert about["nearest"][-1]["distance"] == pytest.approx(distances.min() / 127.5**2, rel=0.01)
    assert files[int(distances.argmin())].name in drawn.notes[0]


def test_an_image_that_was_learnt_by_heart_is_found(toy: Path) -> None:
    recipe = noise_recipe(toy)
    samples = recipe.data.build("train", toy)
    images = [samples.whole(number).b for number in (7, 2)]
    found, _ = nearest(images, samples, recipe.fitting(recipe.stages[0]))
    assert [each.name for each in found] == [samples.files_b[number].name for number in (7, 2)]
    assert [each.distance for each in found] == [0, 0]


@pytest.mark.parametrize(("words", "terms"), [
    ("7,12,3 - 5,9 + 1", [(1, (7, 12, 3)), (-1, (5, 9)), (1, (1,))]), ("-4+4", [(-1, (4,)), (1, (4,))]),
    (" 2 ", [(1, (2,))])])
def test_a_sum_is_read_as_it_is_written(words: str, terms: list[tuple[int, tuple[int, ...]]]) -> None:
    assert [tuple(term) for term in parse_sum(words)] == terms


@pytest.mark.parametrize("words", ["", "1 +", "a", "1,,2", "1 2", "+", "1 * 2", "1.5", "- - 1", "²"])
def test_a_sum_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="expected numbers of samples"):
        parse_sum(words)


def test_means_are_brought_to_where_latents_lie() -> None:
    latent = torch.tensor([3.0, -4.0])
    torch.testing.assert_close(where_latents_lie(latent, "normal").norm(), torch.tensor(2.0).sqrt())
    assert where_latents_lie(latent, "uniform").tolist() == [1, -1]


@pytest.mark.parametrize(("words", "fault"), [
    (["--classes", "cats,birds"], "'birds' is none of its 2 classes, cats, dogs"), (["--classes", "2"], "2 is none of"),
    (["--num", "0"], "--num 0: expected 1 to"), (["--interpolate", "1"], "2 images or more"),
    (["--grid", "--interpolate", "3"], "one of them at a time"), (["--truncation", "0"], "--truncation 0"),
    (["--interpolate", "9000000", "--num", "2"], "18,000,000 images in all"),
    (["--arithmetic", "7,7 - 7"], "nothing is left to draw"), (["--arithmetic", "1," * 400 + "1"], "at most 400"),
    (["--arithmetic", "1-" * 40 + "1"], "at most 32"), (["--arithmetic", "9" * 5000], "expected numbers of samples"),
    (["--arithmetic", "1", "--num", "3"], "leave --num out"), (["--vectors", "x.npz"], "draws images beside none")])
def test_words_that_do_not_fit_are_refused_before_anything_is_drawn(words: list[str], fault: str, run: Path,
                                                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    said: io.StringIO) -> None:
    assert call(monkeypatch, "sample", run, tmp_path / "out", *words) == 2
    assert fault in said.getvalue() and not (tmp_path / "out").exists()


def test_the_command_writes_images_and_a_sheet_and_replaces_nothing(run: Path, tmp_path: Path, said: io.StringIO,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "sample", run, tmp_path / "out", "--num", "5") == 0
    assert "5 images → " in said.getvalue() and "weights: " in said.getvalue()
    assert sorted(written(tmp_path / "out")) == ["cats/00000000.png", "cats/00000002.png", "cats/00000004.png",
                                                 "dogs/00000001.png", "dogs/00000003.png"]
    before = written(tmp_path / "out")
    assert call(monkeypatch, "sample", run, tmp_path / "out", "--num", "5", "--seed", "1") == 2
    assert "holds another draw already, of 5 images" in said.getvalue() and written(tmp_path / "out") == before
    assert call(monkeypatch, "sample", run, tmp_path / "out", "--num", "5", "--seed", "1", "--overwrite") == 0
    assert written(tmp_path / "out") != before


def test_a_release_draws_without_its_data(run: Path, tmp_path: Path, toy: Path) -> None:
    """A sum then says why no real images stand beside it."""
    sampler = Sampler.load(run / "release")
    assert [torch.equal(*pair) for pair in zip(sampler.sample(range(2)), Sampler.load(run).sample(range(2)),
                                               strict=True)] == [True, True]
    drawn = draw(sampler, tmp_path, Wanted(arithmetic="1 - 2"))
    assert len(drawn.notes) == 1 and "the nearest real images are not shown: " in drawn.notes[0]


def test_a_model_that_draws_beside_vectors_takes_them_from_its_data_or_a_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_beside(tmp_path / "data" / split, 4)
    recipe = noise_recipe(tmp_path / "data", data={"classes": None, "vectors": {"size": 2}})
    train(recipe, tmp_path / "run", Silent())
    sampler = Sampler.load(tmp_path / "run")
    draw(sampler, tmp_path / "own", Wanted(num=3))
    np.savez(tmp_path / "v.npz", names=np.array(["x"]), vectors=np.array([[6.0, 7.0]]))
    draw(sampler, tmp_path / "given", Wanted(num=3, vectors=tmp_path / "v.npz"))
    own, given = written(tmp_path / "own"), written(tmp_path / "given")
    assert own["00000000.png"] == given["00000000.png"] and own["00000001.png"] != given["00000001.png"]
    np.savez(tmp_path / "v.npz", names=np.array(["x"]), vectors=np.array([[6.0]]))
    with pytest.raises(UsageError, match="beside a vector of 2 numbers, and this one has 1"):
        draw(sampler, tmp_path / "short", Wanted(vectors=tmp_path / "v.npz"))
    with pytest.raises(UsageError, match="beside a vector of 2 numbers, and there is none"):
        translate.load(tmp_path / "run").sample(1)
    with pytest.raises(UsageError, match="draws images from noise and translates none; use sample"):
        translate.load(tmp_path / "run").convert(np.zeros((8, 8, 3), np.uint8))


def test_vectors_are_taken_row_by_row_and_each_with_the_class_of_its_image(tmp_path: Path) -> None:
    """Of all test images; the rows of a file in its order, also where names are alike."""
    for split, num in (("train", 4), ("test", 70)):
        write_beside(tmp_path / "data" / split, num)
    train(noise_recipe(tmp_path / "data", data={"vectors": {"size": 2}}), tmp_path / "run", Silent())
    sampler = Sampler.load(tmp_path / "run")
    samples = sampler.recipe.data.build("test", tmp_path)
    of_images = [samples.whole(number).a.flatten().tolist() for number in range(70)]

    def conditions(wanted: Wanted, num: int) -> list[list[float]]:
        plan = planned(sampler, wanted)
        names = ("cats", "dogs")
        found = [plan.cell(number).condition.flatten().tolist() for number in range(num)]
        assert [plan.name(number).split("/")[0] for number in range(num)] == [names[each.index(1)] for each in found]
        return found

    dogs = [each for each in of_images if each[1]]
    assert conditions(Wanted(num=80), 80) == of_images + of_images[:10]
    assert conditions(Wanted(num=80, classes="dogs"), 80) == (3 * dogs)[:80]
    assert conditions(Wanted(num=2, grid=True, classes="dogs"), 2) == dogs[:2]
    np.savez(tmp_path / "v.npz", names=np.array(["x", "x"]), vectors=np.array([[6, 7], [8, 9]]))
    assert conditions(Wanted(num=3, vectors=tmp_path / "v.npz"), 3) == [[1, 0, 6, 7], [0, 1, 8, 9], [1, 0, 6, 7]]


def test_the_sheet_of_a_training_shows_vectors_beside_the_classes_of_their_images(tmp_path: Path) -> None:
    recipe = noise_recipe(tmp_path, data={"vectors": {"size": 2}}, precision="fp32")
    translator = recipe.translator.build(4, 3)
    held_out = [Sample(torch.tensor(each).float()[:, None, None], torch.zeros(3, 8, 8), 0)
                for each in ([0.0, 1, 5, 6], [0, 1, 7, 8], [1, 0, 1, 2])]
    sheet = training_sheet(translator, recipe, held_out, torch.device("cpu"))
    latents, _ = recipe.translator.draw([5], 0)  # type: ignore[union-attr]
    given = torch.cat([latents[0], held_out[5 % 3].a.flatten()])[None, :, None, None]
    image = translator.generator("ab").eval()(given)[0].detach()
    torch.testing.assert_close(sheet[2:10, 52:60].float(), ((image + 1) * 127.5).permute(1, 2, 0), atol=1, rtol=0)


# ------------------------------------------------------------------------------------------------- the folder of a draw


@pytest.mark.parametrize(("names", "folders"), [
    (["cats", "tench, Tinca tinca"], ["cats", "tench, Tinca tinca"]), (["cats", "../dogs"], ["0", "1"]),
    (["cats", "/tmp/dogs"], ["0", "1"]), (["cats", ".."], ["0", "1"]), (["cats", "d\0g"], ["0", "1"]),
    (["cats", "Cats"], ["0", "1"]), (["cats", ""], ["0", "1"]), (["cats", "d" * 256], ["0", "1"]),
    (["cats", "\udcff"], ["0", "1"])])
def test_classes_have_a_folder_each_whose_name_leads_nowhere_else(names: list[str], folders: list[str]) -> None:
    assert class_folders(names) == folders


def test_a_model_whose_classes_are_named_as_paths_writes_into_its_folder_alone(run: Path, tmp_path: Path) -> None:
    sampler = Sampler.load(run)
    data = sampler.recipe.data.model_copy(update={"classes": ("../../escaped", str(tmp_path / "absolute"))})
    stranger = Sampler(sampler.release, sampler.recipe.model_copy(update={"data": data}))
    draw(stranger, tmp_path / "out", Wanted(num=2))
    assert list(written(tmp_path / "out")) == ["0/00000000.png", "1/00000001.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["out/images", "out/images/cats"])
def test_links_in_the_folder_are_not_written_through(place: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / "target").mkdir()
    (tmp_path / place).symlink_to(tmp_path / "target")
    with pytest.raises(DiskError, match="is a link, which is not written through"):
        draw(Sampler.load(run), tmp_path / "out", Wanted(num=2))
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize(("place", "code"), [("out", 74), ("out/images", 74), ("out/images/cats", 2)])
def test_a_file_in_the_place_of_a_folder_is_an_error_that_names_it(place: str, code: int, run: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch,
                                                                   said: io.StringIO) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    assert call(monkeypatch, "sample", run, tmp_path / "out", "--num", "2") == code
    assert str(tmp_path / "out") in "".join(said.getvalue().split()) and (tmp_path / place).read_text() == "mine"


def test_a_draw_that_was_interrupted_goes_on(run: Path, tmp_path: Path) -> None:
    sampler, out = Sampler.load(run), tmp_path / "out"

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(sampler, out, Wanted(num=6), on_progress=interrupt)
    first = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    assert len(first) == 3
    with pytest.raises(UsageError, match="holds another draw already, of 3 images"):
        draw(sampler, out, Wanted(num=6, seed=1))
    drawn = draw(sampler, out, Wanted(num=6))
    draw(sampler, tmp_path / "whole", Wanted(num=6))
    assert (drawn.num, drawn.num_kept) == (6, 3) and written(out) == written(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_overwrite_leaves_no_image_of_another_draw_and_every_file_of_a_person(run: Path, tmp_path: Path) -> None:
    sampler, out = Sampler.load(run), tmp_path / "out"
    draw(sampler, out, Wanted(num=6))
    for rank in (1, 0):
        draw(sampler, out, Wanted(num=3, seed=3), overwrite=True, rank=rank, world=2)
    draw(sampler, tmp_path / "new", Wanted(num=3, seed=3))
    assert written(out) == written(tmp_path / "new")
    (out / "images/cats/mine.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"1 files that no draw has written, the first cats/mine\.png"):
        draw(sampler, out, Wanted(num=2), overwrite=True)
    assert written(out) == written(tmp_path / "new") | {"cats/mine.png": b"mine"}


def test_the_record_counts_files_also_where_a_sample_stands_in_two_rows(run: Path, tmp_path: Path) -> None:
    """All are drawn under the class of the first sample."""
    drawn = draw(Sampler.load(run), tmp_path, Wanted(arithmetic="7,8 - 7"))
    assert sorted(written(tmp_path)) == [f"dogs/{name}.png" for name in ("00000007", "00000008", "mean_1", "mean_2",
                                                                         "result")]
    assert drawn.num == json.loads((tmp_path / "samples.json").read_text())["num"] == 5


def test_ten_million_images_are_planned_without_any_memory_and_a_sheet_has_its_bounds(run: Path) -> None:
    sampler = Sampler.load(run)
    tracemalloc.start()
    plan = planned(sampler, Wanted(num=10_000_000))
    assert plan.name(9_999_999) == "dogs/09999999" and plan.cell(9_999_999).latent.shape == (6,)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert 10 * cell_side(plan, 100, beside=False) ** 2 <= SHEET_PIXELS
    image = torch.linspace(-1, 1, 64 * 32).view(1, 64, 32)
    assert shrunk(image, 16).shape == (1, 16, 8) and shrunk(image, 64) is image
    torch.testing.assert_close(shrunk(image, 16)[0, 0, 0], image[0, :4, :4].mean())


def test_training_images_that_cannot_be_read_are_left_out_of_the_search(toy: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "toy")
    files = sorted((tmp_path / "toy").rglob("*.png"))
    files[0].write_bytes(b"broken")
    sampler = Sampler.load(run)
    data = sampler.recipe.data.model_copy(update={"folder": tmp_path / "toy"})
    sampler = Sampler(sampler.release, sampler.recipe.model_copy(update={"data": data}))
    seen: list[tuple[int, int]] = []
    drawn = draw(sampler, tmp_path / "out", Wanted(arithmetic="1 - 2"),
                 on_progress=lambda done, total: seen.append((done, total)))
    assert drawn.notes[0] == "1 training images cannot be read, and nothing was compared with them"
    assert len(json.loads((tmp_path / "out/samples.json").read_text())["nearest"]) == 3 and seen[-1] == (15, 15)
    for file in files:
        file.write_bytes(b"broken")
    drawn = draw(sampler, tmp_path / "none", Wanted(arithmetic="1 - 2"))
    assert "none of the training images can be read" in drawn.notes[0]


def test_a_number_is_a_number_and_a_name_a_name(run: Path) -> None:
    """Classes may be called by the numbers of others, or hold commas."""
    sampler = Sampler.load(run)
    for names, words in ((("1", "0"), "1,0"), (("tench, Tinca tinca", "goldfish"), '"tench, Tinca tinca", 1')):
        data = sampler.recipe.data.model_copy(update={"classes": names})
        model = Sampler(sampler.release, sampler.recipe.model_copy(update={"data": data}))
        assert model.numbers_of([0, 1]) == model.numbers_of(names) == model.classes_of(words) == [0, 1]
        with pytest.raises(UsageError, match="classes: 2 is none of its 2 classes"):
            model.numbers_of([2])


def test_workers_of_a_cluster_draw_what_one_process_draws_and_go_on(run: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Sampler.load(run), tmp_path / "one", Wanted(num=11, seed=3))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    cluster: Any = Elsewhere(tmp_path / "elsewhere")
    for lost in ([], ["cats/00000004.png", "dogs/00000007.png"]):
        for name in lost:
            (tmp_path / "two/images" / name).unlink()
        shown: list[tuple[int, int]] = []
        drawn = draw(Sampler.load(run), Path("two"), Wanted(num=11, seed=3), engine=cluster,
                     on_progress=lambda *now, shown=shown: shown.append(now))
        assert written(tmp_path / "two") == written(tmp_path / "one") and (drawn.num, shown[-1]) == (11, (22, 22))
        assert (tmp_path / "two/sheet.png").read_bytes() == (tmp_path / "one/sheet.png").read_bytes()
        assert drawn.num_kept == (11 - len(lost) if lost else 0)
    assert sorted(cluster.done) == sorted([*range(11), 4, 7]) and not list((tmp_path / "elsewhere").iterdir())


def test_parts_of_a_draw_are_made_by_commands_of_their_own(run: Path, tmp_path: Path, said: io.StringIO,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Sampler.load(run), tmp_path / "one", Wanted(num=7))
    for part in ("2/2", "auto"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
        for name, value in (("COUNT", "2"), ("MIN", "3"), ("STEP", "1")):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
        assert call(monkeypatch, "sample", run, tmp_path / "two", "--num", "7", "--shard", part) == 0
    assert written(tmp_path / "two") == written(tmp_path / "one")
    assert (tmp_path / "two/sheet.png").read_bytes() == (tmp_path / "one/sheet.png").read_bytes()
    assert call(monkeypatch, "sample", run, tmp_path / "two", "--shard", "1/2", "--engine", "ray") == 2
    assert call(monkeypatch, "sample", run, tmp_path / "two", "--engine", "dask") == 2
    assert "take one of them" in said.getvalue() and "--engine dask: expected ray" in said.getvalue()


@pytest.mark.slow
def test_processes_of_a_launcher_draw_together_what_one_draws(run: Path, tmp_path: Path) -> None:
    draw(Sampler.load(run), tmp_path / "one", Wanted(num=7))
    together = [subprocess.Popen([sys.executable, "-m", "translate", "sample", run, tmp_path / "two", "--num", "7"],
                                 env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    assert [each.wait() for each in together] == [0, 0]
    assert written(tmp_path / "two") == written(tmp_path / "one")


def test_a_model_that_translates_says_that_it_draws_nothing(shared_pairs: Path, trained: Any) -> None:
    folder = trained(pix2pix_recipe(shared_pairs))
    with pytest.raises(UsageError, match=r"translates images and draws none from noise.*use: translate convert"):
        Sampler.load(folder)
    with pytest.raises(UsageError, match="use convert"):
        translate.load(folder).sample(1)
