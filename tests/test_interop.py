"""Checkpoints of other projects translate here as they do there; what is none of them is refused and never run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import shlex
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import translate
from tests.commands import call
from tests.covering import each_value, one_in
from tests.live_bytes import LiveBytes
from tests.theirs import (
    NORMS,
    TABLE,
    EnhancersOfTheirs,
    Halve,
    PatchGANOfTheirs,
    PixelOfTheirs,
    ResNetOfTheirs,
    UNetOfTheirs,
    shaken,
)
from translate import tiling
from translate.data.scale import Scale
from translate.errors import CheckpointError, UsageError
from translate.evaluation.scoring import evaluate_run
from translate.interop.checkpoint_tensors import read_tensors
from translate.interop.evidence import Choices
from translate.interop.exporting import export_pth
from translate.interop.importing import Training, import_release, read_discriminator, read_generator
from translate.networks.memory import PLANS
from translate.recipe import Recipe, load_recipe
from translate.runs.release import load_release, write_generators
from translate.schema import validate
from translate.tiling import Settings
from translate.tiling.bands import Place
from translate.training.plan import predict


def saved(network: nn.Module, path: Path, **options: Any) -> Path:
    torch.save(network.state_dict(), path, **options)
    return path


def images(size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(size[0])) * 2 - 1


@pytest.mark.parametrize("row", one_in(3, list(TABLE)))
def test_a_generator_translates_here_as_it_does_there(row: str, tmp_path: Path) -> None:
    make, bound, sizes = TABLE[row]
    theirs = shaken(make())
    ours = read_generator(saved(theirs, tmp_path / "latest_net_G.pth")).network
    for size in sizes:
        image = images(size, 1 if "grey" in row else 3)
        with torch.no_grad():
            expected, found = theirs(image), ours(image)
        assert expected.std() > 0.05, "an image that says something"
        assert (found - expected).abs().max().item() <= bound, size


@each_value(share=3, norm=NORMS, make={"pixel": PixelOfTheirs, **{
    f"{layers} layers": partial(PatchGANOfTheirs, layers=layers) for layers in (1, 3, 4)}})
def test_a_discriminator_judges_here_as_it_does_there(make: Callable[..., nn.Module], norm: str,
                                                      tmp_path: Path) -> None:
    """In training as well, where a batch norm takes the statistics of the batch."""
    theirs = shaken(make(6, norm=norm))
    ours = read_discriminator(saved(theirs, tmp_path / "latest_net_D.pth")).network
    for size in ((64, 64), (70, 91)):
        pair = images(size, 6).repeat(2, 1, 1, 1) * torch.tensor([1.0, 0.5])[:, None, None, None]
        for training in (False, True):
            with torch.no_grad():
                expected, found = theirs.train(training)(pair), ours.train(training)(pair)
            assert expected.std() > 0.05, "logits that say something"
            assert torch.equal(found, expected), (size, training)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: nn.ModuleDict({"scale0_layer0": nn.Sequential(nn.Conv2d(3, 4, 4))}), "pix2pixHD's discriminators"),
    (lambda: nn.ModuleDict({"model": nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU(), Halve(4))}), "CUT's antialiased"),
    (lambda: nn.ModuleDict({"model": nn.utils.spectral_norm(nn.Conv2d(3, 4, 4))}), "spectral norm"),
    (ResNetOfTheirs, "no discriminator that is known"), (UNetOfTheirs, "no discriminator that is known")])
def test_another_discriminator_is_refused_by_what_it_is(make: Callable[[], nn.Module], reason: str,
                                                        tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_discriminator(saved(make(), tmp_path / "latest_net_D.pth"))


@pytest.mark.parametrize(("generator", "seen", "kind"), [
    (ResNetOfTheirs, 3, "cyclegan"), (ResNetOfTheirs, 6, "pix2pix"), (UNetOfTheirs, 6, "pix2pix"),
    (partial(ResNetOfTheirs, blur_up=True, blur_down=True), 3, "cut"), (ResNetOfTheirs, 4, None)],
    ids=["cyclegan", "conditional", "unet", "cut", "neither"])
def test_what_a_discriminator_sees_tells_the_game_that_it_plays(generator: Callable[[], nn.Module], seen: int,
                                                                kind: str | None, tmp_path: Path) -> None:
    file = saved(generator(), tmp_path / "latest_net_G.pth")
    judge = saved(PatchGANOfTheirs(seen, norm="batch"), tmp_path / "latest_net_D.pth")
    if kind is None:
        with pytest.raises(UsageError, match=r"judges images of 4 channels, and latest_net_G\.pth makes 3 of 3"):
            import_release(file, tmp_path / "r", discriminator=judge)
        return
    recipe = import_release(file, tmp_path / "r", discriminator=judge).recipe
    assert recipe.translator.kind == kind and recipe.translator.discriminator.norm == "batch"


def quick(*rows: str) -> pytest.MarkDecorator:
    """Parametrise over the table; all rows but these are slow."""
    return pytest.mark.parametrize("row", [pytest.param(row, marks=[] if row in rows else pytest.mark.slow)
                                           for row in TABLE])


@quick("cut-instance", "hd-local-2-batch")
def test_in_strips_it_gives_the_whole_images_output(row: str, tmp_path: Path) -> None:
    make, _, _ = TABLE[row]
    ours = read_generator(saved(shaken(make()), tmp_path / "latest_net_G.pth")).network.double()
    image = images((70, 45), 1 if "grey" in row else 3).double()
    with torch.no_grad():
        truth = ours(image)
    assert (tiling.apply(ours, image, settings=Settings(7, 0.0)) - truth).abs().max() <= 1e-10


@pytest.mark.slow
def test_old_formats_wrappers_prefixes_and_half_precision_are_read(tmp_path: Path) -> None:
    theirs = shaken(ResNetOfTheirs(norm="batch"))
    state, image = theirs.state_dict(), images((32, 32))
    without_counts = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    files = {
        "legacy": (state, {"_use_new_zipfile_serialization": False}), "zip": (state, {}),
        "wrapped": ({"state_dict": state, "epoch": 200, "lr": 0.1}, {}), "netG": ({"netG": state}, {}),
        "averaged": ({"params": {"x": torch.zeros(1)}, "params_ema": state}, {}),
        "parallel": ({f"module.{name}": tensor for name, tensor in state.items()}, {}),
        "compiled": ({f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}, {}),
        "torch 0.3": (without_counts, {"_use_new_zipfile_serialization": False}),
        "parameters": ({name: nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
                        for name, tensor in state.items()}, {})}
    for name, (content, options) in files.items():
        torch.save(content, tmp_path / f"{name}.pth", **options)
        assert torch.equal(read_generator(tmp_path / f"{name}.pth").network(image), theirs(image)), name
    safetensors.torch.save_file(state, tmp_path / "g.safetensors")
    assert torch.equal(read_generator(tmp_path / "g.safetensors").network(image), theirs(image))
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
               tmp_path / "half.pt")
    assert (read_generator(tmp_path / "half.pt").network(image) - theirs(image)).abs().max() < 0.02


def test_statistics_of_instance_norms_that_old_torch_kept_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    """Before torch 0.4 an instance norm saved running statistics; nobody used them."""
    theirs = shaken(ResNetOfTheirs(blocks=1))
    old = dict(theirs.state_dict())
    for name, part in theirs.named_modules():
        if isinstance(part, nn.InstanceNorm2d):
            old |= {f"{name}.running_mean": torch.ones(4), f"{name}.running_var": torch.ones(4)}
    torch.save(old, tmp_path / "old.pth")
    read = read_generator(tmp_path / "old.pth")
    assert torch.equal(read.network(images((32, 32))), theirs(images((32, 32))))
    assert any("running statistics" in note for note in read.found.notes)


def test_a_resize_convolution_is_asked_for_and_then_taken(tmp_path: Path) -> None:
    """A fork's: nearest-neighbour upsampling leaves no trace, so nobody may guess it."""
    state = {name: tensor for name, tensor in shaken(ResNetOfTheirs(blur_up=True)).state_dict().items()
             if not name.endswith("filt")}  # where CUT's filter stands, theirs has nn.Upsample, which has no weights
    torch.save(state, tmp_path / "fork.pth")
    with pytest.raises(CheckpointError, match="leaves no trace; say it with --upsample"):
        read_generator(tmp_path / "fork.pth")
    read = read_generator(tmp_path / "fork.pth", Choices(upsample="resize"))
    assert read.found.config.upsample == "resize" and any("upsampling is taken" in note for note in read.found.notes)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20_000_000))


