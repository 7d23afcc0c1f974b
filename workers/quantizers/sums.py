"""Sums over one model's numbers, in which neither its neighbours nor its place in memory has a part."""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE = 4
"""Numbers that a GPU's sum reads at once, from an address that is a multiple of as many."""


def sum_of(values: Tensor) -> Tensor:
    """The sum of one model's numbers."""
    return _placed(values).sum()


def row_sums(rows: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The sum of each row (M, N), one row a model: (M).

    A GPU shares a sum out among its threads by the number of rows, and that depends on the neighbours: there each row
    is summed by itself.
    """
    if not rows.is_cuda:
        return torch.sum(rows, -1, out=out)
    sums = rows.new_empty(len(rows)) if out is None else out
    for row, place in zip(rows, sums, strict=True):
        torch.sum(_placed(row), -1, out=place)
    return sums


def _placed(values: Tensor) -> Tensor:
    """The same numbers from an address on at which a GPU reads `AT_ONCE`: those before the first such address it adds
    in another order, so that the bits would depend on the model's place."""
    return values.clone() if values.is_cuda and values.storage_offset() % AT_ONCE else values
