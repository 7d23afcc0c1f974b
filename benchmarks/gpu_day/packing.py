"""What travels to a GPU that reaches nothing: data sets as archives in parts, and a bundle of trainings.

CIFAR-10's 60,000 images compress to some 150 MB, more than such a machine takes at once: they travel in parts that do
fit. Each part alone is of no use; stages that need the images say which parts they miss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import surroundings
from benchmarks.gpu_day.piece import NotHere
from qsweep.sweeps import processes
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.wholefiles import whole_file
from qsweep.workers.data import Images, load
from qsweep.workers.data.archive import PARTS, write_archive

COUNT = 4
"""Parts of CIFAR-10: each is smaller than 45 MB."""
FOLDER = Path(__file__).parent
PORTIONS = {"cifar10": "gpu-day-cifar10", "digits": "gpu-day-digits"}
"""The sweep of each data set, one cohort of four trainings with their measures."""


def pack(out: Path, folder: Path | None, epochs: int) -> None:
    """Write the folder for `--data`: needs qsweep with all that it depends on. Raises QsweepError."""
    out.mkdir(parents=True, exist_ok=True)
    write_archive("digits", Path(), out, download=False)
    _bundle("digits", out, ["--with-data"])
    if folder is None:
        print(f"{out}: the digits alone; CIFAR-10 comes along with --data FOLDER, the one that holds its folder")
        return
    write_parts(load(DATASETS["cifar10"], folder, download=False), out)
    # The images travel apart from the bundle, in parts, and serve the other stages too.
    _bundle("cifar10", out, ["--data", str(folder.absolute()), "--set", f"epochs={epochs}", *_milestones(epochs)])
    for path in sorted(out.iterdir()):
        if path.is_file():
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _milestones(epochs: int) -> list[str]:
    """The learning rate falls after each third, as in the paper's 300 epochs."""
    return ["--set", f"milestones=[[{epochs // 3}, {2 * epochs // 3}]]"]


def _bundle(name: str, out: Path, options: list[str]) -> None:
    sweep, bundle = FOLDER / f"{PORTIONS[name]}.toml", out / f"{PORTIONS[name]}.zip"
    if bundle.exists():
        print(f"{bundle} is there already: a packed job belongs to one bundle")
        return
    command = [*processes.PYTHON, "qsweep.orchestrator.cli", "pack", str(sweep), "--out", str(bundle), *options]
    if processes.run(command, env=surroundings()).returncode:
        raise QsweepError(f"the bundle of {name} can't be packed: see above")


def write_parts(images: Images, out: Path) -> None:
    """CIFAR-10 in parts that each fit a transfer."""
    for number in range(COUNT):
        with whole_file(out / _part(number)) as file:
            np.savez_compressed(
                file, **{part: np.array_split(getattr(images, part).numpy(), COUNT)[number] for part in PARTS}
            )


def _part(number: int) -> str:
    return f"cifar10.part{number + 1}of{COUNT}.npz"


def unpacked(packed: Path | None, out: Path) -> Path | None:
    """The folder with the archives of what was packed; CIFAR-10's is made of its parts, once, if all are there."""
    if packed is None:
        return None
    out.mkdir(parents=True, exist_ok=True)
    if (packed / "digits.npz").exists() and not (out / "digits.npz").exists():
        with whole_file(out / "digits.npz") as file:
            file.write((packed / "digits.npz").read_bytes())
    if not absent_parts(packed) and not (out / "cifar10.npz").exists():
        parts = []
        for number in range(COUNT):
            with np.load(packed / _part(number), allow_pickle=False) as part:
                parts.append({name: part[name] for name in PARTS})
        with whole_file(out / "cifar10.npz") as file:
            np.savez(file, **{name: np.concatenate([part[name] for part in parts]) for name in PARTS})
    return out


def absent_parts(packed: Path) -> list[str]:
    return [_part(number) for number in range(COUNT) if not (packed / _part(number)).exists()]


def archive(data: Path | None, packed: Path | None, name: str) -> Path:
    """The folder with a data set's archive. Raises NotHere."""
    if data is None or packed is None:
        raise NotHere("no --data: --pack makes it where qsweep is installed")
    if not (data / f"{name}.npz").exists():
        missing = ", ".join(absent_parts(packed)) if name == "cifar10" else f"{name}.npz"
        raise NotHere(f"--data has no {missing}")
    return data
