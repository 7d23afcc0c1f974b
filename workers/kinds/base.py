"""What runs a kind of job, and what it is lent."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from qsweep.db.rows import Claim
from qsweep.db.states import FailureClass
from qsweep.sweeps.datasets import DataSet
from qsweep.workers.agent.models import KeptFile, Models
from qsweep.workers.agent.workplace import Plan, Workplace

if TYPE_CHECKING:
    from qsweep.workers.cohort import Cohort
    from qsweep.workers.data import Collection

Rows: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of one job by kind of result, without what every row has: job, attempt, settings, and where it was done."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Jobs of a cohort that have ended together."""

    claims: Sequence[Claim]
    rows: Sequence[Rows]
    """Of each job. Its one row says whether it `diverged`."""
    write: Callable[[int], KeptFile] | None = None
    """Writes the file that the job of this place leaves; None if this kind leaves none."""
    steps: int | None = None
    """Optimizer steps that this attempt took for them; None where nothing was trained."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What an agent lends to all that it runs."""

    place: Workplace
    models: Models
    images: Callable[[DataSet], Collection]
    """The images of a data set, read at its first use."""
    on_epoch: Callable[[Sequence[Claim], Cohort], None]
    """Called after each epoch of a whole cohort. May raise StoppedEarly."""
    on_step: Callable[[Claim, Mapping[str, Any]], None]
    """Called with what a call of the user's code has logged of a step. May raise StoppedEarly."""
    fail: Callable[[Claim, FailureClass, str, str], None]
    """Has one job of a cohort end as failed, in this class, with this story and kind, while the others go on."""

    def progress(self, claims: Sequence[Claim]) -> Callable[[int, int], None]:
        """What jobs without checkpoints call as they get on, with how much of how much is done.

        It raises LeaseGone, Stopped or TooLong.
        """
        started = time.monotonic()

        def tick(done: int, of: int) -> None:
            self.place.report(claims, done, of)
            self.place.check_stop(claims)
            self.place.check_time(started, done, of)

        return tick


class Implementation(Protocol):
    """Runs the jobs of one kind, cohort after cohort, for one agent.

    Laws: every claim is in exactly one outcome, unless it was failed or handed back by itself, or an error ends the
    cohort; what an outcome tells is not done again. The agent has the outcome's files written (those that a sweep asks
    for) and its rows published before it goes on with the iterator, and closes it.
    """

    def __init__(self, tools: Tools) -> None: ...

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        """Run one cohort. Raises Stopped or StoppedEarly (with checkpoints written, if the kind has them), TooLong,
        LeaseGone, or what went wrong."""
        ...
