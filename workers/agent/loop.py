"""The pull loop: claim a cohort, run it, publish, again until nothing is left."""

from __future__ import annotations

import gc
import logging
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qsweep.db.budgets import TRIES
from qsweep.db.errors import RegistryUnavailable
from qsweep.db.rows import EVERYTHING, Claim, Head, Scope
from qsweep.db.states import FailureClass
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.faults import point
from qsweep.sweeps.kinds import Kind
from qsweep.sweeps.modules import Module
from qsweep.workers.agent.endings import (
    DISK_FULL,
    DeviceLost,
    LeaseGone,
    OnlyFails,
    chain_of,
    failure_class,
    is_disk_full,
    kind,
    story,
)
from qsweep.workers.agent.models import Models
from qsweep.workers.agent.node import data_folder
from qsweep.workers.agent.publishing import provenance, publish
from qsweep.workers.agent.rows import result_rows
from qsweep.workers.agent.watchdog import Watchdog
from qsweep.workers.agent.workplace import Plan, Workplace
from qsweep.workers.environment import AGENTS
from qsweep.workers.forms import Form, default_form, fills_slots, known_form
from qsweep.workers.kinds.base import Implementation, Outcome, Tools
from qsweep.workers.user_code import look_in

if TYPE_CHECKING:
    from qsweep.workers.cohort import Cohort
    from qsweep.workers.data import Collection

log = logging.getLogger(__name__)

IDLE = "QSWEEP_IDLE"
"""The variable that holds the seconds after which an agent leaves, if all that it could wait for is that others fail:
where it occupies a node that somebody else could use."""
WAIT = 1.0
"""Seconds after which an idle agent looks again for work that may come back."""


