"""Training steps per second: plain PyTorch loops against the cohort engine, on the CPU.

    python -m benchmarks.train_throughput [--data FOLDER] [--shape SHAPE]… [--seconds 10] [--out benchmarks/results]

Each contender runs as one single-threaded process per core, all at once, and trains the same NiNs (half of
them LSQ at 4 bits, half full precision); the engine's processes get the environment that an agent gets. Prints
one Markdown table; the raw figures go to a JSON file, in which shapes that were not run now stay. CIFAR shapes are
left out without `--data`, bf16 where the processor has no instructions for it.

The roofline of a shape is the longer of two times: its operations (multiplications and additions of all
convolutions, forward and backward; none for the gradient of the images) at the rate of a square matrix
product, and its bytes (each activation written and read forward; it and its gradient read, and the gradient
written, backward) at the rate of a copy. Both rates are measured here, on all cores at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeps.datasets import DATASETS
from sweeps.training import Training
from workers.cohort import Cohort
from workers.data import Images, load
from workers.data.batches import moments
from workers.device import precisions
from workers.environment import KEEP_MEMORY
from workers.forms import default_form

CPU = torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "digits 3x10": {"data": "digits", "depth": 3, "width": 10, "channels_per_width": 2, "batch_size": 64},
    "cifar10 2x8": {"data": "cifar10", "depth": 2, "width": 8, "batch_size": 128, "augment": "crop-flip"},
    "cifar10 3x10": {"data": "cifar10", "depth": 3, "width": 10, "batch_size": 128, "augment": "crop-flip"},
    "cifar10 4x12": {"data": "cifar10", "depth": 4, "width": 12, "batch_size": 128, "augment": "crop-flip"},
}
Step = Callable[[], int]
"""Does some training and returns how many model-steps that was."""


class Lsq(torch.autograd.Function):
    """LSQ of one tensor, as a user would write it."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(v, s)
        ctx.bits = bits
        return torch.clamp(v / s, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).round() * s

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        v, s = ctx.saved_tensors
        low, high = -(2 ** (ctx.bits - 1)), 2 ** (ctx.bits - 1) - 1
        u = v / s
        inside = (u >= low) & (u <= high)
        slope = torch.where(inside, u.round() - u, u.clamp(low, high))
        return gradients[0] * inside, (gradients[0] * slope).sum() / (v.numel() * high) ** 0.5, None


