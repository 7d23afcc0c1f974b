"""What a job may do."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a job does. `train` makes a model; every other kind takes the model of its parent.

    `measure` searches for its flatness, `corrupt` judges it by corrupted images.
    """

    TRAIN = "train"
    MEASURE = "measure"
    CORRUPT = "corrupt"
