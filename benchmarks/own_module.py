"""A module of a user side by side against plain PyTorch loops: `python -m benchmarks.own_module`.

16 models of each of some modules on the digits, SGD with momentum, one thread. Each round takes some steps of the
engine in each of its two ways to call modules, and of 16 plain loops of a module and `torch.optim.SGD` (for each
tensor, and `foreach`), in turn. Reported is the processor time of a step of all models, the least of the rounds, which
other load on the machine disturbs least, and how many times as fast as the better plain loop the way is that `qsweep
calibrate` takes: `loop` or `vmap`, whichever is faster. All have the memory allocator's settings that agents have.

Raw figures in `benchmarks/results/own_module.json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import load
from qsweep.workers.data.batches import Batches
from qsweep.workers.environment import KEEP_MEMORY
from qsweep.workers.forms import Form
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.module import ModuleNetwork

RESULTS = Path(__file__).parent / "results" / "own_module.json"
MODELS, ROUNDS, STEPS = 16, 6, 3
CPU = torch.device("cpu")


def cnn(channels: int, dropout: float = 0.0) -> nn.Module:
    parts = [
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.Flatten(),
    ]  # fmt: skip
    parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(32 * channels, 10))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "CNN of 8 and 16 channels": lambda: cnn(8),
    "CNN of 8 and 16 channels, dropout": lambda: cnn(8, 0.2),
    "CNN of 64 and 128 channels": lambda: cnn(64),
    "MLP of 32 and 32 units": mlp,
}


def plain(build: Callable[[], nn.Module], batches: Batches, *, foreach: bool) -> Callable[[], None]:
    """A step of all models, one after another."""
    models = []
    for seed in range(MODELS):
        torch.manual_seed(seed)
        models.append(build())
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9, foreach=foreach) for one in models]

    def step() -> None:
        images, targets = batches.batch(0)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets.labels).backward()
            optimizer.step()

    return step


def measure(name: str, build: Callable[[], nn.Module], rounds: int) -> dict[str, Any]:
    """Seconds of a step of all models, each way."""
    images = load(DATASETS["digits"], None, download=False)
    NETWORKS["nin"] = lambda model, data: ModuleNetwork(build, data.shape, data.classes)
    settings = {
        "data": "digits", "model": "nin", "width": 1, "depth": 1, "optimizer": "sgd", "learning_rate": 0.05,
        "weight_decay": 0.0, "bits": 32, "epochs": 100, "batch_size": 64,
    }  # fmt: skip
    trainings = [Training.from_settings({**settings, "seed": seed}) for seed in range(MODELS)]
    batches = Batches(images, trainings[0].recipe, CPU, torch.float32)
    batches.open(0)
    ways: dict[str, Callable[[], None]] = {
        form.value: Cohort(trainings, images, slots=MODELS, form=form, device=CPU).step
        for form in (Form.LOOP, Form.VMAP)
    }
    engine = list(ways)
    ways |= {"plain": plain(build, batches, foreach=False), "foreach": plain(build, batches, foreach=True)}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, step in ways.items():
            step()
            began = time.process_time()
            for _ in range(STEPS):
                step()
            best[way] = min(best[way], (time.process_time() - began) / STEPS)
    loop = min(best["plain"], best["foreach"])
    chosen = min(engine, key=lambda way: best[way])
    return {
        "module": name,
        "milliseconds": {way: round(1000 * seconds, 2) for way, seconds in best.items()},
        "chosen": chosen,
        "times_as_fast": round(loop / best[chosen], 2),
    }


def main() -> None:
    if not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.own_module"], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(1)
    rows = []
    for name, build in MODULES.items():
        rows.append(measure(name, build, ROUNDS))
        print(json.dumps(rows[-1]))
    content = {"models": MODELS, "torch": torch.__version__, "load": os.getloadavg()[0], "modules": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
