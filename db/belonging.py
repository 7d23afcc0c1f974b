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
from qsweep.db.results import ResultStore
from qsweep.db.rows import StoreRow
from qsweep.db.schema import ROW_KINDS
from qsweep.sweeps.errors import InputError


def check_belonging(home: Home, registry: Registry, *, results: str | None = None) -> None:
    """Raises InputError unless the home has the results that this registry counts (at the URL `results`, if that is
    where they are to lie). Changes nothing."""
    _identity(home, registry, ResultStore(results or home.store))


def settle_belonging(home: Home, registry: Registry, *, results: str | None = None) -> None:
    """The same before something is written: from now on, registry and results know each other."""
    store = ResultStore(results or home.store)
    identity = _identity(home, registry, store)
    place, host = store.place, "" if "://" in store.place else socket.gethostname()
    if registry.catalogue.store() == StoreRow(identity=store.identity() or "", place=place, host=host):
        return
    found = registry.results.settle(StoreRow(identity=identity or uuid.uuid4().hex, place=place, host=host))
    moved = (found.place, found.host) != (place, host)
    if found.identity not in (identity, store.identity()) and (moved or identity is not None):
        raise _refusal(registry, found, store)  # another home was faster
    if moved:
        registry.results.moved(place, host)
    if store.identity() is None:
        store.take(found.identity)


def _identity(home: Home, registry: Registry, store: ResultStore) -> str | None:
    """By what registry and store know each other; None if they don't yet, and may. Raises InputError."""
    known, found = registry.catalogue.store(), store.identity()
    if known is None:
        return _unsettled(home, registry, store, found)
    if found == known.identity:
        return found
    if found is None and (_lies_in(registry, home) or _is_place(known, home)):
        return known.identity  # the results are lost, or are to lie elsewhere from now on: they are not another's
    raise _refusal(registry, known, store)


def _unsettled(home: Home, registry: Registry, store: ResultStore, found: str | None) -> str | None:
    """A registry that has had no launch since it was made, or since its schema knows of stores."""
    counted = registry.catalogue.publications()
    if found is None and not counted:
        return None
    there = set[str]().union(*(store.publications(kind) for kind in ROW_KINDS))
    if counted and not counted & there and not _lies_in(registry, home):
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


def _lies_in(registry: Registry, home: Home) -> bool:
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
