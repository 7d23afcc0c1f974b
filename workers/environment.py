"""What the environment of an agent's process holds, wherever it is started."""

from __future__ import annotations

PLACE = "QSWEEP_PLACE"
"""The variable that names the place an agent works in: `LAUNCH/…`, the same for those that are started again in it."""
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Tells glibc to keep the memory that each step frees and asks for again, instead of returning it page by page."""
