"""CUT: patches of the output are held to their own in the input, by features that cost no more memory than the step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.networks import GENERATORS, SMALL, members
from tests.runs import UNSEEN, Silent, cut_recipe, cyclegan_recipe
from tests.steps import build, gradients, make_batch, step
from translate import load
from translate.data import draws
from translate.errors import RecipeError, UsageError
from translate.losses import patch_nce
from translate.networks import EncodingConfig, PatchGANConfig, ProjectionHeads, ResNetConfig, memory
from translate.networks.discriminators import MinibatchDiscrimination
from translate.networks.layers import Generator, pad_to_fit
from translate.recipe import Recipe
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train
from translate.translators import CUTConfig

ENCODING = members(EncodingConfig)
TINY: dict[str, Any] = {"generator": ResNetConfig(width=4, blocks=2), "patches": 20,
                        "discriminator": PatchGANConfig(width=4, layers=2)}


def vectors(samples: int, places: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(samples, places, 16, generator=generator, dtype=torch.float64), dim=2)


class TestPatchNCE:
    def test_it_is_the_cross_entropy_of_equation_3(self) -> None:
        """Against the equation written out, query by query, and torch's own cross entropy of (positive, negatives)."""
        queries, keys, temperature = vectors(3, 7, 0), vectors(3, 7, 1), 0.07
        written, torchs = [], []
        for v, k in zip(queries, keys, strict=True):
            for place in range(7):
                negatives = [other for other in range(7) if other != place]
                alike = [math.exp((v[place] @ k[other]).item() / temperature) for other in (place, *negatives)]
                written.append(-math.log(alike[0] / sum(alike)))
                logits = torch.stack([v[place] @ k[other] for other in (place, *negatives)]) / temperature
                torchs.append(torch.nn.CrossEntropyLoss()(logits, torch.tensor(0)))
        found = patch_nce(queries, keys, temperature)
        assert found.item() == pytest.approx(sum(written) / len(written), rel=1e-12)
        torch.testing.assert_close(found, torch.stack(torchs).mean(), rtol=1e-12, atol=0)

    def test_it_is_least_where_every_place_is_like_its_own(self) -> None:
        keys = vectors(2, 16, 2)
        own = patch_nce(keys, keys, 0.07)
        for number in range(1, 16):
            assert patch_nce(keys.roll(number, dims=1), keys, 0.07) > own + 1

    def test_where_places_are_unlike_each_other_there_is_no_way_down_from_there(self) -> None:
        keys = torch.eye(16, dtype=torch.float64).expand(2, -1, -1)
        queries = keys.clone().requires_grad_()
        loss = patch_nce(F.normalize(queries, dim=2), keys, 0.07)
        assert loss.item() == pytest.approx(math.log(1 + 15 * math.exp(-1 / 0.07)), rel=1e-9)
        (gradient,) = torch.autograd.grad(loss, queries)
        assert gradient.abs().max() < 1e-5
        elsewhere = keys.roll(1, dims=1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(patch_nce(F.normalize(elsewhere, dim=2), keys, 0.07), elsewhere)
        assert gradient.abs().max() > 1e-2

    def test_images_of_a_batch_are_no_negatives_of_each_other(self) -> None:
        queries, keys = vectors(3, 9, 3), vectors(3, 9, 4)
        alone = [patch_nce(queries[number:number + 1], keys[number:number + 1], 0.07) for number in range(3)]
        torch.testing.assert_close(patch_nce(queries, keys, 0.07), torch.stack(alone).mean())

    def test_no_gradient_goes_to_the_keys(self) -> None:
        queries, keys = vectors(1, 5, 5).requires_grad_(), vectors(1, 5, 6).requires_grad_()
        patch_nce(queries, keys, 0.07).backward()
        assert keys.grad is None and queries.grad.abs().sum() > 0


class TestFeatures:
    """What an encoder shows is what the generator itself computes on its way, and no more is computed for it."""

    @pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config.__name__)
    def test_a_generator_shows_its_features_or_is_refused_by_name(self, config: type, tmp_path: Path) -> None:
        network = config(**SMALL[config]).build(3, 3)
        translator = {"kind": "cut", "generator": SMALL[config] | {"kind": config.model_fields["kind"].default},
                      "discriminator": {"kind": "pixel"}}
        if config in ENCODING:
            found = network.features(torch.rand(2, 3, 33, 50), lambda number, features: features)
            assert tuple(features.shape[1] for features in found) == network.feature_channels
            cut_recipe(tmp_path, translator=translator)
        else:
            assert not network.feature_channels
            with pytest.raises(RecipeError, match=rf"generator.kind: '{translator['generator']['kind']}'.*resnet"):
                cut_recipe(tmp_path, translator=translator)

    def test_one_without_is_refused(self) -> None:
        with pytest.raises(TypeError, match="does not say which layers"):
            Generator().features(torch.zeros(1, 3, 8, 8), lambda number, features: features)

    @pytest.mark.parametrize("plan", memory.PLANS)
    @pytest.mark.parametrize("config", ENCODING, ids=lambda config: config.__name__)
    def test_they_are_those_of_the_way_through_under_every_plan(self, config: type, plan: str) -> None:
        torch.manual_seed(0)
        network = config(**SMALL[config], norm="instance").build(3, 3).double()
        image = torch.rand(2, 3, 70, 66, dtype=torch.float64)
        made: list[Tensor] = []
        kinds = {"Layer", "Block", "Level"}
        hooks = [part.register_forward_hook(lambda layer, inputs, out: made.append(out))
                 for part in network.modules() if type(part).__name__ in kinds]
        network(image)
        for hook in hooks:
            hook.remove()
        memory.apply(memory.PLANS[plan], network)
        numbers = []

        def look(number: int, features: Tensor) -> Tensor:
            numbers.append(number)
            return features

        pixels, *found = network.features(image, look)
        assert numbers == list(range(len(network.feature_channels)))
        torch.testing.assert_close(pixels, pad_to_fit(image, network.multiple, network.smallest), rtol=0, atol=0)
        for features in found:
            assert any(features.shape == other.shape and torch.allclose(features, other, rtol=1e-12) for other in made)

    def test_they_reach_the_fifth_block_and_no_further(self) -> None:
        """Pixels, both downsamplings, the first and the fifth block (Park et al. 2020)."""
        network = ResNetConfig(width=4).build(3, 3)
        ran = []
        for number, block in enumerate(network.trunk):
            block.register_forward_hook(lambda block, inputs, out, number=number: ran.append((number, out)))
        found = network.features(torch.rand(1, 3, 32, 32), lambda number, features: features)
        assert [number for number, _ in ran] == [0, 1, 2, 3, 4]
        assert torch.equal(found[3], ran[0][1]) and torch.equal(found[4], ran[4][1])
        assert [tuple(each.shape[1:]) for each in found] == [(3, 32, 32), (8, 16, 16), (16, 8, 8), (16, 8, 8),
                                                             (16, 8, 8)]

    def test_few_blocks_show_what_they_have(self) -> None:
        for blocks, num in ((0, 3), (1, 4), (2, 5), (4, 5), (9, 5)):
            assert len(ResNetConfig(width=4, blocks=blocks).build(3, 3).feature_channels) == num

    @pytest.mark.parametrize(("downsample", "fields"), [("strided", (1, 9, 13, 29, 93)),
                                                        ("antialiased", (1, 9, 15, 35, 99))])
    def test_receptive_fields_are_those_of_the_paper_where_there_is_its_blur(self, downsample: Any,
                                                                             fields: tuple[int, ...]) -> None:
        network = ResNetConfig(width=2, norm="none", downsample=downsample).build(3, 3).double()
        image = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
        found = network.features(image, lambda number, each: each)
        for features, expected in zip(found, fields, strict=True):
            middle = features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
            rows = gradient[0].abs().sum((0, 2)).nonzero()
            assert int(rows.max() - rows.min()) + 1 == expected


