"""A real piece of a sweep through the bundle's door: four trainings and their PAC-Bayes measures.

The results come home as `portion-results.zip`, for `qsweep import`; `qsweep tables` then has them beside the paper's.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import torch

from benchmarks import surroundings
from benchmarks.gpu_day.packing import PORTIONS, archive
from benchmarks.gpu_day.piece import Bench, Found, NotHere, Piece
from qsweep.sweeps import processes

LEAVING = 30.0
"""Seconds before the end of the day in which the agents keep a checkpoint and the results are written."""
DONE, INTERRUPTED = 0, 130


def pieces(device: torch.device) -> list[Piece]:
    name = "cifar10" if device.type == "cuda" else "digits"
    target = "every training and measure done, and its results ready to come home"
    return [Piece(name=name, target=target, work=lambda bench: through_bundle(bench, name), limit=24 * 3600.0)]


def through_bundle(bench: Bench, name: str) -> Found:
    """Work the bundle off as far as time allows; what is done stays, and the next run goes on."""
    data = archive(bench.data, bench.packed, name)
    assert bench.packed is not None
    source = bench.packed / f"{PORTIONS[name]}.zip"
    if not source.exists():
        raise NotHere(f"--data has no {source.name}")
    bundle = bench.out / "work" / source.name
    if not bundle.exists():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        temporary = bundle.with_suffix(".copy")
        shutil.copyfile(source, temporary)
        temporary.rename(bundle)
    results = bench.out / "portion-results.zip"
    code, said = _worked_off(bench, bundle, data, results)
    if code not in (DONE, INTERRUPTED):
        raise RuntimeError(f"the bundle's runner ended with {code}:\n{said}")
    rows = _rows(bundle.with_suffix(""))
    words = ", ".join(f"{one['bits']} bits {one['test_accuracy']:.2%}" for one in rows["runs"]) or "no training done"
    words += f"; {len(rows['measures'])} measures"
    return Found(figure=words, met=True if code == DONE else None, whole=code == DONE, data=rows)


def _worked_off(bench: Bench, bundle: Path, data: Path, results: Path) -> tuple[int, str]:
    """The exit code of the bundle's runner and the end of what it said. Its models are too large to come along."""
    command = [*processes.PYTHON, "qsweep.workers", str(bundle), "--data", str(data)]
    command += ["--results", str(results), "--no-models"]
    log = bench.out / "work" / "portion.log"
    environment = surroundings()
    if bench.small:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("ab") as file:
        process = processes.start(
            command, cwd=bundle.parent, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        try:
            code = process.wait(max(bench.left() - LEAVING, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            code = process.wait(max(bench.left(), LEAVING))
    return code, log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    """What the bundle has found so far, by bits."""
    found: dict[str, list[dict[str, object]]] = {}
    for kind in ("runs", "measures"):
        files = sorted((folder / "results" / kind).glob("*.parquet"))
        rows = pd.concat([pd.read_parquet(one) for one in files]) if files else pd.DataFrame()
        found[kind] = [
            {key: value for key, value in row.items() if isinstance(value, int | float | str | bool)}
            for row in (rows.sort_values("bits", ascending=False) if "bits" in rows else rows).to_dict("records")
        ]
    return found
