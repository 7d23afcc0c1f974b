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
from qsweep.workers.measures import draws
from qsweep.workers.measures.accuracy import Examinees
from qsweep.workers.measures.files import BATCH, scores_over
from qsweep.workers.measures.point import round_weights
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.layout import Layout
from qsweep.workers.quantizers.lsq import layer_bits

PART = 10_000
"""Images that stand in memory in the working precision at a time: part of the numerics, so it is no setting."""
Model = Mapping[str, Tensor]
Name = tuple[str, int]
"""A trained model: the identity of its job, and the attempt."""
Verdict = tuple[Tensor, Tensor, int]
"""The sum of each model's cross-entropies (M, float64, nats), its hits (M, int64), and the number of images."""
Judge = Callable[[Tensor, Tensor], Verdict]
"""Judges models by their rows (M, P) and statistics (M, S)."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Mean cross-entropy and accuracy of one model over some images."""

    loss: float
    accuracy: float


@dataclass
class Known:
    """What an agent has found out about models on clean images, which 75 distortions of a model have in common."""

    train: dict[Name, Judged] = field(default_factory=dict)
    test: dict[tuple[Name, int, int], Judged] = field(default_factory=dict)
    """By the model, the size of the sample (0: all) and its seed (0 of all)."""

    def recall(self, name: Name, passes: Mapping[str, float | None]) -> None:
        """Take what a model's training found (the columns of `runs`, as far as they are given and finite) as known."""
        known: dict[str, dict[Any, Judged]] = {"train": self.train, "test": self.test}
        for part, key in (("train", name), ("test", (name, 0, 0))):
            loss, accuracy = passes.get(f"{part}_loss"), passes.get(f"{part}_accuracy")
            if loss is not None and accuracy is not None:
                known[part].setdefault(key, Judged(loss=loss, accuracy=accuracy))


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
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The distortion's columns of each model's row, in the order of `models`.

    Models of one shape and data set are judged side by side in so many `slots`, each as if it were alone. What
    `known` does not have of them on clean images is judged too, and added to it. Of images in files no more than some
    batches are in memory. Raises InputError: BrokenImage at one that can't be decoded, if such are not to be skipped.
    """
    jury = _Jury(trainings, models, device, dtype)
    if isinstance(images, ImageFiles):
        court: _Court = _OfFiles(jury, measure, images, trainings[0], sets, tick)
    else:
        court = _InMemory(jury, measure, images, trainings[0], sets, slots, tick)
    sample = (measure.measure_samples, measure.corruption_seed if measure.measure_samples else 0)
    found: dict[Name, Judged] = {}
    try:
        jury.add(known.train, lambda name: name, court.train)
        jury.add(known.test, lambda name: (name, *sample), court.test)
        jury.add(found, lambda name: name, court.corrupted)
    finally:
        court.close()
    return [_row(found[name], known.train[name], known.test[name, *sample]) | court.origin for name in models]


def _row(corrupted: Judged, train: Judged, test: Judged) -> dict[str, Any]:
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


class _Jury:
    """The models, as deployed."""

    def __init__(
        self, trainings: Sequence[Training], models: Mapping[Name, Model], device: torch.device, dtype: torch.dtype
    ) -> None:
        first = trainings[0]
        self.device, self.dtype = device, dtype
        self.network = NETWORKS[first.model.name](first.model, first.data)
        self._names = list(models)
        self._rows = {
            name: deployed_rows(training, model, self.network.layout, dtype)
            for training, (name, model) in zip(trainings, models.items(), strict=True)
        }

    @torch.no_grad()
    def add(self, known: dict[Any, Judged], key: Callable[[Name], Any], judge: Judge) -> None:
        """Have every model judged whose key is not yet known."""
        names = [name for name in self._names if key(name) not in known]
        if not names:
            return
        rows, statistics = (torch.stack([self._rows[name][part] for name in names]).to(self.device) for part in (0, 1))
        losses, hits, count = judge(rows, statistics)
        if not count:
            raise InputError("none of the images can be decoded", place="distortion")
        for name, loss, right in zip(names, losses.tolist(), hits.tolist(), strict=True):
            known[key(name)] = Judged(loss=loss / count, accuracy=right / count)


class _Court(Protocol):
    """How images are brought before the models. `origin` is what a row says of the corrupted ones, once judged."""

    origin: dict[str, Any]

    def train(self, rows: Tensor, statistics: Tensor) -> Verdict:
        """By all images that are trained on."""

    def test(self, rows: Tensor, statistics: Tensor) -> Verdict:
        """By the sample of the test images, not corrupted."""

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Verdict:
        """By the same images, corrupted."""

    def close(self) -> None:
        """Let go of what it holds beside memory."""


class _InMemory:
    """Images that are in memory, and corrupted test sets that are files of arrays."""

    def __init__(
        self,
        jury: _Jury,
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
        self._jury, self._slots, self._tick = jury, slots, tick
        self._batches = Batches(images, first.recipe, jury.device, jury.dtype)
        self._test, self._labels = images.test_images[places], images.test_labels[places]
        self._pictures = torch.from_numpy(np.moveaxis(corrupted.images[places.numpy()], -1, 1).copy())
        self._scale = first.data.peak / 255
        self.origin: dict[str, Any] = {
            "samples": len(places),
            "source": corrupted.source,
            "frost": corrupted.frost,
            "fingerprint": corrupted.fingerprint,
        }

    def train(self, rows: Tensor, statistics: Tensor) -> Verdict:
        return self._judge(*self._batches.train, rows, statistics)

    def test(self, rows: Tensor, statistics: Tensor) -> Verdict:
        return self._judge(self._test, self._labels, rows, statistics)

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Verdict:
        return self._judge(self._pictures, self._labels, rows, statistics, scale=self._scale)

    def close(self) -> None:
        """There is nothing but memory."""

    def _judge(
        self, images: Tensor, labels: Tensor, rows: Tensor, statistics: Tensor, *, scale: float = 1.0
    ) -> Verdict:
        """By uint8 images (N, channels, side, side), times `scale`."""
        device, dtype = self._jury.device, self._jury.dtype
        losses = torch.zeros(len(rows), dtype=torch.float64, device=device)
        hits = torch.zeros(len(rows), dtype=torch.int64, device=device)
        for some, answers in zip(torch.split(images, PART), torch.split(labels, PART), strict=True):
            pixels = some.to(device, dtype)
            standardized = self._batches.standardized(pixels if scale == 1 else pixels * scale)
            examinees = Examinees(self._jury.network, standardized, answers.to(device))
            more = examinees.losses(rows, statistics, slots=self._slots)
            losses += more[0]
            hits += more[1]
            self._tick()
        return losses, hits, len(labels)


class _OfFiles:
    """Images that are read from their files, and corrupted as they are read or read from a tree of corrupted ones."""

    def __init__(
        self,
        jury: _Jury,
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
        self._jury, self._tick = jury, tick
        self._stream = Stream(files, first.recipe, jury.device, jury.dtype)
        labels = self._stream.labels(Part.TEST)
        self._places = draws.balanced(labels, measure.measure_samples, measure.corruption_seed)
        self.origin: dict[str, Any] = {"source": self._corrupted.source, "frost": self._corrupted.frost}

    def train(self, rows: Tensor, statistics: Tensor) -> Verdict:
        places = torch.arange(len(self._stream.labels(Part.TRAIN)))
        return self._judge(self._stream.pixels(Part.TRAIN, places, BATCH), rows, statistics)

    def test(self, rows: Tensor, statistics: Tensor) -> Verdict:
        return self._judge(self._stream.pixels(Part.TEST, self._places, BATCH), rows, statistics)

    def corrupted(self, rows: Tensor, statistics: Tensor) -> Verdict:
        digest = hashlib.sha256()
        batches = self._stream.pixels(Part.TEST, self._places, BATCH, corrupted=self._corrupted)
        verdict = self._judge(_hashed(batches, digest), rows, statistics)
        self.origin |= {"samples": verdict[-1], "fingerprint": digest.hexdigest()[:32]}
        return verdict

    def close(self) -> None:
        self._stream.close()

    def _judge(self, batches: Iterator[tuple[Tensor, Tensor]], rows: Tensor, statistics: Tensor) -> Verdict:
        return scores_over(self._jury.network, self._stream, self._ticked(batches), rows, statistics)

    def _ticked(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for one in batches:
            yield one
            self._tick()


def _hashed(batches: Iterator[tuple[Tensor, Tensor]], digest: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as they come, their pixels added to the digest as pictures (side, side, 3)."""
    for pixels, labels in batches:
        digest.update(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy()).data)
        yield pixels, labels


def deployed_rows(training: Training, model: Model, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Parameters (P), their weights rounded where the model is quantized, and statistics (S) of a kept model."""
    parameters, statistics = (row.to(dtype) for row in layout.packed(model))
    if training.quantizer is not None:
        bits = layer_bits(training.quantizer, len(layout.layers))
        round_weights(layout, bits, None, parameters[None], layout.steps.of(parameters[None]))
    return parameters, statistics
