"""What an error of either database means: whether the same transaction may succeed later, or never will."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

GONE_STATES = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")
"""Postgres: the connection broke, or the server ended it."""
REFUSED_STATES = ("25006", "40", "53", "55P03", "57014", "58", "XX000")
"""Postgres answers and refuses for now: it is read-only after a failover, rolled the transaction back, has no room for
more connections or no memory, waited too long for a lock, had the statement cancelled, could not read or write its
files, or speaks through a pooler that has no server at hand (those report XX000). Data that are damaged (XX001, XX002)
stay damaged, and a full disk (53100) is told apart before."""
FULL_STATE = "53100"
LOCKED_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
DISK_CODES = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM)
"""SQLite could use the file before: its disk, its file system's mode or this process's file limit may recover."""


def is_passing(error: Exception) -> bool:
    """Whether the same transaction may succeed when it is begun again."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    raw = driver_error(error)
    if isinstance(raw, sqlite3.Error):
        return sqlite_code(raw) in (*LOCKED_CODES, *DISK_CODES)
    return is_disconnect(raw) or str(getattr(raw, "sqlstate", "")).startswith((*GONE_STATES, *REFUSED_STATES))


def is_disconnect(error: BaseException) -> bool:
    """Whether Postgres was not reached, or went away in the middle."""
    if isinstance(error, sqlite3.Error):
        return False
    state = getattr(error, "sqlstate", None)
    if state is None:
        return any(kind.__name__ in ("OperationalError", "InterfaceError") for kind in type(error).__mro__)
    return str(state).startswith(GONE_STATES)


def is_final_on_opening(error: Exception) -> bool:
    """Whether a SQLite file that fails like this when it is first used will not get better by waiting."""
    return sqlite_code(driver_error(error)) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def driver_error(error: Exception) -> BaseException:
    return (error.orig or error) if isinstance(error, DBAPIError) else error


def sqlite_code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
