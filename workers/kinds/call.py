"""Calls of the user's code, one after another, each in a process of its own."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsweep.db.rows import Checkpoint, Claim
from qsweep.db.states import FailureClass
from qsweep.sweeps.calls import COMMAND, RUN, Call, words_of
from qsweep.sweeps.code import ROOT
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.faults import point
from qsweep.sweeps.memory import oom_kills
from qsweep.sweeps.returned import has_diverged
from qsweep.sweeps.user_code import Signature, UserCode, kept_user_code, origin_of, reference_of
from qsweep.sweeps.wholefiles import digest_of
from qsweep.workers.agent.endings import DISK_FULL, InterruptedByUser, Stopped, StoppedEarly
from qsweep.workers.agent.stopping import SIGNALS, StopRequest
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.calls.process import Hosted, HostLost
from qsweep.workers.calls.run import checked_row
from qsweep.workers.kinds.base import Outcome, Rows, Tools

log = logging.getLogger(__name__)

TOGETHER = 64
"""Calls that are claimed together at most: of short ones the registry would take most of the time."""
SHORT = 1.0
"""Seconds after which calls that were claimed together and have not begun are handed back, and results published."""
GLANCE = 0.2
"""Seconds between two looks at what a call takes, and whether it is to stop."""
SIGNALLED = 1.0
"""Seconds within which an agent hears of a signal that has ended its call: clusters send it to every process."""
GRACE = 20.0
"""Seconds that a function has to save and return which asks whether it is to stop."""
ENDED_BY_SIGNAL = tuple(sign for one in SIGNALS for sign in (-one, 128 + one))
"""Statuses of a process that such a signal has ended, as Python and as shells have them."""
MOST_LOGGED = 200_000
"""Logged values of one call that are kept."""
MEMORY = "QSWEEP_RUN_MEMORY"
"""The variable that says how much memory a call may take, in bytes, where its sweep does not; else nine tenths of
what is free when it begins."""
SHARE = 0.9
OUTPUT = 4000
"""Characters of the output that a failure shows."""


class Ended(Exception):
    """A call has failed: in which class, of which kind, and what is to be told of it."""

    def __init__(self, failure: FailureClass, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.failure, self.text, self.kind = failure, text, kind


@dataclass
class _Heard:
    """What a call has said so far."""

    row: dict[str, Any] | None = None
    told: bool = False
    asks: bool = False
    stopped: bool = False
    """A tuning run wants no more of it: it is told nothing more."""
    error: dict[str, Any] | None = None
    logged: dict[tuple[int, str], float | None] = field(default_factory=dict)
    saved: dict[str, Any] | None = None
    steps: int = 0


class RunCalls:
    """Runs calls in the order of their claims. One that fails takes no other with it."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._host: Hosted | None = None
        self._warm = True
        self._seconds = math.inf
        """What a call takes, about."""
        self._killed = oom_kills()
        self._codes: dict[str, UserCode] = {}
        self._signatures: dict[tuple[str, str], Signature] = {}

    @property
    def together(self) -> int:
        """How many calls to claim together: as many as take a second."""
        return max(1, min(TOGETHER, int(SHORT / self._seconds))) if self._seconds else TOGETHER

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        log.info("%s: %d jobs", claims[0].job.cohort_key, len(claims))
        done: list[tuple[Claim, Rows]] = []
        waiting, published, place = list(claims), time.monotonic(), self._tools.place
        try:
            while waiting:
                claim, began = waiting.pop(0), time.monotonic()
                try:
                    if place.is_to_stop([claim]):
                        raise self._stopped()
                    done.append((claim, self._one(claim, waiting)))
                    point("call.done", claim.job.identity)
                except Ended as end:
                    log.info("job %s ends as %s: %s", claim.job.identity[:12], end.failure, end.text)
                    self._tools.fail(claim, end.failure, end.text, end.kind)
                except (Stopped, StoppedEarly):
                    if done:
                        yield _outcome(done)
                    raise
                took = time.monotonic() - began
                self._seconds = took if math.isinf(self._seconds) else 0.7 * self._seconds + 0.3 * took
                if done and (not waiting or time.monotonic() - published > SHORT):
                    yield _outcome(done)
                    done, published = [], time.monotonic()
        except BaseException:
            self._close()
            raise

    def _one(self, claim: Claim, waiting: list[Claim]) -> Rows:
        """One call to its end: its rows. Raises Ended, Stopped, StoppedEarly or LeaseGone."""
        call, place = claim.job.call, self._tools.place
        assert call is not None
        heard = _Heard()
        try:
            request = self._request(claim, call)
            host = self._started(self._warm)
            host.begin(request)
            status = self._attend(host, claim, heard, waiting)
            if status is None:  # the user's modules have threads, or hold a GPU: each call imports them by itself
                log.info("the imported modules can't be forked: each run imports them anew")
                self._warm = False
                self._close()
                host = self._started(self._warm)
                host.begin(request)
                status = self._attend(host, claim, heard, waiting)
        except HostLost as error:
            self._close()
            if self._stops_soon():
                raise self._stopped() from None
            raise Ended(FailureClass.CRASH, str(error), "HostLost") from None
        except InputError as error:
            raise Ended(FailureClass.INPUT, str(error)) from None
        tail = host.tail
        host.over()
        self._record(claim, heard)
        if heard.told and place.is_to_stop([claim]):
            raise self._stopped()
        if status in ENDED_BY_SIGNAL and heard.row is None and self._stops_soon():
            raise self._stopped()
        row = _result(call, heard, status or 0, tail, self._is_out_of_memory())
        return {"returned": [_stored(row)], "logged": _logged(heard)}

    def _started(self, warm: bool) -> Hosted:
        if self._host is None:
            self._host = Hosted(warm=warm)
        return self._host

    def _close(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.close()

    def _request(self, claim: Claim, call: Call) -> dict[str, Any]:
        """What the host is told. Raises InputError if the copy of the code is gone."""
        home, hardware = self._tools.place.home, self._tools.place.hardware
        saved, step = self._saved(claim)
        request: dict[str, Any] = {
            "form": call.form,
            "job": claim.job.identity,
            "attempt": claim.attempt,
            "code": call.code,
            "seed": call.seed,
            "device": hardware.type,
            "checkpoints": str(home.checkpoints),
            "saved": saved,
            "step": step,
            "origin": str(home.root),
        }
        folder = None
        if call.code is not None:
            code = self._code(call.code)
            folder = code.folder
            request |= {"folder": str(folder), "main": code.main}
            request["origin"] = str(origin_of(home.user_code, call.code) or folder)
        if call.form == RUN:
            name = reference_of(call.target, place=RUN).name
            assert call.code is not None
            if (call.code, name) not in self._signatures:
                self._signatures[call.code, name] = code.signature(name, place=RUN)
            signature = self._signatures[call.code, name]
            named = None if signature.open else [one.name for one in signature.parameters]
            return request | {"name": name, "config": call.config, "positional": signature.positional, "named": named}
        words = words_of(call)
        if folder is not None:
            main = str(request["main"])
            words = [str(folder / main) if Path(one).name == main else one for one in words]
        search = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one != str(ROOT)]
        return request | {"words": words, "python_path": os.pathsep.join(search)}

    def _code(self, digest: str) -> UserCode:
        """The kept copy of this hash, checked once. Raises InputError."""
        if digest not in self._codes:
            self._codes[digest] = kept_user_code(self._tools.place.home.user_code, digest)
        return self._codes[digest]

    def _saved(self, claim: Claim) -> tuple[str | None, int]:
        """The newest save that is whole, below the folder of the checkpoints, and its step."""
        place = self._tools.place
        for age, one in enumerate(claim.checkpoints):
            path = place.home.checkpoints / one.file
            if path.is_file() and digest_of(path) == one.checksum:
                if age:
                    place.queue.resumed(place.agent, claim, one.step)
                return one.file, one.step
            log.warning("%s is damaged or gone", path)
        if claim.checkpoints:
            place.queue.resumed(place.agent, claim, 0)
        return None, 0

    def _attend(self, host: Hosted, claim: Claim, heard: _Heard, waiting: list[Claim]) -> int | None:
        """Look after a call until it ends; its exit status, None if it has to run in a cold process."""
        place, began, looked = self._tools.place, time.monotonic(), 0.0
        most, asked_at = place.memory or _memory_limit(), None
        early: StoppedEarly | None = None
        try:
            while True:
                for message in host.hear(GLANCE):
                    if "cold" in message:
                        host.over()
                        return None
                    if "status" in message:
                        if early is not None:
                            self._record(claim, heard)
                            raise early
                        return int(message["status"])
                    try:
                        self._take(message, claim, heard)
                    except StoppedEarly as stop:
                        early, asked_at, heard.stopped = stop, time.monotonic(), True
                        host.ask_to_stop()
                now = time.monotonic()
                if now - looked < GLANCE:
                    continue
                looked = now
                self._record(claim, heard)
                place.report([claim], heard.steps, 0)
                if waiting and now - began > SHORT:
                    place.queue.release(place.agent, waiting, "not begun: those before it take longer")
                    waiting.clear()
                if now - began > place.time_limit:
                    host.kill()
                    raise Ended(FailureClass.TIMEOUT, f"not done after {place.time_limit:g} s" + _shown(host.tail))
                if most and host.pid and (size := group_memory(host.pid)) > most:
                    host.kill()
                    text = f"the run took {size / 1e9:.2f} GB of memory, and {most / 1e9:.2f} GB are allowed"
                    raise Ended(FailureClass.MEMORY, text + _shown(host.tail))
                if asked_at is None and place.is_to_stop([claim]):
                    asked_at = now
                    host.ask_to_stop()
                if asked_at is not None and (not heard.asks or now - asked_at > GRACE):
                    host.kill()
                    raise early or self._stopped()
        except BaseException:
            if host.pid:
                host.kill()
            self._close()
            self._record_quietly(claim, heard)
            raise

    def _record_quietly(self, claim: Claim, heard: _Heard) -> None:
        """What was saved before the end counts, if the lease still stands."""
        try:
            self._record(claim, heard)
        except Exception as error:
            log.warning("what job %s saved last is not recorded: %s", claim.job.identity[:12], error)

    def _take(self, message: Mapping[str, Any], claim: Claim, heard: _Heard) -> None:
        """Note one message. Raises StoppedEarly if a tuning run wants no more."""
        if "printed" in message:
            log.info("job %s | %s", claim.job.identity[:12], message["printed"])
        elif "logged" in message:
            step, values = int(message["logged"]["step"]), message["logged"]["values"]
            fresh = step > heard.steps
            heard.steps = max(step, heard.steps)
            for name, value in values.items():
                if len(heard.logged) < MOST_LOGGED or (step, name) in heard.logged:
                    heard.logged[step, name] = value if math.isfinite(value) else None
            if fresh and values and not heard.stopped:
                rows = sorted({at for at, _ in heard.logged})
                self._tools.on_step(claim, {"epoch": len(rows), "step": step, **values})
        elif "saved" in message:
            if heard.saved is not None:
                (self._tools.place.home.checkpoints / heard.saved["file"]).unlink(missing_ok=True)
            heard.saved = message["saved"]
        elif "asks" in message:
            heard.asks = True
        elif "row" in message:
            heard.row, heard.told = message["row"], message["told"]
        elif "error" in message:
            heard.error = message["error"]

    def _record(self, claim: Claim, heard: _Heard) -> None:
        """Have the registry know what was saved last."""
        if heard.saved is None:
            return
        saved, heard.saved = heard.saved, None
        place = self._tools.place
        record = Checkpoint(
            job_id=claim.job_id,
            attempt=claim.attempt,
            step=saved["step"],
            epoch=saved["step"],
            file=saved["file"],
            checksum=saved["checksum"],
        )
        for file in place.queue.checkpointed(place.agent, [record]).deletable:
            (place.home.checkpoints / file).unlink(missing_ok=True)
        point("checkpoint.recorded", saved["step"])

    def _stops_soon(self) -> bool:
        """Whether what has ended the call is what ends its agent."""
        return self._tools.place.stop.wait(SIGNALLED)

    def _stopped(self) -> Stopped:
        stop = self._tools.place.stop
        return InterruptedByUser() if isinstance(stop, StopRequest) and stop.by_user else Stopped()

    def _is_out_of_memory(self) -> bool:
        """Whether the kernel has killed something for memory since this was asked last."""
        before, self._killed = self._killed, oom_kills()
        return self._killed > before


