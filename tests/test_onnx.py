"""An exported generator gives what the generator gives, for images of any size and any number of them.

It is run by ONNX Runtime, which shares no code with torch. Exporting happens in a fork of the test: torch's exporter
starts threads for backward passes, and what is forked from such a process can train no more.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import translate
from tests.commands import Command
from tests.conftest import waves
from tests.conversions import release_of
from translate.errors import MissingExtra, TranslateError, UsageError
from translate.interop.onnx_graph import Pixels, export_onnx, fitted
from translate.networks import CoarseToFineConfig, ResNetConfig, UNetConfig
from translate.networks.attention import Attention
from translate.networks.growing import extend, fade_in
from translate.networks.layers import Generator, pad_to_fit

RELEASE = Path(__file__).parent / "data" / "run-b2bf1ce" / "release"


def grown(config: Any, fading: bool) -> nn.Module:
    network = config.build(3, 3)
    extend(config, network, 1, fading)
    fade_in(network, 0.4)
    return network


def attentive(**options: Any) -> nn.Module:
    """With an attention that has learnt something: at first it adds nothing."""
    network = ResNetConfig(width=8, blocks=1, attention=True, **options).build(3, 3)
    for part in network.modules():
        if isinstance(part, Attention):
            part.gamma.data.fill_(0.7)
    return network


NETWORKS = {
    "resnet": lambda: ResNetConfig(width=4, blocks=1).build(3, 3),
    "resnet-batch": lambda: ResNetConfig(width=4, blocks=1, norm="batch", upsample="resize").build(3, 3),
    "resnet-none": lambda: ResNetConfig(width=4, blocks=1, norm="none").build(3, 3),
    "resnet-antialiased": lambda: ResNetConfig(width=4, blocks=1, upsample="bilinear",
                                               downsample="antialiased").build(3, 3),
    "resnet-attention-spectral": lambda: attentive(spectral=True, downsample="blurred"),
    "resnet-fading": lambda: grown(ResNetConfig(width=4, blocks=1), True),
    "resnet-grown": lambda: grown(ResNetConfig(width=4, blocks=1), False),
    "unet": lambda: UNetConfig(width=4, downs=3).build(3, 3),
    "unet-batch-bilinear": lambda: UNetConfig(width=4, downs=3, norm="batch", upsample="bilinear",
                                              downsample="blurred", image_skip=4).build(3, 3),
    "unet-resize": lambda: UNetConfig(width=4, downs=4, norm="batch", upsample="resize", image_skip=4).build(3, 3),
    "unet-fading": lambda: grown(UNetConfig(width=4, downs=3), True),
    "coarse-to-fine": lambda: CoarseToFineConfig(width=4, blocks=1).build(3, 3),
    "coarse-to-fine-grown": lambda: grown(CoarseToFineConfig(width=4, blocks=1), False),
}


def in_a_fork(work: Callable[[], None]) -> None:
    """Do some work in a fork of this process; raise what it raises."""
    def attempt(sender: Connection) -> None:
        try:
            work()
            sender.send(None)
        except BaseException as error:
            sender.send(error)

    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=attempt, args=(sender,))
    process.start()
    sender.close()
    error = receiver.recv()
    process.join()
    if error is not None:
        raise error


def test_an_exported_release_gives_what_the_model_gives(tmp_path: Path) -> None:
    """As a program would use it that knows nothing but the file: 8-bit pixels, a size and a number it has not seen."""
    file = tmp_path / "toy.onnx"
    command = Command(tmp_path / "said", "export", RELEASE, file, "--pixels", "uint8", "--direction", "ba")
    assert command.wait() == 0
    said = (tmp_path / "said").read_text()
    assert "compared: 2 × " in said and "no tiles" in " ".join(said.split())

    # The file says what it is, and that no side is fixed but the channels
    session = onnxruntime.InferenceSession(file)
    (given,), (made,), about = session.get_inputs(), session.get_outputs(), session.get_modelmeta()
    assert given.shape == made.shape == ["batch", "height", "width", 3]
    model = translate.load(RELEASE, "ba", device="cpu", precision="fp32")
    assert about.custom_metadata_map["fingerprint"] == model._translating.release.fingerprint
    assert about.custom_metadata_map["tiling"] == "do not tile" and "seams" in about.description
    assert len(json.loads(file.with_suffix(".json").read_text())["checks"]) == 5

    # And gives the same pixels; where both round a value between two levels it may be the next
    for shape in ((5, 91), (50, 33), (3, 3)):
        images = np.stack([waves(seed, shape) for seed in range(3)])
        (converted,) = session.run(None, {given.name: images})
        expected = np.stack([model.convert(image, resize=None) for image in images])
        assert abs(converted.astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("pixels", "half"), [("signed", False), ("unit", False), ("uint16", False), ("signed", True)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_generator_is_exported_for_every_size(name: str, pixels: Pixels, half: bool, tmp_path: Path) -> None:
    """It raises where the graph is further from the network than 100 dB, or 60 dB in half precision."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    before = {each: tensor.clone() for each, tensor in network.state_dict().items()}

    def export() -> None:
        made = export_onnx(release_of(network), tmp_path / "x.onnx", pixels, half)
        assert len(made.checks) == 5
        assert network.state_dict().keys() == before.keys(), "the network that was exported is as it was"
        assert any(parametrize.is_parametrized(part) for part in network.modules()) == ("spectral" in name)
        operations = {node.op_type for node in onnx.load(made.file).graph.node}
        assert "resize" not in name or "ConvTranspose" not in operations, "the example's size has decided"

    in_a_fork(export)


class Remembering(Generator):
    """A network that an exporter gets wrong without a word: it is another one at every call."""

    multiple, smallest = 1, 1
    calls = itertools.count(1)  # of all copies

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def translate(self, image: Tensor) -> Tensor:
        return self.conv(image) * next(self.calls)


@pytest.mark.slow
def test_a_graph_that_is_not_the_network_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TranslateError, match=r"the exported graph is not the network: .* dB for 1 × "):
        in_a_fork(lambda: export_onnx(release_of(Remembering().eval()), tmp_path / "x.onnx") and None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 9, 11, 16])
def test_padding_by_arithmetic_is_padding_by_cases(side: int) -> None:
    image = torch.rand(2, 3, side, side)
    for multiple, smallest in ((1, 1), (4, 8), (8, 16), (4, 3)):
        expected = pad_to_fit(image, multiple, smallest)
        assert torch.equal(fitted(fitted(image, 3, multiple, smallest), 2, multiple, smallest), expected)


def test_what_cannot_be_exported_is_said_before_anything_is_done(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    release = release_of(NETWORKS["resnet"]().eval())
    (tmp_path / "there.onnx").touch()
    with pytest.raises(UsageError, match="exists already"):
        export_onnx(release, tmp_path / "there.onnx")
    with pytest.raises(UsageError, match=r"end in \.onnx"):
        export_onnx(release, tmp_path / "x.pt")
    (tmp_path / "x.json").touch()
    with pytest.raises(UsageError, match="the comparison is to be written there"):
        export_onnx(release, tmp_path / "x.onnx")
    (tmp_path / "x.json").unlink()
    with pytest.raises(UsageError, match="lies in a release"):
        export_onnx(release, RELEASE / "release.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"onnxscript; run: pip install 'diptych\[export\]'"):
        export_onnx(release, tmp_path / "x.onnx")
