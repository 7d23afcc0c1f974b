"""Values of a command line that are what they should be already: Typer's conversion imports pydantic to say so."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

MOST_DIGITS = 19
"""Of an integer that is read here; of more digits Typer may have something to say."""


def take_as_they_are(parameters: Iterable[Any]) -> None:
    """Let Typer convert only those values of these parameters that need it."""
    for parameter in parameters:
        if hasattr(parameter, "get_runtime_param"):  # a Typer that converts by pydantic
            parameter.get_runtime_param = AsItIs(parameter)


class AsItIs:
    """Stands for a parameter's conversion, which is made when a value needs it."""

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter

    def __call__(self) -> AsItIs:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        taken = _all_taken(value, param.type_descriptor) if several else _taken(value, param.type_descriptor)
        if taken is not None:
            return taken
        conversion = type(self._parameter).get_runtime_param(self._parameter)
        return conversion.coerce(value, param=param, ctx=ctx)


def _all_taken(values: Any, wanted: Any) -> list[str] | None:
    """A list of texts as it is; None if it takes more than a look."""
    plain = wanted.annotation == list[str] and wanted.parameter_info.parser is None and not isinstance(values, str)
    return list(values) if plain and all(isinstance(one, str) and one.isascii() for one in values) else None


def _taken(value: Any, wanted: Any) -> Any:
    """The value as its annotation wants it; None if that takes more than a look."""
    if isinstance(value, str) and not value.isascii():  # it may be no Unicode, which Typer refuses
        return None
    if wanted.parameter_info.parser is not None or wanted.is_file:
        return None
    if wanted.annotation in (int, float):
        return _number(value, wanted)
    if wanted.annotation is str and isinstance(value, str) and not wanted.is_path:
        return value
    if isinstance(wanted.annotation, type) and issubclass(wanted.annotation, Enum):
        return value if isinstance(value, wanted.annotation) else None
    if wanted.annotation is Path and isinstance(value, str | Path) and not _is_checked(value, wanted.parameter_info):
        return Path(value)
    return None


def _number(value: Any, wanted: Any) -> int | float | None:
    """A number that is one already, or an integer written in digits alone, within its bounds."""
    if wanted.annotation is int and isinstance(value, str) and value.isdigit() and len(value) < MOST_DIGITS:
        value = int(value)
    if type(value) is not wanted.annotation:
        return None
    low, high = wanted.parameter_info.min, wanted.parameter_info.max
    within = (low is None or value >= low) and (high is None or value <= high)
    found: int | float | None = value if within else None
    return found


def _is_checked(path: str | Path, asked: Any) -> bool:
    """Whether Typer looks at more than that an existing path can be read."""
    more = asked.exists or asked.resolve_path or asked.writable or asked.allow_dash or asked.path_type is not None
    return more or not (asked.file_okay and asked.dir_okay) or (os.path.exists(path) and not os.access(path, os.R_OK))
