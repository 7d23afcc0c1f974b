"""What an agent computes on, as registries and results name it. It is known without torch where nothing needs that."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from qsweep.workers.environment import GPU

DEV = Path("/dev")
DEVICES = ("nvidia*", "nvidia-caps/*", "kfd", "dri/*", "dxg", "accel/*")
"""Devices below /dev of which torch may make GPUs."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device of one agent."""

    type: str
    """`cpu` or `cuda`, as torch names it."""
    name: str
    """Its class, under which calibrations are kept: what decides its numerics."""
    build: str
    """The version of torch, whose kernels decide the numerics."""
    precisions: tuple[str, ...]
    """Those in which it trains."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def plain_processor() -> Hardware | None:
    """The processor, for work that computes nothing with torch; None where there may be a GPU, which torch has to be
    asked about."""
    may_have_gpu = sys.platform != "linux" or GPU in os.environ or any(any(DEV.glob(one)) for one in DEVICES)
    if may_have_gpu:
        return None
    return Hardware(type="cpu", name=f"cpu {platform.machine()}", build=version("torch"), precisions=("fp32",))
