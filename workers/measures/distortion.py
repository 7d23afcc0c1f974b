"""The distortion of trained models: mean loss and accuracy on the test set under one corruption at one severity.

Hendrycks & Dietterich 2019 (arXiv 1903.12261) for the images; the gap is QGen's (arXiv 2404.11769): the mean loss on
the corrupted test set − the mean loss on the original training set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.training import Training
from qsweep.workers.corruptions.files import Stored, check_stored, corrupted_files
from qsweep.workers.corruptions.sets import CorruptedSets, TestSet
from qsweep.workers.data import Collection, ImageFiles, Images, Part
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.stream import Stream
from qsweep.workers.evaluation import Tally
from qsweep.workers.measures import draws
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.files import BATCH, tally_of_files
from qsweep.workers.models import network_of
from qsweep.workers.quantizers.deployment import deployed_rows

PART = 10_000
"""Images that stand in memory in the working precision at a time: part of the numerics, so it is not a setting."""
Model = Mapping[str, Tensor]
Name = tuple[str, int]
"""A trained model: the identity of its job, and the attempt."""
Judge = Callable[[Tensor, Tensor], Tally]
"""Judges models by their rows (M, P) and statistics (M, S)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean cross-entropy and accuracy of one model over some images."""

    loss: float
    accuracy: float


@dataclass
class Known:
    """What an agent has found out about models on clean images, which 75 distortions of a model have in common."""

    train: dict[Name, Evaluation] = field(default_factory=dict)
    test: dict[tuple[Name, int, int], Evaluation] = field(default_factory=dict)
    """By the model, the size of the sample (0: all) and its seed (0 of all)."""

    def recall(self, name: Name, passes: Mapping[str, float | None]) -> None:
        """Take what a model's training found (the columns of `runs`, as far as they are given and finite) as known."""
        known: dict[str, dict[Any, Evaluation]] = {"train": self.train, "test": self.test}
        for part, key in (("train", name), ("test", (name, 0, 0))):
            loss, accuracy = passes.get(f"{part}_loss"), passes.get(f"{part}_accuracy")
            if loss is not None and accuracy is not None:
                known[part].setdefault(key, Evaluation(loss=loss, accuracy=accuracy))


