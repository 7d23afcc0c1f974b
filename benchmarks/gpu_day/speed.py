"""How fast does it train? The contenders of `benchmarks.train_throughput`, one after another in this process."""

from __future__ import annotations

import queue
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_day.packing import archive
from benchmarks.gpu_day.piece import Bench, Found, NotHere, Piece
from benchmarks.gpu_day.sheet import Figure, Verdict
from benchmarks.train_throughput import (
    COMPILED_LOOP,
    GPU_SLOTS,
    LOOPS,
    SHAPES,
    Plan,
    engines,
    measure,
    measure_ceilings,
    training_of,
    work_of,
)
from qsweep.workers.device import device_class, precisions
from qsweep.workers.forms import default_form

EPOCHS = 300
SECONDS = 3.0
"""How long the steps of a contender are counted."""
ORDER = ("cifar10 2x8", "cifar10 3x10", "digits 3x10", "cifar10 4x12")
SMALL_ORDER = ("digits 3x10", "cifar10 2x8")
NEAR = 0.9
"""The share of the best found that the default form must reach."""
LIMIT = 300.0


def pieces(device: torch.device) -> list[Piece]:
    """Of each shape and precision the rates of the device, plain loops and the engine's default; then its other forms;
    then what takes long to begin with; the comparisons last."""
    on_gpu = device.type == "cuda"
    ranked: list[tuple[int, Piece]] = []
    for shape in ORDER if on_gpu else SMALL_ORDER:
        for precision in precisions(device):
            begins = f"{shape}/{precision}"
            which: dict[str, Any] = {"shape": shape, "precision": precision}
            target = "products and bytes a second"
            ranked.append((0, Piece(name=f"{begins}/ceilings", target=target, work=partial(ceilings, **which))))
            plans: dict[str, Plan | None] = dict.fromkeys((*LOOPS, COMPILED_LOOP) if on_gpu else LOOPS[1:])
            plans |= engines(shape, precision, device_class(device))
            for name, plan in plans.items():
                work = partial(rate, name=name, plan=plan, **which)
                piece = Piece(name=f"{begins}/{name}", target="model-steps a second", work=work, limit=LIMIT)
                ranked.append((_rank(name, plan), piece))
            target = "the engine's default is faster than every plain loop in fp32" if on_gpu else ""
            ranked.append((9, Piece(name=f"{begins}/gain", target=target, work=partial(gain, **which), summary=True)))
            target, work = f"the default form has {NEAR:.0%} of the best", partial(choice, **which)
            ranked.append((9, Piece(name=f"{begins}/choice", target=target, work=work, summary=True)))
    return [piece for _, piece in sorted(ranked, key=lambda one: one[0])]


def _rank(name: str, plan: Plan | None) -> int:
    """What is measured first: a low number."""
    if "compiled" in name:
        return 3
    if name in LOOPS[1:] or name in ("engine, M = 1", "engine, planned M"):
        return 0
    return 1 if plan is not None and plan[0] == GPU_SLOTS[1] else 2


def _alone(target: Any, *given: Any) -> dict[str, Any]:
    """What a measurement finds where it is the only one."""
    results: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    target(*given, 0, threading.Barrier(1), results)
    return results.get_nowait()


def ceilings(bench: Bench, shape: str, precision: str) -> Found:
    found = _alone(measure_ceilings, precision, bench.device)
    words = f"{found['operations'] / 1e12:.2f} T operations/s, {found['bytes'] / 1e9:.0f} GB/s"
    return Found(figure=words, data={name: found[name] for name in ("operations", "bytes")})


def rate(bench: Bench, name: str, shape: str, precision: str, plan: Plan | None) -> Found:
    """Model-steps a second of one contender."""
    data = str(SHAPES[shape]["data"])
    folder: Path | None = None
    if data == "digits" and bench.data is not None:
        folder = archive(bench.data, bench.packed, data)
    elif bench.data is not None and (bench.data / f"{data}.npz").exists():
        folder = bench.data
    seconds = 0.5 if bench.small else SECONDS
    try:
        found = _alone(measure, name, shape, precision, plan, folder, seconds, bench.device)
    except ModuleNotFoundError as error:
        raise NotHere(f"{error.name} is not installed") from None
    steps = found["steps_per_second"]
    one = training_of(shape, precision, 4)
    model = EPOCHS * one.steps_per_epoch / steps
    words = f"{steps:.3g} model-steps/s, {EPOCHS} epochs of a model in {model:.0f} s"
    words += "" if bench.small else f", {found['peak_mib']:.0f} MiB"
    share = _share(bench, shape, precision, steps)
    words += "" if share is None else f", {share:.0%} of the roofline"
    engine = {} if plan is None else {"slots": plan[0], "form": plan[1].value}
    data_of = {"steps_per_second": steps, "roofline": share, **engine}
    data_of |= {} if bench.small else {"peak_mib": found["peak_mib"]}
    return Found(figure=words, data=data_of)


def _share(bench: Bench, shape: str, precision: str, steps: float) -> float | None:
    known = bench.sheet.figures.get(f"{shape}/{precision}/ceilings")
    if known is None or not known.data:
        return None
    operations, moved = work_of(training_of(shape, precision, 4))
    return steps * max(operations / known.data["operations"], moved / known.data["bytes"])


def _rates(bench: Bench, begins: str) -> dict[str, Figure]:
    found = {name: one for name, one in bench.sheet.figures.items() if name.startswith(begins)}
    good = (Verdict.MEASURED, Verdict.MET, Verdict.MISSED)
    return {name: one for name, one in found.items() if one.verdict in good and "steps_per_second" in one.data}


def gain(bench: Bench, shape: str, precision: str) -> Found:
    """The engine's default against the best plain loop in single precision."""
    loops = [one.data["steps_per_second"] for one in _rates(bench, f"{shape}/fp32/loop").values()]
    default = _rates(bench, f"{shape}/{precision}/engine, planned M").values()
    if not loops or not default:
        raise NotHere("no rates to compare yet")
    ratio = max(one.data["steps_per_second"] for one in default) / max(loops)
    words = f"{ratio:.2f}× the best of {len(loops)} plain loops"
    return Found(figure=words, met=None if bench.small else ratio > 1, data={"ratio": ratio})


def choice(bench: Bench, shape: str, precision: str) -> Found:
    """The form that a cohort has before any calibration, against the best that was found."""
    rates = {name: one.data for name, one in _rates(bench, f"{shape}/{precision}/engine").items()}
    slots, form = default_form(training_of(shape, precision, 4), device_class(bench.device))
    chosen = [one["steps_per_second"] for one in rates.values() if (one["slots"], one["form"]) == (slots, form.value)]
    if not chosen:
        raise NotHere("the default form has no rate yet")
    best = max(rates.values(), key=lambda one: one["steps_per_second"])
    share = max(chosen) / best["steps_per_second"]
    words = f"{form.value} of {slots}: {share:.0%} of {best['form']} of {best['slots']}"
    return Found(figure=words, met=share >= NEAR, data={"share": share, "best": best})
