"""The validation split: what is held out, and that a model is measured on it as if it stood alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data.batches import Batches, moments
from qsweep.workers.data.images import Images
from qsweep.workers.data.split import hold_out
from qsweep.workers.forms import Form
from tests.workers.plain import PlainTraining
from tests.workers.trainings import mixture, training

CPU = torch.device("cpu")


def run(members: list[Training], images: Images, slots: int = 3) -> Cohort:
    cohort = Cohort(members, images, slots=slots, form=Form.GATHER, device=CPU, dtype=torch.float64)
    while not cohort.finished:
        cohort.step()
    return cohort


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3])
def test_each_class_is_held_out_in_proportion(digits: Images, fraction: float) -> None:
    chosen = hold_out(digits.train_labels, training(val_fraction=fraction).recipe)
    assert int(chosen.sum()) == round(fraction * 1442) == training(val_fraction=fraction).val_images
    for label in range(10):
        mine = digits.train_labels == label
        assert abs(int((chosen & mine).sum()) - fraction * int(mine.sum())) < 1


def test_the_split_is_drawn_by_the_data_seed_alone(digits: Images) -> None:
    def split(**settings: object) -> list[bool]:
        return list(hold_out(digits.train_labels, training(val_fraction=0.2, **settings).recipe).tolist())

    assert split() == split(seed=5, epochs=7, bits=2, batch_size=64)
    assert split() != split(data_seed=1)


def test_training_and_validation_share_no_image_and_lose_none(digits: Images) -> None:
    batches = Batches(digits, training(val_fraction=0.2).recipe, CPU, torch.float32)
    assert batches.val is not None
    parts = torch.cat([batches.train[0], batches.val[0]]).flatten(1)
    everything = digits.train_images.flatten(1)
    assert sorted(parts.tolist()) == sorted(everything.tolist())
    mean, deviation = moments(batches.train[0])
    trained = batches.standardized(batches.train[0]).double()
    assert trained.mean().item() == pytest.approx(0, abs=1e-6)
    assert not mean.equal(moments(digits.train_images)[0])
    assert deviation.item() > 0


def test_epochs_and_runs_tell_the_validation_loss_of_the_plain_model(digits: Images) -> None:
    one = training(val_fraction=0.2, epochs=3, bits=4)
    found = run([one], digits).results()[0]
    batches = Batches(digits, one.recipe, CPU, torch.float64)
    assert batches.val is not None
    pictures, labels = batches.standardized(batches.val[0]), batches.val[1]
    plain = PlainTraining(one)
    losses: list[float] = []
    nets: list[nn.Module] = []
    for epoch in range(3):
        batches.open(epoch)
        for number in range(one.steps_per_epoch):
            plain.step(*batches.batch(number))
        plain.schedule.step()
        net = copy.deepcopy(plain.net).eval()
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(net(pictures), labels)))
        nets.append(net)
    assert [row["val_loss"] for row in found.epochs] == pytest.approx(losses, rel=1e-9)
    chosen = nets[found.run["chosen_epoch"] - 1]
    with torch.no_grad():
        hits = (chosen(pictures).argmax(1) == labels).double().mean()
    assert found.run["val_loss"] == pytest.approx(losses[found.run["chosen_epoch"] - 1], rel=1e-9)
    assert found.run["val_accuracy"] == float(hits)


def test_the_training_accuracy_counts_the_images_that_were_trained_on(digits: Images) -> None:
    one = training(val_fraction=0.5, epochs=1)
    row = run([one], digits).results()[0].epochs[0]
    assert one.train_images == 721
    assert row["train_accuracy"] * 721 == pytest.approx(round(row["train_accuracy"] * 721), abs=1e-9)


def test_looking_at_the_validation_split_changes_no_training(digits: Images) -> None:
    """The same images without the split, trained on alone, give the same weights."""
    one = training(val_fraction=0.2, epochs=2)
    held_out = hold_out(digits.train_labels, one.recipe)
    images, labels = digits.train_images[~held_out], digits.train_labels[~held_out]
    data = one.data.__class__(**{**vars(one.data), "train_images": len(labels)})
    kept = Images(
        data=data,
        train_images=images,
        train_labels=labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )
    alone = Training(**{**vars(training(epochs=2)), "data": data})
    with_split, without = run([one], digits).results()[0], run([alone], kept).results()[0]
    assert with_split.model.keys() == without.model.keys()
    assert all(tensor.equal(without.model[name]) for name, tensor in with_split.model.items())
    assert with_split.run["test_loss"] == without.run["test_loss"]


def test_a_resumed_training_ends_with_the_same_validation_history(digits: Images) -> None:
    members = mixture(val_fraction=0.2, epochs=2)[:3]
    whole = run(members, digits)
    broken = Cohort(members, digits, slots=3, form=Form.GATHER, device=CPU, dtype=torch.float64)
    for _ in range(members[0].steps_per_epoch + 2):
        broken.step()
    assert [len(broken.history(member)) for member in range(3)] == [1, 1, 1]
    again = Cohort(members, digits, slots=3, form=Form.GATHER, device=CPU, dtype=torch.float64)
    for member in range(3):
        again.restore(member, broken.state(member))
        assert again.history(member) == broken.history(member)
    while not again.finished:
        again.step()
    assert [one.epochs for one in again.results()] == [one.epochs for one in whole.results()]
    assert again.history(0) == whole.results()[0].epochs


def test_without_a_split_nothing_about_it_is_said(digits: Images) -> None:
    found = run([training(epochs=1)], digits).results()[0]
    assert found.run["val_loss"] is None
    assert "val_loss" not in found.epochs[0]


def test_no_split_leaves_the_identity_and_a_split_changes_it() -> None:
    plain, none, split = (Job(training=training(**more)) for more in ({}, {"val_fraction": 0.0}, {"val_fraction": 0.1}))
    assert plain.identity == none.identity != split.identity
    assert "val_fraction" not in plain.training.canonical()["recipe"]
    assert plain.cohort_key != split.cohort_key


@pytest.mark.parametrize("fraction", [-0.1, 0.95, 0.001, True, "half"])
def test_an_impossible_fraction_is_refused(fraction: object) -> None:
    with pytest.raises(InputError, match=r"val_fraction: .*allowed"):
        training(val_fraction=fraction)
