"""Looking at the registry (law 5), in plain SQL: nothing here changes a row, waits for a writer or needs SQLAlchemy."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from qsweep.db.asking import Asking, named
from qsweep.db.naming import meant
from qsweep.db.rows import AgentRow, BundleRow, Committed, Counts, JobRow, StoreRow, Sweep
from qsweep.db.states import AgentState, FailureClass, State, SweepState
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import Kind, kind_named
from qsweep.sweeps.settings import varying

BUNDLE = "bundle"
"""The backend of a bundle's holder."""
NO_LEASE = 0.0
"""The lease of a holder that has left: before that it is an agent like any other, alive by its heartbeat."""
BOOLEANS = ("wanted", "blocked", "alone", "diverged")
"""Columns of jobs that are true or false."""
SWEEP = {name: name for name in Sweep.__dataclass_fields__}
JOB = {name: f"jobs.{name}" for name in JobRow.__dataclass_fields__} | {"error": "coalesce(attempts.error, '')"}
JOBS = "FROM jobs LEFT OUTER JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt"
FROM_JOBS = f"{JOBS} JOIN sweep_jobs ON sweep_jobs.job_id = jobs.id"
OF_SWEEP = "FROM sweep_jobs JOIN jobs ON jobs.id = sweep_jobs.job_id WHERE sweep_jobs.sweep_id = :sweep"
LISTED = 5_000
"""Most ids that one statement lists."""
SAMPLE = 500
"""Jobs by which is told in what those of a large sweep differ."""
AGENT = {name: name for name in AgentRow.__dataclass_fields__} | {
    "expired": "state = 'alive' AND (expires < {moment} OR clock != {boot})",
    "overdue": "CASE WHEN clock = {boot} THEN {moment} - expires ELSE {wall} - beat_at - lease END",
}
CHOSEN = "SELECT job_id FROM selections WHERE selection = :selection"


def find_sweep(asking: Asking, text: str) -> Sweep:
    of_name = sweeps(asking, name=text.partition("@")[0])
    return meant(text, of_name or sweeps(asking))


def sweeps(asking: Asking, *, name: str | None = None) -> list[Sweep]:
    condition = "" if name is None else "AND name = :name"
    rest = f"FROM sweeps WHERE state != 'deleted' {condition} ORDER BY launched_at DESC, id DESC"
    rows = named(asking, SWEEP, rest, {"name": name})
    return [sweep_row(row) for row in rows]


def sweep_row(values: Mapping[str, Any]) -> Sweep:
    """A sweep from the values of its columns, among others."""
    own = {name: values[name] for name in SWEEP}
    return Sweep(**(own | {"state": SweepState(values["state"])}))


def counts(asking: Asking, sweep_id: int, selection: int | None) -> Counts:
    """Most jobs are counted in the index of their home sweep alone; only shared and selected ones are looked up."""
    columns = "jobs.state, jobs.diverged"
    values = {"sweep": sweep_id}
    wheres = [
        "FROM jobs WHERE jobs.home = :sweep",
        "FROM jobs JOIN sweep_jobs ON sweep_jobs.job_id = jobs.id "
        "WHERE sweep_jobs.sweep_id = :sweep AND sweep_jobs.shared = TRUE",
    ]
    if selection is not None:
        values["selection"] = selection
        wheres = [f"FROM jobs WHERE jobs.id IN ({CHOSEN})"]
    found: dict[str, int] = {}
    for where in wheres:
        for state, diverged, jobs in asking.ask(f"SELECT {columns}, count(*) {where} GROUP BY {columns}", values):
            found[state] = found.get(state, 0) + jobs
            if diverged:
                found["diverged"] = found.get("diverged", 0) + jobs
    return Counts(**found, away=_away(asking, values) if found.get("running") else 0)


def _away(asking: Asking, values: Mapping[str, Any]) -> int:
    """How many of the running jobs a bundle holds."""
    chosen = f"AND jobs.id IN ({CHOSEN})" if "selection" in values else ""
    ((count,),) = asking.ask(
        "SELECT count(*) FROM jobs JOIN agents ON agents.id = jobs.agent_id "
        "JOIN sweep_jobs ON sweep_jobs.job_id = jobs.id "
        f"WHERE jobs.state = 'running' AND agents.state = 'away' AND sweep_jobs.sweep_id = :sweep {chosen}",
        values,
    )
    return int(count)


def job_ids(asking: Asking, sweep_id: int, state: State | None = None, limit: int | None = None) -> list[int]:
    """The sweep's jobs, or those in a state, in the order of their registration."""
    among = "" if state is None else "AND job_id IN (SELECT id FROM jobs WHERE state = :state)"
    words = f"SELECT job_id FROM sweep_jobs WHERE sweep_id = :sweep {among} ORDER BY job_id"
    values = {"sweep": sweep_id, "state": state and state.value, "limit": limit}
    return [job for (job,) in asking.ask(words if limit is None else f"{words} LIMIT :limit", values)]


