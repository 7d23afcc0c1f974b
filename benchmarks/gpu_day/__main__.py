"""The GPU day: one command that proves and measures on a GPU what the engine does there.

    python -m benchmarks.gpu_day [--minutes 30] [--out DIR] [--data DIR] [--only STAGE[/PIECE]]… [--device cuda|cpu]
    python -m benchmarks.gpu_day --pack DIR [--data FOLDER] [--epochs N]

Runs from a checkout with torch, numpy, pandas and pyarrow alone. Each stage has a process and a time budget of its own,
and writes each figure to `DIR/STAGE.json` as soon as it is there. Run again, the same command resumes where it stopped.
Where qsweep is installed, `--pack` makes the folder for `--data`: CIFAR-10 in parts, the digits, and bundles of
trainings.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ROOT, surroundings
from benchmarks.gpu_day.sheet import Figure, Sheet, Verdict, table
from benchmarks.gpu_day.stages import DAY, NAMES, STAGES, Stage, seconds_of
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError, QsweepError

POLL = 0.2
AGAIN, REFUSED = 75, 2
"""Exit codes of a stage's process: it asks for a new one; it can't run here."""
INTERRUPTED = 130
HUNG, OVERDUE = 1000, 1001
"""In the place of an exit code, where a stage's process was ended from here."""
GRACE = 20.0
"""Seconds over its budget that a piece may take before it is cut off."""
START = 120.0
"""Seconds in which a stage's process has begun its first or its next piece."""