def distort_models(
    trainings: Sequence[Training],
    models: Mapping[Name, Model],
    measure: Distortion,
    images: Collection,
    sets: CorruptedSets,
    known: Known,
    *,
    slots: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    quantized: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The distortion's columns of each model's row, in the order of `models`.

    Models of one shape and data set, those of the trainings or what these were `quantized` to on images, are judged
    side by side in that many `slots`, each as if it were alone. What
    `known` does not have of them on clean images is judged too, and added to it. Of images in files no more than some
    batches are in memory. Raises InputError: BrokenImage at one that can't be decoded, if such are not to be skipped.
    """
    deployed = _DeployedModels(trainings, models, device, dtype, quantized=quantized)
    if isinstance(images, ImageFiles):
        brought: _TestImages = _OfFiles(deployed, measure, images, trainings[0], sets, tick)
    else:
        brought = _InMemory(deployed, measure, images, trainings[0], sets, slots, tick)
    sample = (measure.measure_samples, measure.corruption_seed if measure.measure_samples else 0)
    found: dict[Name, Evaluation] = {}
    try:
        deployed.add(known.train, lambda name: name, brought.train)
        deployed.add(known.test, lambda name: (name, *sample), brought.test)
        deployed.add(found, lambda name: name, brought.corrupted)
    finally:
        brought.close()
    return [_row(found[name], known.train[name], known.test[name, *sample]) | brought.origin for name in models]


def _row(corrupted: Evaluation, train: Evaluation, test: Evaluation) -> dict[str, Any]:
    return {
        "diverged": False,
        "corrupted_loss": corrupted.loss,
        "corrupted_accuracy": corrupted.accuracy,
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "clean_loss": test.loss,
        "clean_accuracy": test.accuracy,
        "generalization_gap": corrupted.loss - train.loss,
    }


class _DeployedModels:
    """The models, as deployed."""

    def __init__(
        self,
        trainings: Sequence[Training],
        models: Mapping[Name, Model],
        device: torch.device,
        dtype: torch.dtype,
        *,
        quantized: bool,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.network = network_of(trainings[0], quantized=quantized)
        self._names = list(models)
        self._rows = {
            name: deployed_rows(training, model, self.network.layout, dtype)
            for training, (name, model) in zip(trainings, models.items(), strict=True)
        }

    @torch.no_grad()
    def add(self, known: dict[Any, Evaluation], key: Callable[[Name], Any], judge: Judge) -> None:
        """Have every model judged whose key is not yet known."""
        names = [name for name in self._names if key(name) not in known]
        if not names:
            return
        rows, statistics = (torch.stack([self._rows[name][part] for name in names]).to(self.device) for part in (0, 1))
        found = judge(rows, statistics)
        if not found.images:
            raise InputError("none of the images can be decoded", place="distortion")
        for name, loss, accuracy in zip(names, found.loss.tolist(), found.accuracy.tolist(), strict=True):
            known[key(name)] = Evaluation(loss=loss, accuracy=accuracy)


class _TestImages(Protocol):
    """How images are brought before the models. `origin` is what a row says of the corrupted ones, once judged."""

    origin: dict[str, Any]

    def train(self, rows: Tensor, statistics: Tensor) -> Tally:
        """By all images that are trained on."""

    def test(self, rows: Tensor, statistics: Tensor) -> Tally:
        """By the sample of the test images, not corrupted."""

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Tally:
        """By the same images, corrupted."""

    def close(self) -> None:
        """Let go of what it holds beside memory."""


class _InMemory:
    """Images that are in memory, and corrupted test sets that are files of arrays."""

    def __init__(
        self,
        deployed: _DeployedModels,
        measure: Distortion,
        images: Images,
        first: Training,
        sets: CorruptedSets,
        slots: int,
        tick: Callable[[], None],
    ) -> None:
        clean = TestSet(data=first.data, images=images.test_images.numpy(), labels=images.test_labels.numpy())
        corrupted = sets.at(clean, measure.corruption, measure.severity, seed=measure.corruption_seed, tick=tick)
        places = draws.balanced(images.test_labels, measure.measure_samples, measure.corruption_seed)
        self._models, self._slots, self._tick = deployed, slots, tick
        self._batches = Batches(images, first.recipe, deployed.device, deployed.dtype)
        self._test, self._labels = images.test_images[places], images.test_labels[places]
        self._pictures = torch.from_numpy(np.moveaxis(corrupted.images[places.numpy()], -1, 1).copy())
        self._scale = first.data.peak / 255
        self.origin: dict[str, Any] = {
            "samples": len(places),
            "source": corrupted.source,
            "frost": corrupted.frost,
            "fingerprint": corrupted.fingerprint,
        }

    def train(self, rows: Tensor, statistics: Tensor) -> Tally:
        return self._judge(*self._batches.train, rows, statistics)

    def test(self, rows: Tensor, statistics: Tensor) -> Tally:
        return self._judge(self._test, self._labels, rows, statistics)

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Tally:
        return self._judge(self._pictures, self._labels, rows, statistics, scale=self._scale)

    def close(self) -> None:
        """There is nothing but memory."""

    def _judge(self, images: Tensor, labels: Tensor, rows: Tensor, statistics: Tensor, *, scale: float = 1.0) -> Tally:
        """By uint8 images (N, channels, side, side), times `scale`."""
        device, dtype = self._models.device, self._models.dtype
        losses = torch.zeros(len(rows), dtype=torch.float64, device=device)
        hits = torch.zeros(len(rows), dtype=torch.int64, device=device)
        for some, answers in zip(torch.split(images, PART), torch.split(labels, PART), strict=True):
            pixels = some.to(device, dtype)
            standardized = self._batches.standardized(pixels if scale == 1 else pixels * scale)
            some_images = EvaluationSet(self._models.network, standardized, answers.to(device))
            found = some_images.tally(rows, statistics, slots=self._slots)
            losses += found.sums
            hits += found.hits
            self._tick()
        return Tally(losses=losses, hits=hits, images=len(labels))


class _OfFiles:
    """Images that are read from their files, and corrupted as they are read or read from a tree of corrupted ones."""

    def __init__(
        self,
        deployed: _DeployedModels,
        measure: Distortion,
        files: ImageFiles,
        first: Training,
        sets: CorruptedSets,
        tick: Callable[[], None],
    ) -> None:
        self._corrupted = corrupted_files(
            files.data, sets.folder, measure.corruption, measure.severity, seed=measure.corruption_seed
        )
        if isinstance(self._corrupted, Stored):
            check_stored(self._corrupted, files.test, files.data.size)
        self._models, self._tick = deployed, tick
        self._stream = Stream(files, first.recipe, deployed.device, deployed.dtype)
        labels = self._stream.labels(Part.TEST)
        self._places = draws.balanced(labels, measure.measure_samples, measure.corruption_seed)
        self.origin: dict[str, Any] = {"source": self._corrupted.source, "frost": self._corrupted.frost}

    def train(self, rows: Tensor, statistics: Tensor) -> Tally:
        places = torch.arange(len(self._stream.labels(Part.TRAIN)))
        return self._judge(self._stream.pixels(Part.TRAIN, places, BATCH), rows, statistics)

    def test(self, rows: Tensor, statistics: Tensor) -> Tally:
        return self._judge(self._stream.pixels(Part.TEST, self._places, BATCH), rows, statistics)

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Tally:
        digest = hashlib.sha256()
        batches = self._stream.pixels(Part.TEST, self._places, BATCH, corrupted=self._corrupted)
        found = self._judge(_hashed(batches, digest), rows, statistics)
        self.origin |= {"samples": found.images, "fingerprint": digest.hexdigest()[:32]}
        return found

    def close(self) -> None:
        self._stream.close()

    def _judge(self, batches: Iterator[tuple[Tensor, Tensor]], rows: Tensor, statistics: Tensor) -> Tally:
        return tally_of_files(self._models.network, self._stream, batches, rows, statistics, self._tick)


def _hashed(batches: Iterator[tuple[Tensor, Tensor]], digest: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as they come, their pixels added to the digest as pictures (side, side, 3)."""
    for pixels, labels in batches:
        digest.update(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy()).data)
        yield pixels, labels
