"""What goes wrong between a process and the registry."""

from __future__ import annotations

from qsweep.sweeps.errors import InputError, QsweepError


class LeaseLost(QsweepError):
    """Another process took this agent's lease back: its jobs run elsewhere. Stop, and discard their work."""

    def __init__(self, agent_id: int) -> None:
        super().__init__(f"agent {agent_id} lost its lease: its jobs were handed to others, its work is discarded")


class RegistryUnavailable(QsweepError):
    """The registry did not answer for as long as we were willing to wait."""


class RegistryUnreachable(InputError, RegistryUnavailable):
    """The registry did not answer when it was opened: its URL may be wrong, or its server away for now."""


class RegistryRefused(RegistryUnavailable):
    """The registry answered with an error that waiting does not mend: missing rights, damaged data, another schema.

    For its callers the registry is out of reach: nothing can be said of the jobs, and nothing is held against
    them.
    """

    def __init__(self, message: str, *, database_error: str) -> None:
        super().__init__(message)
        self.database_error = database_error
        """The message without the registry's place."""


class RegistryFull(QsweepError):
    """The disk that holds the registry is full; nothing was written."""


class NoRegistry(InputError):
    """Nothing was registered here yet."""

    def __init__(self, place: str) -> None:
        super().__init__("there is no registry here", place=place, allowed="`qsweep launch` makes one")
