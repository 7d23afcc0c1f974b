"""A synthesis' steps against a straightforward script of the same method, SADAG against Genie, and where the time goes.

    python -m benchmarks.zeroshot [--turns 40] [--threads 1] [--networks digits]

The script is Genie's published one (SamsungLabs/Genie, `distill.py`) on plain modules: the teacher frozen, hooks at its
batch norm, autograd to the pixels, one batch after another; `as published` is the same with the teacher not frozen. The
models are untrained: no figure depends on it. All take steps in turn in one process, and a ratio is the median over the
turns, because the speed of a machine drifts. SADAG's cost is that of a whole synthesis at the default lengths, 4,000
steps and 400 of the second stage. The share of convolutions is that of a profile of one thread. Prints one Markdown
table; the processor seconds of every step go to `benchmarks/results/zeroshot.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.turns import Step, ratio_of, timed
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie, Sadag
from qsweep.workers.deployed import deployed
from qsweep.workers.models import NETWORKS
from qsweep.workers.zero_shot.generator import generator_modules
from qsweep.workers.zero_shot.synthesis import Synthesizer

RECIPE: dict[str, Any] = {
    "model": "cifar-resnet", "bits": 32, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0,
    "epochs": 1, "batch_size": 64,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "ResNet-20 4 on digits": ({"data": "digits", "depth": 20, "width": 4}, 64),
    "ResNet-20 16 on CIFAR-100": ({"data": "cifar100", "depth": 20, "width": 16}, 128),
}
"""The network of `digits-zeroshot` and that of `zeroshot-cifar100`, with the images of a batch."""
BITS = {"weight_bits": 2, "activation_bits": 2}
CONVOLUTIONS = (
    "aten::mkldnn_convolution", "aten::_convolution", "aten::convolution_backward", "aten::_slow_conv2d",
    "aten::thnn_conv2d",
)  # fmt: skip
"""What the profiler calls the work of convolutions, forward and backward; `aten::_convolution` is that of transposed
ones."""


def model_of(training: Training) -> dict[str, Tensor]:
    """A model of this training as it begins."""
    layout = NETWORKS[training.model.name](training.model, training.data).layout
    return dict(layout.named(layout.initial_parameters(1), layout.initial_statistics()))


def script_step(training: Training, model: Mapping[str, Tensor], batch: int, *, frozen: bool) -> Step:
    """One iteration of the script."""
    teacher = deployed(training, model).requires_grad_(not frozen)
    inputs: list[Tensor] = []
    stored: list[tuple[Tensor, Tensor]] = []
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            stored.append((module.running_mean, torch.sqrt(module.running_var + 1e-6)))
            module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        elif isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.register_forward_pre_hook(lambda _, given: _swing(given[0]))
    generator = generator_modules(256, training.data.channels, training.data.size)
    embeddings = torch.randn(batch, 256, requires_grad=True)
    of_z = torch.optim.Adam([embeddings], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(of_z, min_lr=1e-4, patience=100)
    of_g = torch.optim.Adam(generator.parameters(), lr=0.01)

    def step() -> None:
        inputs.clear()
        images = generator(embeddings)
        teacher(images)
        deviation, mean = torch.std_mean(images, [2, 3])
        loss = _distance(torch.zeros(1, mean.shape[1]), mean) + _distance(torch.ones(1, mean.shape[1]), deviation)
        for (wanted_mean, wanted_deviation), given in zip(stored, inputs, strict=True):
            deviation, mean = torch.std_mean(given, [0, 2, 3])
            loss = loss + _distance(wanted_mean, mean) + _distance(wanted_deviation, deviation)
        of_z.zero_grad()
        of_g.zero_grad()
        loss.backward()
        of_z.step()
        of_g.step()
        plateau.step(loss.item())

    return step


def _swing(images: Tensor) -> Tensor:
    down, across = torch.randint(3, (2,)).tolist()
    side = images.shape[2]
    if side == 1:
        return images
    return F.pad(images, [1, 1, 1, 1], mode="reflect")[:, :, down : down + side, across : across + side]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).norm() ** 2 / len(other)


def synthesis(training: Training, model: Mapping[str, Tensor], batch: int, *, second: bool) -> Synthesizer:
    """A synthesis of one long batch; `second`: of SADAG, in its second stage from its second step on."""
    given = {"image_count": batch, "image_batch": batch}
    asked = Sadag(**given, **BITS, image_iterations=1, sharp_iterations=100_000) if second else Genie(
        **given, image_iterations=100_000
    )  # fmt: skip
    return Synthesizer(training, model, asked, device=torch.device("cpu"))


def whole_ratio(seconds: dict[str, list[float]]) -> float:
    """What a whole synthesis of SADAG costs beside one of Genie."""
    asked = Sadag(**BITS)
    second = ratio_of(seconds, "sadag", "genie")
    return 1 + second * asked.sharp_iterations / asked.image_iterations


def profiled(step: Step, turns: int) -> dict[str, float]:
    """The share of the processor time of some steps by operation, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(turns):
            step()
    times = {one.key: one.self_cpu_time_total for one in seen.key_averages()}
    whole = sum(times.values())
    return {name: value / whole for name, value in sorted(times.items(), key=lambda one: -one[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", default="", help="Those alone in whose titles this stands.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures = []
    print("| network | step, ms | script | as published | second stage's step | SADAG / Genie | in convolutions |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for title, (shape, batch) in SHAPES.items():
        if given.networks not in title:
            continue
        training = Training.from_settings({**RECIPE, **shape})
        model = model_of(training)
        steps = {
            "genie": synthesis(training, model, batch, second=False).step,
            "sadag": synthesis(training, model, batch, second=True).step,
            "script": script_step(training, model, batch, frozen=True),
            "published": script_step(training, model, batch, frozen=False),
        }
        load = os.getloadavg()[0]
        seconds = timed(steps, given.turns)
        shares = profiled(steps["genie"], max(4, given.turns // 4))
        convolutions = sum(share for name, share in shares.items() if name.startswith(CONVOLUTIONS))
        figures.append({"shape": title, "batch": batch, "load": load, "seconds": seconds, "shares": shares})
        ratios = " | ".join(f"{ratio_of(seconds, one, 'genie'):.2f}" for one in ("script", "published", "sadag"))
        print(
            f"| {title} | {1e3 * statistics.median(seconds['genie']):.1f} | {ratios} | {whole_ratio(seconds):.2f} | "
            f"{100 * convolutions:.0f}% |",
            flush=True,
        )
    machine = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": given.threads,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "zeroshot.json").write_text(json.dumps({**machine, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
