"""Which backend a command line asks for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    from qsweep.orchestrator.backends.base import Backend
    from qsweep.orchestrator.starts import Start


class BackendName(StrEnum):
    """Where agents run."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


PLACES = {
    BackendName.LOCAL: "qsweep.orchestrator.backends.local:LocalBackend",
    BackendName.SLURM: "qsweep.orchestrator.backends.slurm:SlurmBackend",
    BackendName.RAY: "qsweep.orchestrator.backends.ray:RayBackend",
}
"""Imported when they are used: each needs packages that the others do not."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a command line says about the backend. `options` are those of each backend that were given."""

    name: BackendName | None
    options: Mapping[BackendName, Mapping[str, Any]]


def backend_class(name: BackendName) -> type[Backend]:
    module, _, attribute = PLACES[name].partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found


def name_of(wish: Wish, latest: Start | None = None) -> BackendName:
    """Which backend is wished for, without importing it. Raises InputError for options of another one."""
    name = wish.name or (BackendName(latest.backend) if latest else BackendName.LOCAL)
    for other, options in wish.options.items():
        if options and other is not name:
            raise InputError(f"these are options of --backend {other}, and the backend is {name}", place=f"--{other}")
    return name


def choose(wish: Wish, starts: Sequence[Start] = ()) -> Backend:
    """The backend that is wished for; without a wish that of the latest of `starts`, with its options, else local.

    Raises InputError for options of another backend.
    """
    latest = starts[-1] if starts else None
    name = name_of(wish, latest)
    before = latest.options if latest is not None and latest.backend == name else {}
    return backend_class(name).from_options({**before, **wish.options.get(name, {})})
