"""A Postgres that stalls without closing the connection: nobody waits for it without end."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import cache
from typing import Any

SILENCE = 30.0
"""Seconds without a byte after which a server that owes an answer is looked after."""
LOOK = 10
"""Seconds that this look may take."""
IS_WORKING = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"


@cache
def patient_connection() -> Any:
    """psycopg's connection, with a deadline for silence. Made here because psycopg is optional."""
    import psycopg

    class PatientConnection(psycopg.Connection[Any]):
        """After `silence` seconds without a byte it asks by another connection whether the server still works on the
        statement, and waits on only if it does: the kernel of a host whose server is stopped, or a proxy, goes on
        acknowledging packets, so that no timeout of TCP ends the wait. Otherwise the connection counts as broken."""

        silence = SILENCE

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._watched(gen), *args, **options)

        def _watched(self, gen: Any) -> Generator[Any, Any, Any]:
            heard = time.monotonic()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if ready:
                        heard = time.monotonic()
                    elif time.monotonic() - heard > self.silence:
                        self._look_after()
                        heard = time.monotonic()
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

        def _look_after(self) -> None:
            if not self._is_served():
                self.pgconn.finish()
                raise psycopg.OperationalError(f"the server has said nothing for {self.silence:g} s")

        def _is_served(self) -> bool:
            """Whether the server says, by another connection, that it works on this one's statement."""
            words, own = self.info.dsn, self.pgconn.backend_pid
            password: dict[str, Any] = {"password": self.info.password} if self.info.password else {}
            look = min(LOOK, max(int(self.silence), 2))
            try:
                with _Look.connect(words, connect_timeout=look, autocommit=True, **password) as other:
                    row = other.execute(IS_WORKING, (own,)).fetchone()
            except psycopg.Error:
                return False
            return row is not None and row[0] > 0

    class _Look(PatientConnection):
        silence = float(LOOK)

        def _is_served(self) -> bool:
            return False

    return PatientConnection
