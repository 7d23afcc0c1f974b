"""How fast a PAC-Bayes search is, against the straightforward serial procedure with the same noise.

    python -m benchmarks.measures [--data FOLDER] [--device cuda] [--repeats 3]

`serial`: plain PyTorch modules in memory, one noisy copy after another, in batches of 256, eager. `engine`: the
copies of all models as a batch. Both take the same draws, so both have to find the same σ, which is checked. The
contenders take turns on one thread; the figure of each is its fastest turn. Raw figures go to
`benchmarks/results/measures.json`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.images import images_of
from qsweep.sweeps.measures import PacBayes
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import moments
from qsweep.workers.forms import Form
from qsweep.workers.measures import draws, measure_models
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.stage import EPSILON

BATCH = 256
SHAPES: dict[str, dict[str, Any]] = {
    "digits": {
        "settings": {"data": "digits", "depth": 3, "width": 10, "channels_per_width": 2, "epochs": 10},
        "bits": (32, 8, 4, 2),
        "images": None,
        "measure": PacBayes(),
    },
    "cifar10": {
        "settings": {"data": "cifar10", "depth": 2, "width": 8, "epochs": 3},
        "bits": (32, 4),
        "images": 1500,
        "measure": PacBayes(measure_samples=200, iterations=4),
    },
    "cifar10 4x10": {
        "settings": {"data": "cifar10", "depth": 4, "width": 10, "epochs": 3},
        "bits": (32, 8, 4, 2),
        "images": 1500,
        "measure": PacBayes(measure_samples=200, iterations=4),
    },
}
USUAL = ("digits", "cifar10")
"""The shapes that are compared where none is named."""


class Conv(nn.Conv2d):
    """A convolution that rounds its weights, as a user would write it."""

    bits = 32

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.bits != 32:
            high = 2 ** (self.bits - 1) - 1
            weight = torch.clamp(weight / self.step, -high - 1, high).round() * self.step
        return self._conv_forward(x, weight, self.bias)


def plain(one: Training, model: dict[str, Tensor], layout: ConvLayout) -> nn.Sequential:
    """A kept model as plain modules; batch norm folded if nothing is rounded, as the reference code does.

    Its γ = 1 and β = 0 stay parameters then, and are perturbed like all others.
    """
    modules: list[nn.Module] = []
    count = len(layout.layers)
    for index, layer in enumerate(layout.layers):
        conv = Conv(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding)
        norm = nn.BatchNorm2d(layer.outputs)
        conv.weight.data, conv.bias.data = model[f"{layer.name}.weight"], model[f"{layer.name}.bias"]
        norm.weight.data, norm.bias.data = model[f"{layer.name}.norm.weight"], model[f"{layer.name}.norm.bias"]
        norm.running_mean, norm.running_var = (
            model[f"{layer.name}.norm.running_mean"],
            model[f"{layer.name}.norm.running_var"],
        )
        if one.bits == 32:
            factor = norm.weight.data * (norm.running_var + norm.eps).rsqrt()
            conv.weight.data = conv.weight.data * factor[:, None, None, None]
            conv.bias.data = norm.bias.data + (conv.bias.data - norm.running_mean) * factor
            norm.weight.data, norm.bias.data = torch.ones_like(factor), torch.zeros_like(factor)
            norm.running_mean, norm.running_var = torch.zeros_like(factor), torch.full_like(factor, 1 - EPSILON)
        else:
            conv.bits = 8 if index in (0, count - 1) else one.bits
            conv.step = nn.Parameter(model[f"{layer.name}.step"])
        modules += [conv, norm, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def places(net: nn.Sequential, layout: ConvLayout) -> list[tuple[nn.Parameter, slice]]:
    """Each parameter, and where its noise lies in a row of draws."""
    found = []
    convs = [index for index, one in enumerate(net) if isinstance(one, Conv)]
    for number, (index, spans) in enumerate(zip(convs, layout.spans, strict=True)):
        conv, norm = net[index], net[index + 1]
        found.append((conv.weight, slice(spans.weight.start, spans.weight.stop)))
        found.append((conv.bias, slice(spans.bias.start, spans.bias.stop)))
        found.append((norm.weight, slice(spans.norm.gamma.start, spans.norm.gamma.stop)))
        found.append((norm.bias, slice(spans.norm.beta.start, spans.norm.beta.stop)))
        if conv.bits != 32:
            found.append((conv.step, slice(layout.steps.start + number, layout.steps.start + number + 1)))
    return found


@torch.no_grad()
def accuracy(net: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    right = 0.0
    for some, names in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        right += (net(some).argmax(1) == names).sum().item()
    return right / len(labels)


@torch.no_grad()
def serial(one: Training, model: dict[str, Tensor], measure: PacBayes, images: Images, device: torch.device) -> float:
    """σ of one model by the reference procedure."""
    layout = NETWORKS[one.model.name](one.model, one.data).layout
    net = plain(one, {name: tensor.clone() for name, tensor in model.items()}, layout).to(device)
    mean, deviation = (value.float()[:, None, None] for value in moments(images.train_images))
    chosen = draws.balanced(images.train_labels, measure.measure_samples, measure.measure_seed)
    pixels = ((images.train_images[chosen].float() - mean) / deviation).to(device)
    labels = images.train_labels[chosen].to(device)
    clean = accuracy(net, pixels, labels)
    low, high, sigma = 0.0, measure.search_upper, measure.search_upper / 2
    for iteration in range(measure.iterations):
        sigma = (low + high) / 2
        found = []
        for row in draws.gaussian(measure.measure_seed, iteration, measure.copies, layout.parameters_length):
            noisy = copy.deepcopy(net)
            for parameter, place in places(noisy, layout):
                parameter.add_(row[place].view_as(parameter).to(device) * sigma**2)
            for module in noisy:
                if isinstance(module, Conv) and module.bits != 32:
                    module.step.clamp_(min=torch.finfo(torch.float32).eps)
            found.append(accuracy(noisy, pixels, labels))
        displacement = abs(sum(found) / len(found) - clean)
        if abs(displacement - measure.target) < measure.tolerance:
            break
        low, high = (low, sigma) if displacement > measure.target else (sigma, high)
    return sigma


def trained(
    shape: dict[str, Any], folder: Path | None, device: torch.device
) -> tuple[list[Training], list[dict[str, Tensor]], Images]:
    """Models of a shape, after a few epochs on the data set or the first images of it."""
    common = {"model": "nin", "optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4, "batch_size": 64}
    trainings = [Training.from_settings({**common, **shape["settings"], "bits": bits}) for bits in shape["bits"]]
    images = images_of(shape["settings"]["data"], folder)
    if shape["images"]:
        data = dataclasses.replace(images.data, train_images=shape["images"], test_images=100)
        trainings = [dataclasses.replace(one, data=data) for one in trainings]
        images = Images(
            data=data,
            train_images=images.train_images[: shape["images"]],
            train_labels=images.train_labels[: shape["images"]],
            test_images=images.test_images[:100],
            test_labels=images.test_labels[:100],
        )
    cohort = Cohort(trainings, images, slots=len(trainings), form=Form.GATHER, device=device)
    while not cohort.finished:
        cohort.step()
    return trainings, [result.model for result in cohort.results()], images


def compare(
    name: str, folder: Path | None, device: torch.device, repeats: int, *, shape: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Both contenders in turns: their seconds, and whether they found the same σ. A custom `shape` has a name."""
    shape = shape or SHAPES[name]
    trainings, models, images = trained(shape, folder, device)
    measure: PacBayes = shape["measure"]
    seconds: dict[str, list[float]] = {"serial": [], "engine": []}
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        began = time.perf_counter()
        rows = measure_models(trainings, models, measure, images, device=device)
        seconds["engine"].append(time.perf_counter() - began)
        found["engine"] = [row["radius"] for row in rows]
        began = time.perf_counter()
        found["serial"] = [
            serial(one, model, measure, images, device) for one, model in zip(trainings, models, strict=True)
        ]
        seconds["serial"].append(time.perf_counter() - began)
    candidates = sum(row["candidates"] for row in rows)
    return {
        "shape": name,
        "device": device.type,
        "models": len(trainings),
        "copies": candidates * measure.copies,
        "images": rows[0]["samples"],
        "sigma": found,
        "same": found["serial"] == found["engine"],
        "seconds": seconds,
        "ratio": min(seconds["serial"]) / min(seconds["engine"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shapes = given.shape or (list(USUAL) if given.data else ["digits"])
    figures = [compare(name, given.data, torch.device(given.device), given.repeats) for name in shapes]
    for one in figures:
        serial_best, engine_best = min(one["seconds"]["serial"]), min(one["seconds"]["engine"])
        same = "the same σ" if one["same"] else "OTHER σ"
        print(f"{one['shape']}: serial {serial_best:.2f} s, engine {engine_best:.2f} s: {one['ratio']:.2f}×, {same}")
    machine = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    keep(given.out / "measures.json", [machine | one for one in figures])


def keep(path: Path, figures: list[dict[str, Any]]) -> None:
    """Write the figures to `path`, in the place of earlier ones of the same shapes on the same kind of device."""
    measured = {(one["shape"], one["device"]) for one in figures}
    earlier = json.loads(path.read_text())["figures"] if path.exists() else []
    kept = [one for one in earlier if (one["shape"], one["device"]) not in measured]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": kept + figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
