"""Every way to play the game: a small translator with each objective, penalty and stabiliser."""

from __future__ import annotations

from typing import Any

from translate.schema import validate
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

GAMES: dict[str, dict[str, Any]] = {  # every way to play the game, each under every plan
    "hinge": {"objective": {"kind": "hinge"}},
    "wasserstein": {"objective": {"kind": "wasserstein"}},
    "relativistic": {"objective": {"kind": "relativistic"}},
    "wgan-gp": {"objective": {"kind": "wasserstein", "clip": None}, "penalty": {"kind": "wgan_gp"}},
    "r1": {"objective": {"kind": "nonsaturating"}, "penalty": {"kind": "r1", "every": 16}},
    "r2 of hinge": {"objective": {"kind": "hinge"}, "penalty": {"kind": "r2"}},
    "r1 and r2": {"objective": {"kind": "relativistic"}, "penalty": {"kind": "r1_r2"}},
    "orthogonal": {"penalty": {"kind": "orthogonal", "weight": 0.1}},
    "orthogonal generator": {"orthogonal": 0.1, "generator": {"spectral": True}},
    "noise": {"noise": {"sigma": 0.3, "images": 100}, "penalty": {"kind": "r1"}},
    "augmented": {"augment": ["color", "translation", "cutout"], "penalty": {"kind": "r1"}},
    "began": {"objective": {"kind": "began", "rate": 0.1}, "discriminator": {"kind": "autoencoder", "downs": 2}},
    "dropout": {"objective": {"kind": "hinge"}, "discriminator": {"dropout": 0.3}, "penalty": {"kind": "wgan_gp"}},
    "spectral": {"objective": {"kind": "hinge"}, "discriminator": {"spectral": True}, "penalty": {"kind": "r1"}},
    "minibatch std": {"discriminator": {"minibatch_std": True}, "penalty": {"kind": "r1"}},
    "three sizes": {"discriminator": {"scales": 3, "layers": 1}, "penalty": {"kind": "wgan_gp"}},
    "two sizes, flipped": {"discriminator": {"scales": 2}, "objective": {"kind": "nonsaturating", "flips": 0.4}},
    "two sizes, relativistic": {"discriminator": {"scales": 2}, "objective": {"kind": "relativistic"}},
    "spectral generator": {"generator": {"spectral": True, "attention": True, "upsample": "bilinear"}},
    "perceptual": {"perceptual": {"kind": "mobilenet"}},
    "registered": {"registration": {"width": 4, "smoothness": 5.0}},
    "minibatch kernels": {"discriminator": {"minibatch_kernels": 3}, "penalty": {"kind": "r1"}},
    "smoothed, flipped": {"objective": {"kind": "vanilla", "smoothing": 0.1, "flips": 0.4}},
}
KINDS = {"cyclegan": CycleGANConfig, "pix2pix": Pix2PixConfig, "cut": CUTConfig}


def kinds_of(name: str) -> list[str]:
    """The translators that can play the game `name`."""
    return [kind for kind, config in KINDS.items() if GAMES[name].keys() <= config.model_fields.keys()]


def game(name: str, kind: str) -> Any:
    """A small translator that plays the game `name`."""
    changes = dict(GAMES[name])
    asked, generator = changes.pop("discriminator", {}), changes.pop("generator", {})
    judge = {"width": 4} | ({} if "kind" in asked else {"kind": "patchgan", "layers": 2}) | asked
    small = {"generator": {"kind": "resnet", "width": 4, "blocks": 1} | generator, "discriminator": judge}
    small |= {"cyclegan": {"pool": 0, "cycle_noise": 0.1 if name == "noise" else 0.0},
              "pix2pix": {"weights": {"features": 3.0, "ssim": 2.0}},
              "cut": {"patches": 30, "flip_equivariance": True}}[kind]
    return validate(KINDS[kind], small | changes, name)
