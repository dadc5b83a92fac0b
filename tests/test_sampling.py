"""`translate sample`: the same images of a seed in any number and process, ways between them, sums of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import translate
from tests.commands import call
from tests.runs import Silent, pix2pix_recipe
from tests.test_data_layouts import write_beside
from translate.data.hashing import stable_hash
from translate.errors import UsageError
from translate.recipe import Recipe
from translate.sampling.drawing import Wanted, draw
from translate.sampling.latents import between, parse_sum, where_latents_lie
from translate.sampling.nearest import nearest
from translate.sampling.sampler import Sampler
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


def test_a_seed_draws_the_same_images_however_many_and_in_any_number_of_processes(run: Path, tmp_path: Path) -> None:
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
    sampler = Sampler.load(run)
    seen = {}
    for name, wanted in {"plain": Wanted(num=4), "seed": Wanted(num=4, seed=1),
                         "classes": Wanted(num=4, classes="dogs"), "truncation": Wanted(num=4, truncation=0.3),
                         "grid": Wanted(num=4, grid=True), "interpolate": Wanted(num=4, interpolate=3),
                         "arithmetic": Wanted(arithmetic="0 - 1 + 2"), "num": Wanted(num=5)}.items():
        draw(sampler, tmp_path / name, wanted)
        seen[name] = tuple(written(tmp_path / name).values())
    assert len(set(seen.values())) == len(seen)
    assert seen["num"][:1] == seen["plain"][:1] and len(seen["grid"]) == 8 and len(seen["interpolate"]) == 12


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
    found = nearest(images, samples, recipe.fitting(recipe.stages[0]))
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
    (["--classes", "cats,birds"], "'birds' is none of its 2 classes, cats, dogs"), (["--classes", "2"], "'2' is none"),
    (["--num", "0"], "--num 0: expected 1 to"), (["--interpolate", "1"], "2 images or more"),
    (["--grid", "--interpolate", "3"], "one of them at a time"), (["--truncation", "0"], "--truncation 0"),
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
    assert "6 files are there already" in said.getvalue() and written(tmp_path / "out") == before
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


def test_a_model_that_translates_says_that_it_draws_nothing(shared_pairs: Path, trained: Any) -> None:
    folder = trained(pix2pix_recipe(shared_pairs))
    with pytest.raises(UsageError, match=r"translates images and draws none from noise.*use: translate convert"):
        Sampler.load(folder)
    with pytest.raises(UsageError, match="use convert"):
        translate.load(folder).sample(1)
