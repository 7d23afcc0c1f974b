"""The schema's history, for Alembic. A new version is a new file in `versions` and a new last revision here.

Before it is added, `python tests/db/past/make.py` keeps a registry file of the version that it follows.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD = REVISIONS[-1]
VERSION_TABLE = "qsweep_version"
