"""Selections: which of a sweep's jobs the agents of one launch may claim (`launch --where`, `--limit`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

from qsweep.db.journal import batches
from qsweep.db.tables import jobs, selections
from qsweep.db.transaction import Transaction


def select(transaction: Transaction, identities: Sequence[str]) -> int:
    """The number of the selection of these registered jobs: the same jobs have the same one."""
    number = int(hashlib.sha256("".join(sorted(identities)).encode()).hexdigest()[:15], 16)
    for batch in batches(identities):
        found = sa.select(sa.literal(number, sa.BigInteger), jobs.c.id).where(transaction.among(jobs.c.identity, batch))
        statement = transaction.insert(selections).from_select(["selection", "job_id"], found)
        transaction.run(statement.on_conflict_do_nothing())
    return number
