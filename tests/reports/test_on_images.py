"""What SADAG rests on, computed from rows that are known."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from scipy import stats

from qsweep.reports.analysis.claims import Claim, Verdict
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.analysis.on_images import judge_on_images
from qsweep.reports.changed import changed_from_builtin
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.kinds import QUANTIZATION
from qsweep.sweeps.spec import Spec

SWEEP = """
measures_of = ["quantizations"]
[fixed]
data = "digits"
model = "resnet"
depth = 18
width = 4
bits = 32
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
epochs = 2
batch_size = 64
[[measures]]
measure = ["pac_bayes", "sharpness"]
[[zero_shot]]
images = ["genie", "sadag", "noise"]
rounding = "nearest"
weight_bits = [2, 4]
activation_bits = 4
image_seed = [0, 1, 2, 3, 4, 5, 6]
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    file = tmp_path_factory.mktemp("made") / "made.toml"
    file.write_text(SWEEP)
    return read_sweep(str(file))


def judged(spec: Spec, gain: float) -> tuple[dict[str, Claim], pd.DataFrame]:
    """The claims, of models whose accuracy falls with their sharpness by so much; SADAG's are 10% less sharp."""
    models: list[dict[str, Any]] = []
    measures: list[dict[str, Any]] = []
    for number, job in enumerate(spec.measured(QUANTIZATION)):
        settings = job.settings()
        factor = 0.9 if settings["images"] == "sadag" else 1.0
        sharpness = 100 * factor * (1 + int(settings["image_seed"])) / int(settings["weight_bits"])
        accuracy = 0.9 - gain * sharpness + 1e-7 * number
        models.append(settings | {"job": job.identity, "diverged": False, "test_accuracy": accuracy})
        for place, measure in enumerate(spec.flatness_measures()):
            row = {"flatness": sharpness * (1 + place), "value_init": 1.0, "value_orig": 1.0}
            row["saturated"] = (settings["images"], settings["image_seed"]) == ("noise", 6)
            measures.append(row | {"job": spec.child(job, measure).identity, "diverged": False})
    found = pd.DataFrame(models)
    claims = judge_on_images(spec, found, pd.DataFrame(measures), Resampling(), group="Digits ResNet")
    sharp = [one["flatness"] for one in measures[::2]]
    return {one.name: one for one in claims}, found.assign(sharp=sharp)


@pytest.mark.parametrize(("gain", "verdict"), [(1e-3, Verdict.SUPPORTED), (-1e-3, Verdict.CONTRADICTED)])
def test_tau_of_sharpness_and_accuracy_is_that_of_scipy(spec: Spec, gain: float, verdict: Verdict) -> None:
    claims, models = judged(spec, gain)
    claim = claims["flatter-is-more-accurate"]
    assert claim.verdict is verdict
    known = {one.label: one for one in claim.numbers}
    assert len(known) == 2 * 3  # each measure: over all, and at 2 and 4 bits
    for measure in ("pac", "sharp"):
        for name, own in (("all models", models), ("W2A4 · nearest", models[models["weight_bits"] == 2])):
            (number,) = (one for label, one in known.items() if label.startswith(f"τ of {measure}_flatness")
                         and label.endswith(name))  # fmt: skip
            wanted = stats.kendalltau(own["sharp"], own["test_accuracy"])
            assert number.value == pytest.approx(wanted.statistic, rel=1e-12)
            assert number.note == f"n = {len(own)}, {len(own) // 21} saturated"
            assert number.p_value is not None
            assert number.p_value <= 0.05
    assert "SADAG rests on it" in claim.reason
    assert "by 2 of 2 measures" in claim.reason or gain < 0


def test_the_sharpness_of_each_kind_of_images_stands_beside_the_pairs(spec: Spec) -> None:
    claim = judged(spec, 1e-3)[0]["sadag-is-flatter"]
    assert claim.verdict is Verdict.SUPPORTED
    known = {one.label.rpartition(" at ")[2]: one for one in claim.numbers if "pac_" in one.label}
    assert known["W2A4 · genie · nearest"].value == pytest.approx(50 * 4)
    assert known["W2A4 · sadag · nearest"].value == pytest.approx(45 * 4)
    assert known["W4A4 · noise · nearest"].note == "n = 7, 1 saturated"
    assert known["W4A4 · sadag · nearest"].note == "n = 7"
    differences = [one for one in claim.numbers if one.label.endswith("sadag − genie")]
    assert [one.note for one in differences] == ["flatter in 14 of 14"] * 2


def test_of_models_that_are_not_measured_nothing_is_claimed(spec: Spec) -> None:
    _, models = judged(spec, 1e-3)
    none = pd.DataFrame(columns=["job", "diverged", "flatness", "value_init", "value_orig", "saturated"])
    assert judge_on_images(spec, models, none, Resampling(), group="Digits ResNet") == []


def test_a_variant_says_in_what_it_differs_from_the_sweep_as_written(spec: Spec) -> None:
    changes = ("image_iterations=20", "image_seed=[0, 1]", "width=8", "measure_samples=100")
    assert changed_from_builtin(read_sweep("zeroshot-cifar100", changes)) == (
        "Not as zeroshot-cifar100 is written, in parentheses: width 8 (16), image_seed 0, 1 (0, 1, 2), "
        "image_iterations 20 (4000), measure_samples 100 (5000)."
    )
    assert changed_from_builtin(read_sweep("zeroshot-cifar100", ("image_iterations=4000",))) is None
    assert changed_from_builtin(spec) is None
