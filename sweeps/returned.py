"""What a run of the user's code may return and log: one rule for who runs it, who imports it, and who reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from qsweep.sweeps.calls import NAME, TAKEN
from qsweep.sweeps.errors import InputError

MOST_TEXT = 4096
"""Characters that a returned row has at most, as JSON."""
DEEPEST = 16
"""Lists in lists in a returned value, at most."""
LONGEST_NAME = 255
"""Characters of the name of a logged value, at most."""
STEPS = 1 << 63
"""Steps lie below, on both sides of zero: they are stored in 64 bits."""


def check_row(row: Mapping[Any, Any]) -> None:
    """Raise InputError unless it is what a run may return: plain values by name."""
    for name, value in row.items():
        if not isinstance(name, str) or NAME.fullmatch(name) is None or name in TAKEN:
            raise InputError(
                f"{name!r:.100} can't name a returned value", allowed="allowed: letters, digits and '_', a letter first"
            )
        if not _is_plain(value, DEEPEST):
            raise InputError(
                f"the returned {name} is {value!r:.100}", allowed="allowed: numbers, texts, true, false, lists of them"
            )
    if len(json.dumps(row)) > MOST_TEXT:
        raise InputError(
            f"what was returned has more than {MOST_TEXT} characters", allowed="return numbers; write the rest to files"
        )


def read_row(text: str) -> dict[str, Any]:
    """The row of a stored text that somebody else may have written. Raises ValueError if it is none."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"it has more than {MOST_TEXT} characters")
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("it is no object")
        check_row(row)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except InputError as error:
        raise ValueError(error.problem) from None
    return row


def has_diverged(row: Mapping[str, Any]) -> bool:
    """Whether a returned number is not finite."""
    return not all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def check_logged(step: int, name: str) -> None:
    """Raise InputError for a step or a name under which nothing can be stored."""
    if not -STEPS <= step < STEPS:
        raise InputError(f"{step:.3g} is no step", place="run.log", allowed="allowed: whole numbers of 64 bits")
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"{name!r:.100} can't name a logged value",
            place="run.log",
            allowed=f"allowed: a text of one line and at most {LONGEST_NAME} characters",
        )


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    if isinstance(value, str):
        return not any("\ud800" <= one <= "\udfff" for one in value)  # half of a pair is no text
    if isinstance(value, int):  # JSON's numbers have no end, those of a column do
        return abs(value) < 1 << 1023
    return value is None or isinstance(value, float)
