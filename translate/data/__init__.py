"""Data: layouts of image folders, data set cards, and the stream of samples a training sees.

The names are looked up when they are first asked for: torch and albumentations take seconds to import, and what
decodes files (`translate.data.decoding`, also in processes of its own) needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from translate.data.cards import data_root
    from translate.data.folders import (
        ComputedConfig,
        DataConfig,
        LabelsConfig,
        LayoutConfig,
        PairedConfig,
        UnpairedConfig,
    )
    from translate.data.images import ImageConfig
    from translate.data.samples import Sample, Samples
    from translate.data.stream import Batch, batches, held_out, test_pairs

__all__ = ["Batch", "ComputedConfig", "DataConfig", "ImageConfig", "LabelsConfig", "LayoutConfig", "PairedConfig",
           "Sample", "Samples", "UnpairedConfig", "batches", "data_root", "held_out", "test_pairs"]

_MODULES = {"data_root": "cards", "ImageConfig": "images", "Sample": "samples", "Samples": "samples",
            "Batch": "stream", "batches": "stream", "held_out": "stream", "test_pairs": "stream"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'folders')}"), name)