def enormous() -> dict[str, Tensor]:
    """One number that says it is a terabyte."""
    return {"model.1.weight": torch.zeros(1).expand(2**38)}


GENERATOR = ResNetOfTheirs().state_dict()
ZOO: dict[str, tuple[Any, str]] = {  # what a file holds, and what is said of it
    "os.system": (lambda mark: {"model": Payload(mark)}, r"would run a function, (posix|os)\.system; nothing of it"),
    "module": (lambda mark: nn.Conv2d(1, 1, 1), r"a pickled object, torch\.nn\.modules\.conv\.Conv2d"),
    "options": (lambda mark: {"opt": argparse.Namespace(lr=1), "netG": GENERATOR}, "argparse.Namespace"),
    "arrays": (lambda mark: {"a": np.zeros(3)}, "arrays of numpy"),
    "an optimizer": (lambda mark: torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict(), "of an optimizer"),
    "two networks": (lambda mark: {"netG_A": GENERATOR, "netG_B": GENERATOR}, "more than one .* netG_A, netG_B"),
    "enormous": (lambda mark: enormous(), "larger than the file|more memory"),
    "a number": (lambda mark: 3, "no tensors by name: int"),
    "a PatchGAN": (lambda mark: nn.ModuleDict({"model": nn.Sequential(nn.Conv2d(3, 4, 4))}).state_dict(),
                   r"a discriminator \(PatchGAN\)"),
    "a multiscale PatchGAN": (lambda mark: {"scale0_layer0.0.weight": torch.ones(1, 1, 4, 4)}, "a discriminator"),
    "heads": (lambda mark: {"mlp_0.0.weight": torch.ones(1, 1)}, "projection heads of CUT"),
    "a StyleGAN": (lambda mark: {"style.1.weight": torch.ones(1, 1), "to_rgb1.bias": torch.ones(1)}, "a StyleGAN"),
    "a VGG": (lambda mark: {"features.0.weight": torch.ones(1, 3, 3, 3)}, "classifies"),
    "unknown": (lambda mark: {"first.weight": torch.ones(8, 3, 7, 7)}, "nearest is a ResNet generator"),
    "zero padding": (lambda mark: {name.replace("conv_block.1.", "conv_block.0."): tensor
                                   for name, tensor in GENERATOR.items()}, "pad with zeros"),
    "a tensor too many": (lambda mark: GENERATOR | {"model.9.gamma": torch.ones(1)}, "model.9.gamma have no place"),
    "a tensor too few": (lambda mark: {name: tensor for name, tensor in GENERATOR.items() if name != "model.4.weight"},
                         "looks like"),
    "another shape": (lambda mark: GENERATOR | {"model.10.conv_block.1.weight": torch.ones(16, 16, 5, 5)},
                      r"has the shape \(16, 16, 5, 5\)"),
    "not finite": (lambda mark: GENERATOR | {"model.1.bias": torch.full((4,), float("nan"))}, "not finite"),
}
BYTES: dict[str, tuple[bytes, str]] = {
    "web page": (b"<!DOCTYPE html><html>404", "a web page"), "empty": (b"", "is empty"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle that torch.save has not written"),
    "half a pickle": (b"\x80\x02}q", "cut"),
    "noise": (bytes(range(1, 250)), "no file that torch.save wrote"),
}


@pytest.mark.parametrize(("name", "legacy"), [
    *((name, False) for name in ZOO), *((name, True) for name in ("os.system", "module", "an optimizer", "enormous"))])
def test_what_is_no_generator_is_refused_in_one_line_in_under_a_second_and_nothing_runs(
        name: str, legacy: bool, tmp_path: Path) -> None:
    content, said = ZOO[name]
    file, mark = tmp_path / "file.pth", tmp_path / "it-ran"
    torch.save(content(mark), file, _use_new_zipfile_serialization=not legacy)
    refuse(file, said, mark)


def refuse(file: Path, said: str, mark: Path) -> None:
    took = []
    while not took or (took[-1] >= 1.0 and len(took) < 3):  # once more, where another process had the processor
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=said) as caught:
            read_generator(file)
        took.append(time.monotonic() - began)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 400
    assert min(took) < 1.0 and not mark.exists()


