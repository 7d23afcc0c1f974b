"""Data sets of users that fit into memory: read from where a sweep file says, checked, and kept as archives.

A launch writes them as `arrays/FINGERPRINT/arrays.npz` below the folder of the data sets. Agents read that file alone:
they run nothing of the user's to get at the data.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsweep.sweeps.datasets import FILES, Arrays, DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import DescribeArrays
from qsweep.sweeps.settings import settings_of
from qsweep.sweeps.user_code import read_user_code, reference_of
from qsweep.sweeps.wholefiles import whole_file
from qsweep.workers.data.archive import save_archive
from qsweep.workers.data.images import fingerprint
from qsweep.workers.ordinary import check_ordinary
from qsweep.workers.user_code import function_of, offer

NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
)
"""What the four arrays may be called in a file."""
UNSPLIT = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target"))
"""What two arrays may be called that are not split: of each class every fifth example, in order, is for the test."""
LABEL, SPLIT = "label", "split"
"""The columns of a table that are no features."""
CHANNELS = (1, 3, 4)
"""Channels of images that come last."""
Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def read_arrays(data: DataSet, folder: Path | None, download: bool) -> Four:
    """There is an archive of them, or they are not here. Raises InputError."""
    raise InputError(
        f"the arrays of {data.source} are not here",
        place=None if folder is None else str(folder / data.archive),
        allowed="launch the sweep from its file, which keeps them there",
    )


def describe(asked: DescribeArrays) -> dict[str, Any]:
    """The settings of arrays; written below the folder of the data sets, if that is asked. Raises InputError."""
    place = f"data {asked.source}"
    arrays = _checked(_loaded(asked, place), place)
    train_images, train_labels, test_images, _ = arrays
    described = Arrays(
        data_shape=train_images.shape[1:],
        data_values=train_images.dtype.name,
        data_classes=int(train_labels.max()) + 1,
        data_train=len(train_images),
        data_test=len(test_images),
        data_fingerprint=fingerprint(arrays),
    )
    if asked.keep:
        target = Path(asked.data) / described.data(asked.source).archive
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target, tidy=True) as file:
                save_archive(file, *arrays)
    return settings_of(described)


def _loaded(asked: DescribeArrays, place: str) -> Sequence[Any]:
    """The four arrays, as they come."""
    kind, _, name = asked.source.partition(":")
    if kind == "torchvision":
        return _of_torchvision(name, Path(asked.data), place)
    if name.endswith(FILES):
        path = Path(asked.folder) / Path(name).expanduser()
        check_ordinary(path)
        read = _of_archive if path.suffix == ".npz" else _of_table
        try:
            return read(path, place)
        except InputError:
            raise
        except Exception as error:  # of a damaged file, numpy, zipfile and pyarrow raise a dozen kinds of error
            raise InputError(f"this can't be read: {type(error).__name__}: {error}", place=place) from None
    reference = reference_of(asked.source, place=place)
    code = read_user_code(reference.path, Path(asked.folder), place=place)
    code.signature(reference.name, place=place)
    offer([{"main": code.main, "files": {one: content.decode() for one, content in code.files.items()}}])
    try:
        with contextlib.chdir(code.folder):  # where its files lie
            return _of_function(function_of(code.digest, reference.name)(), place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"it raises {type(error).__name__}: {error} "
            f"({Path(last.filename).name}, line {last.lineno}, in {last.name})",
            place=place,
        ) from error


def _of_archive(path: Path, place: str) -> Sequence[Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return _of_names({name: archive[name] for name in archive.files}, place)


def _of_names(found: Mapping[str, Any], place: str) -> Sequence[Any]:
    for names in NAMES:
        if all(name in found for name in names):
            return [found[name] for name in names]
    for images, labels in UNSPLIT:
        if images in found and labels in found:
            return _split(np.asarray(found[images]), np.asarray(found[labels]))
    raise InputError(
        f"its arrays are called {', '.join(sorted(found)) or 'nothing'}",
        place=place,
        allowed="allowed: " + ", or ".join(" ".join(one) for one in (*NAMES, *UNSPLIT)),
    )


def _split(images: np.ndarray, labels: np.ndarray) -> Four:
    """Of each class every fifth example, in order, for the test."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return images[~test], labels[~test], images[test], labels[test]


