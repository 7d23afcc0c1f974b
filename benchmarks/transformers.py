"""Toy transformers side by side in the cohort engine, against plain modules trained one after another, on one core.

    python -m benchmarks.transformers [--models 12] [--turns 40]

The modules are timm's `VisionTransformer` (which must be installed) and torchvision's `SwinTransformer`, with
`torch.optim.Adam`; the engine trains models of the same shapes on the same batches of the digits, in full precision and
with half of them at 4 bits by LSQ and VVTQ, for which the modules have no counterpart. Both take steps in turn in one
process; a ratio is the median over the turns, because the speed of a machine drifts. Prints one Markdown table; the
processor seconds of every step go to `benchmarks/results/transformers.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.turns import Step, ratio_of, timed
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, find
from qsweep.workers.forms import Form

SHAPES: dict[str, dict[str, Any]] = {
    "ViT 4x32": {"model": "vit", "patch": 2, "width": 32, "depth": 4, "heads": 2},
    "ViT 2x16": {"model": "vit", "patch": 2, "width": 16, "depth": 2, "heads": 2},
    "Swin 2-1x16": {"model": "swin", "patch": 1, "width": 16, "depths": [2, 1], "heads": 2, "window_size": 4},
}
QUANTIZED = (("lsq", {"bits": 4, "quantizer": "lsq"}), ("vvtq", {"bits": 4, "quantizer": "vvtq"}))
BATCH = 64


def training_of(shape: dict[str, Any], seed: int, **more: Any) -> Training:
    recipe = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": BATCH, "epochs": 1000}
    data = {"data": "digits", "bits": 32, "drop_path": 0.0, "seed": seed}
    return Training.from_settings({**recipe, **data, **shape, **more})


def cohort_step(trainings: list[Training], images: Images) -> Step:
    cohort = Cohort(trainings, images, slots=len(trainings), form=Form.GROUPED, device=torch.device("cpu"))
    return cohort.step


def module_of(shape: dict[str, Any]) -> nn.Module:
    """The same network of plain modules."""
    if shape["model"] == "vit":
        from timm.models import VisionTransformer

        vit: nn.Module = VisionTransformer(
            img_size=8, patch_size=shape["patch"], in_chans=1, num_classes=10, embed_dim=shape["width"],
            depth=shape["depth"], num_heads=shape["heads"],
        )  # fmt: skip
        return vit
    from torchvision.models import SwinTransformer

    swin: nn.Module = SwinTransformer(
        patch_size=[shape["patch"]] * 2, embed_dim=shape["width"], depths=shape["depths"],
        num_heads=[shape["heads"] * 2**stage for stage in range(len(shape["depths"]))],
        window_size=[shape["window_size"]] * 2, stochastic_depth_prob=0.0, num_classes=10,
    )  # fmt: skip
    swin.features[0][0] = nn.Conv2d(1, shape["width"], shape["patch"], shape["patch"])  # type: ignore[index,operator]
    return swin


def modules_step(shape: dict[str, Any], models: int, images: Images) -> Step:
    """One step of each of so many modules."""
    pairs = []
    for _ in range(models):
        net = module_of(shape)
        pairs.append((net, torch.optim.Adam(net.parameters(), lr=1e-3)))
    batches = _batches(images)

    def step() -> None:
        pictures, labels = next(batches)
        for net, optimizer in pairs:
            loss = nn.functional.cross_entropy(net(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def _batches(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    pictures, labels = images.train_images.float() / 16, images.train_labels
    while True:
        for places in torch.randperm(len(labels)).split(BATCH)[:-1]:
            yield pictures[places], labels[places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = []
    print("| network | modules, ms | engine, ms | ratio | engine, half LSQ at 4 bits | half VVTQ |")
    print("|---|--:|--:|--:|--:|--:|")
    for title, shape in SHAPES.items():
        first = training_of(shape, 0)
        images = find(first.data, Path(), download=False)
        assert isinstance(images, Images)
        steps = {
            "modules": modules_step(shape, given.models, images),
            "engine": cohort_step([training_of(shape, seed) for seed in range(given.models)], images),
        }
        for name, settings in QUANTIZED:
            mixed = [training_of(shape, seed, **(settings if seed % 2 else {})) for seed in range(given.models)]
            steps[name] = cohort_step(mixed, images)
        seconds = timed(steps, given.turns)
        figures.append({"shape": title, "models": given.models, "seconds": seconds})
        modules, engine = (statistics.median(seconds[name]) * 1e3 for name in ("modules", "engine"))
        ratios = " | ".join(f"{ratio_of(seconds, 'modules', name):.2f}" for name in ("engine", "lsq", "vvtq"))
        print(f"| {title} | {modules:.0f} | {engine:.0f} | {ratios} |", flush=True)
    machine = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "transformers.json").write_text(json.dumps({**machine, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
