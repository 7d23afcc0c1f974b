"""Opening what answers come from: a sweep of a registry, or a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qsweep.db.belonging import check_belonging
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.reports.bundle import BundleSource
from qsweep.reports.source import RegistrySource, Source, warn_of_losses
from qsweep.sweeps.errors import InputError


@contextmanager
def opened_source(
    name: str | None, home: Home, bundle: Path | None = None, *, together: Sequence[str] = ()
) -> Iterator[Source]:
    """The sweep `name` of the home's registry, or the one that was exported to the folder `bundle`.

    Warns of results that are lost when it is done with. Raises InputError if there is none, if the bundle holds
    another sweep than `name`, or if the registry counts the results of another home.
    """
    if bundle is not None:
        source = BundleSource(bundle)
        if name is not None and name not in (source.sweep.name, source.title):
            raise InputError(f"this bundle holds {source.title}, not {name}", place=f"--from {bundle}")
        yield source
        warn_of_losses([source])
        return
    if name is None:
        raise InputError("name a launched sweep, or a bundle by --from DIR", place="NAME")
    with Registry.open(home.registry) as registry:
        check_belonging(home, registry)
        found = RegistrySource(home, registry, registry.catalogue.find_sweep(name), together=together)
        yield found
        warn_of_losses([found])


@contextmanager
def all_sources(home: Home, *, sweep: str | None = None, bundle: Path | None = None) -> Iterator[list[Source]]:
    """Every sweep of the registry, the one launched last first; or only `sweep`, or the one in `bundle`."""
    if bundle is not None or sweep is not None:
        with opened_source(sweep, home, bundle) as source:
            yield [source]
        return
    with Registry.open(home.registry) as registry:
        check_belonging(home, registry)
        sources = [RegistrySource(home, registry, one) for one in registry.catalogue.sweeps()]
        yield list[Source](sources)
        warn_of_losses(sources)
