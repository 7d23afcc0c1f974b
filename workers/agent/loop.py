"""The pull loop: claim a cohort, run it, publish, again until nothing is left."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from db.home import Home
from db.results import ResultStore
from db.rows import Checkpoint, Claim, Finished, Head
from db.states import FailureClass
from sweeps.datasets import DataSet
from sweeps.errors import InputError
from sweeps.faults import point
from sweeps.job import Kind
from workers import checkpoints
from workers.agent.heart import Heart
from workers.agent.measuring import measure_claims
from workers.agent.models import Models
from workers.agent.node import data_folder
from workers.agent.queue import JobQueue
from workers.agent.rows import Provenance, measure_rows, result_rows
from workers.cohort import Cohort
from workers.data import Images, load, load_staged
from workers.device import build, device_class, precisions
from workers.forms import Form, default_form

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints of a cohort, at least."""
CHECKPOINT_SHARE = 0.02
"""Share of the time that may go into checkpoints."""
CHECKPOINT_STEPS = int(os.environ.get("QSWEEP_CHECKPOINT_STEPS", "0"))
"""If set, a checkpoint after every so many steps instead: for tests that count what was lost."""
IDLE = float(os.environ.get("QSWEEP_IDLE", "inf"))
"""Seconds after which an agent leaves, if all that it could wait for is that others fail: where it occupies a node
that somebody else could use."""
WAIT = 1.0
"""Seconds after which an idle agent looks again for work that may come back."""


class Stopped(Exception):
    """The agent was asked to stop: its jobs go back."""


class TooLong(Exception):
    """The jobs run for longer than their time limit."""


class LeaseGone(Exception):
    """The agent's jobs belong to somebody else now: whatever it has is discarded."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How cohorts of one key are run on this device."""

    slots: int
    form: Form