@pytest.mark.parametrize("name", [*BYTES, "bomb", "cut off", "cut off, legacy", "damaged", "a cut safetensors"])
def test_files_that_torch_did_not_write_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / ("g.safetensors" if "safetensors" in name else "g.pth")
    said = BYTES[name][1] if name in BYTES else {"bomb": "compresses nothing"}.get(name, "cut off|cannot read|damaged")
    if name in BYTES:
        file.write_bytes(BYTES[name][0])
    elif name == "bomb":
        bomb(file)
    elif name == "a cut safetensors":
        file.write_bytes(safetensors.torch.save(GENERATOR)[:-100])
    else:
        buffer = io.BytesIO()
        torch.save(GENERATOR, buffer, _use_new_zipfile_serialization="legacy" not in name)
        whole = buffer.getvalue()
        damaged = whole.replace(b"conv_block", b"conv\xff\xffblock")
        file.write_bytes(whole[:len(whole) * 2 // 3] if "cut" in name else damaged)
    refuse(file, said, tmp_path / "it-ran")


def test_the_process_that_reads_may_die_and_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(ResNetOfTheirs(), tmp_path / "g.pth")
    monkeypatch.setattr(torch, "load", lambda *arguments, **named: os.kill(os.getpid(), 9))
    with pytest.raises(CheckpointError, match=r"has died \(SIGKILL\)"):
        read_tensors(file)


def test_both_directions_of_a_cyclegan_make_one_release_that_says_where_it_is_from(tmp_path: Path) -> None:
    folder = tmp_path / "horse2zebra"
    folder.mkdir()
    there, back = (shaken(ResNetOfTheirs(), seed) for seed in (0, 1))
    a, b = saved(there, folder / "latest_net_G_A.pth"), saved(back, folder / "latest_net_G_B.pth")
    imported = import_release(a, tmp_path / "release", back=b, training=Training(load_size=300, crop_size=256))
    assert imported.recipe.name == "horse2zebra" and imported.recipe.translator.kind == "cyclegan"
    for direction, theirs in (("ab", there), ("ba", back)):
        release = load_release(tmp_path / "release", direction)
        assert torch.equal(release.generator(images((64, 40))), theirs(images((64, 40))))
    recipe = load_recipe(tmp_path / "release" / "recipe.yaml")
    assert recipe.data.resize == 300 and recipe.stages[0].size == (256, 256)
    card = (tmp_path / "release" / "README.md").read_text()
    assert "latest_net_G_A.pth" in card and imported.sources["ab"]["sha256"] in card and "SHA-256" in card
    assert "assumed" in card and "replicate" not in card and "--eval" in card
    with pytest.raises(UsageError, match="exists already"):
        import_release(a, tmp_path / "release")
    with pytest.raises(UsageError, match="of another shape"):
        import_release(a, tmp_path / "other", back=saved(UNetOfTheirs(), folder / "unet.pth"))


@pytest.mark.parametrize(("make", "kind", "options"), [
    (lambda: UNetOfTheirs(1, 3), "pix2pix", Training()), (lambda: ResNetOfTheirs(blur_up=True, blur_down=True), "cut",
                                                          Training()),
    (lambda: ResNetOfTheirs(3, 1), "cyclegan", Training(load_size=128)),
    (lambda: EnhancersOfTheirs(36, levels=2), "pix2pix", Training(labels=35, instances=1000)),
    (lambda: ResNetOfTheirs(35, downs=4, width=2), "pix2pix", Training(labels=35))],
    ids=["unet", "cut", "grey", "cityscapes", "labels"])
def test_a_release_knows_what_its_images_were_and_how_large(make: Any, kind: str, options: Training,
                                                            tmp_path: Path) -> None:
    theirs = shaken(make())
    recipe = import_release(saved(theirs, tmp_path / "g.pth"), tmp_path / "release", training=options).recipe
    assert recipe.translator.kind == kind
    release = load_release(tmp_path / "release")
    inputs = release.labels.channels if release.labels else release.image_in.channels
    side = 256 if kind == "pix2pix" else 32
    assert torch.equal(release.generator(images((side, side), inputs)), theirs(images((side, side), inputs))) or \
        kind == "cut"
    expected = {"unet": 286, "resnet": 128 if options.load_size else 286, "coarse_to_fine": 2048}
    if options.labels is None:
        assert recipe.data.resize == expected[recipe.translator.generator.kind]
    else:
        assert recipe.data.labelling.edges == (inputs == 36) and recipe.data.resize == 512 * 2**recipe.stages[0].levels


def test_channels_that_are_not_those_of_the_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes 3 channels"):
        import_release(saved(ResNetOfTheirs(), tmp_path / "g.pth"), tmp_path / "r", training=Training(labels=35))


def test_import_and_convert_are_two_commands(tmp_path: Path, said: io.StringIO,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """As a person does it: the stored image is theirs, rounded; its sides need fit nothing."""
    theirs, image = shaken(ResNetOfTheirs(blocks=1)), np.random.default_rng(0).integers(0, 256, (32, 44, 3), np.uint8)
    file = saved(theirs, tmp_path / "latest_net_G.pth")
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    release = tmp_path / "a release; of 'mine'"
    assert call(monkeypatch, "import", file, "--to", release, "--load-size", 300) == 0
    assert "latest_net_G.pth is a ResNet of CycleGAN and pix2pix" in said.getvalue() and "assumed:" in said.getvalue()
    assert shlex.split(said.getvalue().rpartition("convert with: ")[2])[-2:] == ["--model", str(release)]
    assert call(monkeypatch, "convert", tmp_path / "in", tmp_path / "out", "--model", release,
                "--precision", "fp32") == 0
    expected = theirs(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)[0].permute(1, 2, 0)
    with Image.open(tmp_path / "out" / "a.png") as converted:
        found = np.asarray(converted).astype(int)
    assert np.abs(found - np.rint((expected.detach().numpy() + 1) * 127.5)).max() <= 1
    (tmp_path / "page.pth").write_text("<html>")
    assert call(monkeypatch, "import", tmp_path / "page.pth") == 4
    assert "page.pth: a web page" in said.getvalue()


@quick("cyclegan-resnet-batch", "pix2pix-unet-128-batch", "cut-instance", "hd-local-2-batch")
def test_what_goes_out_again_is_what_came_in_and_their_code_loads_it(row: str, tmp_path: Path) -> None:
    """Name by name and bit by bit. Of what ours has no place for, a bias before a batch norm becomes 0 and is in its
    mean, and a dropout is left out."""
    make, _, sizes = TABLE[row]
    theirs = shaken(make())
    import_release(saved(theirs, tmp_path / "there.pth"), tmp_path / "release")
    back = torch.load(export_pth(tmp_path / "release", tmp_path / "back.pth").file, weights_only=True)
    if "dropout" in row:
        theirs = shaken(ResNetOfTheirs(dropout=False))
    elif not (row.startswith("hd") and "batch" in row):
        assert list(back) == list(theirs.state_dict())
        assert all(torch.equal(tensor, back[name]) for name, tensor in theirs.state_dict().items())
    expected = load_release(tmp_path / "release").generator
    theirs.load_state_dict(back)
    image = images(sizes[0], 1 if "grey" in row else 3)
    with torch.no_grad():
        assert (theirs(image) - expected(image)).abs().max() <= TABLE[row][1]
    import_release(tmp_path / "back.pth", tmp_path / "again")
    first, second = (safetensors.torch.load_file(tmp_path / name / "generator_ab.safetensors")
                     for name in ("release", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


@pytest.mark.parametrize(("generator", "said"), [
    ({"kind": "resnet", "upsample": "resize"}, "has upsample: resize"),
    ({"kind": "resnet", "attention": True}, "attention"),
    ({"kind": "unet", "downs": 5, "downsample": "blurred"}, "U-Net has another"),
    ({"kind": "unet", "downs": 5, "image_skip": 2}, "U-Net has another"),
    ({"kind": "resnet", "norm": "none"}, "theirs has none without a norm")], ids=str)
def test_a_generator_that_their_code_has_not_is_refused(generator: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe = validate(Recipe, {
        "name": "r", "data": {"kind": "paired", "folder": "x"}, "stages": [{"resolution": 32, "images": 1}],
        "translator": {"kind": "pix2pix", "generator": {"width": 2, **generator},
                       "discriminator": {"kind": "patchgan", "layers": 1}}}, "r")
    network = recipe.translator.generator.build(3, 3)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.ones_(parameter)
    write_generators(tmp_path / "release", recipe, {"ab": network}, {"directions": ["ab"]}, "")
    with pytest.raises(UsageError, match=said):
        export_pth(tmp_path / "release", tmp_path / "g.pth")
    assert not (tmp_path / "g.pth").exists()


def test_export_says_how_their_code_is_told_and_replaces_nothing(tmp_path: Path, said: io.StringIO,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (make, options) in enumerate({
            ResNetOfTheirs: "CycleGAN, with --netG resnet_2blocks --ngf 4 --norm instance --no_dropout",
            UNetOfTheirs: "pix2pix, with --netG unet_128 --ngf 2 --norm batch",
            EnhancersOfTheirs: "pix2pixHD, with --netG local --ngf 2 --norm instance --n_downsample_global 2 "
                               "--n_blocks_global 2 --n_local_enhancers 1 --n_blocks_local 1"}.items()):
        import_release(saved(make(), tmp_path / "g.pth"), tmp_path / f"r{number}")
        words = ("export-pth", tmp_path / f"r{number}", "--to", tmp_path / f"{number}.pth")
        assert call(monkeypatch, *words) == 0 and options in said.getvalue()
    assert call(monkeypatch, *words) == 2 and "exists already" in said.getvalue()


def test_an_imported_model_is_scored_planned_and_loaded_as_any_other(shared_pairs: Path, tmp_path: Path) -> None:
    """With --data it knows where its test images lie; it is scored at the scale that it was trained at."""
    theirs = shaken(ResNetOfTheirs(blocks=1))
    training = Training(load_size=40, crop_size=32, data=shared_pairs)
    recipe = import_release(saved(theirs, tmp_path / "g.pth"), tmp_path / "release", training=training).recipe
    scores = evaluate_run(tmp_path / "release", most=2).as_json()
    assert scores["metrics"] and load_release(tmp_path / "release").scale == Scale((40, 40))
    planned = predict(recipe, recipe.stages[0], PLANS["strips"], "fp16")
    assert planned.peak_bytes > 0
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 40, 3), np.uint8))
    converted = np.asarray(translate.load(tmp_path / "release", precision="fp32").convert(image)).astype(int)
    expected = theirs(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1)[0].permute(1, 2, 0)
    assert np.abs(converted - (expected.detach().numpy() + 1) * 127.5).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("row", "share", "place"), [
    ("cyclegan-resnet-instance", 1 / 3, "device"), ("cut-instance", 1 / 3, "device"),
    ("hd-local-2-instance", 1 / 3, "device"), ("pix2pix-unet-256", 1 / 3, "disk"),
    ("pix2pix-unet-256", 2 / 5, "device")])  # a row of its output needs all coarse rows, for which its skips wait
def test_2000_by_1500_pixels_take_a_third_of_the_memory_and_are_as_exact_as_single_precision(
        row: str, share: float, place: Place, tmp_path: Path) -> None:
    ours = read_generator(saved(shaken(TABLE[row][0](width=16)), tmp_path / "g.pth")).network
    image, peaks, outputs = images((1500, 2000)), [], []
    for settings in (Settings(9999, float("inf")), Settings(64, 0.0, place)):
        with LiveBytes([image, *ours.parameters(), *outputs]) as live, torch.no_grad():
            outputs.append(tiling.apply(ours, image, settings=settings) if peaks else ours(image))
        peaks.append(live.peak)
    error = (outputs[0] - outputs[1]).double().square().mean()
    assert 10 * torch.log10(4 / error) >= 120 and peaks[1] <= peaks[0] * share
