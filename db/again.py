"""A sweep that is launched again with nothing changed, in plain SQL: to import SQLAlchemy takes longer."""

from __future__ import annotations

from dataclasses import replace

from qsweep.db.asking import Asking
from qsweep.db.parts import Part, notes
from qsweep.db.rows import Sweep
from qsweep.db.states import SweepState


class Launches(Part):
    """Launches of sweeps that are there already.

    Consistency: nothing but the time of a launch is ever written here; what was changed or deleted since the caller
    looked stays as it is.
    """

    @notes
    def again(self, asking: Asking, known: Sweep, *, written: bool) -> Sweep | None:
        """The same sweep with a new time of launch, as `Sweeps.add` leaves it where nothing about it changes.

        None, with nothing done, if it is no longer what it was when the caller looked.

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
