"""A bundle answers as the registry does, byte for byte; a table is what pandas computes; a cell explains itself."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import qsweep as api
from qsweep.db.compaction import compact
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults
from qsweep.reports.answers import make_tables, render_tables
from qsweep.reports.bundle import MANIFEST, BundleSource, write_bundle
from qsweep.reports.explanation import explain, told
from qsweep.reports.formats import Format
from qsweep.reports.opening import opened_source
from qsweep.reports.query import run_query
from qsweep.reports.render import Layout
from qsweep.reports.source import Source
from qsweep.sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.reports.made import SWEEP, Made, finished, home_at, launch, sources, work

FULL = Layout(against_paper=True, spread=True)
OWN = """
title = "By optimizer and width"
kind = "runs"
rows = ["optimizer", "width"]
where = "bits < 32"
[[columns]]
name = "best"
label = "Best test loss"
value = "test_loss"
statistic = "min"
decimals = 4
[[columns]]
name = "gap"
label = "Gap"
value = "generalization_gap"
decimals = 4
"""


def make(folder: Path) -> Made:
    (folder / "own.toml").write_text(OWN)
    text = SWEEP.replace('tables = ["table1"]', 'tables = ["table1", "own.toml"]')
    return finished(home_at(folder), text, cohorts=5, diverged=(2,))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same, for all tests of this file."""
    folder = tmp_path_factory.mktemp("exported")
    with sources(make(folder)) as (source,):
        write_bundle(source, folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "bundle")


def answers(source: Source) -> list[str]:
    return [render_tables(source, form, layout) for form in Format for layout in (Layout(), FULL)]


def test_a_bundle_gives_the_tables_of_the_registry_byte_for_byte(made: Made, bundle: Path) -> None:
    with sources(made) as (source,):
        assert answers(BundleSource(bundle)) == answers(source)
        for name in ("runs", "epochs", "layers", "measures", "jobs", "attempts", "events"):
            pd.testing.assert_frame_equal(BundleSource(bundle).frame(name), source.frame(name))
        sql = "SELECT bits, avg(test_loss) AS loss FROM runs GROUP BY bits ORDER BY bits"
        assert run_query(sql, [BundleSource(bundle)]).table == run_query(sql, [source]).table


@pytest.mark.slow
def test_flatness_tables_come_from_a_bundle_too(tmp_path: Path) -> None:
    made = work(launch(home_at(tmp_path), "", name="digits-flatness"))
    with sources(made) as (source,):
        write_bundle(source, tmp_path / "bundle")
        assert answers(BundleSource(tmp_path / "bundle")) == answers(source)
        cell = explain(source, make_tables(source), "Digits/NiN (3x10)/Int4/reference · latent+s/pac_orig")
    (job,) = cell.jobs["job"].to_pylist()
    (row,) = [one for one in made.rows["measures"] if one["job"] == job]
    assert cell.cell.mean == row["value_orig"]
    assert (row["measure"], row["scaling"], row["noise_std"], row["bits"]) == ("pac_bayes", "plain", "reference", 4)


