"""JSON that somebody else wrote: read strictly, or refused with a ValueError that says why."""

from __future__ import annotations

import json
import math
from typing import Any

LONGEST = 1 << 30
"""Bytes of one text; a million jobs take about as many."""


def read_strictly(text: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises ValueError where the text is longer than `LONGEST`, not UTF-8 or not JSON, is nested too deeply, names a key
    twice, or holds a number that is not finite or half of a surrogate pair: Python's own reader admits most of these.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} bytes, at most {LONGEST:,} are read")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} stands twice")
    return found


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:100]} is too large a number")
    return value
