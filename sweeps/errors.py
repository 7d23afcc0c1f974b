"""The root error of qsweep, and the one that means bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QsweepError(Exception):
    """Anything that qsweep reports to its user in one message instead of a traceback."""

    exit_code = 1


class LostResults(UserWarning):
    """An answer goes on without results that are lost: says how many, and what to do."""


class InputError(QsweepError):
    """The user's input can't be used: says where, what, and what is allowed. Nothing was written."""

    exit_code = 2

    def __init__(self, problem: str, *, place: str | None = None, allowed: str | None = None) -> None:
        self.problem = problem
        self.place = place
        self.allowed = allowed
        text = f"{place}: {problem}" if place else problem
        super().__init__(f"{text}; {allowed}" if allowed else text)


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say about an unknown `name`: the nearest known ones, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(one) for one in close) + "?"
    return "allowed: " + ", ".join(names)
