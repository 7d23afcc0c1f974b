"""What a tuning run says while it goes on is true, and a full temporary folder is one message."""

from __future__ import annotations

import errno
import io
import math
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from qsweep.orchestrator.tuning import scratch
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.tuning import Mode, Scheduler, Search, Tuning

news = pytest.importorskip("qsweep.orchestrator.tuning.news")
TUNING = Tuning(
    metric="val_loss", mode=Mode.MIN, scheduler=Scheduler.ASHA, search=Search.GRID, samples=None, grace=1,
    reduction=3, seed=0, where=None,
)  # fmt: skip


def told(*steps: tuple[str, dict[str, Any], bool]) -> list[str]:
    """What is said of these results, each of a trial, and whether it ended with it."""
    output = io.StringIO()
    said = news.News(Console(file=output, width=200), "mine@tune", TUNING, trials=3)
    said._rhythm.is_due = lambda share: True  # every result is told
    for name, result, ends in steps:
        trial = SimpleNamespace(trial_id=name, last_result=result)
        said.on_trial_result(1, [], trial, result)
        if ends:
            said.on_trial_complete(1, [], trial)
    return output.getvalue().splitlines()


def test_no_count_is_negative_and_no_best_is_infinite() -> None:
    lines = told(
        ("a", {"val_loss": math.inf}, False),
        ("a", {"val_loss": math.inf, "whole": True}, False),
        ("b", {"val_loss": 0.5, "whole": True}, False),
        ("a", {"val_loss": math.inf, "whole": True}, True),
        ("b", {"val_loss": 0.5, "whole": True}, True),
        ("c", {"val_loss": math.nan}, True),
    )
    assert lines[0] == "mine@tune: 0/3 trials ended, 0 of them early"
    assert lines[1] == "mine@tune: 0/3 trials ended, 0 of them early"
    assert lines[2] == "mine@tune: 0/3 trials ended, 0 of them early · best val_loss so far 0.5000"
    assert lines[-1] == "mine@tune: 3/3 trials ended, 1 of them early · best val_loss so far 0.5000"
    assert not [line for line in lines if "inf" in line or "nan" in line or "-" in line.split("ended")[1]]


def test_a_trial_that_failed_was_not_ended_early() -> None:
    lines = told(("a", {"val_loss": math.inf, "problem": "job 0123 failed: crash"}, True))
    assert "job 0123 failed: crash" in lines
    assert lines[-1] == "mine@tune: 1/3 trials ended, 0 of them early"


Usage = namedtuple("Usage", "total used free")


def test_a_full_temporary_folder_is_refused_before_and_explained_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    scratch.check_scratch()
    with pytest.raises(ValueError, match="something else"), scratch.told_if_full():
        raise ValueError("something else")
    full = RuntimeError("\n".join(["a long report"] * 60))
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(QsweepError, match=r"the tuning stopped: .*TMPDIR") as stopped, scratch.told_if_full():
        raise full
    assert len(str(stopped.value).splitlines()) == 1
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: Usage(1e9, 1e9, 5e5))
    with pytest.raises(InputError, match="0 MB are free in this temporary folder"):
        scratch.check_scratch()
    with pytest.raises(QsweepError, match="the tuning stopped"), scratch.told_if_full():
        raise RuntimeError("Ray died")
