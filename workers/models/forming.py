"""The arithmetic behind each form and precision."""

from __future__ import annotations

import math
from typing import Any

import torch

from qsweep.workers.forms import Form
from qsweep.workers.models.arithmetic import Arithmetic, Gathered
from qsweep.workers.models.chained import Chained
from qsweep.workers.models.convolved import Convolved

TENSOR_CORE = 8
"""Channels come in multiples of this many on a GPU: its matrix units take no others, or take them slowly."""

COLUMNS = 64
"""Channels of all models side by side come in multiples of this many on a processor. Its kernels (PyTorch's sum over
columns takes four vectors at once) add up what is left over in another order: a model's bits would depend on its place.
"""


def arithmetic_of(
    form: Form, precision: str, dtype: torch.dtype, device: torch.device, *, slots: int
) -> Arithmetic[Any]:
    """How a cohort with parameters of `dtype` computes. ValueError if the form has no such precision."""
    reduced = precision == "bf16"
    if form is Form.VMAP:
        raise ValueError(f"the form {form.value} is for modules alone")
    if form is Form.GATHER:
        if reduced:
            raise ValueError(f"the form {form.value} does not compute in bf16")
        return Gathered()
    kind = Chained if form.compiled else Convolved
    multiple = 1
    if device.type == "cuda":
        multiple = TENSOR_CORE
    elif form.grouped and slots > 1:
        multiple = COLUMNS // math.gcd(COLUMNS, slots)
    return kind(grouped=form.grouped, dtype=torch.bfloat16 if reduced else dtype, multiple=multiple)
