"""`python -m qsweep.workers.corruptions`: writes corrupted test sets and contact sheets, for `qsweep corruptions`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qsweep.sweeps.corruptions import CORRUPTIONS, SEVERITIES
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError, QsweepError, packed
from qsweep.workers.corruptions.constants import CIFAR, IMAGENET
from qsweep.workers.corruptions.corrupt import corrupt
from qsweep.workers.corruptions.libraries import check_libraries
from qsweep.workers.corruptions.sets import TestSet, claim, origin_of, write_corruption
from qsweep.workers.corruptions.sheet import write_sheet
from qsweep.workers.corruptions.textures import read_textures, texture_files
from qsweep.workers.corruptions.tree import CROPPED, list_tree, read_picture, write_pictures

TREE = "imagenet"
BATCH = 32
"""Images of a tree that are corrupted at a time."""
Task = tuple[str, Callable[[], object]]
"""What is to be done, in words, and its doing."""


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        check_libraries()
        textures = texture_files(given.frost) if given.frost else []
        (_tree if given.dataset == TREE else _arrays)(given, textures)
    except QsweepError as error:
        return _tell(packed(error), error.exit_code)
    except OSError as error:
        problem = InputError(f"{error.strerror}", place=str(error.filename or given.out))
        return _tell(packed(problem), problem.exit_code)
    return _tell({}, 0)


def _tell(answer: Mapping[str, Any], code: int) -> int:
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, help="where the corrupted set shall lie")
    parser.add_argument("--corruption", action="append", choices=CORRUPTIONS)
    parser.add_argument("--severity", action="append", type=int, choices=SEVERITIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frost", type=Path, help="folder with photographs of frost")
    parser.add_argument("--sheet", type=Path, help="picture of one image under everything")
    parser.add_argument("--image", type=int, default=0, help="number of that image")
    parser.add_argument(
        "--size", type=int, default=CROPPED, help="side that the images of a tree are cut to, in pixels"
    )
    parser.add_argument("--workers", type=int, default=1)
    return parser


def _arrays(given: argparse.Namespace, textures: Sequence[Path]) -> None:
    """One `.npy` a corruption, of a data set that fits into memory."""
    from qsweep.workers.data import load  # here, because it brings torch

    data = DATASETS[given.dataset]
    images = load(data, given.folder, download=False)
    clean = TestSet(data=data, images=images.test_images.numpy(), labels=images.test_labels.numpy())
    names, severities = _names(given), tuple(sorted(set(given.severity or SEVERITIES)))
    if given.sheet:
        photographs = read_textures(textures, CIFAR.texture_scale, data.size) if textures else None
        pictures = clean.pictures
        _check_image(given.image, len(pictures))
        one = pictures[given.image : given.image + 1]

        def corrupted(name: str, severity: int) -> Any:
            return corrupt(one, name, severity, places=[given.image], seed=given.seed, textures=photographs)[0]

        write_sheet(one[0], names, corrupted, given.sheet)
    if given.out:
        claim(given.out, origin_of(data.name, given.seed, textures))
        make = partial(
            write_corruption, clean, folder=given.out, severities=severities, seed=given.seed, textures=textures
        )
        tasks: list[Task] = [(name, partial(make, name)) for name in names]
        _run(tasks, given.workers)


def _tree(given: argparse.Namespace, textures: Sequence[Path]) -> None:
    """One JPEG file an image, of a tree of classes."""
    pictures = list_tree(given.folder)
    names, severities = _names(given), sorted(set(given.severity or SEVERITIES))
    if given.sheet:
        _check_image(given.image, len(pictures))
        photographs = read_textures(textures, IMAGENET.texture_scale, given.size) if textures else None
        chosen = pictures[given.image]
        one = read_picture(chosen.path, given.size)[None]

        def corrupted(name: str, severity: int) -> Any:
            return corrupt(
                one, name, severity,
                places=[chosen.place], seed=given.seed, constants=IMAGENET, textures=photographs,
            )[0]  # fmt: skip

        write_sheet(one[0], names, corrupted, given.sheet)
    if given.out:
        size = {} if given.size == CROPPED else {"size": given.size}
        claim(given.out, origin_of(TREE, given.seed, textures) | size)
        tasks: list[Task] = [
            (
                f"{name} {severity}, images {first + 1} to {min(first + BATCH, len(pictures))} of {len(pictures)}",
                partial(
                    write_pictures, pictures[first : first + BATCH], name, severity, given.out,
                    seed=given.seed, textures=textures, side=given.size,
                ),
            )
            for name in names
            for severity in severities
            for first in range(0, len(pictures), BATCH)
        ]  # fmt: skip
        _run(tasks, given.workers)


def _names(given: argparse.Namespace) -> list[str]:
    return [name for name in CORRUPTIONS if name in (given.corruption or CORRUPTIONS)]


def _check_image(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InputError(f"there is no image {number}", place="--image", allowed=f"allowed: 0 to {count - 1}")


def _run(tasks: Sequence[Task], workers: int) -> None:
    """Do every task, in so many processes; say after each how far it is."""
    started = time.monotonic()

    def tell(done: int, name: str) -> None:
        sys.stderr.write(f"{done}/{len(tasks)}  {name}  {time.monotonic() - started:.1f} s\n")

    if workers == 1:
        for number, (name, task) in enumerate(tasks, 1):
            task()
            tell(number, name)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        names = {pool.submit(task): name for name, task in tasks}
        try:
            for number, future in enumerate(as_completed(names), 1):
                future.result()
                tell(number, names[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
