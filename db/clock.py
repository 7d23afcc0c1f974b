"""The clocks of both databases: the one that leases are measured by, and the one for people to read."""

from __future__ import annotations

import os
import subprocess
import time
from functools import cache
from pathlib import Path

IN_SQL = {
    "sqlite": {"moment": "qsweep_moment()", "wall": "qsweep_wall()", "boot": "qsweep_boot()"},
    "postgresql": {
        "moment": "cast(extract(epoch from clock_timestamp()) as double precision)",
        "wall": "cast(extract(epoch from clock_timestamp()) as double precision)",
        "boot": "''",
    },
}
"""How each database reads the clocks: `moment`, by which leases are measured; `wall`, in Unix seconds, for people; and
`boot`, which run of `moment` this is."""


def boot_seconds() -> float:
    """Seconds since boot, time asleep included where the system can tell. No change of the date moves it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def process_started(pid: int) -> float:
    """When this process started, on a clock that no change of the date moves. Raises psutil.NoSuchProcess.

    On Linux from the kernel's count since boot: psutil's own answer is the date of the boot, as it seems now,
    plus that count, so it moves when the wall clock is set, and a live agent would look like another process.
    """
    import psutil  # here: what only looks at living agents of other machines does without

    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return float(psutil.Process(pid).create_time())
    try:
        after_name = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


@cache
def boot_id() -> str:
    """What tells this boot of the machine from the next one."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    if linux.exists():
        return linux.read_text().strip()
    asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


@cache
def machine_id() -> str:
    """What tells the processes that can be seen from here from all others: this boot and this pid namespace.

    Two containers may share a hostname and a boot id, and yet a pid of the one means nothing in the other. Without
    /proc (macOS) there are no such namespaces, and the boot alone tells.
    """
    try:
        return f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return boot_id()
