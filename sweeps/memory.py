"""Sizes of memory as they are written; and what the kernel's OOM killer did, which leaves no other trace in a killed
process than its SIGKILL."""

from __future__ import annotations

import re
from pathlib import Path

from qsweep.sweeps.errors import InputError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
SIZES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def parse_memory(text: str, *, place: str) -> float:
    """Bytes from `4GB`, `512 MB`. Raises InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    unit = (match[2] + "B" if match[2] in tuple("KMGT") else match[2]) if match else ""
    if match is None or not float(match[1]):
        raise InputError(f"{text!r} is no size", place=place, allowed="for example: 4GB, 512MB")
    return float(match[1]) * SIZES[unit]


def oom_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How many processes the kernel has killed because memory ran out: of this process's control group, else of
    this machine.

    0 where the system does not count them.
    """
    for file in (*_of_group(proc, cgroups), proc / "vmstat"):
        if file.is_file() and (found := re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)):
            return int(found[1])
    return 0


def _of_group(proc: Path, cgroups: Path) -> list[Path]:
    """Where our own group's count may stand: control groups of version 2 and 1."""
    file = proc / "self" / "cgroup"
    lines = [line.split(":", 2) for line in file.read_text().splitlines()] if file.is_file() else []
    found = [cgroups / path.lstrip("/") / "memory.events" for _, kinds, path in lines if not kinds]
    found += [
        cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
        for _, kinds, path in lines
        if "memory" in kinds.split(",")
    ]
    return found
