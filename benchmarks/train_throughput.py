"""Training steps per second: plain PyTorch loops against the cohort engine, on the CPU or on a GPU.

    python -m benchmarks.train_throughput [--device cpu|cuda] [--data FOLDER] [--shape SHAPE]… [--seconds 10]

Each contender runs as one single-threaded process per core, all at once, or as one process on the GPU, and trains the
same NiNs (half of them LSQ at 4 bits, half full precision); the engine's processes get the environment that an agent
gets. Every form runs; on a GPU, where nothing was calibrated before, with several numbers of slots. Prints one Markdown
table; the raw figures go to a JSON file, in which shapes that were not run now stay. CIFAR shapes are left out without
`--data`, and precisions that the device does not compute in.

The roofline of a shape is the longer of two times: its operations (multiplications and additions of all
convolutions, forward and backward; none for the gradient of the images) at the rate of a square matrix
product in the same precision, and its bytes (each activation written and read forward; it and its gradient read, and
the gradient written, backward) at the rate of a copy. Both rates are measured here, on all cores at once.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.images import images_of
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import moments
from qsweep.workers.device import device_class, precisions, set_precision
from qsweep.workers.environment import KEEP_MEMORY
from qsweep.workers.forms import Form, default_form, forms_of

SHAPES: dict[str, dict[str, Any]] = {
    "digits 3x10": {"data": "digits", "depth": 3, "width": 10, "channels_per_width": 2, "batch_size": 64},
    "cifar10 2x8": {"data": "cifar10", "depth": 2, "width": 8, "batch_size": 128, "augment": "crop-flip"},
    "cifar10 3x10": {"data": "cifar10", "depth": 3, "width": 10, "batch_size": 128, "augment": "crop-flip"},
    "cifar10 4x12": {"data": "cifar10", "depth": 4, "width": 12, "batch_size": 128, "augment": "crop-flip"},
}
LOOPS = ("loop with DataLoader", "loop in memory", "loop in memory, channels last")
COMPILED_LOOP = "loop in memory, compiled, channels last"
"""On a GPU alone: on a processor the compiler takes longer than the measurement."""
VARIANTS: dict[str, dict[str, Any]] = {
    "engine, planned M, SAM": {"method": "sam", "rho": 0.05},
    "engine, planned M, activations": {"activation_bits": 4},
}
"""Trainings of another kind, with the settings that make them so."""
"""As the line before, with two passes of each batch."""
GPU_SLOTS = (4, 8, 16)
"""Models side by side that are tried on a GPU."""
WARM_UP = 3
"""Steps before the clock runs; of the engine on a GPU, the first one records the step's graph."""
QUEUE = 20
"""Steps that may wait for the GPU before the clock waits for them."""
Plan = tuple[int, Form]
"""Slots and form of the engine."""
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


