"""Values of a command line that are what they should be already: Typer's conversion imports pydantic to say so."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any


def take_as_they_are(parameters: Iterable[Any]) -> None:
    """Let Typer convert only those values of these parameters that need it."""
    for parameter in parameters:
        if getattr(parameter, "_runtime_param", parameter) is None:  # a Typer that converts so, and has not begun to
            parameter._runtime_param = AsItIs()


class AsItIs:
    """Stands for a parameter's conversion, which is made when a value needs it."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if not several and (found := _taken(value, param.type_descriptor)) is not None:
            return found
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _taken(value: Any, wanted: Any) -> Any:
    """The value as its annotation wants it; None if that takes more than a look."""
    if isinstance(value, str) and not value.isascii():  # it may be no Unicode, which Typer refuses
        return None
    if wanted.parameter_info.parser is not None or wanted.is_ranged or wanted.is_file:
        return None
    if wanted.annotation is str and isinstance(value, str) and not wanted.is_path:
        return value
    if isinstance(wanted.annotation, type) and issubclass(wanted.annotation, Enum):
        return value if isinstance(value, wanted.annotation) else None
    if wanted.annotation is Path and isinstance(value, str | Path) and not _is_checked(value, wanted.parameter_info):
        return Path(value)
    return None


def _is_checked(path: str | Path, asked: Any) -> bool:
    """Whether Typer looks at more than that an existing path can be read."""
    more = asked.exists or asked.resolve_path or asked.writable or asked.allow_dash or asked.path_type is not None
    return more or not (asked.file_okay and asked.dir_okay) or (os.path.exists(path) and not os.access(path, os.R_OK))
