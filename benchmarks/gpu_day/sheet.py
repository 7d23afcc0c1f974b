"""The file of a stage: every figure as soon as it is there, and which piece is at work."""

from __future__ import annotations

import enum
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import write_whole
from qsweep.sweeps.words import counted


class Verdict(enum.StrEnum):
    """What a figure says of its target."""

    MET = "met"
    MISSED = "missed"
    MEASURED = "measured"
    """There is no target: the figure alone."""
    FAILED = "failed"
    """With a traceback, or the end of the process."""
    ABSENT = "not here"
    """This machine has not what it takes."""
    GOES_ON = "goes on"
    """Cut off: the next run takes it up."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row of the table."""

    target: str
    figure: str
    verdict: Verdict
    seconds: float = 0.0
    traceback: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """The piece at work, since when (`time.time()`), and after how many seconds it is taken for hung."""

    name: str
    target: str
    since: float
    limit: float


class Sheet:
    """The figures of one stage on one machine, in a JSON file that is whole at any time."""

    def __init__(self, path: Path, machine: dict[str, Any] | None) -> None:
        """`machine`: None takes the file's. Raises InputError if the file is another machine's, or no such file."""
        self.path, self.machine = path, machine
        self.figures: dict[str, Figure] = {}
        self.missing: list[str] = []
        """Pieces without a figure, in their order, as the stage's process has listed them."""
        self.now: AtWork | None = None
        if path.exists():
            self._read()

    def _read(self) -> None:
        allowed = "another --out, or remove the file"
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            found = {
                name: Figure(**{**one, "verdict": Verdict(one["verdict"])}) for name, one in content["figures"].items()
            }
            machine, self.missing = content["machine"], list(content["missing"])
            self.now = AtWork(**content["now"]) if content["now"] else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this is not a file of figures ({error})", place=str(self.path), allowed=allowed
            ) from None
        if self.machine is None:
            self.machine = machine
        elif machine != self.machine:
            raise InputError(
                f"these figures are of another machine: {machine}, and this is {self.machine}",
                place=str(self.path),
                allowed=allowed,
            )
        self.figures = found

    def list(self, names: list[str]) -> None:
        """Say which pieces the stage has."""
        self.missing = [name for name in names if not self.is_done(name)]
        self._write()

    def is_done(self, name: str) -> bool:
        return name in self.figures and self.figures[name].verdict is not Verdict.GOES_ON

    def forget(self, prefix: str) -> None:
        """Have failed and missed pieces, and those that could not run, done again."""
        again = (Verdict.FAILED, Verdict.MISSED, Verdict.ABSENT)
        self.figures = {
            name: one for name, one in self.figures.items() if not (name.startswith(prefix) and one.verdict in again)
        }
        self._write()

    def begin(self, name: str, target: str, limit: float) -> None:
        self.now = AtWork(name=name, target=target, since=time.time(), limit=limit)
        self._write()

    def rest(self) -> None:
        """Nothing is at work: what was has ended with its process."""
        self.now = None
        self._write()

    def add(self, name: str, figure: Figure) -> None:
        self.figures[name] = figure
        if self.is_done(name):
            self.missing = [one for one in self.missing if one != name]
        self.now = None
        self._write()

    def _write(self) -> None:
        content = {
            "machine": self.machine,
            "now": None if self.now is None else asdict(self.now),
            "missing": self.missing,
            "figures": {name: asdict(one) for name, one in self.figures.items()},
        }
        write_whole(self.path, (json.dumps(content, indent=1) + "\n").encode())


def table(figures: dict[str, Figure], missing: list[str]) -> str:
    """Markdown: target, figure, verdict; one line a stage for the pieces that had no time."""
    lines = ["| piece | target | figure | verdict |", "|---|---|---|---|"]
    for name, one in figures.items():
        lines.append(f"| {name} | {_cell(one.target)} | {_cell(one.figure)} | {one.verdict} |")
    left = Counter(name.partition("/")[0] for name in missing if name not in figures)
    for stage, count in left.items():
        lines.append(f"| {stage} | | {counted(count, 'piece')} without time yet | {Verdict.GOES_ON} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
