"""The pieces that other programs load: a node of ComfyUI, and architectures of spandrel, which is really there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import spandrel
import torch
from PIL import Image

import translate
from tests.conftest import waves
from translate.convert import convert
from translate.interop.exporting import export_pth
from translate.runs.release import load_release

RELEASE = Path(__file__).parent / "data" / "run-b2bf1ce" / "release"
INTEGRATIONS = Path(__file__).parent.parent / "integrations"


def loaded(name: str) -> ModuleType:
    """An integration, loaded from its file as its host does."""
    found = importlib.util.spec_from_file_location(name, INTEGRATIONS / f"{name}.py" if name != "comfyui" else
                                                   INTEGRATIONS / "comfyui" / "__init__.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """(N, 3, H, W) in [0, 1], as 8 bits hold them."""
    return torch.stack([torch.from_numpy(waves(seed, (37, 50))).movedim(-1, 0) for seed in range(2)]).float() / 255


def psnr(made: torch.Tensor, expected: torch.Tensor) -> float:
    error = float((made.double() - expected.double()).square().mean())
    return float("inf") if error == 0 else -10 * np.log10(error)


def test_the_node_gives_what_convert_writes(images: torch.Tensor, tmp_path: Path) -> None:
    """As ComfyUI calls it: a batch (N, H, W, C) in [0, 1] goes in, and one comes out. In strips as well."""
    node = loaded("comfyui").NODE_CLASS_MAPPINGS["DiptychTranslate"]()
    Image.fromarray((images[1].movedim(0, -1) * 255).round().byte().numpy()).save(tmp_path / "x.png")
    for direction in ("ab", "ba"):
        for memory in ("", "1GB"):
            out = tmp_path / f"{direction}{memory}"
            convert(tmp_path / "x.png", out, load_release(RELEASE, direction), memory=memory or None)
            (made,) = node.translate(images.movedim(1, -1), str(RELEASE), direction, memory)
            assert made.shape == (2, 37, 50, 3) and made.dtype == torch.float32 and 0 <= made.min() <= made.max() <= 1
            np.testing.assert_array_equal((made[1] * 255).round().byte().numpy(), Image.open(out / "x.png"))


def test_the_node_declares_itself_as_comfyui_asks() -> None:
    """https://docs.comfy.org/custom-nodes/backend/server_overview: inputs by group, a tuple of outputs, a method."""
    module = loaded("comfyui")
    for name, node in module.NODE_CLASS_MAPPINGS.items():
        assert module.NODE_DISPLAY_NAME_MAPPINGS[name]
        inputs = node.INPUT_TYPES()["required"]
        assert inputs["image"] == ("IMAGE",) and all(isinstance(each, tuple) for each in inputs.values())
        assert node.RETURN_TYPES == ("IMAGE",) and len(node.RETURN_NAMES) == 1 and node.CATEGORY
        code = getattr(node, node.FUNCTION).__code__
        assert code.co_varnames[1:code.co_argcount] == tuple(inputs), "it is called with these names"


def test_spandrel_loads_a_release_and_gives_our_output(images: torch.Tensor) -> None:
    module = loaded("spandrel_diptych")
    for direction in ("ab", "ba"):
        model = module.load_release(RELEASE, direction)
        ours = translate.load(RELEASE, direction, device="cpu", precision="fp32")
        assert model.tiling is spandrel.ModelTiling.INTERNAL and model.scale == 1
        assert (model.input_channels, model.output_channels) == (3, 3)
        with torch.inference_mode():
            assert psnr(model(images[:1]), (ours.convert(images[:1] * 2 - 1) + 1) / 2) >= 120


def test_spandrel_tells_a_checkpoint_of_another_project(images: torch.Tensor, tmp_path: Path) -> None:
    """By its weights alone; what it tells already stays as it is, also when it is taught twice."""
    module = loaded("spandrel_diptych")
    export_pth(RELEASE, tmp_path / "latest_net_G.pth")
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "latest_net_G.pth")
    module.install()
    module.install()
    model = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "latest_net_G.pth")
    assert model.architecture.id == "pix2pix-CycleGAN-CUT-ResNet"
    assert isinstance(model, spandrel.ImageModelDescriptor) and model.tiling is spandrel.ModelTiling.INTERNAL
    ours = translate.load(RELEASE, device="cpu", precision="fp32")
    with torch.inference_mode():
        assert psnr(model(images[:1]), (ours.convert(images[:1] * 2 - 1) + 1) / 2) >= 120
