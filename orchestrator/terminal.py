"""What qsweep prints goes through here, so that no text and no broken output ends a command in a traceback.

1. Text that is not ours (an error of a bundle's, a note, a host's name) may hold escape sequences: they are taken out.
2. A character that the encoding of the output lacks is written by another one.
3. An output that takes no more, as a full disk or a pipe that nobody reads, ends what only answers with one line.
   Progress, which goes to stderr, is lost without one, and work that is done keeps its exit code.

JSON, CSV and Parquet are written by `write_bytes`: as they are, unless a terminal is what shows them.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.text import as_json, clean, rows_as_json

T = TypeVar("T")

SUBSTITUTES = {
    "–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "·": "-", "×": "x", "±": "+/-", "→": "->", "↓": "v", "↑": "^",
    "‖": "||", "²": "2", "₂": "2", "₀": "0", "′": "'", "≤": "<=", "≥": ">=", "│": "|", "─": "-", "┄": "-",
    "═": "=", "█": "#",
    "τ": "tau", "Ψ": "Psi", "ψ": "psi", "σ": "sigma", "α": "alpha", "ε": "epsilon",
    "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
"""What is written where an encoding lacks a character; a question mark for any other."""
ERRORS = "qsweep.substitute"
"""The name under which Python's codecs know this."""


class OutputLost(QsweepError):
    """Standard output takes no more of what was asked for."""


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SUBSTITUTES.get(one, "?") for one in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _substitute)


class Outlet:
    """A standard stream, of which the laws above hold. A Rich console writes to its `rich_proxied_file`."""

    encoding = "utf-8"
    """Any text may be written."""

    def __init__(self, stream: TextIO, *, needed: bool, cleaning: bool = True) -> None:
        self._stream = stream
        self._needed = needed
        self._cleaning = cleaning

    @property
    def rich_proxied_file(self) -> Outlet:
        """The same without cleaning: Rich's own escape sequences have to pass. a `Screen` cleans what it shows."""
        return Outlet(self._stream, needed=self._needed, cleaning=False)

    def write(self, text: str) -> int:
        shown = clean(text) if self._cleaning else text
        if shown:
            self._try(lambda: self._stream.write(shown))
        return len(text)

    @property
    def buffer(self) -> Bytes:
        return Bytes(self)

    def write_bytes(self, content: bytes) -> None:
        """Write this as it is, behind all text so far."""
        self._try(self._stream.flush)
        self._try(lambda: self._stream.buffer.write(content))
        self._try(self._stream.buffer.flush)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except OSError as error:
            self._forget()
            if not self._needed:
                return None
            closed = error.errno in (errno.EPIPE, errno.EBADF)
            problem = "was closed before everything was written" if closed else f"can't be written: {error.strerror}"
            raise OutputLost(f"standard output {problem}") from None

    def _forget(self) -> None:
        """What is still in the buffers, and all that follows, goes nowhere."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class Bytes:
    """The door to an outlet for code that writes bytes to a standard stream."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def write(self, content: bytes) -> int:
        self._outlet.write_bytes(content)
        return len(content)

    def flush(self) -> None:
        self._outlet.flush()


@contextlib.contextmanager
def outlets() -> Iterator[None]:
    """Print through outlets, for as long as a command runs."""
    before = sys.stdout, sys.stderr
    closed = _occupy_descriptors()
    for stream in filter(None, before):
        stream.reconfigure(errors=ERRORS)
    sys.stdout = Outlet(before[0] or closed, needed=True)
    sys.stderr = Outlet(before[1] or closed, needed=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _occupy_descriptors() -> TextIO:
    """No file of ours may take the place of a standard stream that the shell has closed. Answers a stream that can't be
    written, to stand for such a one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    return open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8", closefd=False)


@contextlib.contextmanager
def answering_after_work(remedy: str) -> Iterator[None]:
    """What is printed here is the answer of work that is done: if it gets lost, the exit code still speaks of the
    work."""
    try:
        yield
    except OutputLost as lost:
        sys.stderr.write(f"qsweep: {lost}; the work is done, see: {remedy}\n")


def write_bytes(content: bytes) -> None:
    """Write to standard output as it is; to a terminal as text, which may hold nothing that a terminal obeys."""
    if sys.stdout.isatty():
        sys.stdout.write(content.decode(errors="replace"))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def write_json(content: Any) -> None:
    """Write one JSON document, on one line, to standard output. What is not a finite number is null."""
    write_bytes(as_json(content).encode() + b"\n")


def write_json_rows(pages: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Write what `write_json` does of the rows of all pages, page by page."""
    before = "["
    for page in pages:
        write_bytes((before + rows_as_json(page)[1:-1]).encode())
        before = ", "
    write_bytes(b"]\n" if before == ", " else b"[]\n")