def _result(call: Call, heard: _Heard, status: int, tail: str, out_of_memory: bool) -> dict[str, Any]:
    """The row that a call ended with. Raises Ended if it ended without."""
    if (error := heard.error) is not None:
        if error["memory"]:
            raise Ended(FailureClass.MEMORY, error["text"])
        if error["input"]:
            raise Ended(FailureClass.INPUT, error["text"])
        if error["errno"] in (errno.ENOSPC, errno.EDQUOT):
            raise Ended(FailureClass.PREEMPTED, f"{DISK_FULL}: {error['text']}")
        raise Ended(FailureClass.CRASH, error["text"], error["type"])
    if status < 0:
        if status == -9 and out_of_memory:
            raise Ended(FailureClass.MEMORY, "the kernel killed the run's process: the machine was out of memory")
        text, kind = f"the run's process was killed by signal {-status}", f"signal {-status}"
        raise Ended(FailureClass.CRASH, text + _shown(tail), kind)
    if call.form == COMMAND:
        if status:
            raise Ended(FailureClass.CRASH, f"the command ended with status {status}" + _shown(tail), f"exit {status}")
        return _last_row(tail)
    if heard.row is None:
        text = f"the run's process ended with status {status} before the function returned"
        raise Ended(FailureClass.CRASH, text + _shown(tail), f"exit {status}")
    return heard.row


