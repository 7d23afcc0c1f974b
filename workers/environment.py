"""What the environment of an agent's process holds, wherever it is started."""

from __future__ import annotations

from collections.abc import Mapping

PLACE = "QSWEEP_PLACE"
"""The variable that names the place an agent works in: `LAUNCH/…`, the same for those that are started again in it."""
AGENTS = "QSWEEP_AGENTS"
"""The variable that says how many agents a launch has for its sweep."""
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Tells glibc to keep the memory that each step frees and asks for again, instead of returning it page by page."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable in which a process finds its GPUs: indices, UUIDs, or MIG instances, up to the first that is none."""
GPU = "QSWEEP_GPU"
"""The variable that names the GPU a process was started for: without it there, it must not go on on the processor."""


def gpu_environment(index: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process on one of the GPUs that torch counts in this environment, from 0.

    Where the environment names its GPUs, as a scheduler does, the process gets that name: with `2,3` or with UUIDs
    visible, the first one is not the machine's first.
    """
    named = [one.strip() for one in environment.get(VISIBLE, "").split(",") if one.strip()]
    name = named[index] if index < len(named) else str(index)
    return {VISIBLE: name, GPU: name}
