"""Sharpness-aware and activation-quantized training on the digits: the cohort engine beside plain PyTorch, on one core.

    python -m benchmarks.sharpness_aware [--turns 60]

A planned cohort of NiN 3x10 trains by each method, with weights of every other model at 4 bits by LSQ, and plainly with
activations at 4 bits as well; the loops train the same networks of plain modules one after another, with
`torch.optim.SGD` and with SAM around it as `davda54/sam` has it. All take steps in turn in one process, which has the
environment that an agent gives; a ratio is the median over the turns, because the speed of a machine drifts. Prints the
ratios; the processor seconds of every step go to `benchmarks/results/sharpness_aware.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.images import images_of
from benchmarks.train_throughput import (
    Step,
    cohort_step,
    in_processes,
    memory_batches,
    plain_model,
    plain_step,
    training_of,
)
from benchmarks.turns import ratio_of, timed
from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.environment import KEEP_MEMORY
from qsweep.workers.forms import default_form

SHAPE, PRECISION, DEVICE = "digits 3x10", "fp32", torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "engine": {},
    "engine, SAM": {"method": "sam", "rho": 0.05},
    "engine, SAQ3": {"method": "saq3", "rho": 0.05},
    "engine, activations": {"activation_bits": 4},
    "engine, SAM, activations": {"method": "sam", "rho": 0.05, "activation_bits": 4},
}
RATIOS = (
    ("SAM / one pass", "engine, SAM", "engine", 2.1),
    ("SAQ3 / one pass", "engine, SAQ3", "engine", 2.1),
    ("SAM / one pass, activations", "engine, SAM, activations", "engine, activations", 2.1),
    ("activations / none", "engine, activations", "engine", 1.5),
    ("activations / none, SAM", "engine, SAM, activations", "engine, SAM", 1.5),
    ("loop / engine", "loop", "engine", None),
    ("loop with SAM / engine with SAM", "loop, SAM", "engine, SAM", 4.0),
)
"""What is asked: at most so much, of the last at least."""
RHO = 0.05


class Sam:
    """SAM around an optimizer, with the steps of `davda54/sam`: two gradients of each batch, the point put back."""

    def __init__(self, base: torch.optim.Optimizer, rho: float) -> None:
        self.base, self.rho = base, rho
        self.kept: dict[Tensor, Tensor] = {}

    @property
    def parameters(self) -> Iterator[Tensor]:
        return (p for group in self.base.param_groups for p in group["params"])

    @torch.no_grad()
    def first_step(self) -> None:
        norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
        scale = self.rho / (torch.stack(norms).norm() + 1e-12)
        for p in self.parameters:
            if p.grad is not None:
                self.kept[p] = p.detach().clone()
                p.add_(p.grad * scale)
        self.base.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for p, before in self.kept.items():
            p.copy_(before)
        self.base.step()
        self.base.zero_grad()


def running_statistics(net: nn.Module, momentum: float) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def sam_step(one: Training, batches: Iterator[tuple[Tensor, Tensor]]) -> Step:
    """One step of one model of plain modules by SAM; running statistics move in the first pass."""
    net = plain_model(one)
    optimizer = Sam(torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4), RHO)

    def step() -> int:
        images, labels = next(batches)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.first_step()
        running_statistics(net, 0.0)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.second_step()
        running_statistics(net, 0.1)
        return 1

    return step


def loops(images: Images, models: int) -> dict[str, Any]:
    """A step of each of so many models, one after another, plainly and by SAM."""
    plain, sharp = [], []
    for slot in range(models):
        one = training_of(SHAPE, PRECISION, 32 if slot % 2 else 4, slot)
        batches = memory_batches(images, one, DEVICE)
        plain.append(plain_step(one, batches, torch.channels_last, DEVICE))
        sharp.append(sam_step(one, batches))
    return {"loop": lambda: [step() for step in plain], "loop, SAM": lambda: [step() for step in sharp]}


def measure(turns: int, core: int, start: Any, results: Any) -> None:
    """In a process of its own: the processor seconds of every step of each contender."""
    torch.set_num_threads(1)
    torch.manual_seed(core)
    images = images_of("digits", None)
    plan = default_form(training_of(SHAPE, PRECISION, 4), "cpu")
    steps: dict[str, Any] = {}
    for name, kind in KINDS.items():
        members = [training_of(SHAPE, PRECISION, 32 if slot % 2 else 4, slot, **kind) for slot in range(plan[0])]
        steps[name] = cohort_step(members, images, plan, DEVICE)
    start.wait()
    seconds = timed(steps | loops(images, plan[0]), turns)
    results.put({"models": plan[0], "form": plan[1].value, "seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    os.environ.update(KEEP_MEMORY)
    [found] = in_processes(1, measure, given.turns)
    seconds = found["seconds"]
    print(f"{found['models']} models of {SHAPE}, {found['form']}; medians of {given.turns} turns\n")
    print("| what | ms | ms | ratio | asked |\n|---|--:|--:|--:|--:|")
    for title, above, below, asked in RATIOS:
        times = " | ".join(f"{statistics.median(seconds[name]) * 1e3:.1f}" for name in (above, below))
        print(f"| {title} | {times} | {ratio_of(seconds, above, below):.2f} | {asked or ''} |")
    machine = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "sharpness_aware.json").write_text(json.dumps({**machine, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