def main() -> int:
    given = _parser().parse_args()
    try:
        if given.pack is not None:
            from benchmarks.gpu_day.packing import pack  # here, because a day needs none of it

            pack(given.pack.absolute(), given.data, given.epochs)
            return 0
        chosen = _chosen(given.only or NAMES)
        if given.list:
            codes = (_listed(stage, prefix, given) for stage, prefix in chosen)
            return next((code for code in codes if code), 0)
        given.out = given.out.absolute()
        given.out.mkdir(parents=True, exist_ok=True)
        with _hold(given.out) as hold:
            return _day(chosen, given, hold)
    except QsweepError as error:
        sys.stderr.write(f"gpu_day: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=_minutes, default=DAY, help="of the whole day [%(default)g]")
    parser.add_argument("--out", type=Path, default=Path("gpu-day"), help="folder of the figures [%(default)s]")
    parser.add_argument("--data", type=Path, help="what --pack made; for --pack, the folder of the data sets")
    parser.add_argument("--only", action="append", metavar="STAGE[/PIECE]", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--again", action="store_true", help="also what failed, missed its target or could not run")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="make the folder for --data, and run nothing")
    parser.add_argument("--epochs", type=int, default=300, help="of the trainings that --pack puts in [%(default)s]")
    return parser


def _minutes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0 and up to 1440")
    return found


def _chosen(names: list[str] | tuple[str, ...]) -> list[tuple[Stage, str]]:
    """Stages with the beginnings of their pieces' names. Raises InputError for a stage that there isn't."""
    found = []
    for name in names:
        first, _, rest = name.partition("/")
        if first not in NAMES:
            raise InputError(f"there is no stage {first!r}", place="--only", allowed=", ".join(NAMES))
        found.append((STAGES[NAMES.index(first)], rest))
    return sorted(found, key=lambda one: STAGES.index(one[0]))


@contextlib.contextmanager
def _hold(out: Path) -> Iterator[int]:
    """A lock on the folder, which the processes of stages inherit. Raises InputError if another day runs there."""
    hold = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + 10  # the stage of a killed day ends at once, but not before it
    while True:
        try:
            fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError("another day runs here", place=str(out), allowed="another --out") from None
            time.sleep(POLL)
    try:
        yield hold
    finally:
        os.close(hold)


def _listed(stage: Stage, prefix: str, given: argparse.Namespace) -> int:
    """Have a stage's process say which pieces it has; its exit code."""
    command = [*_command(stage, prefix, given, time.time()), "--list"]
    with processes.start(command, stdin=subprocess.PIPE, **_surroundings()) as process:
        return process.wait()


def _command(stage: Stage, prefix: str, given: argparse.Namespace, deadline: float) -> list[str]:
    command = [*processes.PYTHON, "benchmarks.gpu_day.stage", stage.name, "--only", prefix, "--device", given.device]
    command += ["--out", str(given.out.absolute()), "--deadline", str(deadline)]
    return command + (["--data", str(given.data.absolute())] if given.data else [])


def _surroundings() -> dict[str, object]:
    return {"env": surroundings(), "cwd": ROOT, "start_new_session": True}


def _day(chosen: list[tuple[Stage, str]], given: argparse.Namespace, hold: int) -> int:
    """Every stage in turn, then the table.

    The exit code: 0 if nothing failed or missed its target, 1 if something did, 2 if the day can't run here.
    """
    red = False
    end = time.time() + given.minutes * 60
    for number, (stage, prefix) in enumerate(chosen):
        left = end - time.time()
        budget = left if number == len(chosen) - 1 else seconds_of(stage, given.minutes, left)
        code = _stage(stage, prefix, given, time.time() + budget, hold) if left > 0 else 0
        if code == REFUSED:
            return REFUSED
        red = red or bool(code)
    figures, missing = _figures(given.out)
    text = table(figures, missing)
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(red or any(one.verdict in (Verdict.FAILED, Verdict.MISSED) for one in figures.values()))


def _figures(out: Path) -> tuple[dict[str, Figure], list[str]]:
    """The figures of all stages, and the pieces that had no time."""
    figures: dict[str, Figure] = {}
    missing: list[str] = []
    for name in NAMES:
        if (sheet := _sheet(out, name)) is not None:
            figures |= {f"{name}/{piece}": one for piece, one in sheet.figures.items()}
            missing += [f"{name}/{piece}" for piece in sheet.missing]
    return figures, missing


def _sheet(out: Path, name: str) -> Sheet | None:
    """A stage's file as its process left it; only that process knows the machine."""
    path = out / f"{name}.json"
    return Sheet(path, None) if path.exists() else None


def _stage(stage: Stage, prefix: str, given: argparse.Namespace, deadline: float, hold: int) -> int:
    """Run a stage until its pieces or its time are at an end: a process that a piece has ended is followed by another.

    The exit code: 0, or not 0 where the stage's process could not even begin.
    """
    print(f"## {stage.title} (up to {deadline - time.time():.0f} s)", flush=True)
    extra = ["--again"] if given.again else []
    while time.time() < deadline:
        if (sheet := _sheet(given.out, stage.name)) is not None:
            sheet.rest()
        code, said = _process(stage, given.out, [*_command(stage, prefix, given, deadline), *extra], deadline, hold)
        extra = []
        if code in (0, REFUSED):
            return code
        sheet = _sheet(given.out, stage.name)
        if code == OVERDUE:
            if sheet is not None and sheet.now is not None:
                print(f"{stage.name}/{sheet.now.name}: the stage's time is over; the next run takes it up", flush=True)
            return 0
        if code == AGAIN:
            continue
        if sheet is None or sheet.now is None:
            print(f"{stage.name}: {said}, and no piece was at work", flush=True)
            return 1
        name, target = sheet.now.name, sheet.now.target
        sheet.add(name, Figure(target=target, figure=said, verdict=Verdict.FAILED))
        print(f"{stage.name}/{name}: {said} — {Verdict.FAILED}", flush=True)
    return 0


def _process(stage: Stage, out: Path, command: list[str], deadline: float, hold: int) -> tuple[int, str]:
    """Run a stage's process to its end: its exit code, or HUNG or OVERDUE where it was ended, and that in words."""
    process = processes.start(command, stdin=subprocess.PIPE, pass_fds=(hold,), **_surroundings())
    try:
        code, said = _wait(process, stage, out, deadline)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    return code, said


def _wait(process: subprocess.Popen[bytes], stage: Stage, out: Path, deadline: float) -> tuple[int, str]:
    changed, last = time.time(), None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL)
            name = signal.Signals(-code).name if code < 0 else f"with {code}"
            return code, f"its process ended {name if code >= 0 else 'by ' + name}"
        sheet = _sheet(out, stage.name)
        now = None if sheet is None else sheet.now
        if now != last:
            changed, last = time.time(), now
        if time.time() > deadline + GRACE:
            return OVERDUE, "its time is over"
        limit = START if now is None else now.limit
        if time.time() > changed + limit:
            return HUNG, f"it hung: its process was ended after {limit:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
