"""Stabilisers do what they say, when they say it, and draw their chance from the sample alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runs import Silent, cyclegan_recipe, least_recipe
from tests.steps import build, gradients, make_batch, step
from translate.data import draws
from translate.errors import RecipeError
from translate.foreign import read_lines
from translate.losses import feature_matching
from translate.networks import PatchGANConfig, PixelConfig, ResNetConfig, memory
from translate.networks.discriminators import MinibatchStd
from translate.networks.weights import spectrally_normed
from translate.optimizers import SGD, Adam
from translate.training.loop import train
from translate.training.update import Update
from translate.translators import CycleGANConfig, Pix2PixConfig
from translate.translators.augmentation import cut_out, moved, recoloured

SMALL: dict[str, Any] = {"generator": ResNetConfig(width=4, blocks=1),
                         "discriminator": PatchGANConfig(width=4, layers=2)}


def of(found: dict[str, Tensor], kind: str) -> Tensor:
    """The gradients of the generators or of the discriminators, as one vector."""
    return torch.cat([value.flatten() for name, value in found.items() if name.startswith(kind)])


class TestDraws:
    like = torch.zeros(3, 3, 16, 18)

    def test_noise_is_standard_normal(self) -> None:
        noise = draws.normal((1, 2, 3), "noise", torch.zeros(3, 3, 128, 128))
        assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
        numbers = draws.uniform(range(4000), "mix", torch.device("cpu"))
        assert numbers.min() >= 0 and numbers.max() < 1
        assert numbers.mean().item() == pytest.approx(0.5, abs=0.02)
        assert numbers.std().item() == pytest.approx(12**-0.5, abs=0.02)

    def test_a_sample_gets_its_draw_in_any_batch_and_memory_layout_and_each_purpose_its_own(self) -> None:
        whole = draws.normal((1, 2, 3), "noise", self.like)
        assert torch.equal(whole[1:2], draws.normal((2,), "noise", self.like[:1]))
        laid_out = self.like.contiguous(memory_format=torch.channels_last)
        assert torch.equal(whole, draws.normal((1, 2, 3), "noise", laid_out))
        assert not torch.equal(whole, draws.normal((1, 2, 3), "other", self.like))
        assert not torch.equal(whole[0], whole[1])

    def test_nothing_is_taken_from_the_global_generator(self) -> None:
        before = torch.get_rng_state()
        draws.normal((1, 2, 3), "noise", self.like), draws.uniform((1, 2), "mix", torch.device("cpu"))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [CycleGANConfig, Pix2PixConfig])
def test_instance_noise_falls_linearly_and_then_leaves_the_game_alone(make: Any) -> None:
    config, batch = make(**SMALL), make_batch((32, 32))
    noisy = config.model_copy(update={"noise": make(noise={"sigma": 0.4, "images": 100}).noise})
    assert [noisy.noise.at(images) for images in (0, 25, 100, 101)] == pytest.approx([0.4, 0.3, 0.0, 0.0])
    plain, found = build(config), {}
    step(plain, batch)
    for images in (0, 50, 100):
        translator = build(noisy)
        step(translator, batch, images=images)
        found[images] = gradients(translator)
    for name, expected in gradients(plain).items():
        assert torch.equal(found[100][name], expected), name
    for kind in ("generator", "discriminator"):
        distances = [(of(found[images], kind) - of(gradients(plain), kind)).norm() for images in (0, 50)]
        assert distances[0] > distances[1] > 0


def test_cycle_noise_touches_the_way_back_and_nothing_else() -> None:
    losses = [step(build(CycleGANConfig(**SMALL, pool=0, cycle_noise=sigma)), make_batch((32, 32))).losses
              for sigma in (0.0, 0.2)]
    for name, value in losses[0].items():
        assert torch.equal(losses[1][name], value) == (not name.startswith("cycle")), name


def moves(**pace: int) -> list[str]:
    """What was trained in each of six steps of two images: G, D or both."""
    config = Pix2PixConfig(**SMALL, pace=pace)
    found = []
    for number in range(6):
        translator = build(config)
        update = step(translator, make_batch((16, 16)), number=number, images=2 * number)
        trained = {name.split("_")[0] for name, value in gradients(translator).items() if value is not None}
        assert ("adversarial" in update.losses) == ("generator" in trained)
        found.append("".join(sorted(name[0].upper() for name in trained)))
    return found


def test_pace_and_warm_up_decide_who_is_trained() -> None:
    assert moves() == ["DG"] * 6
    assert moves(generator=3) == ["DG", "D", "D"] * 2
    assert moves(discriminator=2) == ["DG", "G"] * 3
    assert moves(warmup=4) == ["D"] * 2 + ["DG"] * 4
    assert moves(warmup=4, discriminator=2) == ["D"] * 2 + ["DG", "G"] * 2


def test_discriminators_trained_alone_see_the_fakes_of_the_generators_as_they_are() -> None:
    found = []
    for number in (0, 1):
        translator = build(CycleGANConfig(**SMALL, pool=0, pace={"generator": 2}))
        step(translator, make_batch((32, 32)), number=number)
        found.append(of({name: value for name, value in gradients(translator).items() if value is not None}, "disc"))
    torch.testing.assert_close(found[0], found[1])


def test_a_pace_that_leaves_a_step_to_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"translator.pace: .* set one of the two to 1"):
        cyclegan_recipe(tmp_path, translator={"kind": "cyclegan", "pace": {"generator": 2, "discriminator": 2}})


def test_a_loss_that_not_every_step_has_is_recorded_as_the_mean_of_those_that_have_it(
        shared_pairs: Path, tmp_path: Path) -> None:
    """Frozen weights (a vanishing learning rate) make every step's loss comparable."""
    sgd = {"kind": "sgd", "lr": 1e-30}
    translator = {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 1},
                  "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}}
    values = {}
    for generator in (1, 2):
        recipe = least_recipe(shared_pairs, translator=translator | {"pace": {"generator": generator}},
                              optimizer={"generator": sgd, "discriminator": sgd},
                              stages=[{"resolution": 16, "images": 12}],
                              every={"log": 12, "sample": None, "evaluate": None})
        train(recipe, tmp_path / str(generator), Silent())
        lines = read_lines(tmp_path / str(generator) / "metrics.jsonl")
        (record,) = (line for line in lines if line["kind"] == "train")
        values[generator] = record["l1"]
    assert values[2] == pytest.approx(values[1], rel=0.2)


