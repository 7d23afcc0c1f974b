"""The data sets, under their names in `sweeps.datasets`."""

from __future__ import annotations

import torch

from qsweep.sweeps.recipe import Recipe
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.folders import ImageFiles
from qsweep.workers.data.images import Collection, Images, find, load
from qsweep.workers.data.source import Part, Source
from qsweep.workers.data.staging import load_staged
from qsweep.workers.data.stream import Stream

__all__ = ["Collection", "ImageFiles", "Images", "Part", "Source", "find", "load", "load_staged", "source_of"]


def source_of(collection: Collection, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> Source:
    """The images of a training, from the memory or from their files."""
    if isinstance(collection, ImageFiles):
        return Stream(collection, recipe, device, dtype)
    return Batches(collection, recipe, device, dtype)
