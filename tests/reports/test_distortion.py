"""Tables 4 to 6 and the heat map, against independent computations with pandas."""

from __future__ import annotations

import csv
import io
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qsweep.reports.analysis.analysis import Options
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.answers import make_tables
from qsweep.reports.declaration import find_table, paper_values
from qsweep.reports.distortion import make_distortion_table
from qsweep.reports.evidence import gather
from qsweep.reports.explanation import explain
from qsweep.reports.figures import draw_figures
from qsweep.reports.formats import FileFormat, Format, Picture
from qsweep.reports.page import render_page
from qsweep.reports.render import Layout, render
from qsweep.reports.series import distorted
from qsweep.reports.table import Cell, Row, Table
from qsweep.sweeps.corruptions import CORRUPTIONS
from qsweep.sweeps.files import read_sweep
from tests.reports.drawn import MadeSource, made_source

QUICK = Options(resampling=Resampling(resamples=100))
BITS = {"FP32": 32, "Int8": 8, "Int4": 4, "Int2": 2}


@pytest.fixture(scope="module")
def source() -> MadeSource:
    return made_source("digits-distortion")


@pytest.fixture(scope="module")
def frame(source: MadeSource) -> pd.DataFrame:
    return pd.DataFrame(source.rows["distortions"])


def table(source: MadeSource, name: str, rows: list[dict[str, Any]] | None = None) -> Table:
    return make_distortion_table(
        find_table(name),
        heading="test",
        spec=source.spec,
        results=source.rows["distortions"] if rows is None else rows,
        compare_with="CIFAR-100",
    )


def cells_of(made: Table, row: Row) -> dict[str, Cell]:
    return dict(zip((column.name for column in made.declaration.columns), row.cells, strict=True))


def test_table_5_is_the_mean_over_severities_and_models(source: MadeSource, frame: pd.DataFrame) -> None:
    made = table(source, "table5")
    assert [row.keys[2] for row in made.rows] == [*CORRUPTIONS, "mean"]
    assert {row.keys[:2] for row in made.rows} == {("Digits", "ResNet-18 (width 4)")}
    for row in made.rows[:-1]:
        rows = frame[frame.corruption == row.keys[2]]
        cells = cells_of(made, row)
        for name, bits in BITS.items():
            gaps = (rows.corrupted_loss - rows.train_loss)[rows.bits == bits]
            assert cells[name].mean == pytest.approx(gaps.mean(), rel=1e-12)
            by_model = gaps.groupby(rows.parent).mean()
            assert cells[name].error == pytest.approx(by_model.sem(), rel=1e-9)
            assert (cells[name].count, len(cells[name].behind)) == (3, 15)
        errors = (1 - rows.corrupted_accuracy).groupby(rows.bits).sum()
        for bits in (8, 4, 2):
            assert cells[f"ce_int{bits}"].mean == pytest.approx(100 * errors[bits] / errors[32], rel=1e-12)
        assert (row.done, row.expected) == (12, 12)


def test_the_last_row_is_the_mean_over_the_corruptions(source: MadeSource, frame: pd.DataFrame) -> None:
    made = table(source, "table5")
    cells = cells_of(made, made.rows[-1])
    errors = (1 - frame.corrupted_accuracy).groupby([frame.corruption, frame.bits]).sum().unstack()
    for name, bits in BITS.items():
        assert cells[name].mean == pytest.approx(frame[frame.bits == bits].generalization_gap.mean(), rel=1e-12)
        if bits != 32:
            assert cells[f"ce_int{bits}"].mean == pytest.approx((100 * errors[bits] / errors[32]).mean(), rel=1e-12)


@pytest.mark.parametrize("name", ["table4", "table6"])
def test_tables_4_and_6_have_a_row_a_severity(source: MadeSource, frame: pd.DataFrame, name: str) -> None:
    made = table(source, name)
    assert len(made.rows) == 16 * 5
    for row in made.rows:
        of_row = (frame.corruption == row.keys[2]) | (row.keys[2] == "mean")
        rows = frame[of_row & (frame.severity == int(row.keys[3]))]
        cells = cells_of(made, row)
        means = rows.groupby("bits").generalization_gap.mean()
        assert {one: cells[one].mean for one in BITS} == {one: pytest.approx(means[bits]) for one, bits in BITS.items()}
        if row.keys[2] != "mean":
            errors = (1 - rows.corrupted_accuracy).groupby(rows.bits).mean()
            assert cells["ce_int2"].mean == pytest.approx(100 * errors[2] / errors[32])


