"""Which sweep an act is meant for, and whether it is meant: what is asked before something changes."""

from __future__ import annotations

import sys

import typer

from qsweep.db.naming import AmbiguousName
from qsweep.db.registry import Registry
from qsweep.db.rows import Sweep
from qsweep.sweeps.errors import InputError


class NotMeant(InputError):
    """The user said no, or could not be asked."""


def choose_sweep(registry: Registry, name: str) -> Sweep:
    """The sweep of this name; where several variants could be meant, the one that the user names in a terminal.

    Raises InputError if there is none, or if it can't be asked which.
    """
    try:
        return registry.find_sweep(name)
    except AmbiguousName as error:
        if not is_terminal():
            raise
        for number, one in enumerate(error.variants, 1):
            typer.echo(f"{number:>3}  {one.title}", err=True)
        which: int = typer.prompt(f"{name} was launched in these variants; which one", type=int, err=True)
        if not 1 <= which <= len(error.variants):
            raise NotMeant(f"there is no {which}", allowed=f"allowed: 1 to {len(error.variants)}") from None
        chosen: Sweep = error.variants[which - 1]
        return chosen


def confirm(question: str, *, yes: bool, unasked: bool) -> None:
    """Ask in a terminal, unless `yes` was said. Where nobody can be asked, go on only if it is `unasked`.

    Raises NotMeant otherwise.
    """
    if yes:
        return
    if is_terminal():
        if not typer.confirm(question, err=True):
            raise NotMeant("nothing was changed")
    elif not unasked:
        raise NotMeant("this can't be asked here, and nothing was changed", allowed="in a script say --yes")


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
