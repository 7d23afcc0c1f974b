"""Thousands of random calls on a registry, each compared with a model of it that is written here anew, without SQL."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qsweep.db.audit import job_problems
from qsweep.db.budgets import TRIES_IN_ALL
from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint, Claim, Finished, JobRow
from qsweep.db.states import FailureClass, State, SweepState
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from tests.db.conftest import agent_info, trained

QUEUED, RUNNING, DONE, FAILED, CANCELLED = State.QUEUED, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED


@dataclass
class Expected:
    """A job as it has to stand."""

    job: Job
    state: State = QUEUED
    attempt: int = 0
    agent: int | None = None
    progress: int = 0
    slots_limit: int | None = None
    publication: str | None = None
    blocked: bool = False
    advanced: bool = False
    tried_by: list[int] = field(default_factory=list)
    """The agents that found it too long or its input bad."""


@dataclass
class Model:
    """The registry's rules for jobs, sweeps and agents, in plain Python."""

    jobs: dict[str, Expected] = field(default_factory=dict)
    """By identity, in the order of registration."""
    members: dict[str, set[str]] = field(default_factory=dict)
    """The identities that each sweep holds."""
    sweeps: dict[str, SweepState] = field(default_factory=dict)

    def holders(self, identity: str) -> set[SweepState]:
        return {self.sweeps[name] for name, held in self.members.items() if identity in held}

    def wanted(self, identity: str) -> bool:
        return SweepState.ACTIVE in self.holders(identity)

    def children(self, identity: str) -> Iterator[Expected]:
        return (one for one in self.jobs.values() if one.job.parent == identity)

    def of(self, name: str, state: State) -> list[Expected]:
        return [one for key, one in self.jobs.items() if key in self.members[name] and one.state is state]

    def register(self, name: str, jobs: list[Job]) -> None:
        for job in jobs:
            parent = self.jobs.get(job.parent or "")
            known = job.identity in self.jobs
            expected = self.jobs.setdefault(job.identity, Expected(job=job))
            self.members[name].add(job.identity)
            if not known:
                expected.blocked = parent is not None and parent.state is not DONE
            if expected.state is CANCELLED and self.wanted(job.identity):
                expected.state = QUEUED

    def cancel(self, name: str) -> None:
        if self.members[name] and not self.of(name, QUEUED) and not self.of(name, RUNNING):
            return  # it is over
        self.sweeps[name] = SweepState.CANCELLED
        for one in self.of(name, QUEUED):
            if self.holders(one.job.identity) == {SweepState.CANCELLED}:
                one.state = CANCELLED

    def reactivate(self, name: str) -> None:
        self.sweeps[name] = SweepState.ACTIVE
        for one in self.of(name, CANCELLED):
            one.state = QUEUED

    def retry(self, name: str, state: State) -> None:
        found = self.of(name, state)
        for one in found:
            one.state, one.slots_limit, one.tried_by = QUEUED, None, []
        if found and self.sweeps[name] is SweepState.CANCELLED:
            self.sweeps[name] = SweepState.ACTIVE

    def invalidate(self, identities: list[str]) -> None:
        level = [one for one in map(self.jobs.__getitem__, identities) if one.state is DONE]
        blocked = False
        while level:
            for one in level:
                one.state = CANCELLED if one.state is CANCELLED else QUEUED
                one.agent, one.progress, one.slots_limit, one.publication = None, 0, None, None
                one.blocked, one.tried_by = blocked, []
            level = [child for one in level for child in self.children(one.job.identity)]
            blocked = True

    def start(self, one: Expected, agent: int) -> None:
        one.state, one.agent, one.attempt, one.advanced = RUNNING, agent, one.attempt + 1, False

    def next_claim(self, limit: int) -> list[Expected]:
        """What an agent has to be given: the first job in order, and those that may run beside it."""
        order = {identity: number for number, identity in enumerate(self.jobs)}
        free = [one for key, one in self.jobs.items() if one.state is QUEUED and not one.blocked and self.wanted(key)]
        free.sort(key=lambda one: (-one.job.cost, one.job.cohort_key, -one.progress, order[one.job.identity]))
        alike = [one for one in free if _company(one) == _company(free[0])]
        return alike[: min(limit, alike[0].slots_limit or limit)] if alike else []

    def end(self, one: Expected, target: State) -> None:
        """A running job ends without a result: a job that no sweep wants any more is not queued again."""
        if target is QUEUED and self.holders(one.job.identity) <= {SweepState.CANCELLED}:
            target = CANCELLED
        elif target is CANCELLED and self.wanted(one.job.identity):
            target = QUEUED
        one.state, one.agent = target, None

    def finish(self, one: Expected, publication: str) -> None:
        one.state, one.publication = DONE, publication
        for child in self.children(one.job.identity):
            child.blocked = False


