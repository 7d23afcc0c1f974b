"""SQLAlchemy's engines of both databases. The driver begins nothing by itself: the caller's `begin` does, which gets
each connection that is about to begin a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeAlias

import sqlalchemy as sa

from qsweep.db.stalls import patient_connection
from qsweep.sweeps.errors import InputError

Begin: TypeAlias = Callable[[sa.Connection], None]

# A process stopped in the middle of a transaction must not hold its row locks for ever.
# Without a sort the next job comes from the head of an index, even before Postgres has any statistics.
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15s -c enable_sort=off -c jit=off"


def sqlite_engine(connect: Callable[[], sqlite3.Connection], begin: Begin) -> sa.Engine:
    engine = sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=sa.pool.QueuePool)
    sa.event.listen(engine, "begin", begin)
    return engine


def postgres_engine(url: sa.URL, place: str, silence: float, begin: Begin) -> sa.Engine:
    arguments: dict[str, str | int] = {"application_name": "qsweep", "options": POSTGRES_OPTIONS}
    arguments |= {} if "connect_timeout" in url.query else {"connect_timeout": 10}
    # A connection whose other end vanished is noticed within half a minute.
    arguments |= {
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    try:
        engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True, isolation_level="AUTOCOMMIT")
    except ImportError:
        raise InputError(
            "the Postgres driver is not installed", place=place, allowed="pip install 'qsweep[postgres]'"
        ) from None
    sa.event.listen(engine, "begin", begin)

    def connect(dialect: Any, record: Any, given: list[Any], named: dict[str, Any]) -> Any:
        opened = patient_connection().connect(*given, **named)
        opened.silence = silence
        return opened

    sa.event.listen(engine, "do_connect", connect)
    return engine