def test_began_logs_its_convergence_and_moves_its_balance_once_a_step_whatever_the_micro_batches() -> None:
    """k of the next step follows from the errors of this one: of the whole batch."""
    config = CycleGANConfig(generator=SMALL["generator"], discriminator={"kind": "autoencoder", "width": 4}, pool=0,
                            objective={"kind": "began", "rate": 0.5, "gamma": 1.0})
    balances = []
    for micro_batch in (None, 1):
        translator = build(config)
        for network in translator.phases["discriminator"].values():
            network.balance.fill_(0.5)
        update = step(translator, make_batch((32, 32)), micro_batch=micro_batch)
        for side in "ab":
            real, fake = update.observed[f"real_{side}"], update.observed[f"fake_{side}"]
            balance = translator.networks[f"discriminator_{side}"].balance
            torch.testing.assert_close(balance, (0.5 + 0.5 * (real - fake)).clamp(0, 1))
            torch.testing.assert_close(update.losses[f"convergence_{side}"], real + (real - fake).abs())
            balances.append(balance)
    torch.testing.assert_close(balances[:2], balances[2:])
    assert balances[0] != 0.5


def test_began_and_its_autoencoder_are_refused_without_each_other(tmp_path: Path) -> None:
    for parts in ({"objective": {"kind": "began"}}, {"discriminator": {"kind": "autoencoder"}}):
        with pytest.raises(RecipeError, match="began and autoencoder belong together"):
            cyclegan_recipe(tmp_path, translator={"kind": "cyclegan", **parts})


