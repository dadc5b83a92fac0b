"""A ComfyUI node that translates images as `translate convert` does: whole, in exact strips where memory is short.

Copy this folder to ComfyUI/custom_nodes/diptych, in an environment where `pip install diptych` was called.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, cast

import torch
from torch import Tensor

import translate
from translate.convert.python_api import Model

SOME = 2  # models that stay loaded


@functools.lru_cache(SOME)
def loaded(model: str, direction: Literal["ab", "ba"], memory: str) -> Model:
    return translate.load(model, direction, memory=memory or None)


class DiptychTranslate:
    """Translates a batch of images by a model of Diptych. No tiles, no seams."""

    CATEGORY = "image/diptych"
    DESCRIPTION = __doc__
    FUNCTION = "translate"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("translated",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        return {"required": {
            "image": ("IMAGE",),
            "model": ("STRING", {"default": "hf:org/name", "tooltip": "a run, a release, or hf:org/name"}),
            "direction": (["ab", "ba"],),
            "memory": ("STRING", {"default": "", "tooltip": "limit for one image, such as 2GB: the same output in "
                                                            "exact strips; empty: no limit"})}}

    def translate(self, image: Tensor, model: str, direction: str, memory: str) -> tuple[Tensor]:
        """Translate (N, H, W, C) in [0, 1] to (N, H, W, C') in [0, 1]; grey comes out as RGB, which all nodes take."""
        network = loaded(model, cast(Literal["ab", "ba"], direction), memory)
        wanted = network.image_in.channels
        pixels = image[..., :3].movedim(-1, 1).to(torch.float32)
        pixels = pixels.mean(1, keepdim=True) if wanted == 1 else pixels
        made = (network.convert(pixels * 2 - 1) + 1) / 2
        return (made.expand(-1, max(3, made.shape[1]), -1, -1).movedim(1, -1).contiguous(),)


NODE_CLASS_MAPPINGS = {"DiptychTranslate": DiptychTranslate}
NODE_DISPLAY_NAME_MAPPINGS = {"DiptychTranslate": "Translate (Diptych)"}
