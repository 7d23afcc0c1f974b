"""Models whose losses are finite and yet outside of reason: named where they count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qsweep.sweeps.datasets import data_of

TIMES = 10.0
"""How many times the loss of a uniform guess, ln(classes), a loss has to exceed to be outside of reason.

The cross-entropy of a model that knows nothing and says so is ln(classes). A trained one that is ten times as bad puts
a chance of classes⁻¹⁰ on the right answer on average: its weights have blown up. The rule looks at one model alone, so
that no other result changes what is named.
"""
LOSSES = ("train_loss", "test_loss", "val_loss", "last_train_loss", "generalization_gap")
"""The columns that it looks at; a gap is a difference of two losses."""
RULE = f"a loss beyond {TIMES:g} × ln(classes), {TIMES:g} times that of a uniform guess"


def is_outside(result: Mapping[Any, Any], settings: Mapping[Any, Any]) -> bool:
    """Whether a finite loss in these results of a job is outside of reason: of a training, whose classes are known."""
    if "data" not in settings:
        return False
    values = [result[name] for name in LOSSES if result.get(name) is not None]
    limit = TIMES * math.log(data_of(settings).classes)
    return any(math.isfinite(value) and abs(value) > limit for value in values)
