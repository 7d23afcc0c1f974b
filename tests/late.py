"""Modules that are imported when they are first used: every process collects all tests, and few run those of one."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """Stands for the module of this name, e.g. torchvision, which brings torch's compiler along."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "pytest" in name:  # pytest looks whether it is a test or a fixture
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