def _company(one: Expected) -> tuple[str, int | None]:
    return one.job.cohort_key, one.slots_limit


class Play:
    """Random calls, made on the registry and on the model."""

    def __init__(self, registry: Registry, seed: int) -> None:
        self.registry, self.model, self.dice = registry, Model(), random.Random(seed)
        self.sweeps: dict[str, int] = {}
        self.agents: list[int] = []
        self.bundles: list[int] = []
        self.holders: set[int] = set()
        """Every bundle that there was."""
        self.claims: dict[int, list[Claim]] = {}
        """What each agent was ever given, to be tried again when it no longer holds."""
        self.ids: dict[str, int] = {}
        self.steps = 0
        parents = [*trained(5), *trained(4, depth=2), *trained(3, width=4)]
        children = [
            Job(training=one.training, kind=FLATNESS, parent=one.identity, measure=PacBayes()) for one in parents
        ]
        self.pool = [parents, children]
        for name in ("one", "two", "three"):
            self.sweeps[name] = registry.sweeps.add(name=name, label="a", spec="{}", size=0).id
            self.model.sweeps[name], self.model.members[name] = SweepState.ACTIVE, set()

    def go(self) -> None:
        """One call. What is frequent keeps jobs moving; what is rare sends many of them back."""
        self.steps += 1
        often: list[Callable[[], None]] = [self.claim, self.claim, self.finish, self.finish, self.fail, self.save]
        seldom = [self.register, self.enlist, self.end_agent, self.trial, self.stop, self.pack, self.recall]
        rarely = [self.pause, self.cancel, self.reactivate, self.retry, self.invalidate, self.stale]
        self.dice.choice([*often, *often, *seldom, *rarely])()

    def _sweep(self) -> str:
        return self.dice.choice(list(self.sweeps))

    def _agent(self) -> int | None:
        return self.dice.choice(self.agents) if self.agents else None

    def _job(self) -> Expected | None:
        return self.dice.choice(list(self.model.jobs.values())) if self.model.jobs else None

    def _running(self) -> tuple[int, Claim] | None:
        found = [
            (agent, claim) for agent, claims in self.claims.items() for claim in claims if self._holds(agent, claim)
        ]
        return self.dice.choice(found) if found else None

    def _holds(self, agent: int, claim: Claim) -> bool:
        one = self.model.jobs[claim.job.identity]
        return (one.state, one.agent, one.attempt) == (RUNNING, agent, claim.attempt)

    def register(self) -> None:
        name, (parents, children) = self._sweep(), self.pool
        chosen = self.dice.sample(range(len(parents)), 4)
        jobs = [parents[one] for one in chosen] + [children[one] for one in chosen if one % 2]
        self.registry.sweeps.register(self.sweeps[name], jobs)
        self.model.register(name, jobs)
        self.ids |= {row.identity: row.id for row in self.registry.catalogue.jobs(self.sweeps[name])}

    def enlist(self) -> None:
        if len(self.agents) < 4:
            self.agents.append(self.registry.agents.enlist(agent_info(lease=1e6)))

    def claim(self) -> None:
        agent, limit = self._agent(), self.dice.randint(1, 4)
        if agent is None:
            return
        wanted = self.model.next_claim(limit)
        head = self.registry.queue.next_cohort(agent)
        claims = [] if head is None else self.registry.queue.claim(agent, head, limit)
        assert [one.job.identity for one in claims] == [one.job.identity for one in wanted]
        for one in wanted:
            self.model.start(one, agent)
        self._keep(agent, claims)

    def _keep(self, agent: int, claims: list[Claim]) -> None:
        for claim in claims:
            assert claim.attempt == self.model.jobs[claim.job.identity].attempt
        self.claims.setdefault(agent, []).extend(claims)

    def finish(self) -> None:
        if found := self._running():
            agent, claim = found
            publication = f"p{self.steps}"
            done = Finished(job_id=claim.job_id, attempt=claim.attempt, publication=publication, model_file="m")
            assert self.registry.queue.finish(agent, [done]).jobs == {claim.job_id}
            self.model.finish(self.model.jobs[claim.job.identity], publication)

    def fail(self) -> None:
        ends = {
            FailureClass.TIMEOUT: FAILED, FailureClass.INPUT: FAILED, FailureClass.PREEMPTED: QUEUED,
            FailureClass.INTERRUPTED: QUEUED, FailureClass.STOPPED: CANCELLED,
        }  # fmt: skip
        if found := self._running():
            agent, claim = found
            failure = self.dice.choice(list(ends))
            kind = f"kind {self.steps}"  # no two alike: nothing is paused
            assert self.registry.queue.fail(agent, [claim], failure, "why", kind=kind) == {claim.job_id}
            one, target = self.model.jobs[claim.job.identity], ends[failure]
            if target is FAILED:
                one.tried_by.append(agent)
                target = FAILED if self._is_certain(one, agent) else QUEUED
            elif one.advanced:
                one.tried_by = []
            self.model.end(one, target)

    def _is_certain(self, one: Expected, agent: int) -> bool:
        """Whether nobody else has to find the same: all agents are on one machine, each bundle is on its own."""

        def machine(of: int) -> int:
            return of if of in self.holders else 0

        at_work = {machine(agent), *map(machine, self.agents)}
        return len({machine(each) for each in one.tried_by}) >= len(at_work) or len(one.tried_by) >= TRIES_IN_ALL

    def save(self) -> None:
        if found := self._running():
            agent, claim = found
            one = self.model.jobs[claim.job.identity]
            step = one.progress + self.dice.randint(1, 9)
            saved = Checkpoint(
                job_id=claim.job_id, attempt=claim.attempt, step=step, epoch=1, file=f"{self.steps}", checksum="c"
            )
            assert self.registry.queue.checkpointed(agent, [saved]).jobs == {claim.job_id}
            one.progress, one.advanced = step, True

    def stale(self) -> None:
        """Whatever an agent says of a job that it does not hold, or not any more, changes nothing."""
        agent = self.dice.choice([*self.claims]) if self.claims else None
        others = [claim for claims in self.claims.values() for claim in claims]
        old = [claim for claim in others if agent is not None and not self._holds(agent, claim)]
        if agent is None or not old:
            return
        claim = self.dice.choice(old)
        done = Finished(job_id=claim.job_id, attempt=claim.attempt, publication="never", model_file="m")
        saved = Checkpoint(job_id=claim.job_id, attempt=claim.attempt, step=10**6, epoch=1, file="never", checksum="c")
        assert not self.registry.queue.finish(agent, [done]).jobs
        assert not self.registry.queue.checkpointed(agent, [saved]).jobs
        assert not self.registry.queue.fail(agent, [claim], FailureClass.TIMEOUT, "never")

    def end_agent(self) -> None:
        if (agent := self._agent()) is None:
            return
        self.agents.remove(agent)
        if self.dice.random() < 0.5:
            self.registry.agents.retire(agent)
        else:
            self.registry.agents.mark_dead(agent, FailureClass.LOST, "gone")
        self._end_all(agent)

    def _end_all(self, agent: int) -> None:
        for one in self.model.jobs.values():
            if one.state is RUNNING and one.agent == agent:
                one.tried_by = [] if one.advanced else one.tried_by
                self.model.end(one, QUEUED)

    def trial(self) -> None:
        agent, one = self._agent(), self._job()
        if agent is None or one is None:
            return
        claim = self.registry.trials.claim(agent, self.ids[one.job.identity])
        one.state = QUEUED if one.state is CANCELLED else one.state
        free = one.state is QUEUED and not one.blocked
        assert (claim is not None) == free
        if claim is not None:
            one.slots_limit = one.slots_limit if one.progress or one.slots_limit else 1
            self.model.start(one, agent)
            self._keep(agent, [claim])

    def stop(self) -> None:
        if one := self._job():
            name = self._sweep()
            self.registry.trials.end(self.sweeps[name], self.ids[one.job.identity], 1)
            if one.state is QUEUED and not self.model.wanted(one.job.identity):
                one.state = CANCELLED

    def pack(self) -> None:
        if not self.model.jobs:
            return
        holder = self.registry.agents.enlist(agent_info(lease=1e6, backend="bundle"))
        chosen = self.dice.sample(list(self.model.jobs), min(5, len(self.model.jobs)))
        going: list[Expected] = []
        for identity, one in self.model.jobs.items():
            free = not one.blocked or one.job.parent in [other.job.identity for other in going]
            if identity in chosen and one.state is QUEUED and self.model.wanted(identity) and free:
                going.append(one)
        claims = self.registry.bundles.pack(holder, "away", [self.ids[one] for one in chosen])
        assert {claim.job.identity for claim in claims} == {one.job.identity for one in going}
        for one in going:
            self.model.start(one, holder)
        self._keep(holder, claims)
        self.registry.bundles.send_away(holder, "away", f"token {holder}")
        self.bundles.append(holder)
        self.holders.add(holder)

    def recall(self) -> None:
        if self.bundles:
            holder = self.bundles.pop(self.dice.randrange(len(self.bundles)))
            self.registry.bundles.recall(holder)
            self._end_all(holder)

    def pause(self) -> None:
        name = self._sweep()
        self.registry.sweeps.pause(self.sweeps[name], "because")
        self.model.sweeps[name] = SweepState.PAUSED

    def cancel(self) -> None:
        name = self._sweep()
        self.registry.sweeps.cancel(self.sweeps[name])
        self.model.cancel(name)

    def reactivate(self) -> None:
        name = self._sweep()
        self.registry.sweeps.reactivate(self.sweeps[name])
        self.model.reactivate(name)

    def retry(self) -> None:
        name, state = self._sweep(), self.dice.choice([FAILED, CANCELLED])
        self.registry.sweeps.retry(self.sweeps[name], state)
        self.model.retry(name, state)

    def invalidate(self) -> None:
        if one := self._job():
            self.registry.sweeps.invalidate([self.ids[one.job.identity]], "wrong")
            self.model.invalidate([one.job.identity])

    def rows(self) -> dict[str, JobRow]:
        return {row.identity: row for one in self.sweeps.values() for row in self.registry.catalogue.jobs(one)}


