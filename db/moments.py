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


@compiles(moment)
@compiles(wall)
@compiles(boot)
def _(element: Any, compiler: Any, **options: Any) -> str:
    return IN_SQL[compiler.dialect.name][type(element).__name__]