def test_the_papers_files_are_read_whole() -> None:
    for name in ("table4", "table5", "table6"):
        declaration = find_table(name)
        text = resources.files("qsweep.reports").joinpath("paper", str(declaration.paper)).read_text()
        lines = list(csv.DictReader(text.splitlines()))
        values = paper_values(declaration)
        assert sum(map(len, values.values())) == len(lines)
        for line in lines:
            keys = tuple(line[key] for key in ("dataset", "model", "corruption", "severity") if key in line)
            assert values[keys][line["precision"]] == float(line["generalization_gap"])


def test_the_papers_values_stand_beside_its_networks_at_their_usual_width() -> None:
    spec = read_sweep("cifar100-distortion")
    made = make_distortion_table(find_table("table5"), heading="h", spec=spec, results=[])
    resnet = {row.keys[2]: row for row in made.rows if row.keys[:2] == ("CIFAR-100", "ResNet-18")}
    assert list(resnet) == [*CORRUPTIONS, "mean"]
    assert [cell.paper for cell in resnet["gaussian_noise"].cells[:4]] == [2.782, 1.546, 1.614, 1.225]
    assert all(cell.paper is None for cell in resnet["mean"].cells)
    beside = {row.keys[1] for row in made.rows if any(cell.paper is not None for cell in row.cells)}
    assert beside == {"ResNet-18", "MobileNet-V1", "VGG-19"}
    narrow = make_distortion_table(
        find_table("table5"), heading="h", spec=read_sweep("cifar100-distortion", ["width=16"]), results=[]
    )
    assert {row.keys[1] for row in narrow.rows} == {
        f"{name} (width 16)" for name in ("ResNet-18", "MobileNet-V1", "VGG-19")
    }
    assert all(cell.paper is None for row in narrow.rows for cell in row.cells)


@pytest.mark.parametrize("name", ["table4", "table6"])
def test_every_value_of_the_paper_on_imagenet_stands_beside_a_cell_of_ours(name: str) -> None:
    spec = read_sweep("imagenet-distortion")
    assert name in spec.tables
    made = make_distortion_table(find_table(name), heading="h", spec=spec, results=[])
    beside = {
        (*row.keys, column): cell.paper
        for row in made.rows
        for column, cell in cells_of(made, row).items()
        if cell.paper is not None
    }
    with resources.files("qsweep.reports").joinpath("paper", "table6.csv").open(encoding="utf-8") as lines:
        wanted = {tuple(line.values())[:5]: float(line["generalization_gap"]) for line in csv.DictReader(lines)}
    assert beside == wanted
    assert len(made.rows) == 3 * 16 * 5
    assert {row.expected for row in made.rows} == {4}


def test_a_data_set_that_the_paper_lacks_is_compared_with_another(source: MadeSource) -> None:
    made = table(source, "table5")
    assert cells_of(made, made.rows[0])["FP32"].paper == 2.782
    assert made.compared_with == "CIFAR-100"
    assert table(source, "table6").compared_with is None  # the paper's Table 6 has nothing of CIFAR-100
    text = render(made, Format.MARKDOWN, Layout(against_paper=True))
    assert "another data set: no differences; compare the trend" in text
    (first, *_) = csv.DictReader(io.StringIO(render(made, Format.CSV, Layout(against_paper=True))))
    assert first["Int8_paper"] == "1.546"


def test_a_model_counts_once_all_its_severities_are_done(source: MadeSource) -> None:
    rows = [row for row in source.rows["distortions"] if (row["corruption"], row["severity"]) != ("fog", 5)]
    gone = rows.pop(0)
    made = table(source, "table5", rows)
    by_name = {row.keys[2]: row for row in made.rows}
    assert (by_name["fog"].done, cells_of(made, by_name["fog"])["FP32"].mean) == (0, None)
    assert by_name[gone["corruption"]].done == 11
    assert by_name["snow"].done == 12
    assert by_name["mean"].done == 0
    text = render(made, Format.MARKDOWN, Layout())
    assert "Partial:" in text
    assert f"887 of 900 distortions are done; incomplete: {gone['corruption']}, fog." in text
    assert "lacking" not in render(table(source, "table5"), Format.MARKDOWN, Layout())