@pytest.fixture
def writers(registry: Registry) -> set[tuple[str, str]]:
    """The functions that have written `jobs.state` so far, each with its module."""
    found: set[tuple[str, str]] = set()

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if re.search(r"UPDATE jobs SET (home=\S+, )?state ?=", statement):  # in the order of the table's columns
            stack = [(Path(frame.filename).name, frame.function) for frame in inspect.stack(context=0)]
            found.add(stack[stack.index(("transaction.py", "run")) + 1])

    sa.event.listen(registry._database.engine, "before_cursor_execute", note)
    return found


def told(row: JobRow) -> tuple[object, ...]:
    holder = row.agent_id if row.state is RUNNING else None
    return row.state, row.attempt, holder, row.progress, row.slots_limit, row.publication, row.wanted, row.blocked


def expected(model: Model, identity: str) -> tuple[object, ...]:
    one = model.jobs[identity]
    holder = one.agent if one.state is RUNNING else None
    standing = (one.state, one.attempt, holder, one.progress, one.slots_limit, one.publication)
    return (*standing, model.wanted(identity), one.blocked)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_registry_is_what_a_model_of_it_says(
    registry: Registry,
    url: str,
    seed: int,
    writers: set[tuple[str, str]],
    execute: Callable[[str], list[Any]],
) -> None:
    play = Play(registry, seed)
    seen: set[State] = set()
    for _ in range(300 if "://" in url else 700):
        play.go()
        execute("UPDATE jobs SET not_before = NULL WHERE not_before IS NOT NULL")  # no test waits for a backoff
        rows = play.rows()
        assert {key: told(row) for key, row in rows.items()} == {key: expected(play.model, key) for key in rows}
        assert rows.keys() == play.model.jobs.keys()
        seen |= {row.state for row in rows.values()}
    assert seen == set(State)
    assert writers == {("moves.py", "_update")}
    record = registry.history.record()
    for row in record.jobs:
        told_of = [step for step in record.steps if step.job_id == row.id]
        assert list(job_problems(row, told_of, record.holders)) == []
