"""The root error of qsweep, the one that means bad input, and how errors travel between processes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


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


PROBLEM = "problem"
"""The key under which an answer of a child process holds an error."""


def packed(error: QsweepError) -> dict[str, Any]:
    """An error as JSON, which a child process answers with instead of its result. `raise_packed` is its inverse."""
    if isinstance(error, InputError):
        return {PROBLEM: {"problem": error.problem, "place": error.place, "allowed": error.allowed}}
    return {PROBLEM: str(error)}


def raise_packed(answer: Mapping[str, Any]) -> None:
    """Raise the error that a child process answered with, if it did: bad input with its place and what is allowed."""
    problem = answer.get(PROBLEM)
    if isinstance(problem, Mapping):
        raise InputError(problem["problem"], place=problem["place"], allowed=problem["allowed"])
    if problem:
        raise QsweepError(str(problem))


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say about an unknown `name`: the nearest known ones, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(one) for one in close) + "?"
    return "allowed: " + ", ".join(names)
