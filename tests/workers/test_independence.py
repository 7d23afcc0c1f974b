"""What a training computes depends on nothing but itself: no neighbour, no slot, no interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.results import Result
from tests.workers.trainings import CONVOLUTIONAL, UNCOMPILED, mixture, on, training

CPU = torch.device("cpu")
SLOTS = 13
"""One more than a mixture has trainings: one slot stays vacant."""
FORMS = UNCOMPILED
"""The compiled ones have tests of their own, in `test_compiled.py`: each shape of theirs takes seconds."""


def cohort_of(trainings: list[Training], images: Images, form: Form, *, slots: int = SLOTS) -> Cohort:
    return Cohort(on(images, trainings), images, slots=slots, form=form, device=CPU)


def finish(cohort: Cohort) -> list[Result]:
    while not cohort.finished:
        cohort.step()
    return cohort.results()


def assert_same_bits(one: Result, other: Result) -> None:
    assert (one.run, one.epochs, one.layers) == (other.run, other.epochs, other.layers)
    assert one.model.keys() == other.model.keys()
    for name, tensor in one.model.items():
        assert torch.equal(tensor, other.model[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "depth", "width", "batch_size"),
    [
        (Form.GATHER, 2, 8, 64),
        (Form.GATHER, 3, 9, 97),
        (Form.GATHER, 4, 12, 64),
        (Form.LOOP, 3, 9, 97),
        (Form.GROUPED, 3, 9, 97),
        (Form.GROUPED, 2, 12, 64),
    ],
)
def test_neighbours_and_slots_change_no_bit(few: Images, form: Form, depth: int, width: int, batch_size: int) -> None:
    trainings = mixture(depth=depth, width=width, batch_size=batch_size)
    together = finish(cohort_of(trainings, few, form))
    reversed_order = finish(cohort_of(trainings[::-1], few, form))[::-1]
    for member, result in enumerate(together):
        assert_same_bits(result, reversed_order[member])
    for member in (3, 8):
        alone = finish(cohort_of([trainings[member]], few, form))[0]
        assert_same_bits(together[member], alone)


@pytest.mark.parametrize(
    ("form", "slots"),
    [
        *((form, slots) for form in (Form.GATHER, Form.GROUPED) for slots in (2, 3, 5, 8)),
        *((form, 5) for form in FORMS if form not in (Form.GATHER, Form.GROUPED)),
    ],
)
def test_the_place_changes_no_bit_where_no_slot_is_vacant(few: Images, form: Form, slots: int) -> None:
    """The last places are where vectorized kernels treat what fills no vector otherwise."""
    trainings = [training(width=9, depth=2, seed=seed, batch_size=50) for seed in range(slots)]
    found: list[list[dict[str, Any]]] = []
    for turn in range(slots):
        turned = cohort_of(trainings[turn:] + trainings[:turn], few, form, slots=slots)
        for _ in range(2):
            turned.step()
        found.append([turned.state((member - turn) % slots) for member in range(slots)])
    for states in found[1:]:
        for one, other in zip(found[0], states, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in ("parameters", "statistics", "losses"))


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("form", CONVOLUTIONAL)
def test_a_diverging_neighbour_changes_no_bit(few: Images, form: Form) -> None:
    chosen = [(bits, name) for bits in (32, 2) for name in ("sgd", "adam", "rmsprop")]
    quiet = [training(bits=bits, optimizer=name, batch_size=30) for bits, name in chosen]
    wild = [training(bits=bits, learning_rate=100.0, weight_decay=1.0, batch_size=30) for bits in (32, 4)]
    beside = finish(cohort_of(quiet + wild, few, form, slots=9))
    assert all(one.run["diverged"] for one in beside[len(quiet) :])
    alone = finish(cohort_of(quiet, few, form, slots=9))
    for one, other in zip(alone, beside, strict=False):
        assert_same_bits(one, other)


def poisoned(few: Images, form: Form, trainings: list[Training], *, slots: int) -> Cohort:
    """A cohort whose last member holds nothing but NaN from its first step on."""
    cohort = cohort_of(trainings, few, form, slots=slots)
    state = cohort.state(len(trainings) - 1)
    state["parameters"].fill_(float("nan"))
    cohort.restore(len(trainings) - 1, state)
    return cohort


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("form", CONVOLUTIONAL)
def test_a_neighbour_of_nan_changes_no_bit_and_is_called_diverged(few: Images, form: Form) -> None:
    trainings = [training(bits=8), training(bits=2, optimizer="adam"), training(bits=4)]
    results = finish(poisoned(few, form, trainings, slots=4))
    for one, other in zip(finish(cohort_of(trainings[:2], few, form, slots=4)), results, strict=False):
        assert_same_bits(one, other)
    broken = results[2].run
    assert broken["diverged"]
    for column in (
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "generalization_gap",
        "chosen_epoch",
    ):
        assert broken[column] is None
    assert [row["train_loss"] for row in results[2].epochs] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "select_by", "stop"),
    [
        *((Form.GATHER, select_by, stop) for select_by in ("running", "evaluated") for stop in (1, 7, 10, 13, 20)),
        *((form, "running", 13) for form in FORMS if form is not Form.GATHER),
    ],
)
def test_resume_continues_bit_for_bit_from_any_step(
    few: Images, form: Form, select_by: str, stop: int, tmp_path: Path
) -> None:
    trainings = [one for one in mixture(select_by=select_by, depth=2, batch_size=32) if one.bits in (32, 2)]  # six
    whole = finish(cohort_of(trainings, few, form, slots=7))
    first = cohort_of(trainings, few, form, slots=7)
    for _ in range(stop):
        first.step()
    second = cohort_of(trainings, few, form, slots=7)
    for member in range(len(trainings)):
        path = tmp_path / f"{member}.pt"
        checksum = checkpoints.save(path, first.state(member))
        second.restore(member, checkpoints.load(path, checksum))
    assert second.position == stop
    for one, other in zip(whole, finish(second), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("form", [Form.GATHER, pytest.param(Form.LOOP, marks=pytest.mark.slow)])
def test_members_at_different_steps_meet_and_end_as_if_never_stopped(few: Images, form: Form) -> None:
    trainings = [one for one in mixture(depth=2, batch_size=32) if one.bits in (32, 4)]  # six
    whole = finish(cohort_of(trainings, few, form, slots=7))
    states = []
    for member, steps in enumerate((0, 3, 10, 12, 20, 12)):
        other = cohort_of([trainings[member], trainings[0]], few, form, slots=7)
        for _ in range(steps):
            other.step()
        states.append(other.state(0))
    places = [3, 0, 5, 1, 4, 2]
    mixed = cohort_of([trainings[place] for place in places], few, form, slots=7)
    for member, place in enumerate(places):
        if states[place]["position"]:
            mixed.restore(member, states[place])
    assert mixed.position == 0
    assert [mixed.position_of(member) for member in range(6)] == [12, 0, 12, 3, 20, 10]
    for member, result in enumerate(finish(mixed)):
        assert_same_bits(whole[places[member]], result)


@pytest.mark.parametrize("form", [Form.GATHER])
def test_a_finished_cohort_restored_whole_gives_its_results_again(few: Images, form: Form) -> None:
    trainings = [training(bits=4), training(optimizer="rmsprop")]
    first = cohort_of(trainings, few, form, slots=3)
    results = finish(first)
    again = cohort_of(trainings, few, form, slots=3)
    for member in range(2):
        again.restore(member, first.state(member))
    assert again.finished
    for one, other in zip(results, again.results(), strict=True):
        assert_same_bits(one, other)


SHORT: dict[str, Any] = {"batch_size": 64, "epochs": 1, "milestones": []}


@pytest.mark.parametrize(
    ("form", "model"),
    [
        *(pytest.param(form, model, marks=pytest.mark.slow) for form in FORMS for model in ("resnet", "mobilenet")),
        (Form.GATHER, "vgg"),
        (Form.GROUPED, "vgg"),
        *(
            pytest.param(form, "vgg", marks=pytest.mark.slow)
            for form in FORMS
            if form not in (Form.GATHER, Form.GROUPED)
        ),
    ],
)
def test_neighbours_slots_and_an_interruption_change_no_bit_of_a_deep_network(
    few: Images, form: Form, model: str, tmp_path: Path
) -> None:
    trainings = [
        training(model=model, bits=32, **SHORT),
        training(model=model, bits=4, optimizer="adam", **SHORT),
        training(model=model, bits=2, optimizer="rmsprop", **SHORT),
    ]
    whole = finish(cohort_of(trainings, few, form, slots=4))
    assert_same_bits(whole[1], finish(cohort_of([trainings[1]], few, form, slots=4))[0])
    first = cohort_of(trainings[::-1], few, form, slots=4)
    for _ in range(3):
        first.step()
    second = cohort_of(trainings, few, form, slots=4)
    for member in range(len(trainings)):
        path = tmp_path / f"{member}.pt"
        checksum = checkpoints.save(path, first.state(len(trainings) - 1 - member))
        second.restore(member, checkpoints.load(path, checksum))
    for one, other in zip(whole, finish(second), strict=True):
        assert_same_bits(one, other)


EXPLODING: dict[str, Any] = {
    "depth": 1, "width": 2, "batch_size": 13, "epochs": 3, "milestones": [], "learning_rate": 100.0,
    "weight_decay": 1.0,
}  # fmt: skip
"""Each step takes a weight times −99, so that none is finite after an epoch."""
QUIET = EXPLODING | {"learning_rate": 0.1, "weight_decay": 0.0}


def ended_early(cohort: Cohort) -> dict[int, Result]:
    """Train to the end, each training that is lost being retired; the results by member."""
    found: dict[int, Result] = {}
    while not cohort.finished:
        if cohort.between_epochs and (lost := cohort.lost()):
            found |= dict(zip(lost, cohort.retire(lost), strict=True))
        else:
            cohort.step()
    return found | dict(zip(cohort.left, cohort.results(), strict=True))


def test_a_retired_training_has_the_result_that_it_would_have_had_and_its_neighbours_notice_nothing(
    few: Images,
) -> None:
    """One is lost in its first epoch, and one after a sound epoch, whose model counts."""
    mixed = [
        training(**QUIET),
        training(**EXPLODING | {"bits": 4}),
        training(**QUIET | {"seed": 1}),
        training(**QUIET | {"bits": 4}),
    ]

    def begun() -> Cohort:
        cohort = cohort_of(mixed, few, Form.GATHER, slots=5)
        while cohort.epoch < 1:
            cohort.step()
        states = [cohort.state(member) for member in range(4)]
        states[2]["parameters"].fill_(float("nan"))
        states[2]["first"].fill_(float("nan"))
        cohort = cohort_of(mixed, few, Form.GATHER, slots=5)
        for member, state in enumerate(states):
            cohort.restore(member, state)
        return cohort

    whole, early = finish(begun()), ended_early(begun())
    assert [len(early[member].epochs) for member in range(4)] == [3, 1, 2, 3]
    assert [early[member].run["diverged"] for member in range(4)] == [False, True, False, False]
    assert early[2].run["chosen_epoch"] == 1
    for member, result in enumerate(whole):
        assert result.epochs[: len(early[member].epochs)] == early[member].epochs
        assert_same_bits(Result(**vars(result) | {"epochs": early[member].epochs}), early[member])


def test_a_cohort_that_diverged_whole_is_finished(few: Images) -> None:
    wild = [training(**EXPLODING | {"bits": bits}) for bits in (32, 4)]
    cohort = cohort_of(wild, few, Form.GATHER, slots=2)
    results = ended_early(cohort)
    assert cohort.finished
    assert cohort.position == cohort.steps // 3
    assert [len(result.epochs) for result in results.values()] == [1, 1]


def test_who_waits_ahead_of_retired_members_goes_on_from_there(few: Images) -> None:
    quiet, wild = training(**QUIET), training(**EXPLODING)
    whole = finish(cohort_of([quiet], few, Form.GATHER, slots=2))[0]
    first = cohort_of([quiet], few, Form.GATHER, slots=2)
    for _ in range(first.steps // 2 + 2):
        first.step()
    mixed = cohort_of([wild, quiet], few, Form.GATHER, slots=2)
    mixed.restore(1, first.state(0))
    assert_same_bits(ended_early(mixed)[1], whole)
