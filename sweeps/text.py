"""Text that is not ours: cut to a length, and cleaned of what a terminal would obey instead of show."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # a control sequence, such as a colour
    r"|\x1b[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # a string for the terminal, such as its title or a link
    r"|\x1b[ -/]*[0-~]?"  # any other escape sequence
    r"|\x9b[0-?]*[ -/]*[@-~]"  # the first again, with its introduction as one character
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]",  # controls, and turns of direction
)
"""Escape sequences and control characters but tab and newline."""
CARRIAGE = re.compile(r"\r\n")
LONGEST = 80
"""Characters of a text that a message repeats."""


def clean(text: str) -> str:
    """The text without escape sequences and control characters; lines and tabs stay."""
    return CONTROLS.sub("", CARRIAGE.sub("\n", text))


def shortened(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning: what a message repeats of a user's input."""
    return text if len(text) <= most else text[: most - 1] + "…"


def as_json(content: Any) -> str:
    """JSON on one line. It has no NaN and no infinity: these are null. What it doesn't know is written as text."""
    return json.dumps(jsonable(content), default=str, allow_nan=False)


def rows_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `as_json` makes of these rows. Few hold a number that is not finite, so that is looked for last."""
    try:
        return json.dumps(rows, default=str, allow_nan=False)
    except ValueError:
        return as_json(rows)


def jsonable(content: Any) -> Any:
    """The content with null in the place of what is not a finite number."""
    if isinstance(content, dict):
        return {str(name): jsonable(one) for name, one in content.items()}
    if isinstance(content, list | tuple):
        return [jsonable(one) for one in content]
    return finite(content) if isinstance(content, float) else content


def finite(value: float) -> float | None:
    """The number, or None: Parquet and JSON keep a missing value, and no NaN."""
    return value if math.isfinite(value) else None
