"""What a plan says, and what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.rows import Calibration
from qsweep.orchestrator.basis import Basis
from qsweep.orchestrator.estimates import Speeds
from qsweep.orchestrator.outlook import TF32_SPEED, precision_notes
from qsweep.orchestrator.planner import make_plan
from qsweep.reports.speeds import Ran
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from tests.conftest import Qsweep

CPU = "cpu x86_64 AVX2"
SETTINGS: dict[str, Any] = {
    "data": "digits", "model": "nin", "width": 8, "depth": 2, "channels_per_width": 2, "optimizer": "sgd",
    "learning_rate": 0.1, "weight_decay": 0.0, "bits": 4, "epochs": 4, "batch_size": 64,
}  # fmt: skip

SHARED = ("optimizer", "learning_rate", "weight_decay", "epochs")


def jobs(count: int, **changes: Any) -> list[Job]:
    return [Job(training=Training.from_settings(SETTINGS | changes | {"seed": seed})) for seed in range(count)]


def ran(seconds: float, slots: int = 12, device: str = CPU, **changes: Any) -> Ran:
    return Ran(job=jobs(1, **changes)[0], members=slots, device=device, slots=slots, seconds=seconds)


def plan(given: list[Job], seen: list[Ran], workers: int = 2, **options: Any) -> Any:
    return make_plan(given, workers=workers, device=CPU, keep="none", speeds=Speeds(seen, CPU), **options)


def test_a_data_set_that_is_read_from_its_files_takes_no_memory_of_its_own() -> None:
    changes: dict[str, Any] = {
        "data": "imagenet", "model": "resnet", "depth": 18, "width": 64, "stem": "large", "batch_size": 16,
    }  # fmt: skip
    (cohort,) = plan(jobs(1, **changes), []).cohorts
    images = 224**2 * 3 * 1_331_167
    assert cohort.memory < 0.02 * images
    assert (cohort.slots, cohort.form) == (1, "loop")


def test_a_cohort_takes_what_the_same_cohort_took() -> None:
    made = plan(jobs(30), [ran(7.0), ran(9.0), ran(8.0)])
    (cohort,) = made.cohorts
    assert (cohort.cohorts, cohort.seconds, cohort.basis) == (3, 8.0, Basis.MEASURED)
    assert made.seconds == 16.0
    assert made.idle == pytest.approx(1 / 4)
    assert made.basis == {"measured here": 1.0}


def test_more_epochs_of_one_shape_take_longer_by_their_work() -> None:
    (cohort,) = plan(jobs(12, epochs=40), [ran(8.0)]).cohorts
    assert cohort.basis is Basis.SHAPE
    expected = 8.0 * jobs(1, epochs=40)[0].cost / jobs(1)[0].cost
    assert cohort.seconds == pytest.approx(expected)
    assert 9 < cohort.seconds / 8.0 < 10.1


def test_another_shape_is_scaled_by_its_operations_from_the_nearest_one() -> None:
    seen = [ran(8.0), ran(100.0, width=20)]
    (cohort,) = plan(jobs(12, width=9), seen).cohorts
    assert cohort.basis is Basis.SCALED
    assert cohort.seconds == pytest.approx(8.0 * jobs(1, width=9)[0].cost / jobs(1)[0].cost)


def test_what_calibrate_measured_is_taken_before_a_guess_and_after_what_ran() -> None:
    found = Calibration(slots=3, form="loop", seconds=0.5, peak=123_000_000)
    (cohort,) = plan(jobs(12), [ran(8.0, slots=12)], recorded=lambda shape: found).cohorts
    # 4 epochs of 23 steps of 64 of the 1,442 images, forward and backward; at the end all 1,797 once forward.
    steps = 4 * 1442 / 64 + 1797 / (3 * 64)
    assert (cohort.basis, cohort.memory) == (Basis.CALIBRATED, 123_000_000)
    assert cohort.seconds == pytest.approx(0.5 * steps)
    (cohort,) = plan(jobs(12), [ran(8.0, slots=3)], recorded=lambda shape: found).cohorts
    assert (cohort.basis, cohort.seconds, cohort.memory) == (Basis.MEASURED, 8.0, 123_000_000)
    limits = {job.identity: 2 for job in jobs(12)}
    (cohort,) = plan(jobs(12), [], recorded=lambda shape: found, limits=limits).cohorts
    assert cohort.basis is Basis.GUESS
    assert cohort.memory != 123_000_000


@pytest.mark.parametrize("seen", [[], [ran(8.0, width=80)], [ran(8.0, device="cuda H200")]])
def test_what_is_far_or_was_seen_elsewhere_is_a_guess_and_says_so(seen: list[Ran]) -> None:
    (cohort,) = plan(jobs(12), seen).cohorts
    assert cohort.basis is Basis.GUESS
    assert cohort.seconds > 0


def test_slots_are_those_that_the_registry_recorded_or_running_out_of_memory_left() -> None:
    given = jobs(12)
    limits = {given[0].identity: 2, given[1].identity: 2}
    made = plan(given, [], recorded=lambda shape: Calibration(slots=5, form="gather"), limits=limits)
    assert [(one.jobs, one.slots, one.cohorts) for one in made.cohorts] == [(2, 2, 1), (10, 5, 2)]


def test_agents_claim_long_jobs_first_so_that_the_last_cohort_is_a_short_one() -> None:
    seen = [ran(1.0, slots=1), ran(10.0, slots=1, epochs=40)]
    given = jobs(4) + jobs(3, epochs=40)
    made = plan(given, seen, recorded=lambda shape: Calibration(slots=1, form="gather"))
    # Two agents: 10 and 10, then 10 beside 1 + 1 + 1 + 1. Short ones first would end at 22.
    assert made.seconds == 20.0
    assert made.idle == pytest.approx(1 - 34 / 40)


def test_modules_that_are_called_one_after_another_are_shared_out_so_that_all_agents_have_some() -> None:
    """A cohort of half as many takes half as long: no slot that stays vacant is computed."""
    own = {"data": "cifar10", "model": "torchvision:shufflenet_v2_x0_5", "bits": 4, "batch_size": 64}
    given = [
        Job(training=Training.from_settings({name: SETTINGS[name] for name in SHARED} | own | {"seed": seed}))
        for seed in range(4)
    ]
    seen = [Ran(job=given[0], members=4, device=CPU, slots=12, form="loop", seconds=8.0)]
    looped = Calibration(slots=12, form="loop")
    for workers, cohorts, seconds in ((1, 1, 8.0), (2, 2, 4.0), (3, 2, 4.0), (9, 4, 2.0)):
        made = plan(given, seen, workers, recorded=lambda shape: looped)
        assert (made.cohorts[0].cohorts, made.seconds) == (cohorts, pytest.approx(seconds))
    (stacked,) = plan(given, [], recorded=lambda shape: Calibration(slots=12, form="vmap")).cohorts
    assert stacked.cohorts == 1, "a vacant slot costs as much as one in use"


def test_nothing_to_do_takes_no_time() -> None:
    made = plan([], [])
    assert (made.seconds, made.idle, made.jobs, made.basis) == (0.0, 0.0, 0, {})


@pytest.mark.slow
def test_a_plan_knows_what_is_done_and_what_it_took(qsweep: Qsweep) -> None:
    part = "width == 8 and depth == 2 and weight_decay == 0 and optimizer == 'sgd'"
    whole = ("digits-grid", "--set", "epochs=1", "--where", part)
    without = (*whole[:-1], f"{part} and bits > 2")
    assert qsweep("launch", *without, "--workers", "1").returncode == 0
    made = json.loads(qsweep("plan", *whole, "--json").stdout)
    assert (made["done"], made["jobs"]) == (9, 3)
    assert made["basis"] == {"measured here": 1.0}
    assert "none: every job is done" in qsweep("plan", *without).stdout


@pytest.mark.slow
def test_a_shell_completes_launched_sweeps_by_name_and_variant(qsweep: Qsweep, tmp_path: Path) -> None:
    def completed(line: str) -> set[str]:
        environment = {"_QSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        return set(qsweep(environment=environment).stdout.split())

    file = tmp_path / "mine.toml"
    file.write_text(json_to_toml(SETTINGS))
    assert completed("qsweep launch digits-g") == {"digits-grid"}
    assert completed("qsweep status mi") == set()
    packed = qsweep("pack", str(file), "--out", str(tmp_path / "far"))
    assert packed.returncode == 0, packed.stderr
    title = packed.stdout.partition(":")[0]
    assert completed("qsweep status mi") == {"mine", title}
    assert completed("qsweep cancel mine@") == {title}


def json_to_toml(settings: dict[str, Any]) -> str:
    return "[fixed]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())


def test_on_a_gpu_the_price_of_single_precision_is_named_as_a_guess_until_it_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (note,) = precision_notes(jobs(2), "cuda NVIDIA A100")
    assert "--set precision=tf32" in note
    assert "by a guess" in note
    assert not list(precision_notes(jobs(2), CPU))
    assert not list(precision_notes(jobs(2, precision="tf32"), "cuda NVIDIA A100"))
    monkeypatch.setitem(TF32_SPEED, "cuda NVIDIA A100", 2.04)
    (note,) = precision_notes(jobs(1), "cuda NVIDIA A100")
    assert "2.0 times as fast here" in note
    assert "guess" not in note
