"""Modules that are imported when they are first used: every process collects all tests, and few run those of one."""

from __future__ import annotations

from typing import Any

from qsweep.sweeps.lazily import Lazily


class Late(Lazily):
    """Stands for the module of this name, e.g. torchvision, which brings torch's compiler along."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or "pytest" in attribute:  # pytest looks whether it is a test or a fixture
            raise AttributeError(attribute)
        return super().__getattr__(attribute)
