"""`qsweep calibrate` measures on this machine, records the fastest, and trainings follow it."""

from __future__ import annotations

import json

import pytest

from qsweep.orchestrator.calibrating import Trial, choose, training_shapes
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.files import read_sweep
from qsweep.workers.forms import forms_of
from tests.conftest import Qsweep


def trial(form: str, slots: int, rate: float) -> Trial:
    return Trial(shape="one", form=form, slots=slots, rate=rate, seconds=slots / rate if rate else 0.0, peak=1)


def test_the_fastest_is_chosen_and_of_equals_the_one_with_fewer_slots() -> None:
    measured = [trial("gather", 1, 50), trial("gather", 8, 100), trial("loop", 4, 99), trial("grouped", 16, 0)]
    assert choose(measured) == measured[2]
    with pytest.raises(QsweepError, match="memory"):
        choose([trial("gather", 1, 0)])


def test_measures_and_how_long_a_training_takes_make_no_shape_of_their_own() -> None:
    jobs = read_sweep("digits-grid").jobs()
    longer = read_sweep("digits-grid", ["epochs=7"]).jobs()
    assert training_shapes(jobs).keys() == training_shapes(longer).keys()
    assert sum(len(some) for some in training_shapes(jobs).values()) == 972


@pytest.mark.slow
def test_a_calibration_is_recorded_once_and_the_training_follows_it(qsweep: Qsweep) -> None:
    part = "width == 8 and depth == 2 and optimizer == 'sgd' and weight_decay == 0"
    part += " and learning_rate < 0.004 and bits < 8"
    chosen = ("digits-grid", "--set", "epochs=1", "--where", part)
    first = qsweep("calibrate", *chosen, "--workers", "1", "--seconds", "0.2", "--json")
    (found,) = json.loads(first.stdout)
    assert {one["form"] for one in found["trials"]} == {form.value for form in forms_of("fp32", "cpu")}
    assert found["recorded"]["peak"] > 10**8
    assert found["recorded"]["seconds"] > 0
    (again,) = json.loads(qsweep("calibrate", *chosen, "--json").stdout)
    assert (again["kept"], again["recorded"], again["trials"]) == (True, found["recorded"], [])
    qsweep("launch", *chosen, "--workers", "1")
    rows = json.loads(qsweep("query", "SELECT DISTINCT slots, form FROM runs", "--format", "json").stdout)
    assert rows == [{"slots": found["recorded"]["slots"], "form": found["recorded"]["form"]}]
