"""Opening a registry: is it one, of this version? Making it, and upgrading it, with Alembic."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.clock import boot, moment
from db.connection import Database, refused
from db.errors import NoRegistry, RegistryRefused, RegistryUnavailable, RegistryUnreachable
from db.migrations import HEAD, REVISIONS, VERSION_TABLE
from db.tables import metadata
from db.transaction import Transaction
from sweeps.errors import InputError
from sweeps.words import counted

OPENING_PATIENCE = 2.0
AGENTS = sa.table("agents", sa.column("state"), sa.column("clock"), sa.column("expires"))
WORKING = sa.select(AGENTS).where(AGENTS.c.state == "alive", AGENTS.c.clock == boot(), AGENTS.c.expires > moment())
"""Agents with a live lease, in the words of every schema."""
VERSION = sa.table(VERSION_TABLE, sa.column("version_num"))


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
            if working := database.read(lambda t: len(t.run(WORKING).all())):
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


def _asked(database: Database) -> str | None:
    """The schema's version; None if the database is empty."""
    patience, database.patience = database.patience, OPENING_PATIENCE
    try:
        return database.read(lambda t: _version(t, database.place))
    except RegistryRefused as error:
        raise InputError(error.database_error, place=database.place) from None
    except RegistryUnavailable as error:
        problem = str(error).partition(": ")[2].partition(";")[0]
        raise RegistryUnreachable(problem, place=database.place) from None
    finally:
        database.patience = patience


def _version(transaction: Transaction, place: str) -> str | None:
    tables = transaction.schema_tables()
    if VERSION_TABLE in tables:
        row = transaction.run(sa.select(VERSION.c.version_num)).first()
        return None if row is None else str(row[0])
    if tables & set(metadata.tables) or (tables and transaction.connection.dialect.name == "sqlite"):
        raise InputError("this database is no qsweep registry: it holds other tables", place=place)
    return None


def _made(database: Database) -> str:
    try:
        database.prepare()
        _migrate(database)
    except RegistryRefused as error:
        raise InputError(error.database_error, place=database.place) from None
    except (DBAPIError, sqlite3.Error) as error:
        raise InputError(refused(database, error), place=database.place) from None
    return HEAD


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
