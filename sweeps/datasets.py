"""The data sets a sweep may name, by content. Their loaders stand under the same names in `workers.data`."""

from __future__ import annotations

from dataclasses import dataclass


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
    )
}
