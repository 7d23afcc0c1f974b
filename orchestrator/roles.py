"""The roles of a Postgres that `qsweep db serve` starts: agents own its databases, and are no superuser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

USER = "qsweep"
"""The role of agents, launchers and migrations; the database that it owns bears the same name."""
SUPERUSER = "postgres"
RIGHTS = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
HELPER = "qsweep_setup"

IS_OLD = "SELECT rolpassword FROM pg_authid WHERE oid = 10 AND rolname = %s"
"""Oid 10 is the superuser that initdb made. It can neither lose that attribute nor be dropped."""
OWNED = """
    SELECT format('ALTER %s %s OWNER TO {}', found.type, found.identity)
    FROM (
        SELECT 1 AS place, 'pg_namespace'::regclass AS catalog, oid FROM pg_namespace WHERE nspowner = 10
        UNION ALL
        SELECT 2, 'pg_class'::regclass, oid FROM pg_class WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'f')
        UNION ALL
        SELECT 3, 'pg_class'::regclass, oid FROM pg_class
        WHERE relowner = 10 AND relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_depend AS link WHERE link.classid = 'pg_class'::regclass AND link.objid = pg_class.oid
            AND link.refclassid = 'pg_class'::regclass AND link.deptype IN ('a', 'i')
        )
        UNION ALL
        SELECT 4, 'pg_type'::regclass, oid FROM pg_type
        WHERE typowner = 10 AND (
            typtype IN ('d', 'e', 'r') OR typtype = 'c' AND 'c' = (SELECT relkind FROM pg_class WHERE oid = typrelid)
        )
        UNION ALL
        SELECT 5, 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
    ) AS owned, pg_identify_object(owned.catalog, owned.oid, 0) AS found
    WHERE owned.oid >= 16384 AND NOT EXISTS (
        SELECT FROM pg_depend AS link
        WHERE link.classid = owned.catalog AND link.objid = owned.oid AND link.deptype = 'e'
    )
    ORDER BY owned.place, owned.oid
"""
"""What hands over all that the superuser made in a database. What came with Postgres or an extension stays, and the
sequences of columns follow their tables."""


def separate(connection: Connection) -> None:
    """Where agents were the superuser (as older versions had it), another role gets their name and their password."""
    from psycopg import sql

    old = connection.execute(IS_OLD, (USER,)).fetchone()
    if old is None:
        return
    user, superuser, helper = sql.Identifier(USER), sql.Identifier(SUPERUSER), sql.Identifier(HELPER)
    with connection.transaction():
        for statement, names in (
            ("CREATE ROLE {} SUPERUSER", (helper,)),
            ("SET SESSION AUTHORIZATION {}", (helper,)),  # nobody can rename himself
            ("ALTER ROLE {} RENAME TO {}", (user, superuser)),
            ("RESET SESSION AUTHORIZATION", ()),
            ("DROP ROLE {}", (helper,)),
            ("ALTER ROLE {} PASSWORD NULL", (superuser,)),
            (f"CREATE ROLE {{}} {RIGHTS} PASSWORD {{}}", (user, sql.Literal(old[0]))),
        ):
            connection.execute(sql.SQL(statement).format(*names))


def has_password(connection: Connection) -> bool:
    """Whether the agents' role is there, and anybody can log in as it."""
    query = "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = %s"
    row = connection.execute(query, (USER,)).fetchone()
    return row is not None and bool(row[0])


def set_password(connection: Connection, password: str) -> None:
    """Give the agents' role that password, of which the server gets no more than what verifies it."""
    from psycopg import sql

    is_there = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (USER,)).fetchone() is not None
    begin = "ALTER ROLE {} PASSWORD {}" if is_there else f"CREATE ROLE {{}} {RIGHTS} PASSWORD {{}}"
    verifier = connection.pgconn.encrypt_password(password.encode(), USER.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL(begin).format(sql.Identifier(USER), sql.Literal(verifier)))


def hand_over(connection: Connection, connect: Callable[[str], Connection]) -> None:
    """The superuser's databases, and all that it made there, are the agents' afterwards; theirs is made if need be."""
    from psycopg import sql

    query = (
        "SELECT datname FROM pg_database "  # a limit of -2: half dropped
        "WHERE datdba = 10 AND datallowconn AND datconnlimit <> -2 AND NOT datistemplate AND datname <> %s"
    )
    user = sql.Identifier(USER)
    for (name,) in connection.execute(query, (SUPERUSER,)).fetchall():
        with connect(name) as inside, inside.transaction():
            for (statement,) in inside.execute(sql.SQL(OWNED).format(user)).fetchall():
                inside.execute(statement)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), user))
    if connection.execute("SELECT FROM pg_database WHERE datname = %s", (USER,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(user, user))