def test_the_published_heads_have_560_thousand_weights() -> None:
    """Two layers of 256 units on each of 3, 128, 256, 256 and 256 channels."""
    channels = ResNetConfig().build(3, 3).feature_channels
    assert channels == (3, 128, 256, 256, 256)
    heads = ProjectionHeads(channels)
    assert sum(parameter.numel() for parameter in heads.parameters()) == sum(
        num * 256 + 256 + 256 * 256 + 256 for num in channels) == 560_384
    for vectors in heads([torch.rand(2, 5, num) for num in channels]):
        torch.testing.assert_close(vectors.norm(dim=2), torch.ones(2, 5))


class TestPlaces:
    def test_each_sample_has_places_of_its_own_and_none_twice(self) -> None:
        rows, columns = draws.places((1, 2), "nce 0", 40, (6, 9), torch.device("cpu"))
        assert rows.shape == columns.shape == (2, 40)
        assert rows.min() >= 0 and rows.max() == 5 and columns.max() == 8
        for sample in range(2):
            assert len(set(zip(rows[sample].tolist(), columns[sample].tolist(), strict=True))) == 40
        again = draws.places((2,), "nce 0", 40, (6, 9), torch.device("cpu"))
        assert torch.equal(again[:, 0], torch.stack([rows[1], columns[1]])), "whatever else is in the batch"
        assert not torch.equal(again[:, 0], torch.stack([rows[0], columns[0]]))

    def test_a_map_of_fewer_places_gives_them_all(self) -> None:
        rows, columns = draws.places((7,), "nce 0", 256, (3, 5), torch.device("cpu"))
        assert sorted((rows * 5 + columns)[0].tolist()) == list(range(15))

    def test_all_places_are_as_likely(self) -> None:
        rows, columns = draws.places(range(500), "nce 0", 8, (4, 8), torch.device("cpu"))
        counts = torch.bincount((rows * 8 + columns).flatten(), minlength=32)
        assert counts.min() > 90 and counts.max() < 160  # 125 expected, deviation 10


