"""How flat, how fast? The searches for all models at once against one model after another, at the same radius."""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.piece import Bench, Found, Piece
from benchmarks.measures import SHAPES, compare, trained
from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.measures import measure_models

SMALL: dict[str, Any] = {
    "settings": {"data": "cifar10", "depth": 2, "width": 8, "channels_per_width": 2, "epochs": 2},
    "bits": (32, 4),
    "images": 300,
    "measure": PacBayes(measure_samples=60, iterations=3, copies=10),
}
SHARPNESS = Sharpness(measure_samples=200, iterations=4, ascent_batch=64)
SMALL_SHARPNESS = Sharpness(measure_samples=60, iterations=2, ascent_batch=32, ascent_steps=3)


def pieces(device: torch.device) -> list[Piece]:
    on_gpu = device.type == "cuda"
    shape, faster = ("cifar10 4x10", ", in less time") if on_gpu else ("small", "")
    serial = f"the same σ as plain modules, one noisy copy after another{faster}"
    alone = f"all models at once: the same radius as one after another{faster}"
    return [
        Piece(name=f"pac-bayes/{shape}", target=serial, work=partial(pac_bayes, name=shape), limit=240.0),
        Piece(name=f"sharpness/{shape}", target=alone, work=partial(sharpness, name=shape), limit=240.0),
    ]


def _folder(bench: Bench) -> Path | None:
    """Where CIFAR-10 is; noise of its shape takes its place."""
    return bench.data if bench.data is not None and (bench.data / "cifar10.npz").exists() else None


def pac_bayes(bench: Bench, name: str) -> Found:
    one = compare(name, _folder(bench), bench.device, 1, shape=SMALL if name == "small" else None)
    serial, engine = (min(one["seconds"][which]) for which in ("serial", "engine"))
    words = f"serial {serial:.2f} s, engine {engine:.2f} s: {one['ratio']:.2f}×, "
    words += "the same σ" if one["same"] else "OTHER σ"
    return Found(figure=words, met=one["same"] and (bench.small or one["ratio"] > 1), data=one)


@cache
def _models(name: str, folder: Path | None, device: torch.device) -> tuple[list[Training], list[Any], Images]:
    return trained(SMALL if name == "small" else SHAPES[name], folder, device)


def sharpness(bench: Bench, name: str) -> Found:
    """The engine against itself, one model at a time."""
    trainings, models, images = _models(name, _folder(bench), bench.device)
    measure = SMALL_SHARPNESS if name == "small" else SHARPNESS

    def radii(some: list[Training], theirs: list[dict[str, Tensor]]) -> list[float]:
        return [float(row["radius"]) for row in measure_models(some, theirs, measure, images, device=bench.device)]

    radii(trainings[:1], models[:1])  # loads the kernels
    bench.finish()
    began = time.perf_counter()
    together = radii(trainings, models)
    middle = time.perf_counter()
    alone = [radii([one], [model])[0] for one, model in zip(trainings, models, strict=True)]
    seconds = {"together": middle - began, "alone": time.perf_counter() - middle}
    same = together == alone
    words = f"one after another {seconds['alone']:.2f} s, together {seconds['together']:.2f} s, "
    words += "the same radius" if same else "OTHER radii"
    data = {"seconds": seconds, "together": together, "alone": alone}
    return Found(figure=words, met=same and (bench.small or seconds["together"] < seconds["alone"]), data=data)
