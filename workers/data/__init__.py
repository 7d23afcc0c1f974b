"""The data sets, under their names in `sweeps.datasets`."""

from __future__ import annotations

import torch

from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.targets import Fkd, Hard, Targets
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.folders import ImageFiles
from qsweep.workers.data.images import Collection, Images, find, load
from qsweep.workers.data.soft_labels import SoftLabels, find_soft_labels
from qsweep.workers.data.source import Part, Source
from qsweep.workers.data.staging import load_staged
from qsweep.workers.data.stream import Stream

__all__ = [
    "Collection",
    "ImageFiles",
    "Images",
    "Part",
    "Source",
    "find",
    "load",
    "load_staged",
    "soft_labels_of",
    "source_of",
]

HARD = Hard()


def source_of(
    collection: Collection, recipe: Recipe, device: torch.device, dtype: torch.dtype, targets: Targets = HARD
) -> Source:
    """The images of a training, from the memory or from their files, and with FKD's targets their soft labels. Raises
    InputError if these are not there."""
    if isinstance(collection, ImageFiles):
        soft = soft_labels_of(collection, targets) if isinstance(targets, Fkd) else None
        return Stream(collection, recipe, device, dtype, soft)
    return Batches(collection, recipe, device, dtype)


def soft_labels_of(files: ImageFiles, targets: Fkd) -> SoftLabels:
    """The soft labels of a data set, which lie beside its images. Raises InputError if they are not there."""
    return find_soft_labels(files.train.root.parent, targets.soft_labels, files.train, files.data.classes)