def test_a_diverged_model_is_named_and_left_out(source: MadeSource) -> None:
    lost = source.rows["distortions"][0]["parent"]
    numbers = ("corrupted_loss", "corrupted_accuracy", "train_loss", "generalization_gap", "source", "fingerprint")
    rows = [
        row | {"diverged": True, **dict.fromkeys(numbers)} if row["parent"] == lost else row
        for row in source.rows["distortions"]
    ]
    made = table(source, "table5", rows)
    assert {row.diverged for row in made.rows} == {(lost,)}
    assert {(row.done, row.counted) for row in made.rows} == {(12, 11)}


def test_remarks_say_what_the_images_are(source: MadeSource) -> None:
    rows = source.rows["distortions"]
    generated = "\n".join(table(source, "table5").remarks)
    assert "mean over the severities 1, 2, 3, 4, 5" in generated
    assert "generated here, with the published constants: all." in generated
    assert "Frost is synthetic" in generated
    real = [row | {"source": "published", "frost": None} for row in rows]
    assert not any("generated" in one or "synthetic" in one for one in table(source, "table5", real).remarks)
    mixed = [row | ({} if row["corruption"] == "fog" else {"source": "published", "frost": None}) for row in rows]
    assert "constants: fog." in "\n".join(table(source, "table5", mixed).remarks)
    other = [row | ({"fingerprint": "x"} if index == 0 else {}) for index, row in enumerate(rows)]
    (remark,) = [one for one in table(source, "table5", other).remarks if "same images" in one]
    assert remark == f"Not every model was judged by the same images of {rows[0]['corruption']}."


def test_a_cell_is_explained_by_its_jobs(source: MadeSource, frame: pd.DataFrame) -> None:
    found = explain(source, make_tables(source), "digits/resnet-18 (width 4)/fog/int4")
    rows = frame[(frame.corruption == "fog") & (frame.bits == 4)]
    assert sorted(found.jobs["job"].to_pylist()) == sorted(rows.job)
    assert {"seed", "severity"} <= set(found.jobs.column_names)


def test_tables_do_not_depend_on_the_order_of_the_rows(source: MadeSource) -> None:
    again = made_source("digits-distortion", order=3)
    for name in ("table5", "table6"):
        layout = Layout(against_paper=True, spread=True)
        assert render(table(source, name), Format.CSV, layout) == render(table(again, name), Format.CSV, layout)


@pytest.mark.slow
def test_the_heat_map_shows_paired_differences_from_full_precision(source: MadeSource, frame: pd.DataFrame) -> None:
    evidence = gather(source, QUICK)
    (models,) = evidence.models
    grid = distorted(evidence.distortions, models)
    assert len(grid) == 15 * 5 * 4
    pivot = frame.pivot_table(index=["corruption", "severity", "seed"], columns="bits", values="generalization_gap")
    for one in grid.itertuples():
        expected = (pivot[one.quantization.bits] - pivot[32]).loc[one.corruption, one.severity].mean()
        assert (one.difference, one.pairs) == (pytest.approx(expected, abs=1e-12), 3)
    unpaired = frame[(frame.bits != 32) | (frame.seed != 0)]
    grid = distorted(unpaired, models)
    assert set(grid["pairs"]) == {2}


@pytest.mark.slow
def test_figures_and_report_know_distortions(source: MadeSource, tmp_path: Path) -> None:
    evidence = gather(source, QUICK)
    (path,) = draw_figures(evidence, tmp_path, chosen=[Picture.DISTORTION], form=FileFormat.SVG)
    text = path.read_text()
    assert all(name.replace("_", " ") in text for name in CORRUPTIONS)
    assert "Int2 − FP32" in text
    page = render_page(evidence)
    assert "Table 5: " in page
    assert "Distortions done" in page
