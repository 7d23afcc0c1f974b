"""The queue of a bundle: hands its jobs out to agents and takes their results, as the registry does at home."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsweep.db.budgets import PLACES, TRIES, verdict
from qsweep.db.budgets import Record as Past
from qsweep.db.errors import LeaseLost
from qsweep.db.home import Home
from qsweep.db.rows import (
    EVERYTHING,
    Accepted,
    Calibration,
    Checkpoint,
    Claim,
    Fenced,
    Finished,
    Head,
    Load,
    ParentModel,
    Remaining,
    Saved,
    Scope,
)
from qsweep.db.rules import ERROR_TAIL, KEPT, LEASE, most_together, place_in_queue, share
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import FailureClass, State
from qsweep.sweeps.wholefiles import digest_of, sync_folder, temporary_of
from qsweep.workers.bundle.ledger import Ledger, Record
from qsweep.workers.bundle.manifest import Manifest, seed
from qsweep.workers.bundle.plain import NAME

LEDGER = "ledger.jsonl"
"""What was found out; it goes home."""
CHECKPOINTS = "checkpoints.jsonl"
"""What a resume needs; it stays."""


@dataclass
class Entry:
    """One job as it stands."""

    claim: Claim
    cost: float
    past: Past
    state: State = State.QUEUED
    agent: int | None = None
    saved: list[Saved] = dataclasses.field(default_factory=list)
    """Recorded checkpoints, the newest first."""
    model: ParentModel | None = None
    """What its children take, once it is done."""
    not_before: float = 0.0

    @property
    def progress(self) -> int:
        return self.saved[0].step if self.saved else 0


class LocalQueue:
    """Where the jobs of one bundle stand. The registry's laws, kept by one process in two files.

    A job counts as the attempt that it was packed as. Agents are numbered by the runner that starts them, and a change
    passes only if the job is held by that agent. When this process dies, so does its hold on the bundle: the next
    one finds what the ledger says, and every other job waits again at its newest checkpoint.
    """

    def __init__(self, home: Home, manifest: Manifest, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._ledger = Ledger(home.root / LEDGER, seed(home.root))
        self._precisions: dict[int, tuple[str, ...]] = {}
        self._calibrations: dict[tuple[str, str, str], Calibration] = {
            (one.shape, one.device, one.build): Calibration(slots=one.slots, form=one.form)
            for one in manifest.calibrations
        }
        self.entries = {claim.job_id: _entry(claim) for claim in manifest.claims}
        self.notes: dict[int, str] = {}
        self.beats: dict[int, float] = {}
        self.paused = ""
        self._by_identity = {entry.claim.job.identity: entry for entry in self.entries.values()}
        for record in self._ledger.records:
            self._replay(record)
        self._checkpoints = self._reopen_checkpoints(manifest.token)

    # What an agent asks: the calls of `workers.agent.queue.JobQueue`

    def enlist(self, agent: int, precisions: tuple[str, ...]) -> None:
        self._precisions[agent] = precisions
        self.beat(agent)

    def beat(self, agent_id: int, note: str = "", load: Load | None = None) -> frozenset[int]:
        if agent_id not in self._precisions:
            raise LeaseLost(agent_id)
        self.notes[agent_id] = note
        self.beats[agent_id] = self._clock()
        return frozenset()

    def next_cohort(self, agent_id: int, scope: Scope = EVERYTHING, *, parents: Sequence[int] = ()) -> Head | None:
        if agent_id not in self._precisions:
            raise LeaseLost(agent_id)
        claimable = [entry for entry in self.entries.values() if self._claimable(entry, agent_id)]
        trained = {self.entries[one].claim.job.identity for one in parents}
        children = [entry for entry in claimable if entry.claim.job.parent in trained]
        first = min(children or claimable, key=_order, default=None)
        if first is None:
            return None
        job = first.claim.job
        return Head(
            job_id=first.claim.job_id,
            cohort_key=job.cohort_key,
            job=job,
            alone=first.past.alone,
            slots_limit=first.past.slots_limit,
        )

    def claim(
        self, agent_id: int, head: Head, limit: int, scope: Scope = EVERYTHING, *, sharers: int = 1
    ) -> list[Claim]:
        claimable = [entry for entry in self.entries.values() if self._claimable(entry, agent_id)]
        limit = share(limit, len(claimable), sharers)
        alike = [
            entry
            for entry in claimable
            if entry.claim.job.cohort_key == head.cohort_key
            and (entry.past.alone, entry.past.slots_limit) == (head.alone, head.slots_limit)
        ]
        most = most_together(limit, alone=head.alone, slots_limit=head.slots_limit)
        chosen = sorted(alike, key=_order)[:most]
        for entry in chosen:
            entry.state, entry.agent = State.RUNNING, agent_id
            entry.past = dataclasses.replace(entry.past, advanced=False)
        return [self._handed_out(entry) for entry in chosen]

    def remaining(self, scope: Scope = EVERYTHING) -> Remaining:
        queued = [] if self.paused else [one for one in self.entries.values() if one.state is State.QUEUED]
        delays = [entry.not_before - self._clock() for entry in queued if not self._blocked(entry)]
        return Remaining(
            queued=bool(queued),
            running=not self.paused and any(one.state is State.RUNNING for one in self.entries.values()),
            delay=min((delay for delay in delays if delay > 0), default=None),
        )

    def calibration(self, *, shape: str, device: str, build: str, slots: int, form: str) -> Calibration:
        key = (shape, device, build)
        if key not in self._calibrations:
            found = {"shape": shape, "device": device, "build": build, "slots": slots, "form": form}
            self._record({"what": "calibrated", **found})
        return self._calibrations[key]

    def resumed(self, agent_id: int, claim: Fenced, step: int) -> None:
        """Every execution here is the one attempt that the registry knows, which began at step 0."""

    def checkpointed(self, agent_id: int, checkpoints: Sequence[Checkpoint]) -> Accepted:
        passed = [one for one in checkpoints if self._holds(agent_id, one)]
        deletable: list[str] = []
        for one in passed:
            record = dataclasses.asdict(dataclasses.replace(one, curve=()))  # nobody reads curves here
            del record["curve"]
            self._checkpoints.append(record)
            deletable += self._save(one)
            self._advance(self.entries[one.job_id])
        return Accepted(jobs=frozenset(one.job_id for one in passed), deletable=tuple(deletable))

    def finish(self, agent_id: int, finished: Sequence[Finished]) -> Accepted:
        passed = [one for one in finished if self._holds(agent_id, one)]
        if not passed:
            return Accepted(jobs=frozenset())
        publication = passed[0].publication
        files = {kind: digest_of(path) for kind in ROW_KINDS if (path := self._path(kind, publication)).is_file()}
        jobs = [
            {"job": one.job_id, "model": one.model_file, "model_hash": one.model_hash, "diverged": one.diverged}
            for one in passed
        ]
        old = [saved.file for one in passed for saved in self.entries[one.job_id].saved]
        self._record({"what": "finished", "publication": publication, "files": files, "jobs": jobs, "at": time.time()})
        return Accepted(jobs=frozenset(one.job_id for one in passed), deletable=tuple(old))

    def release(self, agent_id: int, claims: Sequence[Fenced], detail: str = "") -> frozenset[int]:
        return self.fail(agent_id, claims, FailureClass.PREEMPTED, detail)

    def fail(
        self,
        agent_id: int,
        claims: Sequence[Fenced],
        failure_class: FailureClass,
        error: str,
        *,
        slots: int | None = None,
        kind: str = "",
    ) -> frozenset[int]:
        held = [one.job_id for one in claims if self._holds(agent_id, one)]
        self._end(agent_id, held, failure_class, error, slots, kind)
        return frozenset(held)

    def reason_to_stop(self, agent_id: int) -> str:
        """No agent of a bundle stops by itself: its runner alone would have to know that it must not start another."""
        return ""

    def pause_for(self, claims: Sequence[Fenced], reason: str) -> None:
        self.paused = self.paused or reason

    # What the runner says

    def began(self, facts: Mapping[str, Any]) -> None:
        """An agent set to work: where and with what goes home with the results."""
        self._record({"what": "began", **facts, "at": time.time()})

    def mark_dead(self, agent_id: int, failure_class: FailureClass, error: str, *, kind: str) -> int:
        """An agent is gone: what it held ends in this class; returns how many jobs."""
        held = [one.claim.job_id for one in self.entries.values() if one.agent == agent_id]
        self._end(agent_id, held, failure_class, error, None, kind)
        self._precisions.pop(agent_id, None)
        self.notes.pop(agent_id, None)
        self.beats.pop(agent_id, None)
        return len(held)

    def count(self, state: State) -> int:
        return sum(entry.state is state for entry in self.entries.values())

    def close(self) -> None:
        self._ledger.close()
        self._checkpoints.close()

    # The jobs

    def _claimable(self, entry: Entry, agent: int) -> bool:
        return (
            entry.state is State.QUEUED
            and not self.paused
            and not self._blocked(entry)
            and entry.not_before <= self._clock()
            and entry.claim.job.precision in self._precisions[agent]
        )

    def _blocked(self, entry: Entry) -> bool:
        """Whether it waits for a parent that came along."""
        parent = self._by_identity.get(entry.claim.job.parent or "")
        return parent is not None and parent.state is not State.DONE

    def _handed_out(self, entry: Entry) -> Claim:
        return dataclasses.replace(
            entry.claim,
            checkpoints=tuple(entry.saved),
            alone=entry.past.alone,
            slots_limit=entry.past.slots_limit,
            parent=self._parent(entry),
        )

    def _parent(self, entry: Entry) -> ParentModel | None:
        """The job above, as it was done here or, if it did not come along, where it was packed."""
        parent = self._by_identity.get(entry.claim.job.parent or "")
        return entry.claim.parent if parent is None else parent.model

    def _holds(self, agent: int, one: Fenced) -> bool:
        entry = self.entries[one.job_id]
        return entry.agent == agent and entry.state is State.RUNNING and entry.claim.attempt == one.attempt

    def _end(
        self, agent: int, held: Sequence[int], failure: FailureClass, error: str, slots: int | None, kind: str
    ) -> None:
        company = max(sum(entry.agent == agent for entry in self.entries.values()), 1)
        others = bool(self._precisions.keys() - {agent})
        for job_id in held:
            entry = self.entries[job_id]
            after = verdict(
                entry.past, failure, company=company, slots=slots or company, lease=LEASE, agent=agent,
                by=len({*entry.past.tries, agent}), needed=PLACES if others and failure in TRIES else 1,
            )  # fmt: skip
            entry.agent, entry.state = None, after.state
            entry.not_before = self._clock() + after.delay if after.delay else 0.0
            entry.past = Past(
                alone=after.alone,
                slots_limit=after.slots_limit,
                crashes=after.crashes,
                losses=after.losses,
                tried_by=after.tried_by,
                advanced=entry.past.advanced,
            )
            if after.state is State.FAILED:
                ended = {"job": job_id, "class": failure.value, "kind": kind[:NAME], "error": error[-ERROR_TAIL:]}
                self._record({"what": "failed", **ended})
            elif failure is FailureClass.MEMORY:
                self._record({"what": "halved", "job": job_id, "slots": after.slots_limit})

    def _advance(self, entry: Entry) -> None:
        entry.past = dataclasses.replace(entry.past, advanced=True, crashes=0, losses=0)

    def _save(self, one: Checkpoint) -> list[str]:
        """Notes a checkpoint; returns the files that fell out."""
        saved = self.entries[one.job_id].saved
        new = Saved(step=one.step, epoch=one.epoch, file=one.file, checksum=one.checksum)
        kept = [new, *(old for old in saved if old.file != one.file)]
        self.entries[one.job_id].saved = kept[:KEPT]
        return [old.file for old in kept[KEPT:]]

    # The files

    def _record(self, record: Record) -> None:
        self._ledger.append(record)
        self._replay(record)

    def _replay(self, record: Record) -> None:
        match record["what"]:
            case "finished":
                for one in record["jobs"]:
                    self._count(self.entries[one["job"]], one)
            case "failed":
                self.entries[record["job"]].state = State.FAILED
            case "halved":
                entry = self.entries[record["job"]]
                entry.past = dataclasses.replace(entry.past, slots_limit=record["slots"])
            case "calibrated":
                key = (record["shape"], record["device"], record["build"])
                self._calibrations.setdefault(key, Calibration(slots=record["slots"], form=record["form"]))

    def _count(self, entry: Entry, result: Mapping[str, Any]) -> None:
        entry.state, entry.agent, entry.saved = State.DONE, None, []
        entry.model = ParentModel(
            identity=entry.claim.job.identity,
            attempt=entry.claim.attempt,
            model_file=result["model"],
            model_hash=result["model_hash"],
            diverged=result["diverged"],
            kind=entry.claim.job.kind.name,
            parent=self._parent(entry),
        )

    def _reopen_checkpoints(self, token: str) -> Ledger:
        """The record of the checkpoints, written anew with what a resume still needs."""
        path = self._home.root / CHECKPOINTS
        old = Ledger(path, token)
        old.close()
        for record in old.records:
            if self.entries[record["job_id"]].state is State.QUEUED:
                self._save(Checkpoint(**record))
        temporary = temporary_of(path)
        fresh = Ledger(temporary, token)
        for job_id, entry in self.entries.items():
            for saved in reversed(entry.saved):
                fresh.append(
                    dataclasses.asdict(saved) | {"job_id": job_id, "attempt": entry.claim.attempt},
                )
        fresh.close()
        temporary.replace(path)
        sync_folder(path.parent)
        return Ledger(path, token)

    def _path(self, kind: str, publication: str) -> Path:
        return self._home.results / kind / f"{publication}.parquet"


def _entry(claim: Claim) -> Entry:
    past = Past(alone=claim.alone, slots_limit=claim.slots_limit, crashes=0, losses=0, advanced=False)
    return Entry(claim=claim, cost=claim.job.cost, past=past)


def _order(entry: Entry) -> tuple[float, str, int, int]:
    return place_in_queue(entry.cost, entry.claim.job.cohort_key, entry.progress, entry.claim.job_id)