class TestStep:
    @pytest.mark.parametrize("changes", [
        {"weights": {"adversarial": 3.0}}, {"weights": {"nce": 3.0}}, {"weights": {"identity": 3.0}},
        {"weights": {"identity": 0.0}}, {"temperature": 0.2}, {"patches": 10}, {"flip_equivariance": True}], ids=str)
    def test_every_option_changes_the_gradient_of_the_generator(self, changes: dict[str, Any]) -> None:
        found = []
        for each in ({}, changes):
            translator = build(CUTConfig(**TINY | each))
            step(translator, make_batch((32, 32)))
            found.append(translator.generator_ab.trunk[0].chain[0].conv.weight.grad)
        assert (found[0] - found[1]).norm() > 1e-6 * found[0].norm()

    def test_what_is_mirrored_is_compared_with_its_mirror_image(self) -> None:
        """Of the pixels exactly: the place of a patch in the mirrored image is the mirrored place."""
        translator, batch = build(CUTConfig(**TINY, flip_equivariance=True)), make_batch((32, 40), 8)
        update = step(translator, batch)
        flipped = update.uniform("flip") < 0.5
        assert 0 < flipped.sum() < 8
        images = torch.stack([image.flip(2) if left else image for image, left in zip(batch.a, flipped, strict=True)])
        with torch.no_grad():
            one, other = (translator.projected(update, "nce", *each)[0]
                          for each in ((batch.a, None), (images, flipped)))
        torch.testing.assert_close(one, other)

    def test_heads_learn_with_the_generator_and_are_neither_averaged_nor_given_away(
            self, shared_pairs: Path, tmp_path: Path) -> None:
        train(cut_recipe(shared_pairs, every=UNSEEN), tmp_path / "run", Silent())
        kept = {path.name for path in (tmp_path / "run" / "checkpoints" / "000000000012").glob("*.safetensors")}
        assert {"heads.safetensors", "generator_ab.safetensors", "ema_generator_ab.safetensors"} <= kept
        assert "ema_heads.safetensors" not in kept
        given = {path.name for path in (tmp_path / "run" / "release").glob("*.safetensors")}
        assert given == {"generator_ab.safetensors"}
        assert load_release(tmp_path / "run").fingerprint == load_release(tmp_path / "run" / "release").fingerprint
        with pytest.raises(UsageError, match="this cut model does not translate b to a"):
            load_release(tmp_path / "run", "ba")
        picture = Image.fromarray(np.zeros((30, 45, 3), np.uint8))
        assert load(str(tmp_path / "run")).convert(picture).size == (45, 30)

    def test_a_training_holds_the_output_to_the_input(self, shared_pairs: Path, tmp_path: Path) -> None:
        """Without a game: PatchNCE alone brings patches nearer to their own than to the others."""
        translator = build(CUTConfig(**TINY, weights={"adversarial": 0.0}), torch.float32)
        optimizer = torch.optim.Adam([parameter for network in translator.phases["generator"].values()
                                      for parameter in network.parameters()], lr=2e-3)
        batch, losses = make_batch((32, 32), dtype=torch.float32), []
        for _ in range(30):
            update = step(translator, batch)
            losses.append(update.losses["nce"].item())
            optimizer.step()
        assert losses[0] > 1.5 and losses[-1] < 0.6 * losses[0]

    def test_sides_of_unlike_channels_are_refused(self, tmp_path: Path) -> None:
        document = cut_recipe(tmp_path).dump()
        document["data"]["image_a"]["channels"] = 1
        with pytest.raises(RecipeError, match=r"translator.kind: cut compares .* not 1 and 3"):
            validate(Recipe, document, "toy")