def test_the_same_results_give_the_same_bundle(made: Made, bundle: Path, tmp_path: Path) -> None:
    with sources(made) as (source,):
        write_bundle(source, tmp_path / "again")
    for path in bundle.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_manifest_says_what_the_files_are_and_where_they_come_from(made: Made, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    for entry in manifest["files"]:
        content = (bundle / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["rows"] == len(pd.read_parquet(bundle / entry["file"]))
    assert manifest["jobs"] == {"done": 20, "queued": 4}
    assert manifest["provenance"] == {"code": ["1.0+made"], "torch": ["2.0"], "device": ["cpu"]}
    assert manifest["sweep"]["name"] == "made"
    assert manifest["spec"] == json.loads(made.sweep.spec)


@pytest.mark.parametrize("change", ["flip", "gone"])
def test_a_damaged_bundle_is_refused(bundle: Path, change: str) -> None:
    path = bundle / "runs.parquet"
    content = bytearray(path.read_bytes())
    path.unlink()
    if change == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedResults, match=r"runs\.parquet"):
        BundleSource(bundle)


def test_what_is_no_bundle_or_of_another_format_or_sweep_is_refused(made: Made, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is no bundle"):
        BundleSource(tmp_path)
    with pytest.raises(InputError, match="this bundle holds made@"), opened_source("other", made.home, bundle):
        pass
    with sources(made) as (source,), pytest.raises(InputError, match="this is there already"):
        write_bundle(source, bundle)
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="has format 9, this program reads 1"):
        BundleSource(bundle)


def test_compaction_changes_no_answer(made: Made, bundle: Path) -> None:
    with sources(made) as (source,):
        before = answers(source)
    with Registry.open(made.home.registry) as registry:
        compact(made.home, registry, [made.sweep.id])
    with sources(made) as (source,):
        assert answers(source) == before == answers(BundleSource(bundle))


def test_tables_are_those_of_pandas_and_say_that_they_are_partial(made: Made) -> None:
    frame = made.frame()
    with sources(made) as (source,):
        first, own = make_tables(source)
        text = render_tables(source, Format.MARKDOWN, Layout())
    counted = frame[~frame.diverged]
    for row, bits in zip(first.rows, (32, 8, 4, 2), strict=True):
        group = counted[counted.bits == bits]
        assert row.cells[3].mean == pytest.approx(group.test_loss.mean(), rel=1e-12)
        assert row.cells[3].error == pytest.approx(group.test_loss.sem(), rel=1e-12)
        assert row.counted == len(group)
    quantized = counted[counted.bits < 32]
    for row in own.rows:
        group = quantized[(quantized.optimizer == row.keys[0]) & (quantized.width == int(row.keys[1]))]
        assert row.expected == 3
        assert row.counted == len(group)
        if len(group):
            assert row.cells[0].mean == group.test_loss.min()
            assert row.cells[1].mean == pytest.approx(group.generalization_gap.mean(), rel=1e-12)
    assert [row.keys for row in own.rows] == [(name, str(width)) for name in ("adam", "sgd") for width in (2, 3, 4)]
    assert "Partial: 20 of 24 models are done." in text
    assert "By optimizer and width" in text


def test_a_table_of_ones_own_travels_with_the_sweep_and_can_be_a_file(made: Made, tmp_path: Path) -> None:
    (tmp_path / "own.toml").unlink()
    with sources(made) as (source,):
        assert "By optimizer" in render_tables(source, Format.MARKDOWN, Layout(), chosen="own")
        (tmp_path / "late.toml").write_text(OWN.replace("By optimizer and width", "Late"))
        assert "Late" in render_tables(source, Format.MARKDOWN, Layout(), chosen=str(tmp_path / "late.toml"))
        for right, wrong, said in (
            ('kind = "runs"', 'kind = "run"', "no kind of result 'run'; did you mean 'runs'"),
            ('"optimizer", "width"', '"optimiser"', "'optimiser' is not a setting; did you mean 'optimizer'"),
            ('value = "test_loss"', 'value = "test_lost"', "runs has no number 'test_lost'"),
            ('statistic = "min"', 'statistic = "mode"', "'mean', 'median', 'min' or 'max'"),
            ("bits < 32", "bit < 32", "'bit' is not a setting"),
            ("decimals = 4", "decimal = 4", r"late\.toml: columns\.1\.decimal: there is no such key"),
        ):
            (tmp_path / "late.toml").write_text(OWN.replace(right, wrong))
            with pytest.raises(InputError, match=said):
                render_tables(source, Format.MARKDOWN, Layout(), chosen=str(tmp_path / "late.toml"))


def test_a_cell_names_its_jobs_attempts_code_and_files(made: Made) -> None:
    frame = made.frame()
    group = frame[(frame.bits == 2) & ~frame.diverged]
    with sources(made) as (source,):
        found = explain(source, make_tables(source), "digits / nin / INT2 / test_loss")
        values = dict(zip(found.jobs["job"].to_pylist(), found.jobs["test_loss"].to_pylist(), strict=True))
        assert values == group.set_index("job").test_loss.to_dict()
        assert found.cell.mean == pytest.approx(group.test_loss.mean())
        assert set(found.jobs["code"].to_pylist()) == {"1.0+made"}
        for row in found.jobs.to_pylist():
            assert row["job"] in pd.read_parquet(row["file"]).job.to_list()
            assert row["attempt"] == 1
            assert row["optimizer"] == made.frame().set_index("job").optimizer[row["job"]]
        text, narrow = told(found), told(found, 80)
    assert all(len(line) <= 80 for line in narrow.split("value ")[0].splitlines())
    assert narrow.split("value ")[0].split() == text.split("value ")[0].split()
    assert "code      1.0+made" in text
    assert all(job[:12] in text for job in group.job)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("Digits/NiN/Int3/test_loss", "did you mean 'Digits/NiN/Int"),
        ("Digits/NiN/Int2", "go on with: train_acc, test_acc, train_loss, test_loss, generalization_gap"),
        ("nonsense", "for example 'Digits/NiN/FP32/train_acc'"),
    ],
)
def test_a_cell_that_does_not_exist_is_answered_with_those_that_do(made: Made, address: str, said: str) -> None:
    with sources(made) as (source,), pytest.raises(InputError) as error:
        explain(source, make_tables(source), address)
    assert said in str(error.value)


def test_a_sweep_without_results_gives_dashes_and_explains_an_empty_cell(tmp_path: Path) -> None:
    made = launch(home_at(tmp_path))
    with sources(made) as (source,):
        assert "0/6" in render_tables(source, Format.HTML, FULL)
        assert "0 of 6; 0 in this cell" in told(explain(source, make_tables(source), "Digits/NiN/Int2/test_loss"))


