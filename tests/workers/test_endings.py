"""Every way in which work ends without results has its class, on real errors of the libraries."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from qsweep.db.errors import RegistryFull
from qsweep.db.home import Home
from qsweep.db.states import FailureClass
from qsweep.sweeps.errors import InputError
from qsweep.workers.agent.endings import Stopped, TooLong, failure_class, is_disk_full, story
from qsweep.workers.agent.heartbeat import Heartbeat
from qsweep.workers.agent.queue import JobQueue
from qsweep.workers.agent.stopping import SIGNALS, listen
from qsweep.workers.agent.workplace import Workplace
from qsweep.workers.device import hardware_of

NOBODY = cast(JobQueue, None)
"""No registry: nothing here asks one."""


def caught(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    pytest.fail("no error")


@pytest.mark.parametrize(
    "act",
    [lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: bytearray(10**15)],
    ids=["torch", "numpy", "python"],
)
def test_no_memory_on_the_machine_is_out_of_memory(act: Callable[[], object]) -> None:
    assert failure_class(caught(act)) is FailureClass.MEMORY


def test_no_memory_on_the_device_is_out_of_memory() -> None:
    assert failure_class(torch.OutOfMemoryError("CUDA out of memory")) is FailureClass.MEMORY


def test_another_runtime_error_is_a_crash_and_keeps_its_traceback() -> None:
    error = caught(lambda: torch.zeros(2) @ torch.zeros(3))
    assert failure_class(error) is FailureClass.CRASH
    assert "Traceback" in story(error)
    assert "test_endings" in story(error)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), RegistryFull("full")])
def test_a_full_disk_hands_the_jobs_back(error: Exception) -> None:
    assert is_disk_full(error)
    assert failure_class(error) is FailureClass.PREEMPTED
    assert story(error).startswith("the disk is full: ")


def test_a_disk_that_fails_otherwise_is_a_crash() -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    assert not is_disk_full(error)
    assert failure_class(error) is FailureClass.CRASH


def test_what_we_know_is_told_in_a_sentence() -> None:
    told = {error: (failure_class(error), story(error)) for error in (Stopped(), TooLong("late"), InputError("no"))}
    assert list(told.values()) == [
        (FailureClass.PREEMPTED, ""),
        (FailureClass.TIMEOUT, "late"),
        (FailureClass.INPUT, "no"),
    ]


@pytest.mark.parametrize(
    ("number", "failure"), [(signal.SIGINT, FailureClass.INTERRUPTED), (signal.SIGTERM, FailureClass.PREEMPTED)]
)
def test_ctrl_c_is_told_from_a_preemption(number: signal.Signals, failure: FailureClass, tmp_path: Path) -> None:
    before = {one: signal.getsignal(one) for one in SIGNALS}
    try:
        stop = listen()
        signal.raise_signal(number)
        place = Workplace(
            home=Home.at(tmp_path), queue=NOBODY, hardware=hardware_of(torch.device("cpu")), agent=1, code="",
            heartbeat=Heartbeat(NOBODY, 1, lease=1, patience=1), stop=stop,
        )  # fmt: skip
        with pytest.raises(Stopped) as stopped:
            place.check_stop([])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert failure_class(stopped.value) is failure


def test_memory_that_ran_out_within_a_recording_is_out_of_memory() -> None:
    """What ends the recording then fails too, and its error is the one that arrives."""

    def record() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    assert failure_class(caught(record)) is FailureClass.MEMORY
    assert failure_class(RuntimeError("CUDA error: an illegal memory access was encountered")) is FailureClass.CRASH