def _of_table(path: Path, place: str) -> Sequence[Any]:
    """A table of features, with a column `label`, and perhaps one `split` that holds `train` or `test`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if LABEL not in table.column_names:
        raise InputError(f"it has no column {LABEL!r}", place=place, allowed="label, perhaps split, and features")
    labels = np.asarray(table[LABEL].to_numpy(zero_copy_only=False))
    if labels.dtype.kind not in "iu":
        _, labels = np.unique(labels.astype(str), return_inverse=True)
    names = [name for name in table.column_names if name not in (LABEL, SPLIT)]
    columns = [table[name].to_numpy(zero_copy_only=False) for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind not in "iufb":
            raise InputError(f"the column {name!r} holds no numbers", place=place)
    features = np.stack([column.astype(np.float32) for column in columns], 1)
    if SPLIT not in table.column_names:
        return _split(features, labels)
    split = np.asarray(table[SPLIT].to_pylist(), dtype=object)
    if odd := sorted({str(one) for one in split} - {"train", "test"}):
        raise InputError(f"{odd[0]!r} is no split", place=f"{place}: {SPLIT}", allowed="allowed: train, test")
    train = split == "train"
    return features[train], labels[train], features[~train], labels[~train]


def _of_function(found: Any, place: str) -> Sequence[Any]:
    """What a function of the user returned: a pair of data sets, a pair of pairs, four arrays, or arrays by name."""
    if isinstance(found, Mapping):
        return _of_names(found, place)
    if isinstance(found, Sequence) and len(found) == 4:
        return found
    if isinstance(found, Sequence) and len(found) == 2:
        train, test = (_of_part(one, place) for one in found)
        return [*train, *test]
    raise InputError(
        f"it returns a {type(found).__name__}",
        place=place,
        allowed="allowed: (train, test), each a torch Dataset or a pair of images and labels; or four arrays",
    )


def _of_part(part: Any, place: str) -> tuple[Any, Any]:
    """Images and labels of a torch Dataset, or of a pair of arrays."""
    if isinstance(part, tuple | list) and len(part) == 2:
        return part[0], part[1]
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise InputError(
            f"a {type(part).__name__} is no data set", place=place, allowed="a torch Dataset with a length"
        )
    examples = [part[number] for number in range(len(part))]
    return np.stack([np.asarray(image) for image, _ in examples]), np.asarray([int(label) for _, label in examples])


def _of_torchvision(name: str, folder: Path, place: str) -> Sequence[Any]:
    """The training and the test images of a data set of torchvision, downloaded where they are missing."""
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError:
        raise InputError("torchvision is not installed", place=place, allowed="pip install torchvision") from None
    kind: Callable[..., Any] | None = getattr(datasets, name, None)
    if kind is None or name not in datasets.__all__:
        raise InputError(f"torchvision has no data set {name!r}", place=place, allowed="torchvision.datasets")
    words = importlib.import_module("inspect").signature(kind).parameters
    splits: tuple[dict[str, Any], ...]
    if "train" in words:
        splits = ({"train": True}, {"train": False})
    elif "split" in words:
        splits = ({"split": "train"}, {"split": "test"})
    else:
        raise InputError(f"{name} has no training and no test images", place=place)
    try:
        train, test = (kind(str(folder), download=True, **split) for split in splits)
    except Exception as error:
        raise InputError(f"{name} can't be read: {type(error).__name__}: {error}", place=place) from None
    return [*_of_part(train, place), *_of_part(test, place)]


def _checked(arrays: Sequence[Any], place: str) -> Four:
    """Images (N, *shape) of uint8 or float32, and labels int64 from 0. Raises InputError."""
    found = [np.asarray(one) for one in arrays]
    images, labels = found[::2], found[1::2]
    for some, answers, part in zip(images, labels, ("train", "test"), strict=True):
        where = f"{place}: {part}"
        if answers.ndim != 1 or answers.dtype.kind not in "iu":
            raise InputError(f"labels are {answers.dtype}{answers.shape}", place=where, allowed="whole numbers (N)")
        if len(some) != len(answers) or not len(answers):
            raise InputError(f"{len(some)} images have {len(answers)} labels", place=where)
        if some.dtype.kind not in "iufb":
            raise InputError(f"images are {some.dtype}", place=where, allowed="allowed: numbers")
        if not np.isfinite(some).all():
            raise InputError("there is a number that is not finite", place=where)
    train, test = (_of_one_form(one) for one in images)
    if train.shape[1:] != test.shape[1:] or train.ndim not in (2, 4):
        raise InputError(
            f"one example is of shape {train.shape[1:]}, of the test {test.shape[1:]}",
            place=place,
            allowed="allowed: (channels, height, width), (height, width) or (features), the same of both",
        )
    classes = set(labels[0].tolist())
    if classes != set(range(len(classes))) or not set(labels[1].tolist()) <= classes or len(classes) < 2:
        raise InputError(
            f"the labels are {_some(sorted(classes | set(labels[1].tolist())))}",
            place=place,
            allowed="allowed: 0, 1, … of two classes or more, each of them among the training images",
        )
    if train.dtype != np.uint8 or test.dtype != np.uint8:
        train, test = train.astype(np.float32), test.astype(np.float32)
    first, second = (np.ascontiguousarray(one) for one in (train, test))
    return first, labels[0].astype("<i8"), second, labels[1].astype("<i8")


def _of_one_form(images: np.ndarray) -> np.ndarray:
    """With channels first; where they come last they are brought there, and where there are none there is one."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in CHANNELS and images.shape[1] not in CHANNELS:
        return np.moveaxis(images, 3, 1)
    return images


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
