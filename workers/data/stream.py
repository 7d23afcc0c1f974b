"""A data set that is read from its image files as it is needed: order and augmentation from counters.

Processes decode, cut and flip off the device's path (`workers.decoding`); what arrives is uint8, and is
standardized on the device. An image's cut depends on `data_seed`, the epoch and the image alone, so a training that is
resumed at any step sees what it would have seen, whatever processes decode. Where images that can't be decoded
are skipped, an evaluation is over the others.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from qsweep.sweeps.recipe import Recipe
from qsweep.workers.corruptions.files import CorruptedFiles
from qsweep.workers.data.folders import ImageFiles
from qsweep.workers.data.soft_labels import Drawn, SoftLabels
from qsweep.workers.data.source import Part, epoch_generator
from qsweep.workers.data.split import hold_out
from qsweep.workers.data.targets import Targets
from qsweep.workers.decoding.pool import CHUNK, Decoded, Decoder, Decoders, Task, processes_here
from qsweep.workers.device import sent

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel, of 1: ImageNet's, as torchvision's weights were trained with. To take a set's own, all of it would
have to be decoded before the first step."""
Batch = tuple[Tensor, Tensor]


class Stream:
    """The images of a training, from their files: a `workers.data.source.Source`. With `soft` labels it is trained on
    cuts that those are of."""

    def __init__(
        self,
        files: ImageFiles,
        recipe: Recipe,
        device: torch.device,
        dtype: torch.dtype,
        soft: SoftLabels | None = None,
    ) -> None:
        self.dtype = dtype
        self.side = files.data.size
        self._soft = soft
        self._images = recipe.batch_size // recipe.crops
        self._recipe, self._device = recipe, device
        held_out = torch.zeros(len(files.train), dtype=torch.bool)
        if recipe.val_fraction:
            held_out = hold_out(torch.from_numpy(files.train.labels), recipe)
        labels = {Part.TRAIN: files.train.labels, Part.TEST: files.test.labels, Part.VAL: files.train.labels}
        self._labels = {part: torch.from_numpy(some) for part, some in labels.items()}
        self._places = {
            Part.TRAIN: torch.nonzero(~held_out).flatten(),
            Part.TEST: torch.arange(len(files.test)),
            Part.VAL: torch.nonzero(held_out).flatten(),
        }
        self._mean, self._deviation = (
            (torch.tensor(one, dtype=torch.float64) * 255).to(device, dtype)[:, None, None] for one in (MEAN, DEVIATION)
        )
        self._decoder = Decoder(
            listings={Part.TRAIN.value: files.train, Part.TEST.value: files.test},
            side=self.side,
            skip=recipe.corrupt == "skip",
            crops=recipe.crops,
        )
        self._pool: Decoders | None = None
        self._epoch = 0
        self._ahead: Iterator[tuple[Tensor, Targets]] = iter(())
        self._next: tuple[int, int] | None = None

    @property
    def is_cuda(self) -> bool:
        return self._device.type == "cuda"

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for part in Part if len(self._places[part]))

    def labels(self, part: Part) -> Tensor:
        return self._labels[part][self._places[part]]

    def open(self, epoch: int) -> None:
        self._epoch = epoch

    def batch(self, number: int) -> tuple[Tensor, Targets]:
        """Images (B, 3, side, side) and what should be said of them, of one step of the open epoch. Raises BrokenImage,
        and InputError for soft labels that can't be read."""
        if self._next != (self._epoch, number):
            self._ahead = self._read(Part.TRAIN, self._batches(self._epoch, number), exact=True)
        steps = -(-len(self._places[Part.TRAIN]) // self._images)
        self._next = (self._epoch, number + 1) if number + 1 < steps else (self._epoch + 1, 0)
        pixels, targets = next(self._ahead)
        return self.standardized(pixels), targets

    def passes(self, part: Part, size: int) -> Iterator[Batch]:
        return self._evaluated(part, self._places[part], size)

    def chosen(self, places: Tensor, size: int) -> Iterator[Batch]:
        return self._evaluated(Part.TRAIN, self._places[Part.TRAIN][places.cpu()], size)

    def pixels(
        self, part: Part, places: Tensor, size: int, *, corrupted: CorruptedFiles | None = None
    ) -> Iterator[Batch]:
        """The images of a part at these places, or the corrupted images of them, as they were decoded: uint8."""
        batches = _unaugmented(self._places[part][places.cpu()], size)
        read = self._read(part, batches, exact=False, corrupted=corrupted)
        return ((pixels, targets.labels) for pixels, targets in read)

    def standardized(self, pixels: Tensor) -> Tensor:
        """(x − mean) / deviation per channel, in the working precision."""
        return pixels.to(self.dtype).sub_(self._mean).div_(self._deviation)

    def close(self) -> None:
        """End the processes that decode."""
        if self._pool is not None:
            self._pool.close()
        self._pool, self._ahead, self._next = None, iter(()), None

    def _evaluated(self, part: Part, places: Tensor, size: int) -> Iterator[Batch]:
        for pixels, targets in self._read(part, _unaugmented(places, size), exact=False):
            yield self.standardized(pixels), targets.labels

    def _batches(self, epoch: int, number: int) -> Iterator[tuple[np.ndarray, str | None]]:
        """The places of every batch from this one on to the end of the training, and the counter of their cuts."""
        seed, size = self._recipe.data_seed, self._images
        mine = self._places[Part.TRAIN]
        for one in range(epoch, self._recipe.epochs):
            order = mine[torch.randperm(len(mine), generator=epoch_generator(seed, one, "order"))]
            counter = f"{seed}/{one}/cuts" if self._recipe.augment == "resized-crop" else None
            for places in torch.split(order, size)[number if one == epoch else 0 :]:
                yield places.numpy(), counter

    def _read(
        self,
        part: Part,
        batches: Iterable[tuple[np.ndarray, str | None]],
        *,
        exact: bool,
        corrupted: CorruptedFiles | None = None,
    ) -> Iterator[tuple[Tensor, Targets]]:
        """Pixels (uint8) of each batch and what should be said of them, on the device; the pool decodes in chunks."""
        name = Part.TEST if part is Part.TEST else Part.TRAIN
        labels, begun = self._labels[part], deque[tuple[int, Tensor | None]]()

        def tasks() -> Iterator[Task]:
            for places, counter in batches:
                starts = range(0, len(places), CHUNK)
                soft = self._drawn(places, counter)
                begun.append((len(starts), None if soft is None else soft.shares))
                for chunk in (slice(start, start + CHUNK) for start in starts):
                    yield Task(
                        listing=name.value,
                        places=places[chunk],
                        counter=counter,
                        exact=exact,
                        boxes=None if soft is None else soft.boxes[chunk],
                        corrupted=corrupted,
                    )

        decoded = self._decoders().decode(tasks())
        for first in decoded:
            count, shares = begun.popleft()
            chunks: list[Decoded] = [first, *islice(decoded, count - 1)]
            pixels = torch.from_numpy(np.concatenate([one.pixels for one in chunks]))
            found = labels[torch.from_numpy(np.concatenate([one.places for one in chunks]))]
            if len(found):
                shares = None if shares is None else sent(shares, self._device).to(self.dtype)
                yield sent(pixels, self._device), Targets(labels=sent(found, self._device), shares=shares)

    def _drawn(self, places: np.ndarray, counter: str | None) -> Drawn | None:
        """The cuts of a batch that soft labels are of, if it is cut at random and there are such labels."""
        if self._soft is None or counter is None:
            return None
        return self._soft.draw(self._decoder.listings[Part.TRAIN.value], places, self._recipe.crops, counter)

    def _decoders(self) -> Decoders:
        if self._pool is None:
            self._pool = Decoders(self._decoder, processes_here(self._agents))
        return self._pool

    @property
    def _agents(self) -> int:
        """Agents that share this machine's cores: one a GPU, or one a core."""
        return torch.cuda.device_count() if self.is_cuda else os.cpu_count() or 1


def _unaugmented(places: Tensor, size: int) -> Iterator[tuple[np.ndarray, None]]:
    return ((some.numpy(), None) for some in torch.split(places, size))
