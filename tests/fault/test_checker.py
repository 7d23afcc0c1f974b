"""The checker sees what the product must never do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.fault.checker import Found, differences, violations


def sound() -> Found:
    """One job: claimed, lost, claimed again from step 40, done."""
    changes = [("queued", "running", 1, 1), ("running", "queued", 1, 1), ("queued", "running", 2, 2)]
    changes += [("running", "done", 2, 2)]
    events = [
        {"id": number, "job_id": 7, "source": source, "target": target, "agent_id": agent, "attempt": attempt}
        for number, (source, target, agent, attempt) in enumerate(changes)
    ]
    attempts = [
        {"job_id": 7, "attempt": 1, "ended_at": 1.0, "outcome": "queued", "resumed_from": 0},
        {"job_id": 7, "attempt": 2, "ended_at": 2.0, "outcome": "done", "resumed_from": 40},
    ]
    row = {"job": "abc", "attempt": 2, "train_loss": 0.5, "test_loss": 0.5, "train_accuracy": 1.0}
    row |= {"test_accuracy": 1.0, "weight_norm": 1.0, "distance": 1.0, "chosen_epoch": 3}
    job = {"id": 7, "identity": "abc", "state": "done", "attempt": 2, "publication": "p"}
    return Found(jobs=[job], events=events, attempts=attempts, agents=[], rows={"p": [row]})


def give_two_leases(found: Found) -> None:
    del found.events[1]


def finish_as_a_zombie(found: Found) -> None:
    found.events[-1] |= {"agent_id": 1, "attempt": 1}


def count_twice(found: Found) -> None:
    found.rows["p"].append(dict(found.rows["p"][0]))


def lose_the_row(found: Found) -> None:
    found.rows["p"].clear()


def forget_the_job(found: Found) -> None:
    found.jobs[0]["state"] = "queued"


def leave_an_attempt_open(found: Found) -> None:
    found.attempts[0] |= {"ended_at": None, "outcome": None}


def test_the_checker_is_content_with_a_sound_history() -> None:
    assert violations(sound()) == []
    assert sound().resumed == 1


@pytest.mark.parametrize(
    "spoil",
    [
        give_two_leases,
        finish_as_a_zombie,
        count_twice,
        lose_the_row,
        forget_the_job,
        leave_an_attempt_open,
    ],
)
def test_the_checker_sees_each_violation(spoil: Callable[[Found], None]) -> None:
    found = sound()
    spoil(found)
    assert violations(found)


def test_the_checker_compares_bits() -> None:
    reference = sound()
    other = copy.deepcopy(reference)
    assert differences(other, reference) == []
    other.rows["p"][0]["train_loss"] = 0.5 + 2**-53
    assert differences(other, reference)
