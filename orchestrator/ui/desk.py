"""What the live page shows, as JSON: of a home's registry, or of one exported bundle. Reading changes nothing."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qsweep.db.belonging import check_belonging
from qsweep.db.home import Home
from qsweep.db.progress import note_of
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import AgentRow, Sweep
from qsweep.db.states import AgentState, State
from qsweep.db.urls import parse_url
from qsweep.orchestrator.board import content as view_content
from qsweep.orchestrator.board import notes
from qsweep.orchestrator.joblife import life_of
from qsweep.orchestrator.joblist import kept_pages
from qsweep.orchestrator.loglines import last_lines, log_of
from qsweep.orchestrator.lookout import Lookout, View
from qsweep.orchestrator.lost_jobs import lost_agents
from qsweep.orchestrator.standing import look_at
from qsweep.reports.bundle import BundleSource
from qsweep.reports.charts.chart import Chart
from qsweep.reports.charts.live import Groups, curves_chart, loads_chart
from qsweep.reports.page.charts import chart_content
from qsweep.reports.page.joblist import read_jobs
from qsweep.reports.series import told
from qsweep.reports.source import RegistrySource, Source
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import kind_named
from qsweep.sweeps.spec import matching

Content = dict[str, Any]

LINES = 500
"""Of a log that a job's page shows, from its end."""
MOST_CARRIED = 100_000
"""Most jobs that a sweep's page carries; of more it shows the first ones, and says so."""
LOOKOUTS = 8
"""Most sweeps that are followed at once."""
RECENT = 30
"""Changes that a sweep's page lists."""
MOST_CURVES = 200
"""Jobs whose curves are drawn at once …"""
MOST_SIBLINGS = 300
"""… and those of its siblings against which a job's are."""
POINTS = 240
"""Means of an agent's readings that are drawn."""
ENDED = 20
"""Agents that stopped last which a page shows."""
SHORT = 12
"""Digits by which a page calls a job."""
BEGUN = (State.DONE.value, State.RUNNING.value)


class Desk(ABC):
    """What is asked of one place. One thread alone asks `pulse` and what is looked at; the sources are opened anew."""

    place: str
    """Where it is, for a person."""

    @abstractmethod
    def pulse(self) -> Hashable:
        """A value that is another one once anything has changed. Raises QsweepError where the place is away."""

    @abstractmethod
    def home(self) -> Content:
        """The sweeps, how they stand, and who is at work."""

    @abstractmethod
    def sweep(self, name: str) -> Content:
        """One sweep as it stands. Raises InputError if there is none."""

    @abstractmethod
    def job(self, identity: str) -> Content:
        """The life of the job whose identity begins so. Raises InputError."""

    @abstractmethod
    def log(self, identity: str) -> Content:
        """The end of the log of the agent that ran it last, or the problem why there is none."""

    @abstractmethod
    def agents(self) -> Content:
        """All that are alive, and those that stopped last."""

    @abstractmethod
    def chosen(self, name: str, where: str) -> list[str]:
        """The identities of the jobs that a condition admits. Raises InputError."""

    @contextmanager
    @abstractmethod
    def source(self, name: str, jobs: Collection[str] | None = None) -> Iterator[Source]:
        """One sweep's rows, or at least those of these jobs, in whatever thread."""

    @contextmanager
    @abstractmethod
    def kin(self, identity: str, most: int) -> Iterator[tuple[Source, str, list[str]]]:
        """The sweep of the job whose identity begins so, that identity, and a random sample of at most so many other
        jobs of the same kind there, in whatever thread. Raises InputError."""

    @contextmanager
    @abstractmethod
    def sources(self) -> Iterator[list[Source]]:
        """Every sweep's."""

    def jobs(self, name: str) -> Content:
        """The sweep's jobs by kind, as columns: settings, results, states."""
        with self.source(name) as source:
            return {"name": source.title, "jobs": read_jobs(source, MOST_CARRIED), "most": MOST_CARRIED}

    def curves(self, name: str, groups: Groups) -> Content:
        """The curves of these groups of a sweep's jobs. Raises InputError for more than MOST_CURVES jobs."""
        jobs = {one for _, members in groups for one in members}
        if len(jobs) > MOST_CURVES:
            raise InputError(f"curves of {len(jobs)} jobs are asked for", allowed=f"at most {MOST_CURVES} at once")
        with self.source(name, jobs) as source:
            return {"chart": _drawn(curves_chart(told(source, jobs), groups))}

    def compared(self, identity: str, other: str = "") -> Content:
        """A job's curves against those of its siblings, and beside those of another job if one is named."""
        parts, groups = [], list[tuple[str, list[str]]]()
        for one, most in ((identity, MOST_SIBLINGS), (other, 0)):
            if not one:
                continue
            with self.kin(one, most) as (source, whole, siblings):
                parts.append(told(source, {whole, *siblings}))
                groups += [(f"{len(siblings)} other jobs of {source.title}", siblings)] if siblings else []
                groups.append((whole[:SHORT], [whole]))
        return {"chart": _drawn(curves_chart(pd.concat(parts), groups))}

    def close(self) -> None:
        """Let go of what is open."""
        return