def jobs(asking: Asking, sweep_id: int, state: State | None, selection: int | None, limit: int | None) -> list[JobRow]:
    conditions, values = ["sweep_jobs.sweep_id = :sweep"], dict[str, Any]({"sweep": sweep_id})
    if state is not None:
        conditions.append("jobs.state = :state")
        values["state"] = state.value
    if selection is not None:
        conditions.append(f"jobs.id IN ({CHOSEN})")
        values["selection"] = selection
    rest = f"{FROM_JOBS} WHERE {' AND '.join(conditions)} ORDER BY sweep_jobs.job_id"
    if limit is not None:
        rest += " LIMIT :limit"
        values["limit"] = limit
    return [job_row(row) for row in named(asking, JOB, rest, values)]


def varying_settings(asking: Asking, sweep_id: int, suspected: Callable[[], Collection[str]]) -> list[str]:
    """The settings in which those jobs of the sweep differ that have them, in the order in which its jobs show them.

    Of many jobs a sample tells; of a `suspected` setting that is the same in all of that, every job is asked.
    """
    ids, values = job_ids(asking, sweep_id), {"sweep": sweep_id}
    if len(ids) <= LISTED:
        return varying(list(_settings(asking, ids).values()))
    shown = _settings(asking, sorted({*ids[:: len(ids) // SAMPLE], ids[-1]}))
    found = varying(list(shown.values()))
    rest = sorted(set(suspected()) - set(found))
    if rest:
        differ = [f"min({{setting {name}}}) <> max({{setting {name}}})" for name in rest]
        (answers,) = asking.ask(f"SELECT {', '.join(differ)} {OF_SWEEP}", values)
        found += [name for name, answer in zip(rest, answers, strict=True) if answer]
    first: dict[str, tuple[int, int]] = {}
    for name in found:
        if name not in first:
            words = f"SELECT jobs.id {OF_SWEEP} AND {{setting {name}}} IS NOT NULL ORDER BY sweep_jobs.job_id LIMIT 1"
            ((job,),) = [(ids[0],)] if name in shown[ids[0]] else asking.ask(words, values)
            for place, one in enumerate(_settings(asking, [job])[job]):
                first.setdefault(one, (job, place))
    return sorted(found, key=lambda name: first[name])


def _settings(asking: Asking, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """The settings of these jobs."""
    from qsweep.sweeps.job import stored_settings  # here: `qsweep status` looks at no job

    return {
        job: stored_settings(content)
        for start in range(0, len(ids), LISTED)
        for job, content in asking.ask(
            f"SELECT id, content FROM jobs WHERE id IN ({_listed(ids[start : start + LISTED])}) ORDER BY id"
        )
    }


def done(asking: Asking, sweep_id: int | None) -> set[str]:
    """The identities of the done jobs of a sweep, or of all sweeps."""
    condition = "" if sweep_id is None else "WHERE sweep_id = :sweep"
    rows = asking.ask(
        f"SELECT identity FROM jobs WHERE state = 'done' AND id IN (SELECT job_id FROM sweep_jobs {condition})",
        {"sweep": sweep_id},
    )
    return {identity for (identity,) in rows}


def slots_limits(asking: Asking) -> dict[str, int]:
    """Of the jobs that ran out of memory the most slots beside which they run, by identity."""
    return dict(asking.ask("SELECT identity, slots_limit FROM jobs WHERE slots_limit IS NOT NULL"))


def job(asking: Asking, prefix: str) -> JobRow:
    if not re.fullmatch(r"[0-9a-f]{1,32}", prefix):
        raise InputError(f"{prefix!r} is not a job", allowed="a job is named by the first hex digits of its identity")
    # A range, so that the index serves whatever the collation: "g" comes after every hex digit.
    rest = f"{JOBS} WHERE jobs.identity >= :prefix AND jobs.identity < :beyond LIMIT 2"
    rows = named(asking, JOB, rest, {"prefix": prefix, "beyond": f"{prefix}g"})
    if not rows:
        raise InputError(f"there is no job {prefix!r} here", allowed="`qsweep jobs NAME` lists them")
    if len(rows) > 1:
        raise InputError(f"more than one job begins with {prefix!r}", allowed="give more digits")
    return job_row(rows[0])


def jobs_of(asking: Asking, ids: Sequence[int]) -> list[JobRow]:
    """These jobs as they stand, in the order of their registration."""
    rows = [
        row
        for start in range(0, len(ids), LISTED)
        for row in named(asking, JOB, f"{JOBS} WHERE jobs.id IN ({_listed(ids[start : start + LISTED])})", {})
    ]
    return sorted(map(job_row, rows), key=lambda row: row.id)


def ids_of(asking: Asking, identities: Collection[str]) -> list[int]:
    """The numbers of these jobs, of those that are here."""
    known = sorted(one for one in identities if re.fullmatch(r"[0-9a-f]{32}", one))
    found: list[int] = []
    for start in range(0, len(known), LISTED):
        listed = ", ".join(f"'{one}'" for one in known[start : start + LISTED])
        found += [job for (job,) in asking.ask(f"SELECT id FROM jobs WHERE identity IN ({listed})")]
    return sorted(found)


def siblings(asking: Asking, job_id: int, most: int) -> tuple[int | None, list[str]]:
    """A sweep of the job, that which registered it first if it still has it, and so many other jobs of the same kind of
    that sweep which have begun: those with the smallest identities, which are a random sample."""
    of = "SELECT sweep_id FROM sweep_jobs WHERE job_id = :job ORDER BY shared, sweep_id LIMIT 1"
    sweep = next((one for (one,) in asking.ask(of, {"job": job_id})), None)
    rows = asking.ask(
        "SELECT identity FROM jobs WHERE state IN ('done', 'running') AND id <> :job "
        "AND kind = (SELECT kind FROM jobs WHERE id = :job) "
        "AND EXISTS (SELECT 1 FROM sweep_jobs WHERE sweep_id = :sweep AND job_id = jobs.id) "
        "ORDER BY identity LIMIT :most",
        {"job": job_id, "sweep": sweep, "most": most},
    )
    return sweep, [identity for (identity,) in rows]


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(int(one)) for one in ids)


def job_row(values: dict[str, Any]) -> JobRow:
    """A job from the values of its columns."""
    failure = values["failure_class"]
    values["failure_class"] = None if failure is None else FailureClass(failure)
    values["state"] = State(values["state"])
    return JobRow(**(values | {name: bool(values[name]) for name in BOOLEANS}))


def agents(asking: Asking, state: AgentState | None) -> list[AgentRow]:
    where = "" if state is None else "WHERE state = :state"
    rows = named(asking, AGENT, f"FROM agents {where} ORDER BY id", {"state": state and state.value})
    return [AgentRow(**(row | {"state": AgentState(row["state"]), "expired": bool(row["expired"])})) for row in rows]


def bundles(asking: Asking) -> list[BundleRow]:
    """All that ever left, the oldest first."""
    columns = {
        "id": "id", "name": "note", "token": "boot_id", "state": "state", "packed_at": "enlisted_at",
        "jobs": "(SELECT count(*) FROM jobs WHERE jobs.state = 'running' AND jobs.agent_id = agents.id)",
    }  # fmt: skip
    rest = "FROM agents WHERE backend = :backend AND lease = :lease ORDER BY id"
    rows = named(asking, columns, rest, {"backend": BUNDLE, "lease": NO_LEASE})
    return [BundleRow(**(row | {"state": AgentState(row["state"])})) for row in rows]


def committed(asking: Asking, sweep_id: int, selection: int | None) -> list[Committed]:
    return [
        Committed(job=job, attempt=attempt, publication=publication, kind=kind_named(kind))
        for job, attempt, publication, kind in pointers(asking, sweep_id, selection)
    ]


def pointers(
    asking: Asking, sweep_id: int, selection: int | None = None, ids: Sequence[int] | None = None
) -> Sequence[tuple[str, int, str, str]]:
    """Of each done job of the sweep, of a selection or of these, in order of registration: itself, its attempt, its
    publication and its kind."""
    chosen = "" if selection is None else f"AND jobs.id IN ({CHOSEN})"
    chosen += "" if ids is None else f"AND jobs.id IN ({_listed(ids) or 'NULL'})"
    rows: list[tuple[str, int, str, str]] = asking.ask(
        "SELECT jobs.identity, jobs.attempt, jobs.publication, jobs.kind "
        f"{OF_SWEEP} AND jobs.state = 'done' {chosen} ORDER BY sweep_jobs.job_id",
        {"sweep": sweep_id, "selection": selection},
    )
    return rows


def counted(asking: Asking) -> list[tuple[Kind, str, str | None]]:
    """Of each done job: its kind, the publication of its results, and the file of its kept model."""
    rows = asking.ask("SELECT kind, publication, model_file FROM jobs WHERE state = 'done'")
    return [(kind_named(kind), publication, model) for kind, publication, model in rows]


def publications(asking: Asking) -> set[str]:
    return {one for (one,) in asking.ask("SELECT DISTINCT publication FROM jobs WHERE publication IS NOT NULL")}


def store(asking: Asking) -> StoreRow | None:
    """Where the registry's results lie; None if no launch has said so yet."""
    rows = asking.ask("SELECT identity, place, host, coalesce(lineage, ''), coalesce(seat, '') FROM store")
    if not rows:
        return None
    identity, place, host, lineage, seat = rows[0]
    return StoreRow(identity=identity, place=place, host=host, lineage=tuple(lineage.split()), seat=seat)
