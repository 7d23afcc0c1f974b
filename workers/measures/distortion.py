"""The distortion of trained models: mean loss and accuracy on the test set under one corruption at one severity.

Hendrycks & Dietterich 2019 (arXiv 1903.12261) for the images; the gap is QGen's (arXiv 2404.11769): the mean loss on
the corrupted test set − the mean loss on the original training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweeps.measures import Distortion
from sweeps.training import Training
from workers.corruptions.sets import CorruptedSets, TestSet
from workers.data.batches import Batches
from workers.data.images import Images
from workers.measures import draws
from workers.measures.accuracy import Examinees
from workers.measures.point import round_weights
from workers.models import NETWORKS
from workers.models.layout import Layout
from workers.quantizers.lsq import layer_bits

PART = 10_000
"""Images that stand in memory in the working precision at a time: part of the numerics, so it is no setting."""
Model = Mapping[str, Tensor]
Name = tuple[str, int]
"""A trained model: the identity of its job, and the attempt."""


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
    """By the model, the size of the sample and its seed."""


def distort_models(
    trainings: Sequence[Training],
    models: Mapping[Name, Model],
    measure: Distortion,
    images: Images,
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
    `known` does not have of them on clean images is judged too, and added to it.
    """
    data = trainings[0].data
    clean = TestSet(data=data, images=images.test_images.numpy(), labels=images.test_labels.numpy())
    corrupted = sets.at(clean, measure.corruption, measure.severity, seed=measure.corruption_seed, tick=tick)
    jury = _Jury(trainings, models, Batches(images, trainings[0].recipe, device, dtype), slots, tick)
    places = draws.balanced(images.test_labels, measure.measure_samples, measure.corruption_seed)
    labels = images.test_labels[places]
    pictures = torch.from_numpy(np.moveaxis(corrupted.images[places.numpy()], -1, 1).copy())
    jury.add(known.train, lambda name: name, *jury.batches.train)
    sample = (measure.measure_samples, measure.corruption_seed)
    jury.add(known.test, lambda name: (name, *sample), images.test_images[places], labels)
    found: dict[Name, Judged] = {}
    jury.add(found, lambda name: name, pictures, labels, scale=data.peak / 255)
    origin = {
        "samples": len(places),
        "source": corrupted.source,
        "frost": corrupted.frost,
        "fingerprint": corrupted.fingerprint,
    }
    return [_row(found[name], known.train[name], known.test[name, *sample]) | origin for name in models]


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
    """The models, as deployed, and how images are brought before them."""

    def __init__(
        self,
        trainings: Sequence[Training],
        models: Mapping[Name, Model],
        batches: Batches,
        slots: int,
        tick: Callable[[], None],
    ) -> None:
        first = trainings[0]
        self.batches = batches
        self._network = NETWORKS[first.model.name](first.model, first.data)
        self._names = list(models)
        self._rows = {
            name: deployed_rows(training, model, self._network.layout, batches.dtype)
            for training, (name, model) in zip(trainings, models.items(), strict=True)
        }
        self._slots, self._tick = slots, tick

    def add(
        self,
        known: dict[Any, Judged],
        key: Callable[[Name], Any],
        images: Tensor,
        labels: Tensor,
        *,
        scale: float = 1.0,
    ) -> None:
        """Judge uint8 images (N, channels, side, side), times `scale`, by every model whose key is not yet known."""
        names = [name for name in self._names if key(name) not in known]
        if not names:
            return
        device, dtype = self.batches.train[0].device, self.batches.dtype
        rows, statistics = (torch.stack([self._rows[name][part] for name in names]).to(device) for part in (0, 1))
        losses = torch.zeros(len(names), dtype=torch.float64, device=device)
        hits = torch.zeros(len(names), dtype=torch.int64, device=device)
        for some, answers in zip(torch.split(images, PART), torch.split(labels, PART), strict=True):
            pixels = some.to(device, dtype)
            standardized = self.batches.standardized(pixels if scale == 1 else pixels * scale)
            found = Examinees(self._network, standardized, answers.to(device))
            more = found.losses(rows, statistics, slots=self._slots)
            losses += more[0]
            hits += more[1]
            self._tick()
        for name, loss, right in zip(names, losses.tolist(), hits.tolist(), strict=True):
            known[key(name)] = Judged(loss=loss / len(labels), accuracy=right / len(labels))


def deployed_rows(training: Training, model: Model, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Parameters (P), their weights rounded where the model is quantized, and statistics (S) of a kept model."""
    parameters, statistics = (row.to(dtype) for row in layout.packed(model))
    if training.quantizer is not None:
        bits = layer_bits(training.quantizer, len(layout.layers))
        round_weights(layout, bits, None, parameters[None], layout.steps.of(parameters[None]))
    return parameters, statistics
