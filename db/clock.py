"""The clocks of both databases: the one that leases are measured by, and the one for people to read."""

from __future__ import annotations

import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class moment(FunctionElement[float]):  # noqa: N801 - it stands for a function of SQL
    """The clock that leases are measured by, in seconds, evaluated anew at each use."""

    type = sa.Double()
    inherit_cache = True


class wall(FunctionElement[float]):  # noqa: N801
    """Unix seconds, for people to read. Nothing is decided by it."""

    type = sa.Double()
    inherit_cache = True


class boot(FunctionElement[str]):  # noqa: N801
    """Which run of that clock this is: the boot id on SQLite; always '' on Postgres, whose clock has one."""

    type = sa.String()
    inherit_cache = True


@compiles(moment, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_moment()"


@compiles(wall, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_wall()"


@compiles(boot, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_boot()"


@compiles(moment, "postgresql")
@compiles(wall, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "cast(extract(epoch from clock_timestamp()) as double precision)"


@compiles(boot, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "''"


def boot_seconds() -> float:
    """Seconds since boot, time asleep included where the system can tell. No change of the date moves it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@cache
def boot_id() -> str:
    """What tells this boot of the machine from the next one."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    if linux.exists():
        return linux.read_text().strip()
    asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