def _last_row(tail: str) -> dict[str, Any]:
    """The last line of a command's output that is a JSON object. Raises Ended."""
    for line in reversed(tail.splitlines()):
        if line.lstrip().startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                try:
                    return checked_row(found)
                except InputError as error:
                    raise Ended(FailureClass.INPUT, str(error)) from None
    raise Ended(FailureClass.INPUT, "the command printed no line with a JSON object, which is the row" + _shown(tail))


def _shown(tail: str) -> str:
    return f"; its output ends with:\n{tail[-OUTPUT:].rstrip()}" if tail.strip() else ""


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it is stored. A number that is not finite is one of a run that diverged."""
    return {"returned": json.dumps(dict(row)), "diverged": has_diverged(row)}


def _logged(heard: _Heard) -> list[dict[str, Any]]:
    return [{"step": step, "name": name, "value": value} for (step, name), value in sorted(heard.logged.items())]


def _outcome(done: Sequence[tuple[Claim, Rows]]) -> Outcome:
    return Outcome(claims=[claim for claim, _ in done], rows=[rows for _, rows in done])


def _memory_limit() -> int:
    """Bytes that a call may take; 0 where nothing is known."""
    named = os.environ.get(MEMORY, "")
    if named.isdecimal():
        return int(named)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(int(line.split()[1]) * 1024 * SHARE)
    except OSError:
        pass
    return 0


def group_memory(leader: int) -> int:
    """Bytes of memory of a process and of those that it has forked, without what they share with their files."""
    total = 0
    for entry in _group(leader):
        try:
            fields = Path(f"/proc/{entry}/statm").read_text().split()
            total += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total


def _group(leader: int) -> list[int]:
    """The process and its descendants."""
    found, waiting = [], [leader]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        waiting += [int(child) for child in children]
    return found
