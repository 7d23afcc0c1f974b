"""What a stage is made of: pieces, each with a target, and the place where they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_day.sheet import Sheet


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where pieces run: the device, the folder with packed data (if any) and the one for what comes out."""

    device: torch.device
    out: Path
    packed: Path | None
    data: Path | None
    """The folder with the data sets as archives, as far as they were packed."""
    deadline: float
    """In seconds of `time.time()`."""
    sheet: Sheet

    @property
    def small(self) -> bool:
        """Whether everything shrinks to what a processor can do."""
        return self.device.type != "cuda"

    def left(self) -> float:
        return self.deadline - time.time()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a piece found; `met` is None where there is no target, `whole` is false where it was cut off."""

    figure: str
    met: bool | None = None
    whole: bool = True
    data: dict[str, Any] = field(default_factory=dict)


class NotHere(Exception):
    """This machine has not what a piece needs."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row of the table: after `limit` seconds it is taken for hung."""

    name: str
    target: str
    work: Callable[[Bench], Found]
    limit: float = 120.0
    summary: bool = False
    """It takes no time: it is made anew of the stage's figures, each time that the stage comes to its end."""
