"""How an agent's process ends, for its supervisor, which imports no torch."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of an agent. Any other means that it crashed."""

    LEFT = 0
    """It handed back whatever it held."""
    BAD_INPUT = 2
    """It could not begin: its home, its registry or its data can't be used."""
    LEASE_GONE = 3
    """Its jobs had been given to others."""
    REGISTRY_GONE = 4
    """The registry did not answer, or had no room to write: its jobs wait for the end of the lease."""
    DEVICE_LOST = 6
    """Its GPU answers no more. After an error in a kernel a new process can go on; without a GPU it does not begin."""
    ONLY_FAILED = 5
    """All that it tried failed, while others succeed (`db.weakness`): it is not started again in its place."""
