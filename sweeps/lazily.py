"""A module that is imported when something in it is used for the first time."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazily:
    """Stands for the module of this name. Beside it, under TYPE_CHECKING, stands the import that it defers."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