class Conv(nn.Conv2d):
    """A convolution with quantized weights."""

    def quantize(self, bits: int) -> None:
        self.bits = bits
        self.step = nn.Parameter(2 * self.weight.detach().abs().mean() / (2 ** (bits - 1) - 1) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = Lsq.apply(self.weight, self.step, self.bits) if hasattr(self, "step") else self.weight
        return self._conv_forward(x, weight, self.bias)


def plain_model(one: Training) -> nn.Module:
    """NiN of plain modules."""
    layers: list[nn.Module] = []
    convs = one.model.layers(one.data)
    for index, layer in enumerate(convs):
        conv = Conv(layer.inputs, layer.outputs, layer.kernel, stride=layer.stride, padding=layer.padding)
        if one.quantizer is not None:
            conv.quantize(8 if index in (0, len(convs) - 1) else one.bits)
        layers += [conv, nn.BatchNorm2d(layer.outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def plain_step(one: Training, batches: Iterator[tuple[Tensor, Tensor]], memory_format: torch.memory_format) -> Step:
    """One step of one model with torch.optim, in bf16 by autocast."""
    reduced = one.recipe.precision == "bf16"
    net = plain_model(one).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> int:
        images, labels = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = nn.functional.cross_entropy(net(images.to(memory_format=memory_format)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1

    return step


def loader_batches(images: Images, one: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """A DataLoader over a data set with torchvision's transforms, without workers: the core is busy."""
    mean, deviation = (value / 255 for value in moments(images.train_images))
    pictures = [picture.float() / 255 for picture in images.train_images] if one.data.size < 16 else None

    from torchvision import transforms

    steps: list[Any] = [transforms.Normalize(mean.tolist(), deviation.tolist())]
    if one.recipe.augment == "crop-flip":
        side = one.data.size
        steps = [
            transforms.ToPILImage(),
            transforms.RandomCrop(side, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            *steps,
        ]
    transform = transforms.Compose(steps)

    class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(images.train_labels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            picture = images.train_images[index] if pictures is None else pictures[index]
            return transform(picture), int(images.train_labels[index])

    loader = torch.utils.data.DataLoader(Pictures(), batch_size=one.recipe.batch_size, shuffle=True)
    while True:
        yield from loader


def memory_batches(images: Images, one: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardized tensors in memory, shuffled by index, cropped and flipped by the batch."""
    mean, deviation = (value.float()[:, None, None] for value in moments(images.train_images))
    pixels = (images.train_images.float() - mean) / deviation
    size, side = one.recipe.batch_size, one.data.size
    while True:
        for places in torch.randperm(len(pixels)).split(size):
            batch = pixels[places]
            if one.recipe.augment == "crop-flip":
                flipped = torch.rand(len(batch)) < 0.5
                batch[flipped] = batch[flipped].flip(3)
                padded = nn.functional.pad(batch, (4,) * 4)
                y, x = torch.randint(9, (2, len(batch)))
                rows = (y[:, None] + torch.arange(side))[:, None, :, None]
                columns = (x[:, None] + torch.arange(side))[:, None, None, :]
                every = torch.arange(len(batch))[:, None, None, None]
                batch = padded[every, torch.arange(batch.shape[1])[None, :, None, None], rows, columns]
            yield batch, images.train_labels[places]


def cohort_step(trainings: list[Training], images: Images, slots: int) -> Step:
    """One step of the engine with every slot taken."""
    form = default_form(trainings[0], "cpu")[1]
    cohort = Cohort(trainings, images, slots=slots, form=form, device=CPU)

    def step() -> int:
        cohort.step()
        return len(trainings)

    return step


def training_of(shape: str, precision: str, bits: int, seed: int = 0) -> Training:
    settings = {"model": "nin", "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}
    run = {"bits": bits, "epochs": 1000, "seed": seed, "precision": precision}
    return Training.from_settings({**settings, **SHAPES[shape], **run})


def contender(name: str, shape: str, precision: str, images: Images, bits: int) -> Step:
    """A contender's step; `bits` is that of a lone model, and a cohort mixes both."""
    one = training_of(shape, precision, bits)
    if name == "loop with DataLoader":
        return plain_step(one, loader_batches(images, one), torch.contiguous_format)
    if name == "loop in memory":
        return plain_step(one, memory_batches(images, one), torch.contiguous_format)
    if name == "loop in memory, channels last":
        return plain_step(one, memory_batches(images, one), torch.channels_last)
    slots = 1 if name == "engine, M = 1" else default_form(one, "cpu")[0]
    mixed = [training_of(shape, precision, 32 if slot % 2 else 4, slot) for slot in range(slots)]
    return cohort_step(mixed if slots > 1 else [one], images, slots)


CONTENDERS = (
    "loop with DataLoader",
    "loop in memory",
    "loop in memory, channels last",
    "engine, M = 1",
    "engine, planned M",
)


def measure(
    name: str, shape: str, precision: str, folder: Path | None, seconds: float, core: int, start: Any, results: Any
) -> None:
    """In a process of its own: warm up, wait for the others, then count steps for `seconds`."""
    torch.set_num_threads(1)
    torch.manual_seed(core)
    images = load(DATASETS[SHAPES[shape]["data"]], folder, download=False)
    step = contender(name, shape, precision, images, bits=32 if core % 2 else 4)
    for _ in range(3):
        step()
    start.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += step()
    rate = done / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put({"core": core, "steps_per_second": rate, "peak_mib": peak})


def measure_ceilings(core: int, start: Any, results: Any) -> None:
    """In a process of its own: operations a second of a square product, and bytes a second of a copy."""
    torch.set_num_threads(1)
    side, large = torch.randn(1024, 1024), torch.empty(1 << 26)
    out, copy = torch.empty_like(side), torch.zeros(1 << 26)
    torch.mm(side, side, out=out)
    start.wait()
    products = _best(lambda: torch.mm(side, side, out=out))
    copies = _best(lambda: copy.copy_(large))
    results.put({"core": core, "operations": 2 * 1024**3 / products, "bytes": 2.0 * large.nbytes / copies})


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(12):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def in_processes(cores: int, target: Callable[..., None], *given: Any) -> list[dict[str, Any]]:
    """What `target(*given, core, start, results)` puts into its results, on all cores at once."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(cores), context.Queue()
    processes = [context.Process(target=target, args=(*given, core, start, results)) for core in range(cores)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def work_of(one: Training) -> tuple[float, float]:
    """Operations and bytes of one step of one model, as the roofline counts them."""
    layers, batch = one.model.layers(one.data), one.recipe.batch_size
    operations = batch * (3 * sum(layer.operations for layer in layers) - layers[0].operations)
    activations = batch * sum(layer.outputs * layer.side**2 for layer in layers)
    return float(operations), float(5 * 4 * activations)


def run(name: str, shape: str, precision: str, folder: Path | None, seconds: float, cores: int) -> dict[str, Any]:
    """One contender on all cores at once."""
    kept = dict(os.environ)
    if name.startswith("engine"):
        os.environ.update(KEEP_MEMORY)
    try:
        found = in_processes(cores, measure, name, shape, precision, folder, seconds)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    slots, form = default_form(training_of(shape, precision, 4), "cpu")
    engine = {"form": form.value, "slots": 1 if "M = 1" in name else slots} if name.startswith("engine") else {}
    return {
        "shape": shape,
        "precision": precision,
        "contender": name,
        **engine,
        "steps_per_second": sum(one["steps_per_second"] for one in found),
        "peak_mib": max(one["peak_mib"] for one in found),
        "processes": found,
    }


def run_shape(shape: str, folder: Path | None, seconds: float, cores: int) -> list[dict[str, Any]]:
    """Every contender in every precision of this processor, with its share of the roofline."""
    ceilings = in_processes(cores, measure_ceilings)
    rate, bandwidth = (sum(one[what] for one in ceilings) for what in ("operations", "bytes"))
    operations, moved = work_of(training_of(shape, "fp32", 4))
    figures = []
    for precision in precisions(CPU):
        for name in CONTENDERS:
            one = run(name, shape, precision, folder, seconds, cores)
            if precision == "fp32":
                one["roofline"] = one["steps_per_second"] * max(operations / rate, moved / bandwidth)
            figures.append(one)
    figures[0]["ceilings"] = {"operations": rate, "bytes": bandwidth}
    return figures


def table(figures: list[dict[str, Any]]) -> str:
    """Markdown, with each figure as a multiple of the best plain fp32 loop of its shape."""
    lines = [
        "| shape | contender | model-steps/s, all cores | × best plain loop | of the roofline | memory a process |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for one in figures:
        rivals = [
            other["steps_per_second"]
            for other in figures
            if other["shape"] == one["shape"] and other["contender"].startswith("loop") and other["precision"] == "fp32"
        ]
        how = f", {one['slots']} slots, {one['form']}" if "form" in one else ""
        roof = f"{one['roofline']:.0%}" if "roofline" in one else "–"
        lines.append(
            f"| {one['shape']} {one['precision']} | {one['contender']}{how} | {one['steps_per_second']:.1f} "
            f"| {one['steps_per_second'] / max(rivals):.2f} | {roof} | {one['peak_mib']:.0f} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of each measurement")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    given = parser.parse_args()
    shapes = given.shape or [name for name, one in SHAPES.items() if given.data or one["data"] == "digits"]
    machine = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": given.cores,
        "seconds": given.seconds,
    }
    file = given.out / "train_throughput.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    same = all(before.get(name) == value for name, value in machine.items())
    figures = [one for one in before.get("figures", []) if same and one["shape"] not in shapes]
    given.out.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        figures += run_shape(shape, given.data, given.seconds, given.cores)
        figures.sort(key=lambda one: list(SHAPES).index(one["shape"]))
        file.write_text(json.dumps({**machine, "figures": figures}, indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
