"""The distortion of trained models is what plain PyTorch modules compute on the corrupted images, model by model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.corruptions.sets import CorruptedSets
from qsweep.workers.data import Images
from qsweep.workers.evaluation import Tally
from qsweep.workers.forms import Form
from qsweep.workers.measures.distortion import Evaluation, Known, distort_models
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.models import NETWORKS
from qsweep.workers.quantizers.deployment import deployed_rows
from tests.workers.oracle import plain_model
from tests.workers.trainings import training

CPU = torch.device("cpu")
Trained = list[tuple[Training, Mapping[str, Tensor], dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(digits: Images) -> Trained:
    """A small NiN at four precisions, its tensors and its run."""
    trainings = [training(depth=2, width=5, bits=bits, epochs=3, learning_rate=0.05) for bits in (32, 8, 4, 2)]
    cohort = Cohort(trainings, digits, slots=4, form=Form.GATHER, device=CPU)
    while not cohort.finished:
        cohort.step()
    return [(one, found.model, found.run) for one, found in zip(trainings, cohort.results(), strict=True)]


def distorted(
    some: Trained, measure: Distortion, images: Images, cache: Path, known: Known | None = None, **more: Any
) -> list[dict[str, Any]]:
    return distort_models(
        [one for one, _, _ in some],
        {(str(training.bits), 1): model for training, model, _ in some},
        measure,
        images,
        CorruptedSets(None, cache),
        Known() if known is None else known,
        **{"slots": 4, "device": CPU, **more},
    )


@pytest.mark.parametrize("corruption", ["gaussian_noise", "elastic_transform"])
def test_losses_are_those_of_plain_modules_on_the_corrupted_images(
    trained: Trained, digits: Images, tmp_path: Path, corruption: str
) -> None:
    measure = Distortion(corruption=corruption, severity=5)
    found = distorted(trained, measure, digits, tmp_path, dtype=torch.float64)
    (file,) = tmp_path.rglob(f"{corruption}.npy")
    count = len(digits.test_labels)
    pictures = torch.from_numpy(np.load(file)[4 * count :]).permute(0, 3, 1, 2).double() * 16 / 255
    mean, deviation = digits.train_images.double().mean(), digits.train_images.double().std(correction=0)
    for (one, model, run), row in zip(trained, found, strict=True):
        plain = plain_model(one, model)
        with torch.no_grad():
            logits = plain((pictures - mean) / deviation)
        loss = torch.nn.functional.cross_entropy(logits, digits.test_labels)
        assert row["corrupted_loss"] == pytest.approx(float(loss), rel=1e-9)
        assert row["corrupted_accuracy"] == float((logits.argmax(1) == digits.test_labels).double().mean())
        assert row["clean_loss"] == pytest.approx(run["test_loss"], rel=1e-5)
        assert row["clean_accuracy"] == run["test_accuracy"]
        assert row["train_loss"] == pytest.approx(run["train_loss"], rel=1e-5)
        assert row["train_accuracy"] == run["train_accuracy"]
        assert row["generalization_gap"] == row["corrupted_loss"] - row["train_loss"]
        assert row["samples"] == count
        assert (row["source"], row["diverged"]) == ("generated", False)


def test_a_models_distortion_does_not_depend_on_its_cohort(trained: Trained, digits: Images, tmp_path: Path) -> None:
    measure = Distortion(corruption="fog", severity=3)
    together = distorted(trained, measure, digits, tmp_path)
    assert distorted(trained[::-1], measure, digits, tmp_path) == together[::-1]
    for number, one in enumerate(trained):
        assert distorted([one], measure, digits, tmp_path) == [together[number]]


def test_clean_images_are_judged_once_a_model(
    trained: Trained, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known()
    first = distorted(trained[:2], Distortion(corruption="fog", severity=1), digits, tmp_path, known)
    seen: list[int] = []
    tally = EvaluationSet.tally

    def counted(self: EvaluationSet, *given: Any, **more: Any) -> Tally:
        seen.append(len(self))
        return tally(self, *given, **more)

    monkeypatch.setattr(EvaluationSet, "tally", counted)
    again = distorted(trained[:2], Distortion(corruption="fog", severity=2), digits, tmp_path, known)
    assert seen == [len(digits.test_labels)]
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in first]
    distorted(trained, Distortion(corruption="fog", severity=2), digits, tmp_path, known)
    assert len(known.train) == 4
    assert isinstance(known.train["32", 1], Evaluation)


def test_a_sample_is_drawn_class_by_class_from_the_test_set(trained: Trained, digits: Images, tmp_path: Path) -> None:
    known = Known()
    whole = distorted(trained, Distortion(corruption="contrast", severity=5), digits, tmp_path, known)
    some = distorted(
        trained, Distortion(corruption="contrast", severity=5, measure_samples=50), digits, tmp_path, known
    )
    other = distorted(
        trained,
        Distortion(corruption="contrast", severity=5, measure_samples=50, corruption_seed=1),
        digits,
        tmp_path,
        known,
    )
    assert {row["samples"] for row in some} == {50}
    assert [row["train_loss"] for row in some] == [row["train_loss"] for row in whole]
    assert [row["clean_loss"] for row in some] != [row["clean_loss"] for row in whole]
    assert [row["clean_loss"] for row in some] != [row["clean_loss"] for row in other]


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_losses_of_both_ways_to_judge_are_plain_ones(data: str) -> None:
    """Digits are judged side by side, larger images one model after another."""
    trainings = [training(data=data, depth=2, width=3, bits=bits) for bits in (32, 4)]
    network = NETWORKS["nin"](trainings[0].model, trainings[0].data)
    draw = torch.Generator().manual_seed(0)
    side, channels = trainings[0].data.size, trainings[0].data.channels
    images = torch.randn(70, channels, side, side, generator=draw, dtype=torch.float64)
    labels = torch.randint(10, (70,), generator=draw)
    rows, expected = [], []
    for one in trainings:
        parameters = network.layout.initial_parameters(3).double()
        network.layout.steps.of(parameters[None])[:] = 0.05
        model = {
            name: value.clone()
            for name, value in network.layout.named(parameters, network.layout.initial_statistics().double())
        }
        rows.append(deployed_rows(one, model, network.layout, torch.float64))
        with torch.no_grad():
            logits = plain_model(one, model)(images)
        expected.append(
            (
                float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum")),
                int((logits.argmax(1) == labels).sum()),
            )
        )
    stacked = [torch.stack([row[part] for row in rows]) for part in (0, 1)]
    found = EvaluationSet(network, images, labels).tally(*stacked, slots=5)
    assert found.sums.tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-9)
    assert found.hits.tolist() == [right for _, right in expected]
