"""Data: layouts of image folders, data set cards, and the stream of samples a training sees."""

from translate.data.cards import data_root
from translate.data.folders import ComputedConfig, DataConfig, LabelsConfig, LayoutConfig, PairedConfig, UnpairedConfig
from translate.data.images import ImageConfig
from translate.data.samples import Sample, Samples
from translate.data.stream import Batch, batches, held_out, test_pairs

__all__ = ["Batch", "ComputedConfig", "DataConfig", "ImageConfig", "LabelsConfig", "LayoutConfig", "PairedConfig",
           "Sample", "Samples", "UnpairedConfig", "batches", "data_root", "held_out", "test_pairs"]
