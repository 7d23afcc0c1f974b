"""Corrupted test sets and contact sheets, as `qsweep corruptions` has them written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qsweep.sweeps.corruptions import CORRUPTIONS, SEVERITIES
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import WriteCorruptions
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


def write(asked: WriteCorruptions) -> dict[str, Any]:
    """Write what is asked for. Raises InputError."""
    try:
        check_libraries()
        textures = texture_files(Path(asked.frost)) if asked.frost else []
        (_tree if asked.dataset == TREE else _arrays)(asked, textures)
    except OSError as error:
        raise InputError(f"{error.strerror}", place=str(error.filename or asked.out)) from None
    return {}


def _arrays(asked: WriteCorruptions, textures: Sequence[Path]) -> None:
    """One `.npy` a corruption, of a data set that fits into memory."""
    from qsweep.workers.data import load  # here, because it brings torch

    data = DATASETS[asked.dataset]
    images = load(data, Path(asked.data), download=False)
    clean = TestSet(data=data, images=images.test_images.numpy(), labels=images.test_labels.numpy())
    names, severities = _names(asked), tuple(sorted(set(asked.severities or SEVERITIES)))
    if asked.sheet:
        photographs = read_textures(textures, CIFAR.texture_scale, data.size) if textures else None
        pictures = clean.pictures
        _check_image(asked.image, len(pictures))
        one = pictures[asked.image : asked.image + 1]

        def corrupted(name: str, severity: int) -> Any:
            return corrupt(one, name, severity, places=[asked.image], seed=asked.seed, textures=photographs)[0]

        write_sheet(one[0], names, corrupted, Path(asked.sheet))
    if asked.out:
        out = Path(asked.out)
        claim(out, origin_of(data.name, asked.seed, textures))
        make = partial(write_corruption, clean, folder=out, severities=severities, seed=asked.seed, textures=textures)
        tasks: list[Task] = [(name, partial(make, name)) for name in names]
        _run(tasks, asked.workers)


def _tree(asked: WriteCorruptions, textures: Sequence[Path]) -> None:
    """One JPEG file an image, of a tree of classes."""
    pictures, side = list_tree(Path(asked.data)), asked.size or CROPPED
    names, severities = _names(asked), sorted(set(asked.severities or SEVERITIES))
    if asked.sheet:
        _check_image(asked.image, len(pictures))
        photographs = read_textures(textures, IMAGENET.texture_scale, side) if textures else None
        chosen = pictures[asked.image]
        one = read_picture(chosen.path, side)[None]

        def corrupted(name: str, severity: int) -> Any:
            return corrupt(
                one, name, severity,
                places=[chosen.place], seed=asked.seed, constants=IMAGENET, textures=photographs,
            )[0]  # fmt: skip

        write_sheet(one[0], names, corrupted, Path(asked.sheet))
    if asked.out:
        out = Path(asked.out)
        size = {} if side == CROPPED else {"size": side}
        claim(out, origin_of(TREE, asked.seed, textures) | size)
        tasks: list[Task] = [
            (
                f"{name} {severity}, images {first + 1} to {min(first + BATCH, len(pictures))} of {len(pictures)}",
                partial(
                    write_pictures, pictures[first : first + BATCH], name, severity, out,
                    seed=asked.seed, textures=textures, side=side,
                ),
            )
            for name in names
            for severity in severities
            for first in range(0, len(pictures), BATCH)
        ]  # fmt: skip
        _run(tasks, asked.workers)


def _names(asked: WriteCorruptions) -> list[str]:
    return [name for name in CORRUPTIONS if name in (asked.corruptions or CORRUPTIONS)]


def _check_image(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InputError(f"there is no image {number}", place="--image", allowed=f"allowed: 0 to {count - 1}")


def _run(tasks: Sequence[Task], workers: int) -> None:
    """Do every task, in that many processes; say after each how far it is."""
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
