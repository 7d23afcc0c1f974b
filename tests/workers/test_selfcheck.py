"""The check of a device: what it asks, that one which computes wrongly does not pass, and that it keeps its time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from qsweep.orchestrator.checkup import device_findings, finding_sheet
from qsweep.workers import selfcheck
from qsweep.workers.cohort import Cohort
from qsweep.workers.forms import Form

CPU = torch.device("cpu")


def test_every_form_and_precision_of_a_gpu_is_asked_what_compiles_last() -> None:
    asked = [(one.form, one.precision, one.what) for one in selfcheck.checks(CPU)]
    assert len(set(asked)) == len(asked)
    forms = {form for form, *_ in asked}
    assert forms == {Form.GATHER, Form.LOOP, Form.GROUPED}
    for form in forms:
        assert {what for one, precision, what in asked if one is form and precision in ("fp64", "fp32")} == {
            "equals the processor in double precision",
            "learns, and never waits for the device",
            "same bits beside other models",
            "same bits when resumed",
        }


@pytest.mark.slow
def test_a_device_that_computes_right_passes() -> None:
    assert selfcheck.equals_processor(Form.LOOP, CPU)[0]
    ok, text = selfcheck.learns(Form.GATHER, CPU, "fp32")
    assert ok
    assert "12 of 12 losses fall" in text
    trainings, images = selfcheck.trainings_of(selfcheck.images()), selfcheck.images()
    assert selfcheck.same_bits(trainings, images, Form.GATHER, CPU) == []
    assert selfcheck.resumed(trainings, images, Form.GATHER, CPU) == []


def test_a_device_that_computes_a_little_wrong_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of a model depends on how many train beside it, by a hundred-thousandth."""
    right = Cohort.state

    def wrong(cohort: Cohort, member: int) -> dict[str, Any]:
        state = right(cohort, member)
        return state | {"parameters": state["parameters"] * (1 + 1e-5 * len(cohort.left))}

    trainings, images = selfcheck.trainings_of(selfcheck.images()), selfcheck.images()
    selfcheck.equals_processor(Form.LOOP, CPU)  # the processor's own states are kept from here on
    monkeypatch.setattr(Cohort, "state", wrong)
    assert selfcheck.same_bits(trainings, images, Form.GATHER, CPU)
    ok, text = selfcheck.equals_processor(Form.LOOP, CPU)
    assert not ok, text


def test_what_there_is_no_time_for_is_said_and_nothing_is_claimed() -> None:
    content = json.loads(json.dumps(selfcheck.examine(CPU, seconds=-1)))
    assert {one["ok"] for one in content["checks"]} == {None}
    findings = device_findings("GPU 0", content)
    assert [(one.ok, one.needed) for one in findings[1:]] == [(False, False)] * (len(findings) - 1)
    assert {row[0] for row in finding_sheet(findings).rows} == {"ok", "–"}


@pytest.mark.slow
def test_an_error_of_the_device_is_a_failed_check_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(Cohort, "step", fail)
    content = selfcheck.examine(CPU, seconds=60)
    assert {one["ok"] for one in content["checks"]} == {False}
    assert all("no kernel image is available" in one["text"] for one in content["checks"])
    findings = device_findings("GPU 1", content)
    assert all(one.needed and not one.ok for one in findings[1:])
