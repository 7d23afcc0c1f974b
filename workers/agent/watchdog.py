"""Ends an agent whose cohort hangs in a module of the user: no exception ever comes of that."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from qsweep.db.rows import Claim
from qsweep.db.states import FailureClass
from qsweep.workers.user_code import is_copied

log = logging.getLogger(__name__)

HANGS = "Hang"
"""The kind of a crash of several jobs, one of which hangs."""


class Watchdog:
    """Looks, from the heartbeat's thread, whether a cohort that calls the user's code still takes steps.

    After `patience` seconds without one (or the time limit of an attempt) its jobs fail: one alone as out of time, of
    several each as crashed, so that they are tried one by one. Then the process ends: its main thread never comes back.
    """

    def __init__(
        self,
        fail: Callable[[Sequence[Claim], FailureClass, str, str], None],
        *,
        patience: float,
        time_limit: float = math.inf,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._fail, self._leave = fail, leave
        self._patience = min(patience, time_limit)
        self._claims: Sequence[Claim] = ()
        self._began = math.inf
        self._main = threading.main_thread().ident

    def watch(self, claims: Sequence[Claim]) -> None:
        """These are worked on from now on; none, if there are none."""
        self._began, self._claims = time.monotonic(), claims

    def look(self, progressed: float) -> None:
        """The last step ended at `progressed` (`time.monotonic()`); what hangs is ended."""
        claims, silent = self._claims, time.monotonic() - max(progressed, self._began)
        if not claims or silent <= self._patience:
            return
        text = f"no step ended for {silent:.0f} s; it hangs here:\n{self._stack()}"
        log.error("%d jobs hang: %s", len(claims), text)
        try:
            if len(claims) == 1:
                self._fail(claims, FailureClass.TIMEOUT, text, "")
            else:
                self._fail(claims, FailureClass.CRASH, text, HANGS)
        finally:  # else nobody ever gets these jobs: the main thread can't see that the lease is gone
            self._leave(1)

    def _stack(self) -> str:
        """Where the main thread is: from the user's code on, if that is on its stack."""
        frame: FrameType | None = sys._current_frames().get(self._main or 0)
        if frame is None:
            return ""
        frames = traceback.extract_stack(frame)
        own = [place for place, one in enumerate(frames) if is_copied(one.filename)]
        return "".join(traceback.format_list(frames[own[0] :] if own else frames))
