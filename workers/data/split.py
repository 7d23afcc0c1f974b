"""The validation split: images of the training set that a model is evaluated on and never trained on."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from qsweep.sweeps.recipe import Recipe


def hold_out(labels: Tensor, recipe: Recipe) -> Tensor:
    """Which of the training images (labels int64 (N)) are held out for validation: bool (N).

    round(`val_fraction` · N) of them, shared out over the classes in proportion to their images (what is left
    over goes to the classes with the largest remainders), and drawn within each class by `data_seed` alone: the
    same for every model of a sweep, whatever it trains.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    wanted = round(recipe.val_fraction * len(labels))
    members = [torch.nonzero(labels == label).flatten() for label in sorted(set(labels.tolist()))]
    for images, share in zip(members, _shares([len(one) for one in members], wanted), strict=True):
        generator = torch.Generator().manual_seed(_seed(recipe.data_seed, int(labels[images[0]])))
        chosen[images[torch.randperm(len(images), generator=generator)[:share]]] = True
    return chosen


def _shares(counts: list[int], wanted: int) -> list[int]:
    """`wanted` shared out in proportion to `counts`, by the largest remainders; the first class wins a tie."""
    total = sum(counts)
    shares = [wanted * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda place: (-(wanted * counts[place] % total), place))
    for place in by_remainder[: wanted - sum(shares)]:
        shares[place] += 1
    return shares


def _seed(data_seed: int, label: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{data_seed}/validation/{label}".encode()).digest()[:7], "big")
