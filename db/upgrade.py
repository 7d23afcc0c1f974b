"""Opening a registry: is it one, of this version? Making it as it is declared, and upgrading it with Alembic."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from qsweep.db.asking import Asking
from qsweep.db.connection import Database, refused
from qsweep.db.errors import NoRegistry, RegistryRefused, RegistryUnavailable, RegistryUnreachable
from qsweep.db.migrations import HEAD, REVISIONS, VERSION_TABLE
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.words import counted

if TYPE_CHECKING:
    from qsweep.db.transaction import Transaction

OPENING_PATIENCE = 2.0
WORKING = "SELECT id FROM agents WHERE state = 'alive' AND clock = {boot} AND expires > {moment}"
"""Agents with a live lease, in the words of every schema."""


def open_database(url: str | Path, *, create: bool) -> Database:
    """The database at `url`, with the tables of this version. Raises InputError, with nothing changed."""
    database = Database(url, create=create)
    try:
        version = _asked(database)
        if version is None and create:
            version = _made(database)
        _check(version, database.place)
    except BaseException:
        database.close()
        raise
    return database


def open_if_present(url: str | Path) -> Database | None:
    """The database at `url` if it holds a registry; None if nothing was made there yet."""
    try:
        database = Database(url, create=False)
    except NoRegistry:
        return None
    try:
        if (version := _asked(database)) is not None:
            _check(version, database.place)
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    return None


def upgrade(url: str | Path) -> tuple[str, str]:
    """Migrates to this version; the versions before and after. Raises InputError while older agents work."""
    database = Database(url, create=False)
    try:
        before = _asked(database)
        if before is None:
            raise NoRegistry(database.place)
        if before not in REVISIONS:
            _check(before, database.place)
        if before != HEAD:
            if working := database.look(lambda t: len(t.ask(WORKING))):
                agents = counted(working, "agent of", "agents of"), "works" if working == 1 else "work"
                raise InputError(
                    f"{agents[0]} schema version {before} still {agents[1]} on this registry",
                    place=database.place,
                    allowed="stop them first: Ctrl-C where they were launched, or wait for the end of their lease",
                )
            _migrate(database)
        return before, HEAD
    finally:
        database.close()


def check_version(database: Database) -> None:
    """Raise InputError unless this open database is of this version still."""
    _check(_asked(database), database.place)


def _asked(database: Database) -> str | None:
    """The schema's version; None if the database is empty."""
    patience, database.patience = database.patience, OPENING_PATIENCE
    try:
        return database.look(lambda t: _version(t, database))
    except RegistryRefused as error:
        raise InputError(error.database_error, place=database.place) from None
    except RegistryUnavailable as error:
        problem = str(error).partition(": ")[2].partition(";")[0]
        raise RegistryUnreachable(problem, place=database.place) from None
    finally:
        database.patience = patience


def _version(asking: Asking, database: Database) -> str | None:
    there = asking.schema_tables()
    if VERSION_TABLE in there:
        rows = asking.ask(f"SELECT version_num FROM {VERSION_TABLE}")
        return str(rows[0][0]) if rows else None
    if there and (database.dialect == "sqlite" or there & _own_tables()):
        raise InputError("this database is no qsweep registry: it holds other tables", place=database.place)
    return None


def _own_tables() -> set[str]:
    from qsweep.db.tables import metadata

    return set(metadata.tables)


def _made(database: Database) -> str | None:
    """The version that stands there now: another process may have been first."""
    from sqlalchemy.exc import DBAPIError

    try:
        database.prepare()
        database.write(_create)
    except RegistryRefused as error:
        raise InputError(error.database_error, place=database.place) from None
    except (DBAPIError, sqlite3.Error) as error:
        raise InputError(refused(database, error), place=database.place) from None
    return _asked(database)


def _create(transaction: Transaction) -> None:
    """The declared tables, which are those that all migrations make, without the time that these and Alembic take."""
    import sqlalchemy as sa

    from qsweep.db.tables import metadata

    transaction.lock_schema()
    if VERSION_TABLE in transaction.schema_tables():
        return
    version = sa.Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), nullable=False))
    version.append_constraint(sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"))
    metadata.create_all(transaction.connection, checkfirst=False)
    version.create(transaction.connection, checkfirst=False)
    transaction.run(version.insert().values(version_num=HEAD))


def _migrate(database: Database, target: str = HEAD) -> None:
    # Imported here: Alembic takes longer to load than `qsweep status` takes to answer.
    from alembic import command
    from alembic.config import Config

    def run(transaction: Transaction) -> None:
        transaction.lock_schema()
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, target)

    database.write(run)


def _check(version: str | None, place: str) -> None:
    if version == HEAD:
        return
    if version is None:
        raise NoRegistry(place)
    if version in REVISIONS:
        raise InputError(
            f"this registry has schema version {version}, this program needs {HEAD}",
            place=place,
            allowed="run `qsweep db upgrade` when no agent of the older version runs any more",
        )
    raise InputError(
        f"this registry has schema version {version}, which is newer than this program ({HEAD})",
        place=place,
        allowed="install the newer qsweep, or name another --home or --registry",
    )
