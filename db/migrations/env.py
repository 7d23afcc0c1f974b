"""Run by Alembic with a connection that `db.upgrade` opened, inside its transaction."""

from __future__ import annotations

from alembic import context

from qsweep.db.migrations import VERSION_TABLE
from qsweep.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
