"""Merging beside an agent: begun by what it publishes, ended when it leaves, and never in its way."""

from __future__ import annotations

import threading
from collections.abc import Callable

from qsweep.db.compaction import MergeStopped
from qsweep.sweeps.errors import QsweepError
from qsweep.workers.agent.merging import Merging


class Work:
    """So many merges are due; what the thread did."""

    def __init__(self, due: int) -> None:
        self.due = due
        self.began = threading.Event()
        self.made = 0

    def merge(self, stopped: Callable[[], bool]) -> bool:
        if not self.due:
            return False
        self.due -= 1
        self.made += 1
        self.began.set()
        return True


def test_what_is_due_is_merged_after_a_publication_and_before_the_agent_leaves() -> None:
    work = Work(3)
    merging = Merging(work.merge, threading.Event(), pause=1e9)
    assert work.made == 0
    merging.published()
    assert work.began.wait(60)
    merging.end(at_once=False)
    assert (work.due, work.made) == (0, 3)


def test_an_agent_that_never_published_has_no_thread() -> None:
    before = threading.active_count()
    merging = Merging(Work(1).merge, threading.Event())
    merging.end(at_once=False)
    assert threading.active_count() == before


def test_an_agent_that_is_told_to_leave_waits_for_no_merge() -> None:
    began, stop = threading.Event(), threading.Event()

    def merge(stopped: Callable[[], bool]) -> bool:
        began.set()
        while not stopped():
            stop.wait(0.01)
        raise MergeStopped("ended")

    for at_once in (True, False):  # by its caller, or by the signal that the agent got
        began.clear()
        stop.clear()
        merging = Merging(merge, stop)
        merging.published()
        assert began.wait(60)
        if not at_once:
            stop.set()
        merging.end(at_once=at_once)
        assert not merging._thread.is_alive()


def test_a_merge_that_fails_is_tried_again_and_harms_nobody() -> None:
    errors: list[Exception] = [QsweepError("away"), OSError("full"), RuntimeError("a fault of ours")]
    tried = threading.Semaphore(0)

    def merge(stopped: Callable[[], bool]) -> bool:
        tried.release()
        if errors:
            raise errors.pop()
        return False

    merging = Merging(merge, threading.Event(), pause=0.0)
    for _ in range(4):
        merging.published()
        assert tried.acquire(timeout=60)
    merging.end(at_once=False)
    assert not errors
