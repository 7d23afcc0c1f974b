"""One stage in a process of its own: `python -m benchmarks.gpu_day.stage`, for `benchmarks.gpu_day`.

It ends with its starter, whatever ended that: its input is a pipe whose other end the starter holds.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_day.packing import unpacked
from benchmarks.gpu_day.piece import Bench, Found, NotHere, Piece
from benchmarks.gpu_day.sheet import Figure, Sheet, Verdict
from benchmarks.gpu_day.stages import NAMES
from qsweep.sweeps.errors import InputError
from qsweep.workers.device import build

AGAIN = 75
"""The exit code that asks for a new process: after an error the GPU's context may be of no more use."""
REFUSED = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=NAMES)
    parser.add_argument("--only", default="", help="pieces whose names begin so")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--deadline", type=float, required=True)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("there is no GPU that this torch can use: with --device cpu the processor takes its place\n")
        return REFUSED
    pieces = importlib.import_module(f"benchmarks.gpu_day.{given.stage}").pieces(device)
    pieces = [one for one in pieces if one.name.startswith(given.only)]
    if given.list:
        for one in pieces:
            print(f"{given.stage}/{one.name}: {one.target}")
        return 0
    try:
        sheet = Sheet(given.out / f"{given.stage}.json", machine_of(device))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    if given.again:
        sheet.forget(given.only)
    sheet.list([one.name for one in pieces if not one.summary])
    bench = Bench(
        device=device,
        out=given.out,
        packed=given.data,
        data=unpacked(given.data, given.out / "work" / "data"),
        deadline=given.deadline,
        sheet=sheet,
    )
    return _work(bench, given.stage, pieces)


def machine_of(device: torch.device) -> dict[str, Any]:
    """What must be the same for figures to stand in one file."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "torch": build()}


def _work(bench: Bench, stage: str, pieces: list[Piece]) -> int:
    for piece in pieces:
        if piece.summary or bench.sheet.is_done(piece.name):
            continue
        if bench.left() <= 0:
            break
        _forget_former(bench)
        bench.sheet.begin(piece.name, piece.target, piece.limit)
        figure, useless = _done(piece, bench)
        _keep(bench, stage, piece, figure)
        if useless:
            return AGAIN
    for piece in pieces:
        if piece.summary:
            _keep(bench, stage, piece, _done(piece, bench)[0])
    return 0


def _keep(bench: Bench, stage: str, piece: Piece, figure: Figure) -> None:
    bench.sheet.add(piece.name, figure)
    print(f"{stage}/{piece.name}: {figure.figure} — {figure.verdict}", flush=True)
    if figure.traceback:
        print(figure.traceback, flush=True)


def _forget_former(bench: Bench) -> None:
    """Give back what former pieces held: a cohort and its graphs refer to each other."""
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)


def _done(piece: Piece, bench: Bench) -> tuple[Figure, bool]:
    """A piece's figure, and whether this process is of no more use."""
    began = time.perf_counter()
    told, useless = "", False
    try:
        found = piece.work(bench)
        verdict = Verdict.MEASURED if found.met is None else Verdict.MET if found.met else Verdict.MISSED
        verdict = verdict if found.whole else Verdict.GOES_ON
    except NotHere as error:
        found, verdict = Found(figure=str(error)), Verdict.ABSENT
    except Exception as error:  # whatever a piece raises is its figure: the day goes on
        told, useless = traceback.format_exc(), bench.device.type == "cuda"
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        found, verdict = Found(figure=f"{type(error).__name__}: {reason}"), Verdict.FAILED
    seconds = time.perf_counter() - began
    made = Figure(
        target=piece.target, figure=found.figure, verdict=verdict, seconds=seconds, traceback=told, data=found.data
    )
    json.dumps(made.data)
    return made, useless


def _end_with_starter() -> None:
    """Wait for the other end of the input to close, and end this process with all that it has started."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
