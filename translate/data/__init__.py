"""Data: layouts of image folders, and the stream of samples a training sees.

The names are looked up when they are first asked for: torch and albumentations take seconds to import, and the
processes that decode label maps (`translate.data.labels`) need neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from translate.data.layouts import (
        ComputedConfig,
        DataConfig,
        LabelsConfig,
        LayoutConfig,
        PairedConfig,
        UnpairedConfig,
    )
    from translate.data.samples import Sample, Samples
    from translate.data.stream import Batch, batches, held_out, test_pairs

__all__ = ["Batch", "ComputedConfig", "DataConfig", "LabelsConfig", "LayoutConfig", "PairedConfig",
           "Sample", "Samples", "UnpairedConfig", "batches", "held_out", "test_pairs"]

_MODULES = {"Sample": "samples", "Samples": "samples",
            "Batch": "stream", "batches": "stream", "held_out": "stream", "test_pairs": "stream"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'layouts')}"), name)
