"""Which code goes on with a sweep that was launched with another."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from qsweep.sweeps.code import check_snapshot, code_version, freeze
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.spec import variant
from qsweep.sweeps.user_code import PREFIX, is_reference, kept_user_code

if TYPE_CHECKING:
    from qsweep.db.home import Home
    from qsweep.db.rows import Sweep
    from qsweep.orchestrator.selection import Selection


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
    allowed = "pass --code frozen to continue with that version, or --code current to use this one"
    asked = _asked(differs, choice, allowed)
    return sweep.code if asked is Code.FROZEN else current


def _asked(differs: str, choice: Code | None, allowed: str) -> Code:
    """The choice that was made, or is made now on a terminal. Raises InputError elsewhere."""
    if choice is not None:
        return choice
    if not sys.stdin.isatty():
        raise InputError(differs, allowed=allowed)
    from rich.prompt import Prompt

    return Code(Prompt.ask(f"{differs}. Continue with which?", choices=list(Code), default=Code.FROZEN))


def choose_user_code(home: Home, selection: Selection, choice: Code | None) -> Selection:
    """The selection with the code of the user that its jobs are to run: the one that stands there now, or the kept copy
    of the one with which the same sweep was launched before.

    If it was edited since and no choice was made, asks on a terminal; elsewhere raises InputError. The jobs of edited
    code are other jobs.
    """
    launched = _launched_with(home, selection)
    if launched is None:
        return selection
    before, title = launched
    changed = [text for text, digest in selection.spec.user_code if dict(before).get(text) != digest]
    edited = sorted({text.removeprefix(PREFIX).rpartition(":")[0] if is_reference(text) else text for text in changed})
    differs = f"{', '.join(edited)} was edited since {title} was launched"
    allowed = "pass --code frozen to go on with the kept copy, or --code current: the edited code's jobs are new ones"
    if _asked(differs, choice, allowed) is Code.CURRENT:
        return selection
    for _, digest in before:
        kept_user_code(home.user_code, digest)
    spec = replace(selection.spec, user_code=before, sources=())
    jobs, chosen = tuple(spec.jobs()), {job.identity for job in selection.chosen}
    trainings = len(jobs) == len(selection.jobs)  # a tuning run has no measures
    jobs = jobs if trainings else tuple(job for job in jobs if job.parent is None)
    return replace(
        selection,
        spec=spec,
        label=variant(jobs) if selection.label == variant(selection.jobs) else selection.label,
        jobs=jobs,
        chosen=tuple(new for new, old in zip(jobs, selection.jobs, strict=True) if old.identity in chosen),
    )


def _launched_with(home: Home, selection: Selection) -> tuple[tuple[tuple[str, str], ...], str] | None:
    """The hashes of the user's code with which this sweep was launched last, and its title; None if they are the same
    as now, or it was not launched."""
    if not selection.spec.user_code:
        return None
    from qsweep.db.registry import Registry
    from qsweep.reports.demands import spec_of

    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return None
    spec = selection.spec
    with registry:
        named = [(one.title, spec_of(one)) for one in registry.catalogue.sweeps() if one.name == spec.name]
    same = [
        (one.user_code, title)
        for title, one in named
        if replace(spec, user_code=one.user_code).to_json() == one.to_json()
    ]
    if not same or any(digests == spec.user_code for digests, _ in same):
        return None
    return same[0]


def keep_code(home: Home, version: str) -> None:
    """See that the home has the snapshot of this version, which agents are to run. Raises InputError if it is gone or
    no longer what its version names."""
    if version == code_version():
        freeze(home.code)
    else:
        check_snapshot(home.code, version)
