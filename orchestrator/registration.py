"""A selection in the registry: whether it was launched before, and how it comes in."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable

from qsweep.db.belonging import check_belonging, settle_belonging
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Sweep
from qsweep.orchestrator.layout import say
from qsweep.orchestrator.selection import Selection
from qsweep.orchestrator.store import name_store
from qsweep.reports.demands import spec_of
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.grid import identities_of
from qsweep.sweeps.spec import variant
from qsweep.sweeps.user_code import keep_user_code
from qsweep.sweeps.words import counted

TELLING = 25_000
"""Jobs of which a launch says that they are registered, each time as many more are: that takes seconds."""


def register(
    home: Home,
    selection: Selection,
    known: Sweep | None,
    *,
    code: str,
    paused: str | None = None,
    results: str | None = None,
) -> tuple[Registry, Sweep, str]:
    """Write the sweep and its jobs into the registry, made if there is none; what was added, in words.

    `known` is the sweep as it was found before. With a reason to be `paused`, no agent claims the jobs by itself.
    `results`: the URL that they are to have. Raises InputError, with no job registered, if the registry counts the
    results of another home, or if another launch has made something else of the sweep meanwhile.
    """
    owner = _user()
    if home.registry != Home.at(home.root).registry:
        Registry.open(home.registry, create=True).close()  # if it can't be made, nothing else is
    home.prepare()
    for source in selection.spec.sources:
        keep_user_code(home.user_code, source)
    registry = Registry.open(home.registry, create=True)
    try:
        settle_belonging(home, registry, results=results)
        name_store(home, results)
        sweep = _add(registry, selection, owner, code, known)
    except BaseException:
        registry.close()
        raise
    if paused is not None:
        registry.sweeps.pause(sweep.id, paused)
    added = registry.sweeps.register(sweep.id, selection.chosen, told=_progress(len(selection.chosen)))
    words = f"{counted(len(selection.chosen), 'job')}: {added.new} new, {added.known} known"
    return registry, sweep, words + (f", {added.shared} shared with other sweeps" if added.shared else "")


def _progress(whole: int) -> Callable[[int], None]:
    """Says how many of that many jobs are registered, once for each TELLING of them."""
    said = 0

    def told(count: int) -> None:
        nonlocal said
        if count // TELLING > said:
            said = count // TELLING
            say(f"{count:,} of {whole:,} jobs registered", err=True)

    return told


def launch_again(
    home: Home, selection: Selection, known: Sweep, *, results: str | None = None
) -> tuple[Registry, Sweep, str] | None:
    """What `register` answers where every chosen job is done already and nothing about the sweep changes: only the time
    of its launch does. None, with nothing done, where there is more to write down."""
    asked = (selection.spec.to_json(), len(selection.jobs), selection.spec.keep)
    if (known.spec, known.size, known.keep) != asked:
        return None
    registry = Registry.open(home.registry)
    try:
        settle_belonging(home, registry, results=results)
        sweep = registry.launches.again(known, written=selection.written)
    except BaseException:
        registry.close()
        raise
    if sweep is None:
        registry.close()
        return None
    name_store(home, results)
    count = len(selection.chosen)
    return registry, sweep, f"{counted(count, 'job')}: 0 new, {count} known"


def _add(registry: Registry, selection: Selection, owner: str, code: str, known: Sweep | None) -> Sweep:
    return registry.sweeps.add(
        name=selection.spec.name,
        label=selection.label,
        spec=selection.spec.to_json(),
        size=len(selection.jobs),
        owner=owner,
        code=code,
        keep=selection.spec.keep,
        written=selection.written,
        seen_code="" if known is None else known.code,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in many containers
        return str(os.getuid())


def find_launched(home: Home, selection: Selection, *, results: str | None = None) -> tuple[Sweep | None, bool]:
    """The selection's sweep if it was launched before, and whether every chosen job is done. Changes nothing.

    Raises InputError if the registry counts other results than those of this home (at the URL `results`, if named).
    """
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return None, False
    with registry:
        check_belonging(home, registry, results=results)
        sweep = next((one for one in registry.catalogue.sweeps() if one.title == selection.title), None)
        if sweep is None:
            return None, False
        if variant(spec_of(sweep).jobs()) != variant(selection.jobs):
            raise InputError(
                f"{sweep.title} names another variant already", place="--name", allowed="choose another name"
            )
        done = registry.catalogue.done(sweep.id)
    return sweep, done.issuperset(identities_of(selection.chosen))
