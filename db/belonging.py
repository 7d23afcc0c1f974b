"""Which results a registry counts: those of one store, which both know by an identity drawn at random.

A registry may be named beside any home (`--registry`), and by default the home is that of the current folder. Without
this, its jobs would be done in one folder and their results looked for in another, and a collector of garbage would
take for abandoned what another registry counts.
"""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import IDENTITY, ResultStore
from qsweep.db.rows import StoreRow
from qsweep.db.schema import ROW_KINDS
from qsweep.db.seats import Seat
from qsweep.sweeps.errors import InputError


def check_belonging(home: Home, registry: Registry, *, results: str | None = None, writing: bool = False) -> str:
    """Raises InputError unless the home has the results that this registry counts (at the URL `results`, if that is
    where they are to lie). Changes nothing. The registry's incarnation, empty before its first launch.

    `writing`: files of the results are to be written or deleted. That is refused too where the registry was moved or
    copied since its last launch, and shares its results with where it was.
    """
    store = ResultStore(results or home.store)
    _identity(home, registry, store)
    known = registry.catalogue.store()
    if known is None or not known.lineage:
        return ""
    if writing and not _are_together(home, registry, store) and not registry.catalogue.is_at(Seat.read(known.seat)):
        raise InputError(
            f"this registry was moved or copied since its last launch, which was at {Seat.read(known.seat).shown}",
            place=f"registry {registry.url}",
            allowed="launch or resume a sweep here before anything is written or deleted",
        )
    return known.incarnation


def settle_belonging(home: Home, registry: Registry, *, results: str | None = None) -> None:
    """The same before something is written: from now on, registry and results know each other."""
    store = ResultStore(results or home.store)
    identity = _identity(home, registry, store)
    place, host = store.place, "" if "://" in store.place else socket.gethostname()
    seat, together = registry.catalogue.seat(), _are_together(home, registry, store)
    known, mark = registry.catalogue.store(), store.mark()
    if known is not None and known.lineage and seat.is_same(Seat.read(known.seat)):
        stands = mark is not None and (mark.identity, mark.incarnation) == (known.identity, known.incarnation)
        if stands and (known.place, known.host) == (place, host):
            return
    fresh = StoreRow(
        identity=identity or uuid.uuid4().hex, place=place, host=host, lineage=(uuid.uuid4().hex,), seat=seat.written()
    )
    found = registry.results.settle(fresh)
    moved = (found.place, found.host) != (place, host)
    if found.identity not in (identity, store.identity()) and (moved or identity is not None):
        raise _refusal(registry, found, store)  # another home was faster
    if not found.lineage:
        found = registry.results.reincarnate(found, fresh.lineage, seat.written())
    elif not seat.is_same(Seat.read(found.seat)):
        if not together and not moved and registry.catalogue.is_another_at(Seat.read(found.seat)):
            raise InputError(
                f"it is a copy of {Seat.read(found.seat).shown}, and both have their results in {store.place}",
                place=f"registry {registry.url}",
                allowed="copy those too and launch with --results THERE, or delete the one that it was copied from",
            )
        same = together or registry.catalogue.is_at(Seat.read(found.seat))
        lineage = found.lineage if same else (*fresh.lineage, *found.lineage)
        found = registry.results.reincarnate(found, lineage, seat.written())
    if moved:
        registry.results.moved(place, host)
    mark = store.mark()
    if mark is None or (mark.identity, mark.incarnation) != (found.identity, found.incarnation):
        store.take(found.identity, found.incarnation, seat.shown)


def _are_together(home: Home, registry: Registry, store: ResultStore) -> bool:
    """Whether the registry is copied and moved only together with its results: they are never shared."""
    return lies_in(registry, home) and store.place == str(home.results)


def _identity(home: Home, registry: Registry, store: ResultStore) -> str | None:
    """By what registry and store know each other; None if they don't yet, and may. Raises InputError."""
    known, mark = registry.catalogue.store(), store.mark()
    found = None if mark is None else mark.identity
    if known is None:
        return _unsettled(home, registry, store, found)
    if mark is not None and found == known.identity:
        # The one before the newest still stands there where a launch was killed at that moment.
        if mark.incarnation and mark.incarnation not in known.lineage[:2]:
            raise InputError(
                f"its results in {store.place} have been taken over by a copy of it"
                + (f", {mark.seat}" if mark.seat else ""),
                place=f"registry {registry.url}",
                allowed=f"go on with that one; to go on with this one as well, copy the results without their file "
                f"{IDENTITY} and launch with --results THERE",
            )
        return found
    if found is None and (lies_in(registry, home) or _is_place(known, home)):
        return known.identity  # the results are lost, or are to lie elsewhere from now on: they are not another's
    raise _refusal(registry, known, store)


def _unsettled(home: Home, registry: Registry, store: ResultStore, found: str | None) -> str | None:
    """A registry that has had no launch since it was made, or since its schema knows of stores."""
    counted = registry.catalogue.publications()
    if found is None and not counted:
        return None
    there = set[str]().union(*(store.publications(kind) for kind in ROW_KINDS))
    if counted and not counted & there and not lies_in(registry, home):
        raise InputError(
            f"none of the results that this registry counts are in {store.place}",
            place=f"registry {registry.url}",
            allowed="name the home that they belong to by --home",
        )
    if there and not counted:
        raise InputError(
            f"the results in {store.place} belong to another registry",
            place=f"registry {registry.url}",
            allowed="name theirs by --registry, or another home by --home; to begin anew, move them away",
        )
    return found


def lies_in(registry: Registry, home: Home) -> bool:
    """Whether the registry is a file of the home: then they were never apart."""
    return home.root in Path(registry.url).parents and "://" not in registry.url


def _is_place(known: StoreRow, home: Home) -> bool:
    """Whether this home had the results that the registry knows."""
    return known.place == str(home.store) and known.host in ("", socket.gethostname())


def _refusal(registry: Registry, known: StoreRow, store: ResultStore) -> InputError:
    if known.host:
        whose = f"{Path(known.place).parent} on {known.host}"
        allowed = f"name that home by --home (here: {Path(store.place).parent}), or another registry by --registry"
    else:
        whose = known.place
        allowed = f"name a home that has its results there by --home, or launch with --results {known.place}"
    problem = f"it belongs to the results of {whose}, not to {store.place}"
    return InputError(problem, place=f"registry {registry.url}", allowed=allowed)
