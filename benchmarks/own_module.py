"""A module of a user side by side against plain PyTorch loops: `python -m benchmarks.own_module`.

16 models of a small CNN on the digits, SGD with momentum, one thread. Each round takes some steps of the engine in each
of its two ways to call modules, and of 16 plain loops of a module and `torch.optim.SGD` (for each tensor, and
`foreach`), in turn. Reported is the processor time of a step of all models, the least of the rounds, which other load
on the machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import load
from qsweep.workers.data.batches import Batches
from qsweep.workers.forms import Form
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.module import ModuleNetwork

MODELS, ROUNDS, STEPS = 16, 6, 3
CPU = torch.device("cpu")


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def plain(training: Training, batches: Batches, *, foreach: bool) -> Callable[[], None]:
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


def main() -> None:
    torch.set_num_threads(1)
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
        for form in (Form.LOOP, Form.STACKED)
    }
    ways |= {
        "plain": plain(trainings[0], batches, foreach=False),
        "foreach": plain(trainings[0], batches, foreach=True),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, step in ways.items():
            step()
            began = time.process_time()
            for _ in range(STEPS):
                step()
            best[name] = min(best[name], (time.process_time() - began) / STEPS)
    loop = min(best["plain"], best["foreach"])
    for name, seconds in best.items():
        print(
            f"{name:8} {1000 * seconds:7.1f} ms a step of {MODELS} models, {loop / seconds:.2f} x the better plain loop"
        )


if __name__ == "__main__":
    main()
