"""A file of records, one a line, each sealed to all before it: nothing can be changed or left out unseen."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.strict_json import LONGEST, read_strictly

Record = dict[str, Any]


class Ledger:
    """Appends records, each on the disk before `append` returns. One process writes; a torn last line is dropped.

    A line is `digest record`, the digest that of the line before and of the record; the first line's
    predecessor is `seed`. This guards against damage and slips of the hand, not against forgery: the key to
    that would lie beside it.
    """

    def __init__(self, path: Path, seed: str) -> None:
        self.path = path
        self.records, self._digest, length = _read(path, seed)
        path.touch()
        os.truncate(path, length)
        self._file = path.open("ab")

    def append(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, separators=(",", ":"))
        self._digest = _seal(self._digest, text)
        self._file.write(f"{self._digest} {text}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_ledger(path: Path, seed: str) -> list[Record]:
    """The records of a ledger that nobody writes. Raises InputError if it was altered."""
    return _read(path, seed)[0]


def _read(path: Path, seed: str) -> tuple[list[Record], str, int]:
    """The records, the digest of the last one, and the bytes up to its end."""
    records: list[Record] = []
    length = 0
    for number, line in enumerate(_lines(path), 1):
        digest, _, text = line.decode("utf-8", "replace").rstrip("\n").partition(" ")
        if digest != _seal(seed, text):
            raise InputError(
                f"line {number} was altered, or belongs to another bundle",
                place=str(path),
                allowed="copy the bundle again",
            )
        try:
            records.append(read_strictly(text.encode()))
        except ValueError as error:
            raise InputError(
                f"line {number} is damaged: {error}", place=str(path), allowed="copy the bundle again"
            ) from None
        seed, length = digest, length + len(line)
    return records, seed, length


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines: what follows the last line's end was being written when its writer died."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while line := file.readline(LONGEST):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == LONGEST:
                raise InputError("a line is too long", place=str(path), allowed="copy the bundle again")


def _seal(before: str, text: str) -> str:
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()
