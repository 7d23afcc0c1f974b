"""Which code goes on with a sweep that was launched with another."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING

from qsweep.sweeps.code import check_snapshot, code_version, freeze
from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    from qsweep.db.home import Home
    from qsweep.db.rows import Sweep


class Code(StrEnum):
    """The code that a sweep was launched with, or the one that is installed now."""

    FROZEN = "frozen"
    CURRENT = "current"


def choose_code(sweep: Sweep | None, choice: Code | None) -> str:
    """The version of the code that the sweep's agents are to run.

    If the code here differs from the sweep's and no choice was made, asks on a terminal; elsewhere raises
    InputError.
    """
    current = code_version()
    if sweep is None or sweep.code == current:
        return current
    differs = f"{sweep.title} was launched with code {sweep.code}, here is {current}"
    if choice is None and not sys.stdin.isatty():
        allowed = "pass --code frozen to continue with that version, or --code current to use this one"
        raise InputError(differs, allowed=allowed)
    if choice is None:
        from rich.prompt import Prompt

        choice = Code(Prompt.ask(f"{differs}. Continue with which?", choices=list(Code), default=Code.FROZEN))
    return sweep.code if choice is Code.FROZEN else current


def keep_code(home: Home, version: str) -> None:
    """See that the home has the snapshot of this version, which agents are to run. Raises InputError if it is gone or
    no longer what its version names."""
    if version == code_version():
        freeze(home.code)
    else:
        check_snapshot(home.code, version)
