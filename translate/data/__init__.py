"""Data: layouts of image folders, and the stream of samples a training sees. Who calls whom:

    a split       layouts → places, pairing → samples           `DataConfig.build(split, root)` → `Samples`
    a sample      samples → images.reading, or labels           `Samples.fitted`, `Samples.tensors` → (a, b) as tensors
    from noise    conditioned → labelled_layouts                `ImagesConfig`: b is the image, a its class and vector
    a training    stream → loading (worker processes)           `batches(samples, …)` → `Batch` after `Batch`
                         → transforms, seeded by hashing        `Stream.sample(number)` → each sample of them
    adapt         labelled_layouts → labelled → places, pairing `LabelledLayout.find(split, root)` → `Labelled`
    data check    check → layouts, pairing, labels              `check(data)` → a finding for each fault

The names are looked up when they are first asked for: albumentations takes seconds to import, and the processes that
decode label maps (`translate.data.labels`) do not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from translate.data.conditioned import ImagesConfig
    from translate.data.layout import LayoutConfig
    from translate.data.layouts import ComputedConfig, DataConfig, LabelsConfig, PairedConfig, UnpairedConfig
    from translate.data.samples import Sample, Samples
    from translate.data.stream import Batch, batches, held_out, test_pairs

__all__ = ["Batch", "ComputedConfig", "DataConfig", "ImagesConfig", "LabelsConfig", "LayoutConfig", "PairedConfig",
           "Sample", "Samples", "UnpairedConfig", "batches", "held_out", "test_pairs"]

_MODULES = {"ImagesConfig": "conditioned", "LayoutConfig": "layout", "Sample": "samples", "Samples": "samples",
            "Batch": "stream", "batches": "stream", "held_out": "stream", "test_pairs": "stream"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'layouts')}"), name)
