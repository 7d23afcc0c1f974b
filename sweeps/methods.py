"""The training methods a sweep may name. What a step of each does stands in `workers.methods`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol


class Method(Protocol):
    """What every training method has; its settings are its fields."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Plain:
    """One gradient a step, at the deployed weights."""

    name: ClassVar[str] = "plain"
    semantics: ClassVar[int] = 1