def plain_step(
    one: Training,
    batches: Iterator[tuple[Tensor, Tensor]],
    memory_format: torch.memory_format,
    device: torch.device,
    *,
    compiled: bool = False,
) -> Step:
    """One step of one model with torch.optim, in bf16 by autocast."""
    reduced = one.recipe.precision == "bf16"
    net = plain_model(one).to(device, memory_format=memory_format)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    if compiled:
        net.compile()

    def step() -> int:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            loss = nn.functional.cross_entropy(net(images.to(memory_format=memory_format)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1

    return step


def loader_batches(images: Images, one: Training, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """A DataLoader over a data set with torchvision's transforms; without workers on a CPU: the core is busy."""
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

    workers = min(len(os.sched_getaffinity(0)), 8) if device.type == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=one.recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=workers > 0,
    )
    while True:
        yield from loader


def memory_batches(images: Images, one: Training, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardized tensors in the device's memory, shuffled by index, cropped and flipped there by the batch."""
    mean, deviation = (value.float()[:, None, None] for value in moments(images.train_images))
    pixels = ((images.train_images.float() - mean) / deviation).to(device)
    labels = images.train_labels.to(device)
    size, side = one.recipe.batch_size, torch.arange(one.data.size, device=device)
    channels = torch.arange(pixels.shape[1], device=device)[None, :, None, None]
    while True:
        for places in torch.randperm(len(pixels), device=device).split(size):
            batch = pixels[places]
            if one.recipe.augment == "crop-flip":
                flipped = torch.rand(len(batch), 1, 1, 1, device=device) < 0.5
                padded = nn.functional.pad(torch.where(flipped, batch.flip(3), batch), (4,) * 4)
                y, x = torch.randint(9, (2, len(batch)), device=device)
                rows = (y[:, None] + side)[:, None, :, None]
                columns = (x[:, None] + side)[:, None, None, :]
                every = torch.arange(len(batch), device=device)[:, None, None, None]
                batch = padded[every, channels, rows, columns]
            yield batch, labels[places]


def cohort_step(trainings: list[Training], images: Images, plan: Plan, device: torch.device) -> Step:
    """One step of the engine with every slot taken."""
    cohort = Cohort(trainings, images, slots=plan[0], form=plan[1], device=device)

    def step() -> int:
        cohort.step()
        return len(trainings)

    return step


def training_of(shape: str, precision: str, bits: int, seed: int = 0, **method: Any) -> Training:
    settings = {"model": "nin", "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}
    run = {"bits": bits, "epochs": 1000, "seed": seed, "precision": precision}
    return Training.from_settings({**settings, **SHAPES[shape], **run, **method})


def engines(shape: str, precision: str, device: str) -> dict[str, Plan]:
    """The contenders that are the engine on a class of devices."""
    slots, form = default_form(training_of(shape, precision, 4), device)
    tried = {"engine, M = 1": (1, form), "engine, planned M": (slots, form)}
    tried |= dict.fromkeys(VARIANTS, (slots, form))
    counts = GPU_SLOTS if device.startswith("cuda") else (slots,)
    for one in forms_of(precision, device):
        tried |= {f"engine, {one.value} of {count}": (count, one) for count in counts}
    return tried


def contender(
    name: str, shape: str, precision: str, plan: Plan | None, images: Images, bits: int, device: torch.device
) -> Step:
    """A contender's step; `bits` is that of a lone model, and a cohort mixes both."""
    one = training_of(shape, precision, bits)
    if plan is not None:
        kind = VARIANTS.get(name, {})
        mixed = [training_of(shape, precision, 32 if slot % 2 else 4, slot, **kind) for slot in range(plan[0])]
        return cohort_step(mixed if plan[0] > 1 else [one], images, plan, device)
    if name == "loop with DataLoader":
        return plain_step(one, loader_batches(images, one, device), torch.contiguous_format, device)
    layout = torch.channels_last if name.endswith("channels last") else torch.contiguous_format
    return plain_step(one, memory_batches(images, one, device), layout, device, compiled=name == COMPILED_LOOP)


def measure(
    name: str,
    shape: str,
    precision: str,
    plan: Plan | None,
    folder: Path | None,
    seconds: float,
    device: torch.device,
    core: int,
    start: Any,
    results: Any,
) -> None:
    """In a process of its own: warm up, wait for the others, then count steps for `seconds`."""
    torch.set_num_threads(1)
    torch.manual_seed(core)
    torch.backends.cudnn.benchmark = plan is None
    set_precision(precision)
    images = images_of(SHAPES[shape]["data"], folder)
    step = contender(name, shape, precision, plan, images, 32 if core % 2 else 4, device)
    for _ in range(WARM_UP):
        step()
    _finish(device)
    start.wait()
    began, done, steps = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds:
        done += step()
        steps += 1
        if steps % QUEUE == 0:
            _finish(device)
    _finish(device)
    rate = done / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) / 2**20
    results.put({"core": core, "steps_per_second": rate, "peak_mib": peak})


def measure_ceilings(precision: str, device: torch.device, core: int, start: Any, results: Any) -> None:
    """In a process of its own: operations a second of a square product, and bytes a second of a copy."""
    torch.set_num_threads(1)
    set_precision(precision)
    width, count = (8192, 1 << 28) if device.type == "cuda" else (1024, 1 << 26)
    side = torch.randn(width, width, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    large, copy = torch.zeros(count, device=device), torch.zeros(count, device=device)
    out = torch.empty_like(side)
    torch.mm(side, side, out=out)
    start.wait()
    products = _best(lambda: torch.mm(side, side, out=out), device)
    copies = _best(lambda: copy.copy_(large), device)
    results.put({"core": core, "operations": 2 * width**3 / products, "bytes": 2.0 * large.nbytes / copies})


def _best(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(12):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The device, and how many processes share it."""

    device: torch.device
    processes: int


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
    size = 2 if one.recipe.precision == "bf16" else 4
    return float(operations), float(5 * size * activations)


def run(
    name: str, shape: str, precision: str, plan: Plan | None, folder: Path | None, seconds: float, place: Place
) -> dict[str, Any]:
    """One contender in all processes at once."""
    kept = dict(os.environ)
    if plan is not None:
        os.environ.update(KEEP_MEMORY)
    try:
        found = in_processes(place.processes, measure, name, shape, precision, plan, folder, seconds, place.device)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    engine = {} if plan is None else {"slots": plan[0], "form": plan[1].value}
    return {
        "shape": shape,
        "precision": precision,
        "contender": name,
        **engine,
        "steps_per_second": sum(one["steps_per_second"] for one in found),
        "peak_mib": max(one["peak_mib"] for one in found),
        "processes": found,
    }


def run_shape(shape: str, folder: Path | None, seconds: float, place: Place) -> list[dict[str, Any]]:
    """Every contender in every precision of the device, with its share of the roofline."""
    figures = []
    for precision in precisions(place.device):
        ceilings = in_processes(place.processes, measure_ceilings, precision, place.device)
        rate, bandwidth = (sum(one[what] for one in ceilings) for what in ("operations", "bytes"))
        operations, moved = work_of(training_of(shape, precision, 4))
        plans: dict[str, Plan | None] = {
            **dict.fromkeys((*LOOPS, COMPILED_LOOP) if place.device.type == "cuda" else LOOPS),
            **engines(shape, precision, device_class(place.device)),
        }
        for name, plan in plans.items():
            one = run(name, shape, precision, plan, folder, seconds, place)
            one["roofline"] = one["steps_per_second"] * max(operations / rate, moved / bandwidth)
            one["ceilings"] = {"operations": rate, "bytes": bandwidth}
            figures.append(one)
    return figures


def table(figures: list[dict[str, Any]]) -> str:
    """Markdown, with each figure as a multiple of the best plain fp32 loop of its shape."""
    lines = [
        "| shape | contender | model-steps/s | × best plain loop | of the roofline | memory a process |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for one in figures:
        rivals = [
            other["steps_per_second"]
            for other in figures
            if other["shape"] == one["shape"] and other["contender"].startswith("loop") and other["precision"] == "fp32"
        ]
        how = f", {one['slots']} slots, {one['form']}" if "form" in one else ""
        lines.append(
            f"| {one['shape']} {one['precision']} | {one['contender']}{how} | {one['steps_per_second']:.1f} "
            f"| {one['steps_per_second'] / max(rivals):.2f} | {one['roofline']:.0%} | {one['peak_mib']:.0f} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of each measurement")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="processes on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    place = Place(device=torch.device(given.device), processes=1 if on_gpu else given.cores)
    shapes = given.shape or [name for name, one in SHAPES.items() if given.data or one["data"] == "digits"]
    machine = {
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": place.processes,
        "seconds": given.seconds,
    }
    file = given.out / ("train_throughput_gpu.json" if on_gpu else "train_throughput.json")
    before = json.loads(file.read_text()) if file.exists() else {}
    same = all(before.get(name) == value for name, value in machine.items())
    figures = [one for one in before.get("figures", []) if same and one["shape"] not in shapes]
    given.out.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        figures += run_shape(shape, given.data, given.seconds, place)
        figures.sort(key=lambda one: list(SHAPES).index(one["shape"]))
        file.write_text(json.dumps({**machine, "figures": figures}, indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
