"""The data sets a sweep may name, by content. Their loaders stand under the same names in `workers.data`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.settings import Rule, Setting, build, setting, settings_of


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set: what it holds, and the fingerprint that every agent checks before it trains.

    `fingerprint` is the first 32 hex digits of the SHA-256 over train images, train labels, test images and
    test labels, in this order: images as uint8 (N, channels, height, width), labels as int64 little-endian.
    """

    name: str
    title: str
    classes: int
    channels: int
    size: int
    train_images: int
    test_images: int
    fingerprint: str
    folder: str | None
    """Where torchvision keeps it under the data folder; None if it comes with a package."""
    peak: int = 255
    """The value of its brightest pixels."""
    streamed: bool = False
    """Its images are read from their files as they are needed: all of them are too many for the memory.

    It lies in folders `train` and `val` of a folder a class, as torchvision's ImageFolder reads them; images are cut
    to `size` pixels a side. Its fingerprint is over the images' paths and sizes in bytes, or over the classes' names
    and the numbers of images alone where a set is known by these (`workers.data.folders`).
    """

    form: tuple[int, ...] = ()
    """The shape of one example where it is no square image: (channels, height, width), or (features)."""
    values: str = "uint8"
    """The type of its numbers."""
    source: str = ""
    """What a sweep file calls it, if it is a user's own arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, as a model gets it."""
        return self.form or (self.channels, self.size, self.size)

    @property
    def archive(self) -> str:
        """Where its archive lies, if there is one, below a folder of data sets."""
        return f"{self.folder}/{self.name}.npz" if self.source else f"{self.name}.npz"

    @property
    def bytes_of_one(self) -> int:
        """Bytes of one example."""
        return math.prod(self.shape) * (1 if self.values == "uint8" else 4)

    def check_sample(self, count: int, most: int, *, place: str) -> None:
        """Raise InputError unless so many images can be drawn class by class of `most`, or are all of them: 0."""
        if count and not self.classes <= count <= most:
            raise InputError(
                f"{count} is not allowed",
                place=place,
                allowed=f"allowed: 0 (all), or {self.classes} to {most} images of {self.title}",
            )


DATASETS: dict[str, DataSet] = {
    one.name: one
    for one in (
        DataSet(
            name="digits",
            title="Digits",
            classes=10,
            channels=1,
            size=8,
            train_images=1442,
            test_images=355,
            fingerprint="86e31c2ecbd8915e92a6bd3c14e776ed",
            folder=None,
            peak=16,
        ),
        DataSet(
            name="cifar10",
            title="CIFAR-10",
            classes=10,
            channels=3,
            size=32,
            train_images=50_000,
            test_images=10_000,
            fingerprint="9048fcbac9c08a64d57a7c5a5a66750a",
            folder="cifar-10-batches-py",
        ),
        DataSet(
            name="cifar100",
            title="CIFAR-100",
            classes=100,
            channels=3,
            size=32,
            train_images=50_000,
            test_images=10_000,
            fingerprint="283e80e15e3841cce98044da5929d855",
            folder="cifar-100-python",
        ),
        DataSet(
            name="imagenet",
            title="ImageNet-1K",
            classes=1000,
            channels=3,
            size=224,
            train_images=1_281_167,
            test_images=50_000,
            fingerprint="5772006f6ba85d30a2ecc97e27c5162f",
            folder="imagenet",
            streamed=True,
        ),
        DataSet(
            name="imagefolder",
            title="Image folder",
            classes=0,
            channels=3,
            size=0,
            train_images=0,
            test_images=0,
            fingerprint="",
            folder="imagefolder",
            streamed=True,
        ),
    )
}
"""`imagefolder` stands for any set of the user's own, which its settings describe."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A data set of the user's own in ImageFolder layout; `qsweep images FOLDER` prints these settings of it.

    `data_folder` is its folder under the data folder, `image_size` the side that images are cut to, and
    `data_fingerprint` is over the paths and sizes of its images.
    """

    name: ClassVar[str] = "imagefolder"

    data_folder: str = setting()
    image_size: int = setting(Rule(low=8, high=1024), default=224)
    data_classes: int = setting(Rule(low=2, high=1_000_000))
    data_train: int = setting(Rule(low=2, high=1_000_000_000))
    data_test: int = setting(Rule(low=1, high=1_000_000_000))
    data_fingerprint: str = setting()

    @classmethod
    def of(cls, data: DataSet) -> ImageFolder:
        """The settings of such a data set."""
        return cls(
            data_folder=str(data.folder),
            image_size=data.size,
            data_classes=data.classes,
            data_train=data.train_images,
            data_test=data.test_images,
            data_fingerprint=data.fingerprint,
        )

    def data(self) -> DataSet:
        """The data set that these settings describe."""
        return dataclasses.replace(
            DATASETS[self.name],
            title=self.data_folder,
            classes=self.data_classes,
            size=self.image_size,
            train_images=self.data_train,
            test_images=self.data_test,
            fingerprint=self.data_fingerprint,
            folder=self.data_folder,
        )