class Agent:
    """One agent on one device."""

    def __init__(
        self,
        home: Home,
        registry: JobQueue,
        device: torch.device,
        *,
        agent: int,
        code: str,
        heart: Heart,
        stop: threading.Event,
        sweep: int | None = None,
        time_limit: float = math.inf,
    ) -> None:
        self.home = home
        self.registry = registry
        self.results = ResultStore(home.results)
        self.device = device
        self.agent = agent
        self.code = code
        self.heart = heart
        self.stop = stop
        self.sweep = sweep
        self._models = Models(home.models)
        self._trained: tuple[int, ...] = ()
        self.time_limit = time_limit
        self._images: dict[str, Images] = {}
        self._worked = time.monotonic()
        self._plans: dict[str, Plan] = {}

    def run(self) -> None:
        """Work until nothing is left that may be claimed, or until asked to stop. Raises LeaseGone."""
        while not self.stop.is_set():
            # Measures of what was just trained come first: the models are still in memory.
            head = self.registry.next_cohort(self.agent, self.sweep, parents=self._trained)
            if head is None:
                if not self._wait():
                    return
                continue
            plan = self._plan(head)
            claims = self.registry.claim(self.agent, head, plan.slots, self.sweep)
            point("claimed", len(claims))
            if claims:
                self._work(claims, plan)
                self._worked = time.monotonic()

    def _wait(self) -> bool:
        """Wait for work that may come back: a backoff's end, or what others run now. False if there is none."""
        remaining = self.registry.remaining(self.sweep)
        if not remaining.running and remaining.delay is None:
            if remaining.queued:
                log.info(
                    "jobs are left that this device can't run: %s in %s",
                    device_class(self.device),
                    ", ".join(precisions(self.device)),
                )
            return False
        if not remaining.queued and time.monotonic() - self._worked > IDLE:
            log.info("nothing to do for %.0f s but wait for others to fail: leaving", IDLE)
            return False
        self.heart.progress("")
        self.stop.wait(min(WAIT, remaining.delay if remaining.delay else WAIT))
        return True

    def _plan(self, head: Head) -> Plan:
        """Slots and form of the head's shape: fixed in the registry from its first use on this device.

        Only running out of memory lowers the slots.
        """
        shape = head.job.shape
        if shape not in self._plans:
            device = device_class(self.device)
            slots, form = default_form(head.job.training, device)
            fixed = self.registry.calibration(shape=shape, device=device, build=build(), slots=slots, form=form.value)
            self._plans[shape] = Plan(slots=fixed.slots, form=Form(fixed.form))
        plan = self._plans[shape]
        return replace(plan, slots=min(plan.slots, head.slots_limit or plan.slots))

    def _work(self, claims: Sequence[Claim], plan: Plan) -> None:
        try:
            if claims[0].job.kind is Kind.MEASURE:
                self._measure(claims, plan)
            else:
                self._train(claims, plan)
        except Stopped:
            log.info("handing %d jobs back", len(claims))
            self._hand_back(claims)
        except LeaseGone:
            raise
        except TooLong as error:
            self.registry.fail(self.agent, claims, FailureClass.TIMEOUT, str(error))
        except InputError as error:
            self.registry.fail(self.agent, claims, FailureClass.INPUT, str(error))
        except torch.OutOfMemoryError:
            error_text = traceback.format_exc()
            self.registry.fail(self.agent, claims, FailureClass.MEMORY, error_text, slots=plan.slots)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.error("the disk is full: %s", error)
            # Only what was still ours: an agent that lost its lease has no say in the sweep any more.
            held = self.registry.release(self.agent, claims, "the disk is full")
            self.registry.pause_for([one for one in claims if one.job_id in held], f"the disk is full: {error}")
        except Exception:
            log.exception("a cohort of %d jobs failed", len(claims))
            self.registry.fail(self.agent, claims, FailureClass.CRASH, traceback.format_exc())

    def _hand_back(self, claims: Sequence[Claim]) -> None:
        self.registry.release(self.agent, claims)

    def _train(self, claims: Sequence[Claim], plan: Plan) -> None:
        started = time.monotonic()
        cohort = self._cohort(claims, plan)
        first, pace = cohort.position, Pace()
        log.info("%s: %d jobs from step %d of %d", claims[0].job.cohort_key, len(claims), first, cohort.steps)
        while not cohort.finished:
            cohort.step()
            point("step", cohort.active)
            self._report(claims, cohort)
            if cohort.between_epochs:
                self._close_epoch(claims, cohort)
            if self.stop.is_set() or self._unwanted(claims):
                self._save(claims, cohort)
                raise Stopped
            if time.monotonic() - started > self.time_limit:
                raise TooLong(f"not done after {self.time_limit:g} s, at step {cohort.position} of {cohort.steps}")
            if pace.due(cohort.position):
                with pace:
                    self._save(claims, cohort)
        results = cohort.results()
        kept = self._models.keep(claims, results)
        provenance = self._provenance(claims, plan, time.monotonic() - started, steps=cohort.steps - first)
        diverged = [bool(result.run["diverged"]) for result in results]
        self._publish(claims, result_rows(claims, results, provenance), diverged, kept)
        self._trained = tuple(claim.job_id for claim in claims)

    def _close_epoch(self, claims: Sequence[Claim], cohort: Cohort) -> None:
        """An epoch of the whole cohort has ended."""

    def _measure(self, claims: Sequence[Claim], plan: Plan) -> None:
        started, key = time.monotonic(), claims[0].job.cohort_key
        log.info("%s: %d jobs", key, len(claims))

        def tick(done: int, of: int) -> None:
            self._beat({"cohort": key, "jobs": len(claims), "step": done, "steps": of})
            if self.stop.is_set() or self._unwanted(claims):
                raise Stopped

        images = self._data(claims[0].job.training.data)
        measured = measure_claims(claims, self._models, images, self.device, tick)
        provenance = self._provenance(claims, plan, time.monotonic() - started, steps=None)
        diverged = [bool(row["diverged"]) for row in measured]
        self._publish(claims, measure_rows(claims, measured, provenance), diverged, [None] * len(claims))

    def _cohort(self, claims: Sequence[Claim], plan: Plan) -> Cohort:
        cohort = Cohort(
            [claim.job.training for claim in claims],
            self._data(claims[0].job.training.data),
            slots=plan.slots,
            form=plan.form,
            device=self.device,
            tick=self.heart.touch,
        )
        for member, claim in enumerate(claims):
            self._restore(cohort, member, claim)
        return cohort

    def _data(self, data: DataSet) -> Images:
        if data.name not in self._images:
            near = data_folder(self.home.data, os.environ)
            self._images[data.name] = (
                load(data, self.home.data, download=False) if near is None else load_staged(data, self.home.data, near)
            )
        return self._images[data.name]

    def _restore(self, cohort: Cohort, member: int, claim: Claim) -> None:
        """Go on from the newest checkpoint that can be read."""
        for age, checkpoint in enumerate(claim.checkpoints):
            path = self.home.checkpoints / checkpoint.file
            try:
                state = checkpoints.load(path, checkpoint.checksum)
            except checkpoints.DamagedFile as error:
                log.warning("%s", error)
                continue
            cohort.restore(member, state)
            if age:
                self.registry.resumed(self.agent, claim, checkpoint.step)
            return
        if claim.checkpoints:
            self.registry.resumed(self.agent, claim, 0)

    def _report(self, claims: Sequence[Claim], cohort: Cohort) -> None:
        key = claims[0].job.cohort_key
        self._beat({"cohort": key, "jobs": len(claims), "step": cohort.position, "steps": cohort.steps})

    def _beat(self, note: dict[str, object]) -> None:
        if self.heart.lost.is_set():
            raise LeaseGone
        self.heart.progress(json.dumps(note))

    def _unwanted(self, claims: Sequence[Claim]) -> bool:
        """Whether no sweep wants any of these jobs any more. One that is still wanted carries the others on."""
        return self.heart.unwanted.issuperset(claim.job_id for claim in claims)

    def _save(self, claims: Sequence[Claim], cohort: Cohort) -> None:
        """Write a checkpoint of every member, then record them in one transaction."""
        records = []
        for member, claim in enumerate(claims):
            step = cohort.position_of(member)
            file = f"{claim.job.identity}/{claim.attempt}-{step}.pt"
            checksum = checkpoints.save(self.home.checkpoints / file, cohort.state(member))
            records.append(
                Checkpoint(
                    job_id=claim.job_id,
                    attempt=claim.attempt,
                    step=step,
                    epoch=step // claim.job.training.steps_per_epoch,
                    file=file,
                    checksum=checksum,
                )
            )
        deletable = self.registry.checkpointed(self.agent, records).deletable
        point("checkpoint.recorded", len(records))
        for file in deletable:
            (self.home.checkpoints / file).unlink(missing_ok=True)

    def _provenance(self, claims: Sequence[Claim], plan: Plan, seconds: float, *, steps: int | None) -> Provenance:
        return Provenance(
            code=self.code,
            torch=build(),
            device=device_class(self.device),
            slots=plan.slots,
            form=plan.form.value,
            seconds=seconds / len(claims),
            steps_per_second=None if steps is None else steps * len(claims) / seconds,
            finished_at=datetime.now(UTC),
        )

    def _publish(
        self,
        claims: Sequence[Claim],
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        diverged: Sequence[bool],
        kept: Sequence[tuple[str, str] | None],
    ) -> None:
        """Rows on disk first (the models are), then the pointers to both in one fenced transaction."""
        publication = f"{self.agent:06d}-{uuid.uuid4().hex[:12]}"
        finished = [
            Finished(
                job_id=claim.job_id,
                attempt=claim.attempt,
                publication=publication,
                model_file=model[0] if model else None,
                model_hash=model[1] if model else None,
                diverged=lost,
            )
            for claim, lost, model in zip(claims, diverged, kept, strict=True)
        ]
        for kind, some in rows.items():
            self.results.write(kind, publication, some)
        if self.heart.lost.is_set():
            raise LeaseGone
        accepted = self.registry.finish(self.agent, finished)
        point("finished", len(accepted.jobs))
        log.info("%d of %d results counted", len(accepted.jobs), len(claims))
        for done in accepted.deletable:
            (self.home.checkpoints / done).unlink(missing_ok=True)


class Pace:
    """When the next checkpoint is due: often enough to lose little, rarely enough to cost little."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._interval = CHECKPOINT_EVERY

    def due(self, step: int) -> bool:
        if CHECKPOINT_STEPS:
            return step % CHECKPOINT_STEPS == 0
        return time.monotonic() - self._last >= self._interval

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *error: object) -> None:
        now = time.monotonic()
        self._interval = max(CHECKPOINT_EVERY, (now - self._last) / CHECKPOINT_SHARE)
        self._last = now
