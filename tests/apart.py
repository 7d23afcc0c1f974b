"""Processes of a test's own that run a function: forked from one that has imported what they need, and no more."""

from __future__ import annotations

import multiprocessing

APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(
    ["pytest", "alembic.command", "psycopg", "tests.db.conftest", "qsweep.workers.decoding.pool"]
)