class TestGradientClipping:
    @pytest.mark.parametrize("config", [SGD(lr=1.0), Adam()], ids=["sgd", "adam"])
    def test_a_long_gradient_is_shortened_as_a_whole_and_a_short_one_left_alone(self, config: Any) -> None:
        for length, expected in [(5.0, 0.5), (0.3, 0.3)]:
            weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
            for weight, value in zip(weights, ([0.0, 0.6 * length], [0.8 * length]), strict=True):
                weight.grad = torch.tensor(value)
            optimizer = config.model_copy(update={"clip": 0.5}).build(weights)
            update = Update(build(CycleGANConfig(**SMALL)), {"generator": optimizer}, Accelerator(cpu=True),
                            memory.PLANS["split"], "fp32")
            update.step_optimizer("generator")
            found = torch.cat([weight.grad for weight in weights])
            torch.testing.assert_close(found, expected * torch.tensor([0.0, 0.6, 0.8]))

    @pytest.mark.parametrize("broken", [False, True])
    def test_under_a_gradient_scaler_the_true_gradient_is_clipped_and_a_broken_one_changes_nothing(
            self, broken: bool) -> None:
        """What fp16 does, with the scaler of a CPU: clipping scaled gradients would shorten nearly all of them."""
        weight = nn.Parameter(torch.zeros(2))
        optimizer = SGD(lr=1.0, clip=0.5).build([weight])
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        update = Update(build(CycleGANConfig(**SMALL)), {"generator": optimizer}, accelerator, memory.PLANS["split"],
                        "fp32")
        gradient = torch.tensor([float("inf") if broken else 0.18, 0.24])
        accelerator.scaler.scale((weight * gradient).sum()).backward()
        update.step_optimizer("generator")
        torch.testing.assert_close(weight.detach(), torch.zeros(2) if broken else -gradient)
        assert accelerator.scaler.get_scale() == (512.0 if broken else 1024.0)


def test_feature_matching_is_the_sum_of_the_layers_mean_distances() -> None:
    found = [torch.ones(1, 2, 3, 3), torch.zeros(1, 4, 2, 2)]
    real = [torch.zeros(1, 2, 3, 3), torch.full((1, 4, 2, 2), 3.0)]
    assert feature_matching(found, real).item() == 4.0


def test_features_are_the_chains_own_on_the_way_to_its_logits() -> None:
    judge = PatchGANConfig(width=4, layers=2).build(3)
    image = torch.randn(1, 3, 32, 32)
    for plan in ("split", "preact"):
        memory.apply(memory.PLANS[plan], judge)
        features = judge.features(image)
        assert [len(feature[0]) for feature in features] == [4, 8, 16]
        torch.testing.assert_close(judge[-1](features[-1]), judge(image))


@pytest.mark.parametrize("config", [PatchGANConfig(width=4, layers=2, spectral=True), PixelConfig(spectral=True)],
                         ids=["patchgan", "pixel"])
def test_spectral_norm_holds_the_largest_singular_value_of_every_convolution_at_one(config: Any) -> None:
    judge = config.build(3)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.mul_(50)
        for _ in range(60):
            judge(torch.randn(1, 3, 32, 32))
    convolutions = [part for part in judge.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions
    for convolution in convolutions:
        largest = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)


class Operations(TorchDispatchMode):
    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **kwargs or {})


def test_spectral_norm_begins_as_torchs_own_and_as_shapes_without_its_iterations() -> None:
    """On meta fifteen iterations a layer took most of a plan's time, to find what has no numbers."""
    states, counts = [], []
    for device, norm in (("cpu", spectrally_normed), ("cpu", lambda network: [spectral_norm(x) for x in network]),
                         ("meta", spectrally_normed)):
        torch.manual_seed(5)
        with torch.device(device):
            network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3))
        with Operations() as operations:
            norm(network)
        states.append(network.state_dict())
        counts.append(operations.num)
    ours, theirs, shapes = states
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name: (value.shape, value.dtype) for name, value in ours.items()} == {
        name: (value.shape, value.dtype) for name, value in shapes.items()}
    assert all(value.is_meta for value in shapes.values()) and counts[2] < counts[1] / 3


def test_the_average_of_spectrally_normed_weights_is_bounded_as_they_are() -> None:
    """The mean of unit vectors is shorter than one: a norm estimated with it would be too small."""
    config = Pix2PixConfig(generator=ResNetConfig(width=4, blocks=1, spectral=True), discriminator=PixelConfig(width=4),
                           ema=0.5)
    translator = build(config, torch.float32)
    network = translator.generator_ab
    for number in range(8):
        torch.manual_seed(number)
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                    part.parametrizations.weight.original.normal_()
            for _ in range(10):
                network(torch.randn(1, 3, 32, 32))
        translator.update_ema(1, number)
    newest, average = network.eval(), translator.ema_generators["generator_ab"]
    pairs = [(one, other) for one, other in zip(newest.modules(), average.modules(), strict=True)
             if isinstance(one, nn.Conv2d)]
    assert pairs
    for one, other in pairs:
        vectors = [(part.parametrizations.weight[0]._u, part.parametrizations.weight[0]._v) for part in (one, other)]
        assert all(torch.equal(new, kept) for new, kept in zip(*vectors, strict=True))
        assert not torch.equal(one.parametrizations.weight.original, other.parametrizations.weight.original)


