"""The batches of a training: order and augmentation from counters, images from the device's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qsweep.sweeps.recipe import Recipe
from qsweep.workers.data.images import Images
from qsweep.workers.data.source import Part, epoch_generator
from qsweep.workers.data.split import hold_out
from qsweep.workers.data.targets import Targets
from qsweep.workers.device import sent

PADDING = 4
"""Black pixels around an image before a crop of its own size."""


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """Crop offsets (0 to 2·PADDING) and flips of images, int64 and bool (N)."""

    down: Tensor
    across: Tensor
    flipped: Tensor


class Batches:
    """A data set in a device's memory, standardized per channel with the mean and deviation of what is trained on: a
    `workers.data.source.Source`.

    `train`, `test` and `val` are images (N, channels, side, side) and labels (N); `val` is None unless the
    recipe holds some of the training images out.
    """

    def __init__(self, images: Images, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> None:
        self._recipe = recipe
        self._device, self.dtype = device, dtype
        train_images, train_labels = images.train_images, images.train_labels
        self.val: tuple[Tensor, Tensor] | None = None
        if recipe.val_fraction:
            held_out = hold_out(train_labels, recipe)
            self.val = (train_images[held_out].to(device), train_labels[held_out].to(device))
            train_images, train_labels = train_images[~held_out], train_labels[~held_out]
        self.train = (train_images.to(device), train_labels.to(device))
        self.test = (images.test_images.to(device), images.test_labels.to(device))
        mean, deviation = moments(train_images)
        wide = (-1, *(1,) * (train_images.dim() - 2))
        self._mean = mean.to(device, dtype).view(wide)
        self._deviation = deviation.to(device, dtype).view(wide)
        self._order = torch.empty(0, dtype=torch.int64)
        self._shifts: Shifts | None = None

    def open(self, epoch: int) -> None:
        """Draw the order and the augmentation of an epoch (from 0) on the CPU, and move them over at once."""
        count = len(self.train[0])
        self._order = sent(torch.randperm(count, generator=self._generator(epoch, "order")), self._device)
        if self._recipe.augment == "crop-flip":
            shifts = draw_shifts(count * self._recipe.crops, self._generator(epoch, "shifts"))
            self._shifts = Shifts(
                down=sent(shifts.down, self._device),
                across=sent(shifts.across, self._device),
                flipped=sent(shifts.flipped, self._device),
            )

    def batch(self, number: int) -> tuple[Tensor, Targets]:
        """Images (B, channels, side, side) and their labels of one step of the open epoch."""
        crops = self._recipe.crops
        size = self._recipe.batch_size // crops
        order = self._order[number * size : (number + 1) * size].repeat_interleave(crops)
        all_images, all_labels = self.train
        images = all_images[order]
        if self._shifts is not None:
            one = self._shifts
            drawn = order * crops + torch.arange(len(order), device=order.device) % crops
            images = shifted(images, Shifts(down=one.down[drawn], across=one.across[drawn], flipped=one.flipped[drawn]))
        return self.standardized(images), Targets(labels=all_labels[order])

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for part in Part if self._of(part) is not None)

    def labels(self, part: Part) -> Tensor:
        return self._held(part)[1].cpu()

    def passes(self, part: Part, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._held(part)
        return self._sized(images, labels, size)

    def chosen(self, places: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.train
        chosen = places.to(self._device)
        return self._sized(images[chosen], labels[chosen], size)

    def close(self) -> None:
        """There is nothing but memory."""

    def _sized(self, images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for some, names in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            yield self.standardized(some), names

    def _of(self, part: Part) -> tuple[Tensor, Tensor] | None:
        return {Part.TRAIN: self.train, Part.TEST: self.test, Part.VAL: self.val}[part]

    def _held(self, part: Part) -> tuple[Tensor, Tensor]:
        held = self._of(part)
        assert held is not None, f"no images are held for {part}"
        return held

    def standardized(self, images: Tensor) -> Tensor:
        """(x − mean) / deviation per channel, in the working precision."""
        return images.to(self.dtype, copy=True).sub_(self._mean).div_(self._deviation)

    def _generator(self, epoch: int, purpose: str) -> torch.Generator:
        return epoch_generator(self._recipe.data_seed, epoch, purpose)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of images (N, C, H, W), or of each feature of rows (N, C), float64; 1
    where it is 0. Of uint8 from exact sums."""
    if images.is_floating_point():
        return _moments_of_floats(images)
    count = images.numel() // images.shape[1]
    total, square = (torch.zeros(images.shape[1], dtype=torch.int64) for _ in range(2))
    for some in torch.split(images, 1024):  # in parts, because int64 takes eight times the memory
        pixels = some.long()
        total += pixels.sum((0, 2, 3))
        square += pixels.square().sum((0, 2, 3))
    mean = total.double() / count
    deviation = (square.double() / count - mean.square()).sqrt()
    return mean, torch.where(deviation > 0, deviation, 1.0)


def _moments_of_floats(images: Tensor) -> tuple[Tensor, Tensor]:
    values = images.transpose(0, 1).flatten(1).double()
    mean = values.mean(1)
    deviation = (values - mean[:, None]).square_().mean(1).sqrt()
    return mean, torch.where(deviation > 0, deviation, 1.0)


def draw_shifts(count: int, generator: torch.Generator) -> Shifts:
    """Uniform crops and fair flips for `count` images."""
    return Shifts(
        down=torch.randint(2 * PADDING + 1, (count,), generator=generator),
        across=torch.randint(2 * PADDING + 1, (count,), generator=generator),
        flipped=torch.randint(2, (count,), generator=generator).bool(),
    )


def shifted(images: Tensor, shifts: Shifts) -> Tensor:
    """Each image padded with black, cropped at its offsets, and flipped left to right if so drawn."""
    side = images.shape[-1]
    padded = torch.nn.functional.pad(images, (PADDING,) * 4)
    line = torch.arange(side, device=images.device)
    rows = shifts.down[:, None] + line
    columns = shifts.across[:, None] + torch.where(shifts.flipped[:, None], line.flip(0), line)
    every = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
