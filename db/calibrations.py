"""Calibrations: the slots and the form of each shape on each device class and build."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from qsweep.db.claims import NOT_AWAY
from qsweep.db.moments import wall
from qsweep.db.parts import Part, reads, writes
from qsweep.db.rows import Calibration, CalibrationRow
from qsweep.db.tables import RUNNING, calibrations, jobs
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import InputError


class Calibrations(Part):
    """Slots and forms, fixed at their first use (`Queue.calibration`) or by what was measured before.

    Consistency: none changes while a job runs, which would go on with other slots.
    """

    @reads
    def find(self, transaction: Transaction, *, shape: str, device: str, build: str) -> Calibration | None:
        key = {"shape": shape, "device": device, "build": build}
        row = transaction.run(sa.select(calibrations).filter_by(**key)).first()
        return None if row is None else _calibration(row)

    @reads
    def of(self, transaction: Transaction, shapes: Collection[str]) -> list[CalibrationRow]:
        """Every calibration of these shapes, on whatever device."""
        rows = transaction.run(
            sa.select(calibrations).where(calibrations.c.shape.in_(list(shapes))).order_by(*calibrations.c)
        )
        return [
            CalibrationRow(**{name: getattr(row, name) for name in CalibrationRow.__dataclass_fields__}) for row in rows
        ]

    @writes
    def replace(
        self, transaction: Transaction, *, shape: str, device: str, build: str, found: Calibration
    ) -> Calibration:
        """Puts what was measured in the place of what may be recorded. Raises InputError while jobs are running:
        theirs would go on with other slots.
        """
        _check_idle(transaction)
        key = {"shape": shape, "device": device, "build": build}
        transaction.run(sa.delete(calibrations).filter_by(**key))
        transaction.run(sa.insert(calibrations).values(**key, **asdict(found), made_at=wall()))
        return found

    @reads
    def check_idle(self, transaction: Transaction) -> None:
        """Raises InputError if any job is running."""
        _check_idle(transaction)


def settle(transaction: Transaction, shape: str, device: str, build: str, proposed: Calibration) -> Calibration:
    key = {"shape": shape, "device": device, "build": build}
    statement = transaction.insert(calibrations).values(**key, slots=proposed.slots, form=proposed.form, made_at=wall())
    transaction.run(statement.on_conflict_do_nothing())
    row = transaction.run(sa.select(calibrations).filter_by(**key)).one()
    return _calibration(row)


def _check_idle(transaction: Transaction) -> None:
    if transaction.run(sa.select(jobs.c.id).where(RUNNING, jobs.c.wanted, NOT_AWAY).limit(1)).first() is not None:
        raise InputError("jobs are running", place="calibrate", allowed="wait for them, or cancel their sweeps")


def _calibration(row: sa.Row[Any]) -> Calibration:
    return Calibration(slots=row.slots, form=row.form, seconds=row.seconds, peak=row.peak)
