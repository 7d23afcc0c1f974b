"""What figures draw, against independent computations, and their bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from qsweep.reports.analysis.analysis import Models, Options
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.canvas import STYLE
from qsweep.reports.charts.chart import Dots
from qsweep.reports.charts.made import curves_chart, distributions_chart
from qsweep.reports.declaration import find_table
from qsweep.reports.evidence import Evidence, gather
from qsweep.reports.figures import draw_figures
from qsweep.reports.formats import FileFormat, Picture
from qsweep.reports.labels import METRICS, difference_label, few_ticks, short_layer, signed_text, tau_text
from qsweep.reports.page.charts import make_charts
from qsweep.reports.page.joblist import list_jobs
from qsweep.reports.pictures import DRAWN, progress
from qsweep.reports.quantization import FULL, Quantization
from qsweep.reports.returned import Returned, Varied
from qsweep.reports.series import box, curves, effects, networks, step_sizes, timeline, value_labels
from qsweep.sweeps.errors import InputError
from tests.reports.drawn import START, MadeSource, made_source

QUICK = Options(resampling=Resampling(resamples=100))

INT2, INT4 = Quantization(bits=2), Quantization(bits=4)


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
    row = found[(found["quantization"] == INT2) & (found["epoch"] == 3)].iloc[0]
    assert row["median"] == pytest.approx(rows.median())
    assert row["low"] == pytest.approx(rows.quantile(0.1))
    assert len(found) == 4 * 4


def test_where_no_epoch_can_be_read_there_is_no_curve(evidence: Evidence, models: Models) -> None:
    assert curves(evidence.epochs.iloc[:0], models, "train_loss").empty
    assert curves_chart(models, replace(evidence, epochs=evidence.epochs.iloc[:0])) is None


def test_numbers_whose_names_make_one_name_of_a_file_have_a_file_each(evidence: Evidence, tmp_path: Path) -> None:
    jobs = pd.Index(["a", "b"], name="job")
    returned = Returned(
        noun="train",
        expected=2,
        axes=(Varied(name="rate", values=(0.1, 0.2), places=pd.Series([0, 1], jobs, dtype=object)),),
        settings=pd.DataFrame(index=jobs),
        numbers=pd.DataFrame({"loss": [1.0, 2.0], "Loss": [2.0, 3.0], "_": [3.0, 4.0]}, index=jobs),
        logged=pd.DataFrame(columns=["job", "step", "name", "value"]),
        diverged=0,
    )
    paths = draw_figures(replace(evidence, returned=returned), tmp_path, chosen=[Picture.EFFECTS], form=FileFormat.SVG)
    assert [path.name for path in paths[:3]] == ["effects-loss.svg", "effects-loss-2.svg", "effects.svg"]
    assert len(set(paths)) == len(paths) == len(list(tmp_path.iterdir()))


def test_an_effect_is_the_mean_over_everything_else(evidence: Evidence, models: Models) -> None:
    found = effects(models, evidence.spec.axes, "test_loss")
    assert {one.hyperparameter for one in found} == {"optimizer", "width", "learning_rate"}
    runs = evidence.runs
    width = next(one for one in found if one.hyperparameter == "width" and one.quantization == INT4)
    rows = runs[(runs["bits"] == 4) & (runs["width"] == 10)]["test_loss"]
    assert width.labels == ("8", "10", "12")
    assert width.means[1] == pytest.approx(rows.mean())
    assert width.errors[1] == pytest.approx(rows.sem())
    rate = next(one for one in found if one.hyperparameter == "learning_rate" and one.quantization == INT4)
    highest = {"sgd": 0.01, "adam": 0.01, "rmsprop": 0.001}
    rows = runs[(runs["bits"] == 4) & (runs["learning_rate"] == runs["optimizer"].map(highest))]["test_loss"]
    assert rate.labels == ("low", "middle", "high")
    assert rate.means[2] == pytest.approx(rows.mean())


def test_figure_1_is_the_median_step_size_of_each_layer_of_a_network(evidence: Evidence, models: Models) -> None:
    found = step_sizes(evidence.layers, models)
    assert list(dict.fromkeys(found["network"])) == ["NiN (2x8)", "NiN (2x10)", "NiN (2x12)"]
    jobs = set(evidence.runs[(evidence.runs["bits"] == 2) & (evidence.runs["width"] == 10)]["job"])
    rows = evidence.layers[evidence.layers["job"].isin(jobs) & (evidence.layers["index"] == 1)]
    row = found[(found["network"] == "NiN (2x10)") & (found["quantization"] == INT2) & (found["index"] == 1)].iloc[0]
    assert row["median"] == pytest.approx(rows["step_size"].median())
    assert row["models"] == len(jobs) == 9
    assert (found["quantization"] != FULL).all()


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


def test_figures_and_the_page_draw_the_same_numbers(evidence: Evidence, models: Models) -> None:
    """What both draw is one description: each of its numbers is in the figure, and rounded in the page's data."""
    chart = distributions_chart(models)
    data = make_charts(evidence, list_jobs(evidence))
    with rc_context(STYLE):
        ((_, figure),) = DRAWN[Picture.DISTRIBUTIONS](evidence, models)
    for axes, panel, drawn in zip(figure.axes, chart.panels, data["distributions-0"]["panels"], strict=True):
        assert (axes.get_title("left"), drawn["title"]) == (panel.title, panel.title)
        dots = [mark for mark in panel.marks if isinstance(mark, Dots)]
        columns = [one.get_offsets()[:, 1].tolist() for one in axes.collections]  # type: ignore[index,call-overload]
        assert columns == [list(mark.y) for mark in dots]
        assert [one["y"] for one in drawn["marks"] if one["type"] == "dots"] == [
            pytest.approx(list(mark.y), rel=1e-5) for mark in dots
        ]
    series = {mark["series"] for mark in data["curves-0"]["panels"][0]["marks"]}
    assert [data["curves-0"]["names"][one] for one in sorted(series)] == ["FP32", "Int8", "Int4", "Int2"]


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


