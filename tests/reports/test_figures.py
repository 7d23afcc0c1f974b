"""What figures draw, against independent computations, and their bytes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from reports.analysis.analysis import Models, Options
from reports.analysis.correlation import Resampling
from reports.evidence import Evidence, gather
from reports.figures import draw_figures
from reports.formats import FileFormat, Picture
from reports.series import box, curves, effects, step_sizes, timeline, value_labels
from sweeps.errors import InputError
from tests.reports.drawn import START, made_source

QUICK = Options(resampling=Resampling(resamples=100))


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return gather(made_source(where="depth == 2 and weight_decay == 0"), QUICK)


@pytest.fixture(scope="module")
def models(evidence: Evidence) -> Models:
    (found,) = evidence.models
    return found


def test_a_box_is_made_of_quantiles() -> None:
    found = box(pd.Series([*range(101), None], dtype=float))
    assert (found.count, found.mean, found.quantiles) == (101, 50.0, (5.0, 25.0, 50.0, 75.0, 95.0))


def test_a_curve_is_the_median_of_its_precision_at_each_epoch(evidence: Evidence, models: Models) -> None:
    found = curves(evidence.epochs, models, "train_loss")
    two = set(evidence.runs[evidence.runs["bits"] == 2]["job"])
    rows = evidence.epochs[evidence.epochs["job"].isin(two) & (evidence.epochs["epoch"] == 3)]["train_loss"]
    row = found[(found["bits"] == 2) & (found["epoch"] == 3)].iloc[0]
    assert row["median"] == pytest.approx(rows.median())
    assert row["low"] == pytest.approx(rows.quantile(0.1))
    assert len(found) == 4 * 4


def test_an_effect_is_the_mean_over_everything_else(evidence: Evidence, models: Models) -> None:
    found = effects(models, evidence.spec.axes, "test_loss")
    assert {one.hyperparameter for one in found} == {"optimizer", "width", "learning_rate"}
    runs = evidence.runs
    width = next(one for one in found if one.hyperparameter == "width" and one.bits == 4)
    rows = runs[(runs["bits"] == 4) & (runs["width"] == 10)]["test_loss"]
    assert width.labels == ("8", "10", "12")
    assert width.means[1] == pytest.approx(rows.mean())
    assert width.errors[1] == pytest.approx(rows.sem())
    rate = next(one for one in found if one.hyperparameter == "learning_rate" and one.bits == 4)
    highest = {"sgd": 0.01, "adam": 0.01, "rmsprop": 0.001}
    rows = runs[(runs["bits"] == 4) & (runs["learning_rate"] == runs["optimizer"].map(highest))]["test_loss"]
    assert rate.labels == ("low", "middle", "high")
    assert rate.means[2] == pytest.approx(rows.mean())


def test_figure_1_is_the_median_step_size_of_each_layer_of_a_network(evidence: Evidence, models: Models) -> None:
    found = step_sizes(evidence.layers, models)
    assert list(dict.fromkeys(found["network"])) == ["NiN (2x8)", "NiN (2x10)", "NiN (2x12)"]
    jobs = set(evidence.runs[(evidence.runs["bits"] == 2) & (evidence.runs["width"] == 10)]["job"])
    rows = evidence.layers[evidence.layers["job"].isin(jobs) & (evidence.layers["index"] == 1)]
    row = found[(found["network"] == "NiN (2x10)") & (found["bits"] == 2) & (found["index"] == 1)].iloc[0]
    assert row["median"] == pytest.approx(rows["step_size"].median())
    assert row["models"] == len(jobs) == 9
    assert (found["bits"] != 32).all()


def test_a_timeline_counts_what_was_done_when() -> None:
    started = [START, START, START + pd.Timedelta(minutes=3)]
    attempts = pd.DataFrame(
        {
            "job": ["a", "b", "c"],
            "started_at": started,
            "ended_at": [one + pd.Timedelta(minutes=1) for one in started],
            "outcome": ["done", "failed", "done"],
            "superseded": [None, None, None],
            "agent": 1,
        }
    )
    found = timeline(attempts, pd.Series({"a": "train", "b": "train", "c": "measure"}))
    assert found is not None
    assert (found.start, found.unit) == (START, "min")
    assert (found.times, found.done) == ([0.0, 1.0, 4.0], {"train": [0, 1, 1], "measure": [0, 0, 1]})
    assert [sum(rates) * 4 / (len(found.edges) - 1) for rates in found.rates.values()] == pytest.approx([1, 1])
    assert timeline(attempts[attempts["outcome"] == "failed"], pd.Series({"b": "train"})) is None


def test_an_axis_with_branches_is_labelled_by_rank(evidence: Evidence) -> None:
    axes = {axis.name: axis for axis in evidence.spec.axes}
    assert value_labels(axes["learning_rate"]) == ("low", "middle", "high")
    assert value_labels(axes["weight_decay"]) == ("0", "0.0001", "0.0002")


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FileFormat))
def test_the_same_results_give_the_same_bytes(evidence: Evidence, form: FileFormat, tmp_path: Path) -> None:
    chosen = [Picture.PAIRED, Picture.STEP_SIZES, Picture.PROGRESS, Picture.DISTRIBUTIONS]
    again = gather(made_source(where="depth == 2 and weight_decay == 0", order=5), QUICK)
    first = draw_figures(evidence, tmp_path / "one", chosen=chosen, form=form)
    second = draw_figures(again, tmp_path / "two", chosen=chosen, form=form)
    assert [path.name for path in first] == [f"{one}.{form}" for one in chosen]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
def test_every_figure_is_drawn_where_there_are_data_for_it(tmp_path: Path) -> None:
    evidence = gather(made_source("digits-flatness"), QUICK)
    names = {path.name for path in draw_figures(evidence, tmp_path, form=FileFormat.SVG)}
    assert {"step-sizes.svg", "curves.svg", "measures-norms.svg", "measures-reference-latent-and-s.svg"} <= names
    assert "effects.svg" not in names  # nothing varies but the precision


def test_a_sweep_without_results_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is done yet that paired could show"):
        draw_figures(gather(made_source(done=0)), tmp_path / "none", chosen=[Picture.PAIRED])
    assert not (tmp_path / "none").exists()
