"""An agent of a bundle asks the queue of its runner: each call of the one is answered by the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, cast

from qsweep.db.errors import LeaseLost
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
    Remaining,
    Scope,
)
from qsweep.db.states import FailureClass
from qsweep.sweeps.errors import QsweepError
from qsweep.workers.bundle.local_queue import LocalQueue

log = logging.getLogger(__name__)

ANSWERED, LOST, BROKEN = "answered", "lost", "broken"


class QueueUnreachable(QsweepError):
    """The queue could not do what it was asked."""


class QueueClient:
    """The agent's end: the queue as a `JobQueue`. With the runner gone every lease is lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # the heartbeat calls from a thread of its own

    def enlist(self, agent: int, precisions: tuple[str, ...]) -> None:
        self._ask("enlist", agent, precisions)

    def began(self, facts: dict[str, Any]) -> None:
        self._ask("began", facts)

    def beat(self, agent_id: int, note: str = "", load: Load | None = None) -> frozenset[int]:
        return cast("frozenset[int]", self._ask("beat", agent_id, note))

    def next_cohort(self, agent_id: int, scope: Scope = EVERYTHING, *, parents: Sequence[int] = ()) -> Head | None:
        return cast("Head | None", self._ask("next_cohort", agent_id, scope, parents=tuple(parents)))

    def claim(
        self, agent_id: int, head: Head, limit: int, scope: Scope = EVERYTHING, *, sharers: int = 1
    ) -> list[Claim]:
        return cast("list[Claim]", self._ask("claim", agent_id, head, limit, scope, sharers=sharers))

    def remaining(self, scope: Scope = EVERYTHING) -> Remaining:
        return cast("Remaining", self._ask("remaining", scope))

    def calibration(self, *, shape: str, device: str, build: str, slots: int, form: str) -> Calibration:
        given = {"shape": shape, "device": device, "build": build, "slots": slots, "form": form}
        return cast("Calibration", self._ask("calibration", **given))

    def resumed(self, agent_id: int, claim: Fenced, step: int) -> None:
        self._ask("resumed", agent_id, claim, step)

    def checkpointed(self, agent_id: int, checkpoints: Sequence[Checkpoint]) -> Accepted:
        return cast("Accepted", self._ask("checkpointed", agent_id, checkpoints))

    def finish(self, agent_id: int, finished: Sequence[Finished]) -> Accepted:
        return cast("Accepted", self._ask("finish", agent_id, finished))

    def release(self, agent_id: int, claims: Sequence[Fenced], detail: str = "") -> frozenset[int]:
        return cast("frozenset[int]", self._ask("release", agent_id, claims, detail))

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
        answer = self._ask("fail", agent_id, claims, failure_class, error, slots=slots, kind=kind)
        return cast("frozenset[int]", answer)

    def reason_to_stop(self, agent_id: int) -> str:
        return cast("str", self._ask("reason_to_stop", agent_id))

    def pause_for(self, claims: Sequence[Fenced], reason: str) -> None:
        self._ask("pause_for", claims, reason)

    def _ask(self, call: str, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            try:
                self._connection.send((call, arguments, options))
                how, answer = self._connection.recv()
            except (EOFError, OSError):
                raise LeaseLost(0) from None
        if how == LOST:
            raise LeaseLost(answer)
        if how == BROKEN:
            raise QueueUnreachable(answer)
        return answer


def answer_calls(connection: Connection, queue: LocalQueue, lock: threading.Lock) -> None:
    """The runner's end, until the agent hangs up. `lock` keeps the calls of all agents apart.

    However it ends, it hangs up: an agent that nobody answers any more has lost its lease, and must not wait.
    """
    with connection:
        while _answer(connection, queue, lock):
            pass


def _answer(connection: Connection, queue: LocalQueue, lock: threading.Lock) -> bool:
    """Answer one call. False once the agent hung up, or said something that can't be read."""
    try:
        call, arguments, options = connection.recv()
    except (EOFError, OSError):
        return False
    except Exception:  # half a message of an agent that was killed while it wrote
        log.exception("a call of an agent can't be read: the connection to it is closed")
        return False
    try:
        with lock:
            answer = (ANSWERED, getattr(queue, call)(*arguments, **options))
    except LeaseLost:
        answer = (LOST, arguments[0])
    except Exception as error:  # the agent reports it: this end has to stay up for the others
        answer = (BROKEN, f"{call}: {type(error).__name__}: {error}")
    try:
        connection.send(answer)
    except OSError:
        return False
    return True