ARRAYS = ("file", "torchvision")
"""What the name of a user's arrays begins with, before a colon."""
FILES = (".npz", ".parquet")
"""Files that are arrays themselves; another names a function in a file of Python."""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A data set of the user's own that fits into memory: what a file holds, or a function of the user returns.

    `data` names where it came from, which is no part of an identity. `data_shape` is that of one example, (channels,
    height, width) or (features), `data_values` the type of its numbers, and `data_fingerprint` is over the bytes of
    train images, train labels, test images and test labels, in this order.
    """

    name: ClassVar[str] = "arrays"
    folder: ClassVar[str] = "arrays"

    data_shape: tuple[int, ...] = setting(Rule(low=1, high=1_000_000))
    data_values: str = setting(Rule(choices=("uint8", "float32")))
    data_classes: int = setting(Rule(low=2, high=1_000_000))
    data_train: int = setting(Rule(low=2, high=1_000_000_000))
    data_test: int = setting(Rule(low=1, high=1_000_000_000))
    data_fingerprint: str = setting()

    @classmethod
    def of(cls, data: DataSet) -> Arrays:
        """The settings of such a data set."""
        return cls(
            data_shape=data.shape,
            data_values=data.values,
            data_classes=data.classes,
            data_train=data.train_images,
            data_test=data.test_images,
            data_fingerprint=data.fingerprint,
        )

    def data(self, source: str) -> DataSet:
        """The data set that these settings describe."""
        *channels, height, width = self.data_shape if len(self.data_shape) == 3 else (*self.data_shape, 1, 1)
        square = len(self.data_shape) == 3 and height == width
        return DataSet(
            name=self.name,
            title=source.partition(":")[2].rpartition("/")[2],
            classes=self.data_classes,
            channels=channels[0],
            size=max(height, width),
            train_images=self.data_train,
            test_images=self.data_test,
            fingerprint=self.data_fingerprint,
            folder=f"{self.folder}/{self.data_fingerprint}",
            form=() if square else self.data_shape,
            values=self.data_values,
            source=source,
        )


def is_arrays(value: object) -> bool:
    """Whether the setting `data` names arrays of a user."""
    return isinstance(value, str) and ":" in value and value.partition(":")[0] in ARRAYS


def arrays_from(source: str, given: Mapping[str, Any], place: str | None) -> DataSet:
    """The arrays that settings name and describe. Raises InputError."""
    where = f"{place}: " if place else ""
    if "data_fingerprint" not in given:
        raise InputError(
            "the arrays of a user are named in a sweep file, which is read with them", place=f"{where}data"
        )
    described = build(Arrays, given, place=place)
    if len(described.data_shape) not in (1, 3):
        allowed = "allowed: channels, height and width, or one number of features"
        raise InputError(f"{list(described.data_shape)} is not allowed", place=f"{where}data_shape", allowed=allowed)
    if not FINGERPRINT.fullmatch(described.data_fingerprint):
        raise InputError(f"{described.data_fingerprint!r} is no fingerprint", place=f"{where}data_fingerprint")
    return described.data(source)


def data_from(base: DataSet, given: Mapping[str, Any], place: str | None) -> DataSet:
    """The data set that settings name, described by more of them if it is a user's own. Raises InputError."""
    if base.name != ImageFolder.name:
        return base
    described = build(ImageFolder, given, place=place)
    where = f"{place}: " if place else ""
    if not FOLDER.fullmatch(described.data_folder):
        allowed = "allowed: the name of a folder in the data folder"
        raise InputError(f"{described.data_folder!r} is not allowed", place=f"{where}data_folder", allowed=allowed)
    if not FINGERPRINT.fullmatch(described.data_fingerprint):
        allowed = "allowed: 32 hex digits, as `qsweep images` prints them"
        raise InputError(
            f"{described.data_fingerprint!r} is no fingerprint", place=f"{where}data_fingerprint", allowed=allowed
        )
    return described.data()


def data_settings(data: DataSet) -> dict[str, Setting]:
    """The settings that `data_from` reads, beside the data set's name."""
    if data.name == Arrays.name:
        return settings_of(Arrays.of(data))
    return settings_of(ImageFolder.of(data)) if data.name == ImageFolder.name else {}


def data_content(data: DataSet) -> dict[str, Any]:
    """What counts of a data set for an identity, beside its name."""
    content: dict[str, Any] = {"fingerprint": data.fingerprint}
    if data.name == Arrays.name:
        return {**content, "shape": data.shape, "values": data.values}
    return {**content, "size": data.size} if data.name == ImageFolder.name else content


def data_of(settings: Mapping[Any, Any]) -> DataSet:
    """The data set of a training's settings, which hold, as its row of results does, all that describe it."""
    named = str(settings["data"])
    if is_arrays(named):
        shape = tuple(int(one) for one in settings["data_shape"])
        numbers = {name: int(settings[name]) for name in ("data_classes", "data_train", "data_test")}
        texts = {name: str(settings[name]) for name in ("data_values", "data_fingerprint")}
        return build(Arrays, {"data_shape": shape, **numbers, **texts}).data(named)
    base = DATASETS[named]
    if base.name != ImageFolder.name:
        return base
    numbers = {name: int(settings[name]) for name in ("image_size", "data_classes", "data_train", "data_test")}
    texts = {name: str(settings[name]) for name in ("data_folder", "data_fingerprint")}
    return build(ImageFolder, {**numbers, **texts}).data()


FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")