class RegistryDesk(Desk):
    """What stands in a home's registry, SQLite or Postgres."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.place = parse_url(home.registry).shown
        self._path = parse_url(home.registry).path
        self._registry: Registry | None = None
        self._file: Hashable = None
        self._seen: Hashable = None
        self._lookouts: dict[int, Lookout] = {}
        self._beat = time.monotonic()

    def close(self) -> None:
        self._lookouts.clear()
        if self._registry is not None:
            self._registry.close()
            self._registry = self._seen = None

    def _opened(self) -> Registry:
        """The registry, opened anew where its file is another one. Raises InputError while there is none."""
        found = None if self._path is None else _file_of(self._path)
        if self._registry is None or found != self._file:
            self.close()
            self._registry, self._file = Registry.open(self._home.registry), found
        return self._registry

    def pulse(self) -> Hashable:
        registry = self._opened()
        seen: Hashable = registry.catalogue.pulse()
        if seen is None:  # Postgres: what no event tells is looked at once in a while
            seen = registry.history.newest_event(), int(time.monotonic() - self._beat) // 60
        if seen != self._seen:
            registry.check_version()  # a newer program may have upgraded it
            self._seen = seen
        return self._file, seen

    def home(self) -> Content:
        registry = self._opened()
        living = registry.catalogue.agents()
        lost = lost_agents(living)
        found = [look_at(registry, sweep, lost) for sweep in registry.catalogue.sweeps()]
        sweeps: list[dict[str, Any]] = []
        for one in found:
            row = one.row() | {"name": one.sweep.title, "launched_at": one.sweep.launched_at}
            row |= {"heading": _heading(one.sweep), "words": list(one.words())}
            if one.is_open and len(sweeps) < LOOKOUTS:
                progress = self._lookout(one.sweep).look().progress
                row |= {"jobs_per_minute": progress.rate, "seconds_left": progress.seconds_left}
            sweeps.append(row)
        working = [one for one in living if one.id not in lost]
        return {
            "place": self.place,
            "sweeps": sweeps,
            "agents": len(working),
            "machines": len({one.host for one in working}),
            "remarks": [one.idle_words() for one in found if one.waits] if not working else [],
        }

    def _lookout(self, sweep: Sweep) -> Lookout:
        if sweep.id not in self._lookouts:
            while len(self._lookouts) >= LOOKOUTS:
                self._lookouts.pop(next(iter(self._lookouts)))
            self._lookouts[sweep.id] = Lookout(self._opened(), ResultStore(self._home.store), sweep)
        return self._lookouts[sweep.id]

    def sweep(self, name: str) -> Content:
        registry = self._opened()
        sweep = registry.catalogue.find_sweep(name)
        view = self._lookout(sweep).look()
        return view_content(view) | {
            "name": sweep.title,
            "heading": _heading(sweep),
            "owner": sweep.owner,
            "launched_at": sweep.launched_at,
            "told": sweep.state.value,
            "words": notes(view),
            "epochs": [],
            "falls": _falls(view),
            "recent": [
                {"at": one.at, "job": one.identity, "source": one.source.value, "target": one.target.value,
                 "detail": one.detail}
                for one in view.recent[:RECENT]
            ],
        }  # fmt: skip

    def job(self, identity: str) -> Content:
        registry = self._opened()
        row = registry.catalogue.job(identity)
        life = life_of(self._home, registry, row)
        content = life.content()
        stored: Content = content["job"]
        return {
            "job": {name: stored[name] for name in SHOWN} | {"error": row.error, "lost": life.lost is not None},
            "settings": _plain(row.settings),
            "results": {name: value for name, value in _plain(content["results"]).items() if name not in row.settings}
            | ({"problem": life.results} if isinstance(life.results, str) else {}),
            "epochs": [_plain(one) for one in content["epochs"]],
            "attempts": content["attempts"],
            "events": content["events"],
            "model": content["model"],
        }

    def log(self, identity: str) -> Content:
        registry = self._opened()
        try:
            path = log_of(self._home, registry, registry.catalogue.job(identity))
            return {"log": str(path), "text": "\n".join(last_lines(path, LINES))}
        except InputError as error:
            return {"problem": str(error)}

    def agents(self) -> Content:
        registry = self._opened()
        living = registry.catalogue.agents()
        lost, held = lost_agents(living), registry.agents.held()
        stopped = sorted(registry.catalogue.agents(AgentState.STOPPED), key=lambda one: one.id)[-ENDED:]
        ended = [] if living else registry.catalogue.agents(AgentState.RETIRED)
        hosts = {one.id: one.host for one in living or sorted(ended, key=lambda one: one.ended_at or 0.0)[-ENDED:]}
        loads = registry.history.loads(list(hosts), POINTS)
        newest = {row["agent"]: row for row in loads}
        return {
            "agents": [
                _agent(one)
                | {name: newest.get(one.id, {}).get(name) for name in ("processor", "memory", "gpu")}
                | {"lost": one.id in lost, "held": held.get(one.id, 0), **note_of(one.note)}
                for one in living
            ],
            "stopped": [_agent(one) | {"reason": one.reason} for one in reversed(stopped)],
            "loads": _drawn(loads_chart(pd.DataFrame(row | {"host": hosts[row["agent"]]} for row in loads))),
        }

    def chosen(self, name: str, where: str) -> list[str]:
        registry = self._opened()
        sweep = registry.catalogue.find_sweep(name)
        return [row.identity for page in kept_pages(registry, sweep.id, None, where, None) for row in page]

    @contextmanager
    def source(self, name: str, jobs: Collection[str] | None = None) -> Iterator[Source]:
        with closing(Registry.open(self._home.registry)) as registry:
            check_belonging(self._home, registry)
            sweep = registry.catalogue.find_sweep(name)
            if jobs is None:
                yield RegistrySource(self._home, registry, sweep, together=("jobs", "attempts"))
            else:
                yield RegistrySource(self._home, registry, sweep, ids=registry.catalogue.ids_of(jobs))

    @contextmanager
    def kin(self, identity: str, most: int) -> Iterator[tuple[Source, str, list[str]]]:
        with closing(Registry.open(self._home.registry)) as registry:
            check_belonging(self._home, registry)
            job = registry.catalogue.job(identity)
            number, siblings = registry.catalogue.siblings(job.id, most)
            sweep = next((one for one in registry.catalogue.sweeps() if one.id == number), None)
            if sweep is None:
                raise InputError("no sweep holds this job any more", place=identity)
            ids = registry.catalogue.ids_of([job.identity, *siblings])
            yield RegistrySource(self._home, registry, sweep, ids=ids), job.identity, siblings

    @contextmanager
    def sources(self) -> Iterator[list[Source]]:
        with closing(Registry.open(self._home.registry)) as registry:
            check_belonging(self._home, registry)
            yield [RegistrySource(self._home, registry, one) for one in registry.catalogue.sweeps()]


class BundleDesk(Desk):
    """What an exported sweep's folder holds: it is read once, and does not change."""

    def __init__(self, folder: Path) -> None:
        self._source = BundleSource(folder)
        self.place = str(folder)

    def pulse(self) -> Hashable:
        return 0

    def home(self) -> Content:
        row = self._row()
        return {"place": self.place, "sweeps": [row], "agents": 0, "machines": 0, "remarks": []}

    def _row(self) -> Content:
        sweep = self._source.sweep
        states = self._source.read("jobs", ["state", "diverged"]).to_pylist()
        counts = {state.value: sum(row["state"] == state for row in states) for state in State}
        diverged = sum(bool(row["diverged"]) for row in states)
        return counts | {
            "name": sweep.title, "sweep": sweep.title, "heading": _heading(sweep), "size": sweep.size,
            "state": f"exported, {sweep.state.value}", "owner": sweep.owner, "launched_at": sweep.launched_at,
            "lost": 0, "blocked": 0, "diverged": diverged, "words": list(filter(None, [self._source.remark()])),
        }  # fmt: skip

    def sweep(self, name: str) -> Content:
        self._check(name)
        return self._row() | {"told": "", "agents": [], "falls": None, "recent": [], "means": {}}

    def _check(self, name: str) -> None:
        if name not in (self._source.title, self._source.sweep.name):
            raise InputError(f"this bundle holds {self._source.title}, not {name}", place=self.place)

    def job(self, identity: str) -> Content:
        row = self._job(identity)
        whole = row["job"]
        job: Job | None = next((one for one in self._source.jobs if one.identity == whole), None)

        def of(name: str) -> list[Content]:
            return [one for one in self._source.read(name).to_pylist() if one["job"] == whole]

        settings = {} if job is None else dict(job.settings())
        found = next(iter(of(kind_named(row["kind"]).rows[0])), {})
        attempts = [
            one | {"started_at": _seconds(one["started_at"]), "ended_at": _seconds(one["ended_at"])}
            for one in of("attempts")
        ]
        events = [
            {"at": _seconds(one["changed_at"]), "source": one["from_state"], "target": one["to_state"],
             "detail": one["detail"], "attempt": one["attempt"]}
            for one in of("events")
        ]  # fmt: skip
        return {
            "job": {name: row.get(name) for name in SHOWN} | {"identity": whole, "error": row["error"], "lost": False},
            "settings": _plain(settings),
            "results": {name: value for name, value in _plain(found).items() if name not in settings},
            "epochs": [{"final": True, **_plain(one)} for one in of("epochs")],
            "attempts": [_plain(one) for one in attempts],
            "events": events,
            "model": None,
        }

    def log(self, identity: str) -> Content:
        return {"problem": "a bundle holds no logs"}

    def agents(self) -> Content:
        loads = self._source.frame("loads")
        return {"agents": [], "stopped": [], "loads": _drawn(loads_chart(loads.assign(at=_unix(loads["read_at"]))))}

    def chosen(self, name: str, where: str) -> list[str]:
        self._check(name)
        return [job.identity for job in matching(self._source.jobs, where)]

    @contextmanager
    def source(self, name: str, jobs: Collection[str] | None = None) -> Iterator[Source]:
        self._check(name)
        yield self._source

    @contextmanager
    def kin(self, identity: str, most: int) -> Iterator[tuple[Source, str, list[str]]]:
        row = self._job(identity)
        jobs = self._source.read("jobs", ["job", "kind", "state"]).to_pylist()
        begun = (one["job"] for one in jobs if one["kind"] == row["kind"] and one["state"] in BEGUN)
        siblings = sorted(one for one in begun if one != row["job"])
        yield self._source, row["job"], siblings[:most]

    def _job(self, identity: str) -> Content:
        """The row of the job whose identity begins so. Raises InputError."""
        rows: list[Content] = [one for one in self._source.read("jobs").to_pylist() if one["job"].startswith(identity)]
        if len(rows) != 1 or not identity:
            raise InputError("there is no such job" if not rows else "several jobs begin so", place=identity or "JOB")
        return rows[0]

    @contextmanager
    def sources(self) -> Iterator[list[Source]]:
        yield [self._source]


