"""TOML that a user wrote: read with or without a byte order mark, and bounded before anything looks into it."""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.text import shortened

DEEPEST = 16
"""Levels of tables and lists. Checks, messages and JSON go down by recursion."""
BITS = 8192
"""Bits of a whole number. One in hexadecimal may have more digits than Python prints in a message."""
MARK = "\ufeff"


def read_user_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises OSError, also for a pipe or a device, which would
    never end, or ValueError for other bytes."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "this is not a file")
    return path.read_text(encoding="utf-8").removeprefix(MARK)


def read_toml(path: Path, place: str) -> dict[str, Any]:
    """The content of a TOML file. Raises InputError, FileNotFoundError."""
    try:
        text = read_user_text(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"this file can't be read: {error}", place=place, allowed="allowed: TOML in UTF-8") from None
    return parse_toml(text, place)


def parse_toml(text: str, place: str) -> dict[str, Any]:
    """The content of a TOML text. Raises InputError if it is none, or too deep to look at."""
    try:
        content = tomllib.loads(text.removeprefix(MARK))
    except RecursionError:
        raise _too_deep(place) from None
    except ValueError as error:
        raise InputError(f"this is not TOML: {shortened(str(error), 200)}", place=place) from None
    for level, value in _values(content):
        if level > DEEPEST:
            raise _too_deep(place)
        if isinstance(value, int) and value.bit_length() > BITS:
            raise InputError("a whole number is too large", place=place)
    return content


def _values(content: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Every value with its level, without recursion."""
    left: list[tuple[int, Any]] = [(0, content)]
    while left:
        level, value = left.pop()
        yield level, value
        if isinstance(value, dict | list):
            left += [(level + 1, one) for one in (value.values() if isinstance(value, dict) else value)]


def _too_deep(place: str) -> InputError:
    return InputError("this is nested too deeply", place=place, allowed=f"allowed: {DEEPEST} levels")
