"""A column's type in a DataFrame follows from the column alone."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import qsweep
from qsweep.db.home import Home
from qsweep.reports.bundle import write_bundle
from qsweep.reports.formats import RowFormat
from qsweep.reports.frames import typed_frame
from qsweep.reports.listing import written
from qsweep.reports.opening import opened_source
from tests.reports.made import SWEEP, launch, work

SCHEMA = pa.schema(
    [
        pa.field("outer_bits", pa.int32()),
        pa.field("chosen_epoch", pa.int64()),
        pa.field("diverged", pa.bool_()),
        pa.field("loss", pa.float64()),
        pa.field("name", pa.string()),
        pa.field("milestones", pa.list_(pa.int64())),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)
ROW = {"outer_bits": 8, "chosen_epoch": 3, "diverged": False, "loss": 0.5, "name": "a", "milestones": [1, 2], "at": 0}
NOTHING = dict.fromkeys(ROW)


@pytest.mark.parametrize("rows", [[ROW], [ROW, NOTHING], [NOTHING], []])
def test_the_types_do_not_depend_on_what_is_missing(rows: list[dict[str, object]]) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    frame = typed_frame(table)
    expected = ["Int32", "Int64", "boolean", "float64", frame.dtypes["name"], "object", "datetime64[us, UTC]"]
    assert [str(kind) for kind in frame.dtypes] == [str(kind) for kind in expected]
    read = pd.read_parquet(io.BytesIO(written(table, RowFormat.PARQUET)))
    assert [str(kind) for kind in read.dtypes] == [str(kind) for kind in frame.dtypes]


def test_lists_can_be_grouped_by() -> None:
    frame = typed_frame(pa.Table.from_pylist([ROW, ROW, NOTHING], SCHEMA))
    assert frame.groupby("milestones").size().to_dict() == {(1, 2): 2}


def test_results_queries_and_exports_have_these_types(tmp_path: Path) -> None:
    made = launch(Home.at(tmp_path / "home"), SWEEP)
    before = {kind: qsweep.results("made", kind, home=tmp_path / "home").dtypes for kind in ("runs", "epochs", "jobs")}
    work(made, cohorts=1)
    runs = qsweep.results("made", home=tmp_path / "home")
    assert len(runs) == 4
    assert runs.dtypes.to_dict() == before["runs"].to_dict()
    assert str(runs.outer_bits.dtype) == str(runs.bits.dtype) == "Int64"
    assert str(runs.diverged.dtype) == "boolean"
    assert {*runs.groupby("milestones").groups} == {()}
    asked = qsweep.query("SELECT outer_bits, diverged, milestones, chosen_epoch FROM runs", home=tmp_path / "home")
    assert asked.dtypes.to_dict() == runs[asked.columns].dtypes.to_dict()
    with opened_source("made", made.home) as source:
        write_bundle(source, tmp_path / "bundle")
    exported = pd.read_parquet(tmp_path / "bundle" / "runs.parquet")
    assert exported.dtypes.to_dict() == runs[exported.columns].dtypes.to_dict()