def texts_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn upright, with its box in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [one for one in figure.texts if one.get_text()]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [
                one.label1
                for one in axis.get_major_ticks()
                if low <= one.get_loc() <= high and one.label1.get_rotation() == 0
            ]
    return [(one.get_text(), one.get_window_extent(renderer)) for one in texts if one.get_visible() and one.get_text()]


def drawn_of(source: MadeSource) -> Iterator[tuple[str, Figure]]:
    """Every figure of a sweep, by name."""
    evidence = gather(source, QUICK)
    with rc_context(STYLE):
        for picture, draw in DRAWN.items():
            for models in evidence.models:
                yield from ((f"{picture} {detail}", figure) for detail, figure in draw(evidence, models))
        figure = progress(evidence)
        assert figure is not None
        yield "progress", figure


def test_the_figure_of_a_synthesis_shows_its_first_images_losses_and_classes() -> None:
    source = made_source("digits-zeroshot", changes=("image_seed=[0, 1]",))
    evidence = gather(source, QUICK)
    with rc_context(STYLE):
        (name, figure), (other, _), *_ = DRAWN[Picture.SYNTHESIS](evidence, evidence.models[0])
    jobs = [row["job"][:8] for row in source.rows["syntheses"]]
    assert [name, other] == jobs[:2]
    shown = [axes for axes in figure.axes if axes.images]
    rows = [row for row in source.rows["synthetic_images"] if row["job"].startswith(name)]
    assert [axes.get_title() for axes in shown] == [f"{row['class']} · 100%" for row in rows[:16]]
    for axes, row in zip(shown, rows, strict=False):
        expected = [min(max(0.5 + 0.25 * one, 0.0), 1.0) for one in row["pixels"]]
        assert axes.images[0].get_array().flatten().tolist() == pytest.approx(expected)
    losses, classes = (axes for axes in figure.axes if axes.get_title(loc="left") in ("Loss", "Images"))
    iteration = [1, 200]
    mean = [(100 / one + 100 / (one + 1)) / 2 for one in iteration]
    line = losses.lines[0]
    assert [line.get_ydata()[one - 1] for one in iteration] == pytest.approx(mean)
    assert [bar.get_height() for bar in classes.patches] == list(range(10))