def test_minibatch_deviation_tells_a_batch_of_copies_from_one_that_differs() -> None:
    images = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    added = MinibatchStd()(images)
    assert added.shape == (3, 5, 5, 6) and torch.equal(added[:, :4], images)
    expected = torch.from_numpy(images.numpy().std(axis=0)).mean()
    torch.testing.assert_close(added[:, 4], expected.expand(3, 5, 6), rtol=1e-6, atol=0)
    assert MinibatchStd()(images[:1].expand(3, -1, -1, -1))[:, 4].max() < 1e-3


class TestAugmentation:
    images = torch.rand(2, 3, 32, 48, dtype=torch.float64) * 2 - 1
    half, draw = torch.full((2,), 0.5), torch.tensor([0.0, 0.8])

    def test_the_middle_of_every_range_changes_no_colour(self) -> None:
        torch.testing.assert_close(recoloured(self.images, self.half, self.half, self.half), self.images)

    def test_each_draw_changes_its_own_property_of_each_sample(self) -> None:
        brighter = recoloured(self.images, self.draw, self.half, self.half)
        added = (self.draw.double() - 0.5).view(2, 1, 1, 1)
        torch.testing.assert_close(brighter, self.images + added)
        grey = recoloured(self.images, self.half, self.draw, self.half)[0]
        torch.testing.assert_close(grey, self.images[0].mean(0, keepdim=True).expand(3, -1, -1))
        spread = recoloured(self.images, self.half, self.half, self.draw).std((1, 2, 3)) / self.images.std((1, 2, 3))
        torch.testing.assert_close(spread, self.draw.double() + 0.5)

    def test_images_move_by_whole_pixels_up_to_an_eighth_and_zeros_come_in(self) -> None:
        found = moved(self.images, torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.0]))
        assert torch.equal(found[0, :, 4:], self.images[0, :, :-4]) and (found[0, :, :4] == 0).all()
        assert torch.equal(found[1, :, :, :-6], self.images[1, :, :, 6:]) and (found[1, :, :, -6:] == 0).all()

    def test_a_rectangle_of_half_the_sides_is_cut_out_around_its_point(self) -> None:
        found = cut_out(self.images, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]))
        assert (found[0, :, 9:24, 13:36] == 0).all() and (found[0] == 0).sum() == 3 * 15 * 23
        assert (found[1, :, :8, :12] == 0).all() and (found[1] == 0).sum() == 3 * 8 * 12
        kept = found != 0
        assert torch.equal(found[kept], self.images[kept])

    def test_a_pair_is_moved_together_and_the_generator_learns_through_the_change(self) -> None:
        """Real and fake of a sample, and what they are judged beside, meet one draw."""
        config = Pix2PixConfig(**SMALL, augment=("translation", "cutout"), weights={"l1": 0.0})
        translator, batch = build(config), make_batch((32, 48))
        update = Update(translator, {}, Accelerator(cpu=True), memory.PLANS["split"], "fp32")
        (a, b), = update.micro_batches(batch)
        seen = []
        translator.discriminator_b.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        fake = translator.generator_ab(a)
        discriminator = translator.conditional(update, a)
        update.backward("adversarial", translator.fool(update, discriminator, fake, b))
        translator.tell_apart(update, discriminator, b, fake.detach())
        places = [update.uniform(name) for name in ("down", "right", "row", "column")]
        for judged, image in zip(seen, (fake, b, fake), strict=True):
            expected = cut_out(moved(torch.cat([a, image.detach()], 1), *places[:2]), *places[2:])
            assert torch.equal(judged, expected)
        assert all(parameter.grad.abs().sum() > 0 for parameter in translator.generator_ab.parameters()
                   if parameter.ndim > 1)
