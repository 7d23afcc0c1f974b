"""Curves: the epochs that trainings have done which are not done themselves.

A curve is written in the transaction that records a checkpoint, holds what that checkpoint holds, and goes when the
job's result is counted. So it costs no transaction of its own, and a resume goes on from exactly these epochs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from qsweep.db.moves import batches
from qsweep.db.rows import Checkpoint
from qsweep.db.tables import curves
from qsweep.db.transaction import Transaction


def record(transaction: Transaction, given: Sequence[Checkpoint]) -> None:
    """Keep the curves that came with these checkpoints, whose jobs passed the fence, in place of older ones."""
    rows = [
        {"job_id": one.job_id, "attempt": one.attempt, "epochs": json.dumps(one.curve, separators=(",", ":"))}
        for one in given
        if one.curve
    ]
    if rows:
        insert = transaction.insert(curves)
        newer = {name: insert.excluded[name] for name in ("attempt", "epochs")}
        transaction.run(insert.on_conflict_do_update(index_elements=["job_id"], set_=newer), rows)


def forget(transaction: Transaction, ids: Sequence[int]) -> None:
    """Their published rows count now, or nothing of them does."""
    for batch in batches(ids):
        transaction.run(curves.delete().where(curves.c.job_id.in_(batch)))
