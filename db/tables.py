"""The registry's tables. `db/migrations` makes them; a test holds the two together.

No row of `sweeps`, `jobs`, `agents`, `loads`, `attempts` or `events` is ever deleted, so no foreign key could break;
none is declared, because each would cost a look-up per insert of a million. A deleted sweep keeps its row, in the
state `deleted` and under a label that nobody can type; only its rows of `sweep_jobs` go (`db.deletion`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Compared byte by byte everywhere, so that both databases and Python order it alike.
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# The same text in the partial indexes and in the queries, or SQLite would not use them.
CLAIMABLE = sa.text("jobs.state = 'queued' AND jobs.wanted AND NOT jobs.blocked")
RUNNING = sa.text("jobs.state = 'running'")
_CLAIMABLE_INDEX = sa.text("state = 'queued' AND wanted AND NOT blocked")
_RUNNING_INDEX = sa.text("state = 'running'")
_ALIVE_INDEX = sa.text("state = 'alive'")
_CHILD_INDEX = sa.text("parent_id IS NOT NULL")

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("keep", sa.Text, nullable=False),  # which trained models stay: all, children, none
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("watched_from", sa.BigInteger, nullable=False),  # older failures do not pause the sweep again
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("launched_at", sa.Double, nullable=False),
    sa.Column("written_at", sa.Double),  # launched last as its file says: what a bare NAME means
    sa.UniqueConstraint("name", "label", name="sweeps_by_name"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("identity", Name, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("home", sa.BigInteger, nullable=False),  # the sweep that registered it first; 0: it was deleted
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("wanted", sa.Boolean, nullable=False),  # some active sweep holds it
    sa.Column("blocked", sa.Boolean, nullable=False),  # its parent is not done
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("cohort_key", Name, nullable=False),
    sa.Column("precision", sa.Text, nullable=False),
    sa.Column("keep_model", sa.Boolean, nullable=False),  # some sweep asks for its trained model
    sa.Column("progress", sa.BigInteger, nullable=False),  # steps at the newest checkpoint
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("alone", sa.Boolean, nullable=False),  # crashed in company: runs alone from now on
    sa.Column("slots_limit", sa.Integer),  # ran out of memory with more slots
    sa.Column("crashes", sa.Integer, nullable=False),  # crashes alone since the newest checkpoint
    sa.Column("tried_by", sa.Text),  # JSON: the agents of the failed tries alone, since it last got on
    sa.Column("losses", sa.Integer, nullable=False),  # lost or preempted since the newest checkpoint
    sa.Column("advanced", sa.Boolean, nullable=False),  # this attempt has recorded a checkpoint
    sa.Column("not_before", sa.Double),  # end of the backoff, by the lease clock
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("agent_id", sa.BigInteger),
    sa.Column("failure_class", sa.Text),
    sa.Column("parent_id", sa.BigInteger),
    sa.Column("parent_attempt", sa.Integer),
    sa.Column("has_children", sa.Boolean, nullable=False),
    sa.Column("publication", sa.Text),
    sa.Column("model_file", sa.Text),
    sa.Column("model_hash", sa.Text),
    sa.Column("diverged", sa.Boolean, nullable=False),
    sa.Column("registered_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("content", sa.Text, nullable=False),
    sa.Index("jobs_by_identity", "identity", unique=True),
    sa.Index("jobs_by_home", "home", "state", "diverged"),
    sa.Index(
        "jobs_head",
        sa.text("cost DESC"),
        "cohort_key",
        sa.text("progress DESC"),
        "id",
        sqlite_where=_CLAIMABLE_INDEX,
    ),
    sa.Index(
        "jobs_head_of_home",
        "home",
        sa.text("cost DESC"),
        "cohort_key",
        sa.text("progress DESC"),
        "id",
        sqlite_where=_CLAIMABLE_INDEX,
    ),
    sa.Index(
        "jobs_of_cohort",
        "cohort_key",
        sa.text("progress DESC"),
        "id",
        sqlite_where=_CLAIMABLE_INDEX,
    ),
    sa.Index("jobs_of_agent", "agent_id", sqlite_where=_RUNNING_INDEX),
    sa.Index("jobs_of_parent", "parent_id", sqlite_where=_CHILD_INDEX),
)

sweep_jobs = sa.Table(
    "sweep_jobs",
    metadata,
    sa.Column("sweep_id", sa.BigInteger, primary_key=True),
    sa.Column("shared", sa.Boolean, primary_key=True),  # another sweep registered the job first
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sa.Index("sweeps_of_job", "job_id"),
    sqlite_with_rowid=False,
)

selections = sa.Table(
    "selections",
    metadata,
    sa.Column("selection", sa.BigInteger, primary_key=True),  # a hash of the jobs
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started", sa.Double, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("build", sa.Text, nullable=False),
    sa.Column("precisions", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("log", sa.Text, nullable=False),
    sa.Column("lease", sa.Double, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("clock", sa.Text, nullable=False),  # which run of the lease clock `expires` is read on
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("place", sa.Text),  # LAUNCH/…: the same for an agent and those that are started again after it
    sa.Column("tries", sa.Text),  # JSON: its last failed tries alone since it brought a job forward (`db.weakness`)
    sa.Column("enlisted_at", sa.Double, nullable=False),
    sa.Column("beat_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Index("agents_alive", "expires", sqlite_where=_ALIVE_INDEX),
)

loads = sa.Table(
    "loads",  # what an agent used, on average since the reading before: told with its heartbeats (`db.rows.Load`)
    metadata,
    sa.Column("agent_id", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.Double, primary_key=True),
    sa.Column("processor", sa.Double, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("gpu", sa.Double),
    sa.Column("gpu_memory", sa.BigInteger),
    sqlite_with_rowid=False,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("agent_id", sa.BigInteger, nullable=False),
    sa.Column("claim", sa.BigInteger, nullable=False),  # drawn by the claimer, to know its own claim again
    sa.Column("resumed_from", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("outcome", sa.Text),
    sa.Column("failure_class", sa.Text),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("publication", sa.Text),
    sa.Column("superseded", sa.Text),
    sqlite_with_rowid=False,
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("job_id", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.UniqueConstraint("job_id", "attempt", "step", name="checkpoints_of_job"),
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),  # JSON: the row of `epochs`
    sqlite_with_rowid=False,
)

curves = sa.Table(
    "curves",
    metadata,
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("epochs", sa.Text, nullable=False),  # JSON: the rows of `epochs` so far
    sqlite_with_rowid=False,
)

stops = sa.Table(
    "stops",
    metadata,
    sa.Column("job_id", sa.BigInteger, primary_key=True),
    sa.Column("sweep_id", sa.BigInteger, primary_key=True),  # the tuning run whose scheduler decided
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("job_id", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("agent_id", sa.BigInteger),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("cause", sa.Text),  # of a failure: its class and the kind of error, by which like ones are found
    sa.Index("events_of_job", "job_id"),
)

calibrations = sa.Table(
    "calibrations",
    metadata,
    sa.Column("shape", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("build", sa.Text, primary_key=True),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("form", sa.Text, nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("peak", sa.BigInteger),
)

writings = sa.Table(
    "writings",  # publications that someone without an agent is writing: no collector may touch their files
    metadata,
    sa.Column("publication", Name, primary_key=True),
    sa.Column("writer", sa.Text, nullable=False),  # who, for people
    sa.Column("clock", sa.Text, nullable=False),  # as in `agents`: the writer lives by a lease
    sa.Column("expires", sa.Double, nullable=False),
)

publications = sa.Table(
    "publications",  # those that jobs point to, or did: by their size they are merged (`db.publications`)
    metadata,
    sa.Column("publication", Name, primary_key=True),
    sa.Column("sweep", sa.BigInteger, nullable=False),  # the home of its first job
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("jobs", sa.Integer, nullable=False),  # that have pointed to it
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("merging", Name),  # the publication that is being made of it
    sa.Index("publications_by_level", "sweep", "kind", "level"),
)

departures = sa.Table(
    "departures",  # publications that pointers have left: their files stay for as long as a query may take
    metadata,
    sa.Column("publication", Name, primary_key=True),
    sa.Column("left_at", sa.Double, nullable=False),
)

store = sa.Table(
    "store",  # one row: where the results of this registry lie, and by what they are known again
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.Text, nullable=False),  # drawn at random, and kept in the store too
    sa.Column("place", sa.Text, nullable=False),  # a folder or a URL, as of the last launch
    sa.Column("host", sa.Text, nullable=False),  # the machine of the folder; empty for a URL
    sa.Column("lineage", sa.Text),  # its incarnations, the newest first: drawn anew when the registry lies elsewhere
    sa.Column("seat", sa.Text),  # where the registry lay then
)


@sa.event.listens_for(metadata, "before_create")
def _set_conditions(target: sa.MetaData, connection: sa.Connection, **options: Any) -> None:
    """Postgres gets the conditions of partial indexes: said beside each, they would import its dialect for SQLite."""
    if connection.dialect.name == "postgresql":
        for index in (one for table in target.tables.values() for one in table.indexes):
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
