"""The schema's history, for Alembic. A new version is a new file in `versions` and a new last revision here."""

from __future__ import annotations

REVISIONS = ("0001", "0002")
HEAD = REVISIONS[-1]
VERSION_TABLE = "qsweep_version"