def test_the_order_of_results_changes_no_byte(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with sources(made) as (source,):
        expected = answers(source)
        read = source.read

        def shuffled(name: str, columns: Any = None) -> Any:
            table = read(name, columns)
            return table.take(random.Random(3).sample(range(table.num_rows), table.num_rows))

        monkeypatch.setattr(source, "read", shuffled)
        assert answers(source) == expected


def test_csv_has_counts_and_html_is_a_page_without_links(made: Made) -> None:
    with sources(made) as (source,):
        text = render_tables(source, Format.CSV, FULL, chosen="1")
        page = render_tables(source, Format.HTML, FULL)
    (first, *_) = csv.DictReader(io.StringIO(text))
    assert first["test_loss_n"] == first["models"]
    for part in ("<!doctype html>", "<caption>Table 1", 'scope="col"', 'class="number"', "</html>"):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_python_reads_a_bundle(bundle: Path, made: Made) -> None:
    assert len(api.results(bundle=bundle)) == 20
    assert "Partial: 20 of 24" in api.tables(bundle=bundle)
    assert api.query("SELECT count(*) AS n FROM runs", bundle=bundle).n[0] == 20


def reexport(bundle: Path, name: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Alter one file of an export, with a digest and a count of rows that fit."""
    path, manifest = bundle / f"{name}.parquet", json.loads((bundle / MANIFEST).read_text())
    table = edit(pq.read_table(path))
    pq.write_table(table, path)
    for entry in manifest["files"]:
        if entry["file"] == path.name:
            entry |= {"rows": table.num_rows, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("runs", doubled, "stands twice"),
        ("epochs", doubled, "stands twice"),
        ("layers", doubled, "stands twice"),
        ("jobs", doubled, "stands twice"),
        ("attempts", doubled, "stands twice"),
        ("runs", lambda table: table.slice(1), "is missing"),
        ("jobs", lambda table: table.slice(1), "of which no such attempt counts"),
        ("runs", lambda table: table.drop(["job"]), "no column job"),
        ("runs", lambda table: table.rename_columns(["x" + one for one in table.column_names]), "it has 0 rows"),
        ("jobs", lambda table: table.drop(["state"]), "unknown kind or state"),
        (
            "runs",
            lambda table: table.set_column(table.column_names.index("bits"), "bits", [["8"] * len(table)]),
            "the column bits is string",
        ),
    ],
)
def test_rows_twice_or_of_no_counted_job_are_refused_and_never_counted(
    bundle: Path, name: str, edit: Callable[[pa.Table], pa.Table], said: str
) -> None:
    reexport(bundle, name, edit)
    with pytest.raises(InputError, match=said):
        BundleSource(bundle)


@pytest.mark.parametrize(
    ("column", "value"), [("bits", 3), ("learning_rate", 0.5), ("optimizer", "adam"), ("width", None), ("beta1", 0.5)]
)
def test_rows_with_other_settings_than_their_job_are_refused(
    bundle: Path, here: Qsweep, column: str, value: Any
) -> None:
    def edit(table: pa.Table) -> pa.Table:
        place, kind = table.column_names.index(column), table.schema.field(column)
        first = next(row for row, name in enumerate(table["optimizer"].to_pylist()) if name == "sgd")
        listed = table[column].to_pylist()
        listed[first] = value
        return table.set_column(place, kind, pa.array(listed, kind.type))

    reexport(bundle, "runs", edit)
    for command in ("tables", "report", "analyze"):
        answer = here(command, "--from", str(bundle))
        assert answer.returncode == 2
        assert "has other settings than the job" in answer.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.pop("sweep"),
        lambda m: m.update(sweep=[1]),
        lambda m: m["sweep"].update(more=1),
        lambda m: m["sweep"].update(state="asleep"),
        lambda m: m["sweep"].update(name=3),
        lambda m: m.update(spec={}),
        lambda m: m["spec"].update(axes=[{"name": "bits"}]),
        lambda m: m["spec"].update(fixed=3),
        lambda m: m.update(files=None),
        lambda m: m.update(files=[]),
        lambda m: m["files"].append(m["files"][0]),
        lambda m: m["files"][0].update(sha256=3),
        lambda m: m["files"][0].update(rows="many"),
        lambda m: m["files"][0].update(file="../runs.parquet"),
    ],
)
def test_a_manifest_that_no_export_writes_is_refused_in_one_message(
    bundle: Path, edit: Callable[[dict[str, Any]], Any], here: Qsweep
) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    edit(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    answer = here("tables", "--from", str(bundle))
    assert answer.returncode == 2
    assert "was altered" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "format": 1}', b"[]", b"3"])
def test_a_manifest_that_is_odd_json_makes_no_bundle(bundle: Path, text: bytes) -> None:
    (bundle / MANIFEST).write_bytes(text)
    with pytest.raises(InputError, match="this is no bundle"):
        BundleSource(bundle)


def test_a_foreign_folder_or_file_is_no_bundle(tmp_path: Path, here: Qsweep) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / MANIFEST)
    for name in ("file", "nowhere", "piped"):
        for command in (("tables",), ("query", "SELECT 1"), ("report",)):
            answer = here(*command, "--from", str(tmp_path / name))
            assert answer.returncode == 2, (name, command)
            assert "this is no bundle" in answer.stderr


def test_a_pipe_in_the_place_of_results_is_not_waited_for(bundle: Path) -> None:
    (bundle / "runs.parquet").unlink()
    os.mkfifo(bundle / "runs.parquet")
    with pytest.raises(DamagedResults, match="this is not a file"):
        BundleSource(bundle)