SHOWN = ("identity", "kind", "state", "attempt", "progress", "epoch", "diverged", "failure_class", "cohort_key")
"""What a job's page says of it beside its life."""
AGENT = ("id", "host", "pid", "backend", "device", "log", "enlisted_at", "beat_at", "ended_at")


def _agent(one: AgentRow) -> Content:
    return {name: getattr(one, name) for name in AGENT}


def _file_of(path: Path) -> Hashable:
    """Which file lies there; None if none does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _heading(sweep: Sweep) -> str:
    """The title that its file gives it."""
    try:
        given = json.loads(sweep.spec).get("title")
    except (ValueError, AttributeError):
        given = None
    return given if isinstance(given, str) and given else sweep.title


def _falls(view: View) -> Content | None:
    """How the losses of trainings fall that are not done."""
    rows = [
        {"job": str(one.called), "step": epoch, "name": "train_loss", "value": loss}
        for one in view.falls
        for epoch, loss in enumerate(one.losses, 1)
        if loss is not None
    ]
    if not rows:
        return None
    groups = [(f"{one.called} ({one.trainings})", [str(one.called)]) for one in view.falls]
    return _drawn(curves_chart(pd.DataFrame(rows), groups))


def _drawn(chart: Chart | None) -> Content | None:
    """The chart as the page's script draws it."""
    return None if chart is None else chart_content(chart)


def _plain(row: Mapping[str, Any]) -> Content:
    """The row without what says nothing and without the trace of a search, its times as seconds."""
    return {name: _seconds(value) for name, value in row.items() if value is not None and name != "trace"}


def _unix(times: pd.Series) -> pd.Series:
    return (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()


def _seconds(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value
