"""A sweep that is launched again with nothing changed, in plain SQL: to import SQLAlchemy takes longer."""

from __future__ import annotations

from dataclasses import replace

from qsweep.db.asking import Asking
from qsweep.db.rows import Sweep
from qsweep.db.states import SweepState


def relaunch(asking: Asking, known: Sweep, *, written: bool) -> Sweep | None:
    """The sweep with a new time of launch; None, with nothing changed, if it is no longer what it was.

    `written`: as its file says, so that the bare name means it.
    """
    fields = ("id", "spec", "size", "keep", "code")
    values = {name: getattr(known, name) for name in fields} | {"deleted": SweepState.DELETED.value}
    conditions = " AND ".join(f"{name} = :{name}" for name in fields)
    rows = asking.ask(
        f"UPDATE sweeps SET launched_at = {{wall}}{', written_at = {wall}' if written else ''} "
        f"WHERE {conditions} AND state != :deleted RETURNING launched_at, written_at",
        values,
    )
    if not rows:
        return None
    launched_at, written_at = rows[0]
    return replace(known, launched_at=launched_at, written_at=written_at)
