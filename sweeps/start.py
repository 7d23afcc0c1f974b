"""What a training starts from. Weights are found and matched with a network by `workers.weights`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from qsweep.sweeps.settings import setting

NO_WEIGHTS = "none"
"""A training that starts from a fresh initialization."""
IMAGENET_WEIGHTS = "imagenet"
IMAGENET_CLASSES = 1000
WEIGHTS = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""What a file of weights may be called."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """`weights` name what the training starts from: `"imagenet"` is torchvision's IMAGENET1K_V1 of this network, any
    other name but `"none"` a file that the user gives at launch; with 0 `epochs` they are evaluated as they are.
    """

    semantics: ClassVar[int] = 1

    weights: str = setting(default=NO_WEIGHTS, added_later=True)
