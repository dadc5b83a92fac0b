"""Translators: generators + discriminators + a step. The union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.translators.config import Direction
from translate.translators.cut import CUTConfig
from translate.translators.cyclegan import CycleGANConfig
from translate.translators.noise import NoiseConfig
from translate.translators.pix2pix import Pix2PixConfig
from translate.translators.stacked import StackedConfig
from translate.translators.translator import Translator

TranslatorConfig = Annotated[CycleGANConfig | Pix2PixConfig | CUTConfig | NoiseConfig | StackedConfig,
                             Field(discriminator="kind")]

__all__ = ["CUTConfig", "CycleGANConfig", "Direction", "NoiseConfig", "Pix2PixConfig", "StackedConfig", "Translator",
           "TranslatorConfig"]
