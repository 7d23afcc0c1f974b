"""The clocks of `db.clock` as functions in statements of SQLAlchemy."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from qsweep.db.clock import IN_SQL


class moment(FunctionElement[float]):  # noqa: N801 - it stands for a function of SQL
    """The clock that leases are measured by, in seconds, evaluated anew at each use."""

    type = sa.Double()
    inherit_cache = True


class wall(FunctionElement[float]):  # noqa: N801
    """Unix seconds, for people to read. Nothing is decided by it."""

    type = sa.Double()
    inherit_cache = True


class boot(FunctionElement[str]):  # noqa: N801
    """Which run of that clock this is: the boot id on SQLite; always '' on Postgres, whose clock has one."""

    type = sa.String()
    inherit_cache = True


class has_expired(FunctionElement[bool]):  # noqa: N801
    """Whether a lease has run out, by its end and the run of the clock that this was read on.

    Postgres reads its clock once, and its clock has one run: so the lease that ends next is found in an index, where
    a clock that is read anew for each row, or the other condition, would have every living agent looked at by each
    heartbeat of each other.
    """

    type = sa.Boolean()
    inherit_cache = True


def _columns(element: Any, compiler: Any, options: dict[str, Any]) -> list[str]:
    # With its table: what an update returns is named without, also in the queries in it.
    return [compiler.process(one, **{**options, "include_table": True}) for one in element.clauses]


@compiles(has_expired, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    expires, _ = _columns(element, compiler, options)
    return f"({expires} < (SELECT {IN_SQL['postgresql']['moment']}))"


@compiles(has_expired)
def _(element: Any, compiler: Any, **options: Any) -> str:
    expires, clock = _columns(element, compiler, options)
    words = IN_SQL[compiler.dialect.name]
    return f"({expires} < {words['moment']} OR {clock} != {words['boot']})"


@compiles(moment)
@compiles(wall)
@compiles(boot)
def _(element: Any, compiler: Any, **options: Any) -> str:
    return IN_SQL[compiler.dialect.name][type(element).__name__]