def test_a_sweep_without_syntheses_has_no_figure_of_them(evidence: Evidence, models: Models) -> None:
    assert DRAWN[Picture.SYNTHESIS](evidence, models) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-grid", "digits-flatness", "digits-distortion", "digits-zeroshot"])
def test_no_text_of_a_figure_is_cut_or_runs_into_another(name: str) -> None:
    for picture, figure in drawn_of(made_source(name, where="weight_decay == 0" if name == "digits-grid" else None)):
        with rc_context(STYLE):
            texts = texts_of(figure)
        for place, (text, one) in enumerate(texts):
            whole = figure.bbox.padded(2)
            assert Bbox.union([whole, one]).bounds == whole.bounds, (picture, text)
            for other, two in texts[place + 1 :]:
                shared = Bbox.intersection(one, two)
                assert shared is None or min(shared.width, shared.height) < 2, (picture, text, other)
        assert any(" model" in text or " jobs done" in text for text, _ in texts), picture
        assert not any(re.fullmatch(r"[−-]0(\.0+)?", text) for text, _ in texts), picture


def test_ticks_of_a_logarithmic_axis_are_few_and_round() -> None:
    for low, high in ((0.003, 0.3), (0.5, 2.2), (0.8, 1.2), (1e-6, 1e3), (1, 1000), (0.0101, 0.0199)):
        ticks = few_ticks(low, high)
        assert len(ticks) <= 5
        assert all(low <= tick <= high for tick in ticks)
        assert all(len(f"{tick:g}".replace(".", "").strip("0").partition("e")[0]) <= 2 for tick in ticks)


def test_numbers_have_signs_and_zero_has_none() -> None:
    assert [signed_text(value, 2) for value in (0.126, -0.126, -0.001, 0.0)] == ["+0.13", "−0.13", "0.00", "0.00"]
    assert tau_text(-0.334, 48) == "τ = −0.33, n = 48"
    assert tau_text(None, 1) == "n = 1"


def test_networks_have_the_names_of_the_tables() -> None:
    evidence = gather(made_source("digits-distortion"), QUICK)
    (models,) = evidence.models
    tables = {row.keys[1] for table in evidence.tables for row in table.rows}
    assert set(networks(models, find_table("table6").usual_widths)) == tables == {"ResNet-18 (width 4)"}


def test_a_network_whose_settings_are_lists_has_its_name() -> None:
    named = {name for one in gather(made_source("digits-transformers"), QUICK).models for name in networks(one)}
    assert named == {"ViT (2x16, patch 4)", "Swin (2-1x16, patch 2, window 2)"}


def test_accuracies_are_in_percent_and_their_differences_in_points() -> None:
    assert METRICS["test_accuracy"][1:] == ("accuracy (%)", 100.0)
    assert difference_label("test_accuracy") == "difference (percentage points)"
    assert difference_label("test_loss") == "difference, cross-entropy (nats)"
    assert [short_layer(name) for name in ("block1.conv2", "stage3.0.conv1", "stage2.0.shortcut", "head")] == [
        "1.2",
        "3.0.1",
        "2.0.s",
        "head",
    ]


def test_a_figure_is_told_of_as_it_is_written(evidence: Evidence, tmp_path: Path) -> None:
    told: list[Path] = []
    paths = draw_figures(
        evidence, tmp_path, chosen=[Picture.PAIRED, Picture.PROGRESS], form=FileFormat.SVG, tell=told.append
    )
    assert told == paths
