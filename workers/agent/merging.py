"""Merging of results files beside an agent's work: every fleet has agents, so every fleet's files stay few."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from qsweep.db.compaction import MergeStopped, merge_next
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.sweeps.errors import QsweepError

log = logging.getLogger(__name__)

PAUSE = 10.0
"""Seconds between two looks at whether there is something to merge, however often the agent publishes."""
LEAVING = 30.0
"""Seconds that an agent which was asked to leave waits for its merge to give up."""

Merge = Callable[[Callable[[], bool]], bool]
"""Makes one merge if it is worth it, and says whether; gives up as soon as it is told to stop."""


class Merging:
    """Merges small results files from a thread of its own, while the agent trains.

    The agent's own work never waits for it. Whatever goes wrong here loses nothing, and is tried again at a later
    publication, by this agent or another.
    """

    def __init__(self, merge: Merge, stop: threading.Event, *, pause: float = PAUSE) -> None:
        self._merge = merge
        self._stop = stop
        self._pause = pause
        self._due = threading.Event()
        self._over = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="merging", daemon=True)

    @classmethod
    def of(cls, home: Home, registry: Registry, stop: threading.Event) -> Merging:
        """Merges the results of this registry, until the agent is asked to `stop`."""
        return cls(partial(merge_next, home, registry), stop)

    def published(self) -> None:
        """The agent has published something: there may be enough to merge."""
        if not self._thread.ident:
            self._thread.start()
        self._due.set()

    def end(self, *, at_once: bool) -> None:
        """The agent leaves: what is still worth a merge is merged before, unless it is to leave `at_once`."""
        if at_once:
            self._given_up.set()
        self._over.set()
        self._due.set()
        if self._thread.ident:
            self._thread.join(LEAVING if at_once else None)

    def _work(self) -> None:
        while not self._is_stopped():
            self._due.wait()
            self._due.clear()
            over = self._over.is_set()
            self._merge_all()
            if over:
                return
            self._over.wait(self._pause)

    def _merge_all(self) -> None:
        try:
            while not self._is_stopped() and self._merge(self._is_stopped):
                log.info("results files were merged")
        except MergeStopped:
            log.info("a merge of results files was given up")
        except (QsweepError, OSError) as error:
            log.warning("results files were not merged: %s", error)
        except Exception:
            log.exception("results files were not merged")

    def _is_stopped(self) -> bool:
        return self._given_up.is_set() or self._stop.is_set()