class Agent:
    """One agent on one device, that works for the jobs of `scope`."""

    def __init__(self, place: Workplace, scope: Scope = EVERYTHING) -> None:
        self.place = place
        self.scope = scope
        look_in(place.home.user_code)
        self._images: dict[DataSet, Collection] = {}
        self._tools = Tools(
            place=place,
            models=Models(place.home.models),
            images=self._data,
            on_epoch=self._close_epoch,
            on_step=self._close_step,
            fail=self._fail_one,
        )
        self._watchdog = Watchdog(self._fail_hanging, patience=place.heartbeat.patience, time_limit=place.time_limit)
        place.heartbeat.look = self._watchdog.look
        self._implementations: dict[Kind, Implementation] = {}
        self._parents: tuple[int, ...] = ()
        self._worked = time.monotonic()
        self._idle = float(os.environ.get(IDLE, "inf"))
        self._agents = int(os.environ.get(AGENTS, "1"))
        self._plans: dict[str, Plan] = {}
        self._fitting: dict[str, int] = {}
        self._failed = False

    def run(self) -> None:
        """Work until nothing is left that may be claimed, or until asked to stop.

        Raises LeaseGone, LeaseLost, or RegistryUnavailable with its jobs left to the end of the lease; OnlyFails.
        """
        queue, agent = self.place.queue, self.place.agent
        while not self.place.stop.is_set():
            # What stands on the jobs just done comes first: their models are still in memory.
            head = queue.next_cohort(agent, self.scope, parents=self._parents)
            if head is None:
                if not self._wait():
                    return
                continue
            plan = self._plan(head)
            claims = queue.claim(agent, head, plan.slots, self.scope, sharers=self._sharers(head, plan))
            point("claimed", len(claims))
            if claims:
                self._work(claims, plan)
                self._worked = time.monotonic()
                self._check_failures()

    def _check_failures(self) -> None:
        """After a job was tried without success: raises OnlyFails if no more should be tried here."""
        if not self._failed:
            return
        self._failed = False
        if reason := self.place.queue.reason_to_stop(self.place.agent):
            raise OnlyFails(reason)

    def _wait(self) -> bool:
        """Wait for work that may come back: a backoff's end, or what others run now. False if there is none."""
        remaining = self.place.queue.remaining(self.scope)
        if not remaining.running and remaining.delay is None:
            if remaining.queued:
                log.info(
                    "jobs are left that this device can't run: %s in %s",
                    self.place.hardware.name,
                    ", ".join(self.place.hardware.precisions),
                )
            return False
        if not remaining.queued and time.monotonic() - self._worked > self._idle:
            log.info("nothing to do for %.0f s but wait for others to fail: leaving", self._idle)
            return False
        self.place.check_lease()
        self.place.heartbeat.progress("")
        self.place.stop.wait(min(WAIT, remaining.delay if remaining.delay else WAIT))
        return True

    def _plan(self, head: Head) -> Plan:
        """Slots and form of the head's shape: fixed in the registry from its first use on this device.

        Only running out of memory lowers the slots: for good for the jobs that it happened to, and for this agent's
        life for every other of their shape.
        """
        shape = head.job.shape
        if head.job.kind.of_user:
            return Plan(slots=self._implementation(head.job.kind).together, form=Form.LOOP)
        if shape not in self._plans:
            hardware, of = self.place.hardware, head.job.kind
            slots, form = default_form(
                head.job.training, hardware.name, trains=of.is_calibrated, side_by_side=of.side_by_side
            )
            fixed = self.place.queue.calibration(
                shape=shape, device=hardware.name, build=hardware.build, slots=slots, form=form.value
            )
            known = known_form(fixed.slots, fixed.form, modules=isinstance(head.job.training.model, Module))
            if known is None:
                log.warning("%s: the calibration %s in %s slots is unknown: not used", shape, fixed.form, fixed.slots)
            self._plans[shape] = Plan(slots=fixed.slots if known else slots, form=known or form)
        plan = self._plans[shape]
        fitting = self._fitting.get(shape, plan.slots)
        return replace(plan, slots=min(plan.slots, head.slots_limit or plan.slots, fitting))

    def _sharers(self, head: Head, plan: Plan) -> int:
        """Among how many agents the jobs of a cohort like this are shared out."""
        return 1 if fills_slots(head.job, plan.form) else self._agents

    def _work(self, claims: Sequence[Claim], plan: Plan) -> None:
        try:
            self._run(claims, plan)
        except (LeaseGone, RegistryUnavailable):
            raise  # nothing can be said of these jobs, or not to anybody
        except Exception as error:
            self._end(claims, plan, error)

    def _end(self, claims: Sequence[Claim], plan: Plan, error: Exception) -> None:
        """Hand the jobs back in the class of this error; a full disk pauses their sweeps. Raises DeviceLost if this
        process is of no more use to others."""
        failure, queue, agent = failure_class(error), self.place.queue, self.place.agent
        log.info("%d jobs end as %s: %s", len(claims), failure, story(error))
        self._failed = failure in TRIES
        if failure is FailureClass.MEMORY:
            self._fitting[claims[0].job.shape] = max(plan.slots // 2, 1)
        held = queue.fail(agent, claims, failure, story(error), slots=plan.slots, kind=kind(error))
        self._free_memory(error)
        if is_disk_full(error):
            # Only for what was still ours: an agent that lost its lease has no say in the sweep any more.
            queue.pause_for([one for one in claims if one.job_id in held], story(error))
        if failure is FailureClass.MEMORY and _has_module(claims):
            raise DeviceLost("memory ran out in a user's module, which may hold it to the end of this process")

    def _free_memory(self, error: Exception) -> None:
        """Give the next cohort what the failed one held. Raises DeviceLost if the device is of no more use."""
        for one in chain_of(error):
            if one.__traceback__ is not None:
                traceback.clear_frames(one.__traceback__)
        gc.collect()
        if self.place.hardware.type != "cuda":
            return
        import torch

        from qsweep.workers.device import check_device

        try:
            check_device(self.place.device)
            torch.cuda.empty_cache()
        except (InputError, RuntimeError) as lost:
            raise DeviceLost(str(lost)) from error

    def _run(self, claims: Sequence[Claim], plan: Plan) -> None:
        """Run them as their kind is run, and publish what ends as it ends."""
        started, kind = time.monotonic(), claims[0].job.kind
        self._watchdog.watch(claims if _has_module(claims) else ())
        try:
            with closing(self._implementation(kind).run(claims, plan)) as outcomes:
                for outcome in outcomes:
                    self._publish(outcome, plan, (time.monotonic() - started) * len(outcome.claims) / len(claims))
        finally:
            self._watchdog.watch(())
        if kind.leaves is not None:
            self._parents = tuple(claim.job_id for claim in claims)

    def _implementation(self, kind: Kind) -> Any:
        if kind not in self._implementations:
            self._implementations[kind] = kind.implementation()(self._tools)
        return self._implementations[kind]

    def _fail_one(self, claim: Claim, failure: FailureClass, text: str, kind: str) -> None:
        """End one job of a cohort, which has a process of its own, while the others go on."""
        self._failed = self._failed or failure in TRIES
        held = self.place.queue.fail(self.place.agent, [claim], failure, text, slots=1, kind=kind)
        if held and text.startswith(DISK_FULL):
            self.place.queue.pause_for([claim], text)

    def _fail_hanging(self, claims: Sequence[Claim], failure: FailureClass, text: str, kind: str) -> None:
        """End the jobs of a cohort that hangs. Called in the heartbeat's thread."""
        self.place.queue.fail(self.place.agent, claims, failure, text, slots=len(claims), kind=kind)

    def _publish(self, outcome: Outcome, plan: Plan, seconds: float) -> None:
        """Write the files of jobs that took so long, and publish their results."""
        began, claims, write = time.monotonic(), outcome.claims, outcome.write
        files = [None if write is None or not one.keep_model else write(place) for place, one in enumerate(claims)]
        origin = provenance(self.place, claims, plan, seconds + time.monotonic() - began, steps=outcome.steps)
        rows = result_rows(outcome, origin)
        diverged = [bool(row["diverged"]) for row in rows[claims[0].job.kind.rows[0]]]
        publish(self.place, claims, rows, diverged, files, write)

    def _close_epoch(self, claims: Sequence[Claim], cohort: Cohort) -> None:
        """An epoch of these jobs has ended. May raise StoppedEarly."""

    def _close_step(self, claim: Claim, row: Mapping[str, Any]) -> None:
        """A call of the user's code has logged a step. May raise StoppedEarly."""

    def _data(self, data: DataSet) -> Collection:
        from qsweep.workers.data import find, load_staged  # here: it imports torch

        if data not in self._images:
            shared = self.place.home.data
            near = None if data.streamed else data_folder(shared, os.environ)
            found = find(data, shared, download=False) if near is None else load_staged(data, shared, near)
            self._images[data] = found
        return self._images[data]


def _has_module(claims: Sequence[Claim]) -> bool:
    """Whether they train or measure a module of a user."""
    job = claims[0].job
    return not job.kind.of_user and isinstance(job.training.model, Module)
