"""How the modules of users are called in a training pass: what takes the place of a form's arithmetic for them."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from qsweep.workers.models.vmapped import Draw


class Calls:
    """One model after another, or all of them `stacked` by `torch.func.vmap`; in bf16 under `torch.autocast`.

    A model's random numbers depend on its seed (`recipe.seed`), the step and the pass of that step alone. The rows
    behind those of `seeds` are vacant.
    """

    def __init__(self, seeds: Sequence[int], *, stacked: bool, reduced: bool) -> None:
        self._seeds, self._reduced = tuple(seeds), reduced
        self.stacked = stacked
        self._epoch, self._step, self._pass = 0, 0, 0

    @property
    def members(self) -> int:
        """Models that are no vacant rows."""
        return len(self._seeds)

    def begin(self, epoch: int, step: int) -> None:
        """The passes that follow are those of this step of an epoch (both from 0)."""
        self._epoch, self._step, self._pass = epoch, step, 0

    def next_pass(self) -> None:
        self._pass += 1

    def seed(self, member: int, device: torch.device, *, everything: bool) -> None:
        """Seed torch's generators of the CPU and the device, and with `everything` Python's and numpy's, for one
        model's pass."""
        seed = self._seed(member)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        if everything:
            random.seed(seed)
            np.random.seed(seed % 2**32)

    def draw(self, models: int, device: torch.device) -> Draw:
        """What the models of this pass draw when they are `stacked`, one drawing after another: on a processor what
        they draw when they are called one after another. Vacant rows are ones."""
        generators = [torch.Generator(device).manual_seed(self._seed(member)) for member in range(self.members)]

        def draw(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
            found = torch.ones((models, *shape), dtype=like.dtype, device=device)
            for row, generator in zip(found, generators, strict=False):
                row.bernoulli_(probability, generator=generator)
            return found

        return draw

    def _seed(self, member: int) -> int:
        """That of a model's pass."""
        counter = f"{self._seeds[member]}/{self._epoch}/{self._step}/{self._pass}/module".encode()
        return int.from_bytes(hashlib.sha256(counter).digest()[:7], "big")

    def rounded(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision of a pass."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self._reduced else contextlib.nullcontext()
