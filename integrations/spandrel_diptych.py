"""spandrel, taught the generators of pix2pix, CycleGAN, CUT and pix2pixHD, and releases of Diptych.

    import spandrel_diptych

    spandrel_diptych.install()
    model = spandrel.ModelLoader().load_from_file("latest_net_G.pth")      # of those projects
    model = spandrel_diptych.load_release("runs/monet2photo")             # of this one

A release is loaded by its folder and not by its weights: norms and filters leave no trace in them, and what is guessed
is wrong without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import spandrel
from spandrel import Architecture, ImageModelDescriptor, ModelTiling, SizeRequirements, StateDict
from torch import Tensor, nn

import translate.runs.release as releases
from translate.errors import UsageError
from translate.interop.evidence import NotKnown, identify


def install() -> None:
    """Add the generators of those projects to the architectures that spandrel tells by weights; once is enough."""
    known = {support.architecture.id for support in spandrel.MAIN_REGISTRY.architectures()}
    spandrel.MAIN_REGISTRY.add(*(spandrel.ArchSupport.from_architecture(each) for each in (
        Imported("pix2pix-CycleGAN-CUT-ResNet", "resnet"), Imported("pix2pix-UNet", "unet"),
        Imported("pix2pixHD", "coarse_to_fine")) if each.id not in known))


def load_release(path: str | Path, direction: Literal["ab", "ba"] = "ab") -> ImageModelDescriptor[nn.Module]:
    """Return a release, or the newest weights of a run, as a model of spandrel.

    Raises the errors of `translate.load`, and `UsageError` for a model of label maps, which are no images.
    """
    release = releases.load_release(Path(path), direction)
    if release.labels is not None:
        raise UsageError("takes label maps, and spandrel's models take images", Path(path))
    architecture = Imported("Diptych", "none")
    return described(architecture, release.generator, release.image_in.channels, release.image_out.channels)


class Imported(Architecture[nn.Module]):
    """Generators of one kind (as recipes name it) in the checkpoints of other projects."""

    def __init__(self, name: str, kind: str):
        super().__init__(id=name, detect=self.is_of_this_kind)
        self.kind = kind

    def is_of_this_kind(self, state: StateDict) -> bool:
        """Return whether these are weights of such a generator, by their names and shapes alone."""
        try:
            return identify(dict(state)).config.kind == self.kind
        except NotKnown:
            return False

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[nn.Module]:
        """Return the generator with these weights."""
        found = identify(dict(state_dict))
        network = found.build(dict(state_dict)).eval().requires_grad_(False)
        return described(self, network, found.in_channels, found.out_channels)


def described(architecture: Architecture[nn.Module], network: nn.Module, in_channels: int,
              out_channels: int) -> ImageModelDescriptor[nn.Module]:
    """Return a generator as spandrel describes models: images (N, C, H, W) in [0, 1], of any size, never in tiles."""
    def call(model: nn.Module, image: Tensor) -> Tensor:
        return (model(image * 2 - 1) + 1) / 2

    return ImageModelDescriptor(
        network, dict(network.state_dict()), architecture=architecture, purpose="Restoration", tags=["image-to-image"],
        supports_half=False, supports_bfloat16=False, scale=1, input_channels=in_channels, output_channels=out_channels,
        size_requirements=SizeRequirements(), tiling=ModelTiling.INTERNAL, call_fn=call)
