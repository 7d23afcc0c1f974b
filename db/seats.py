"""Where a registry itself lies: by this a copy of it is told from the one that it was copied from."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.asking import Asking
from qsweep.db.clock import boot_id

SERVER = """
SELECT CASE WHEN has_function_privilege('pg_control_system()', 'execute')
            THEN (SELECT system_identifier FROM pg_control_system()) ELSE 0 END,
       (SELECT oid FROM pg_database WHERE datname = current_database())
"""
THERE = "SELECT 1 FROM pg_database WHERE oid = :oid"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A file, by its machine, path and inode; or a database, by its server's own number and the database's. `shown` is
    for people. `boot` is that of the file's machine: containers on it have names of their own."""

    where: str
    number: int
    shown: str
    boot: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Seat:
        host = socket.gethostname()
        return cls(where=f"{host} {path}", number=_inode(path), shown=f"{path} on {host}", boot=boot_id())

    @classmethod
    def of_database(cls, asking: Asking, shown: str) -> Seat:
        ((server, database),) = asking.ask(SERVER)
        return cls(where=f"postgres {server}", number=int(database), shown=shown)

    @classmethod
    def read(cls, text: str) -> Seat:
        where, number, shown, boot = json.loads(text)
        return cls(where=where, number=number, shown=shown, boot=boot)

    def written(self) -> str:
        return json.dumps([self.where, self.number, self.shown, self.boot])

    def is_same(self, other: Seat) -> bool:
        here = bool(self.boot) and self.boot == other.boot and self._path() == other._path()
        return self.number == other.number and (self.where == other.where or here)

    def is_file(self, path: Path) -> bool:
        """Whether this file can be seen from here, by another path too, and is the one at `path`."""
        try:
            return self.is_file_there() and os.path.samefile(self._path(), path)
        except OSError:
            return False

    def is_file_there(self) -> bool:
        """Whether this file can be seen from here, and is still the one that it was."""
        here = self.where.startswith(f"{socket.gethostname()} ") or self.boot == boot_id()
        return here and _inode(self._path()) == self.number

    def _path(self) -> Path:
        return Path(self.where.partition(" ")[2])

    def is_database_there(self, asking: Asking, own: Seat) -> bool:
        """Whether this database is on the server of `own`."""
        return self.where == own.where and bool(asking.ask(THERE, {"oid": self.number}))


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