class TestMinibatchDiscrimination:
    images = torch.randn(4, 6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def test_it_is_the_papers_sum_over_the_other_samples(self) -> None:
        """Salimans et al. 2016, section 3.2, at every place, in plain loops."""
        layer = MinibatchDiscrimination(6, num_kernels=2, size=3).double()
        found = layer(self.images)
        assert found.shape == (4, 8, 3, 5) and torch.equal(found[:, :6], self.images)
        for row in range(3):
            for column in range(5):
                f = self.images[:, :, row, column]
                m = [(layer.conv.weight[:, :, 0, 0] @ each).view(2, 3) for each in f]
                for i in range(4):
                    o = sum(torch.exp(-(m[i] - m[j]).abs().sum(1)) for j in range(4) if j != i)
                    torch.testing.assert_close(found[i, 6:, row, column], o, rtol=1e-12, atol=1e-14)

    def test_copies_are_told_from_a_batch_that_differs_and_one_sample_has_no_others(self) -> None:
        layer = MinibatchDiscrimination(6, num_kernels=2).double()
        copies = layer(self.images[:1].expand(4, -1, -1, -1))[:, 6:]
        torch.testing.assert_close(copies, torch.full_like(copies, 3.0))
        assert (layer(self.images)[:, 6:] < 3).all()
        assert (layer(self.images[:1])[:, 6:] == 0).all()

    def test_a_discriminators_logits_depend_on_the_rest_of_the_batch(self) -> None:
        judge = PatchGANConfig(width=4, layers=2, minibatch_kernels=3).build(3)
        images = torch.randn(3, 3, 32, 32)
        assert not torch.allclose(judge(images)[:1], judge(images[:1]))


def test_another_translator_keeps_its_options_to_itself(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="temperature: unknown field"):
        cyclegan_recipe(tmp_path, translator={"kind": "cyclegan", "temperature": 0.1})


def test_gradients_reach_every_weight() -> None:
    translator = build(CUTConfig(**TINY))
    step(translator, make_batch((32, 32)))
    for name, gradient in gradients(translator).items():
        assert gradient is not None and (gradient.abs().sum() > 0 or name.endswith("bias")), name
