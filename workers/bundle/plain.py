"""Plain files of a bundle, and the values that stand in them: taken for what they should be, or refused."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Set
from pathlib import Path
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.strict_json import LONGEST

NAME = 255
"""Characters of a name (a host, a device, a build) at most."""
DIGEST = re.compile(r"[0-9a-f]{64}")
WHOLE = 2**53
"""Whole numbers stay below."""


def read_plain(path: Path, most: int = LONGEST) -> bytes:
    """The content of a plain file of a bundle. Raises InputError, also for a link or a device, or more than `most`
    bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise InputError("this is no plain file, or too large", place=str(path), allowed=f"{most:,} bytes")
            return file.read(most)
    except FileNotFoundError:
        raise InputError(
            "a file that the bundle counts is not here", place=str(path), allowed="copy the bundle again"
        ) from None
    except OSError as error:
        raise InputError(f"this file can't be read: {error.strerror}", place=str(path)) from None


def as_object(value: Any, keys: Set[str]) -> dict[str, Any]:
    """A JSON object of exactly these keys. This and the following raise ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    if value.keys() != keys:
        raise ValueError(f"it has the keys {sorted(value)}, not {sorted(keys)}"[:500])
    return value


def as_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list")
    return value


def as_text(value: Any, what: str, most: int = NAME) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError(f"{what} is not a text of one line and at most {most} characters")
    return value


def as_match(value: Any, what: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{what} is not of the form {pattern.pattern}")
    return value


def as_whole(value: Any, what: str, low: int = 0, high: int = WHOLE) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what} is no whole number from {low} to {high}")
    return value


def as_number(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # of a whole number beyond every float
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} is not a number")
    return number


def as_flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is neither true nor false")
    return value
