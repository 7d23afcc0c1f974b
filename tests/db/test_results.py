"""The result store: only committed rows count, files appear whole, older files stay readable."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest

from qsweep.db.foreign import check_values
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults
from qsweep.db.rows import Committed
from qsweep.db.schema import ROW_KINDS
from tests.db.conftest import trained


def run(number: int, attempt: int = 1, **columns: Any) -> dict[str, Any]:
    return {"job": f"{number:032x}", "attempt": attempt, "train_loss": number / 10, **columns}


def pointer(number: int, publication: str, attempt: int = 1) -> Committed:
    return Committed(job=f"{number:032x}", attempt=attempt, publication=publication)


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_only_the_committed_job_attempt_and_file_count(store: ResultStore) -> None:
    store.write("runs", "zombie", [run(1, 1, bits=2), run(2, 1, bits=2)])
    store.write("runs", "heir", [run(1, 2, bits=4), run(3, 1, bits=4)])
    committed = [pointer(1, "heir", 2), pointer(2, "zombie", 1)]
    rows = store.read("runs", committed).to_pylist()
    assert [(row["job"], row["attempt"], row["bits"]) for row in rows] == [
        (f"{1:032x}", 2, 4),
        (f"{2:032x}", 1, 2),
    ]


def test_rows_come_in_the_order_of_the_pointers_and_epochs_in_their_own(store: ResultStore) -> None:
    epochs = [{"job": f"{job:032x}", "attempt": 1, "epoch": epoch} for job in (1, 2, 3) for epoch in (1, 2, 3)]
    store.write("epochs", "b", epochs[:6])
    store.write("epochs", "a", epochs[6:])
    table = store.read("epochs", [pointer(3, "a"), pointer(2, "b"), pointer(1, "b")], ["job", "epoch"])
    assert table.column_names == ["job", "epoch"]
    found = [(int(row["job"], 16), row["epoch"]) for row in table.to_pylist()]
    assert found == [(job, epoch) for job in (3, 2, 1) for epoch in (1, 2, 3)]


def test_nothing_committed_is_an_empty_table_of_the_schema(store: ResultStore) -> None:
    table = store.read("runs", [])
    assert table.num_rows == 0
    assert table.schema.names == ROW_KINDS["runs"].columns.names


def test_every_setting_of_a_job_has_a_column_that_keeps_its_value(store: ResultStore) -> None:
    jobs = [
        *trained(1),
        *trained(1, optimizer="adam", bits=32),
        *trained(1, optimizer="rmsprop", milestones=[1]),
    ]
    rows = [{"job": job.identity, "attempt": 1, **job.settings()} for job in jobs]
    store.write("runs", "p", rows)
    committed = [Committed(job=job.identity, attempt=1, publication="p") for job in jobs]
    for job, row in zip(jobs, store.read("runs", committed).to_pylist(), strict=True):
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in job.settings().items()}
        assert {name: row[name] for name in settings} == settings
        assert row["momentum"] == settings.get("momentum")


def test_an_older_file_has_nulls_and_a_newer_one_loses_what_we_do_not_know(store: ResultStore) -> None:
    store.write("runs", "now", [run(1, bits=4)])
    older = pa.table({"job": [f"{2:032x}"], "attempt": pa.array([1], pa.int64()), "bits": pa.array([8], pa.int32())})
    newer = pa.table({"job": [f"{3:032x}"], "attempt": pa.array([1], pa.int32()), "sharpness": [0.5]})
    pq.write_table(older, store.path("runs", "older"))
    pq.write_table(newer, store.path("runs", "newer"))
    rows = store.read("runs", [pointer(1, "now"), pointer(2, "older"), pointer(3, "newer")]).to_pylist()
    assert [row["bits"] for row in rows] == [4, 8, None]
    assert [row["train_loss"] for row in rows] == [0.1, None, None]
    assert "sharpness" not in rows[2]


def test_a_number_that_is_not_finite_is_left_empty_and_every_reader_admits_the_file(store: ResultStore) -> None:
    kinds = {"syntheses": "confidence", "measures": "radius", "distortions": "corrupted_loss", "epochs": "train_loss"}
    for kind, name in kinds.items():
        rows = [{"job": f"{job:032x}", "attempt": 1, name: value} for job, value in ((1, math.nan), (2, 0.5))]
        store.write(kind, "p", rows)
        of = ROW_KINDS[kind].of
        table = store.read(kind, [Committed(job=f"{job:032x}", attempt=1, publication="p", kind=of) for job in (1, 2)])
        assert table[name].to_pylist() == [None, 0.5]
        check_values(table)
        check_values(pa.table({"accuracy_drop": [-0.02]}))  # of a quantized model that is better
        with pytest.raises(ValueError, match="no share"):
            check_values(pa.table({"clean_accuracy": [-0.02]}))


def test_a_wide_row_is_stored_without_the_columns_in_which_nobody_has_a_value(store: ResultStore) -> None:
    """Files of different columns are read as one, each value in its place."""
    store.write("runs", "a", [run(1, bits=4, momentum=None), run(2)])
    store.write("runs", "b", [run(3, momentum=0.9)])
    assert pq.read_schema(store.path("runs", "a")).names == ["job", "attempt", "bits", "train_loss"]
    table = store.read("runs", [pointer(3, "b"), pointer(1, "a"), pointer(2, "a")])
    assert table.schema.equals(ROW_KINDS["runs"].columns)
    rows = table.to_pylist()
    assert [(row["bits"], row["momentum"], row["train_loss"]) for row in rows] == [
        (None, 0.9, 3 / 10),
        (4, None, 1 / 10),
        (None, None, 2 / 10),
    ]
    assert all(row["test_loss"] is None for row in rows)


def test_a_failed_write_leaves_no_file(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("runs", "before", [run(1)])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write("runs", "after", [run(2)])
    assert store.publications("runs") == {"before"}
    assert os.listdir(Path(store.path("runs", "before")).parent) == ["before.parquet"]


@pytest.mark.parametrize("damage", ["gone", "truncated", "rows"])
def test_damaged_results_are_never_passed_over(store: ResultStore, damage: str) -> None:
    store.write("runs", "p", [run(1), run(2)])
    path = Path(store.path("runs", "p"))
    committed = [pointer(1, "p"), pointer(2, "p")]
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        committed.append(pointer(3, "p"))
    with pytest.raises(DamagedResults):
        store.read("runs", committed)


def test_a_pipe_in_the_place_of_results_is_damage_and_not_waited_for(store: ResultStore, tmp_path: Path) -> None:
    store.write("runs", "a", [run(1)])
    path = tmp_path / "results" / "runs" / "a.parquet"
    path.unlink()
    os.mkfifo(path)
    for read in (lambda: store.read("runs", [pointer(1, "a")]), lambda: store.has_unknown("runs", "a")):
        with pytest.raises(DamagedResults, match=f"{path}: this is not a file"):
            read()
    with pytest.raises(DamagedResults, match=r"^is not a file$"):  # whoever reads a file whole names it
        store.read_file("runs", "a")


def test_a_row_with_an_unknown_column_is_our_own_mistake(store: ResultStore) -> None:
    with pytest.raises(AssertionError, match="colour"):
        store.write("runs", "p", [run(1, colour="red")])


def test_a_publication_can_t_leave_its_folder(store: ResultStore) -> None:
    with pytest.raises(AssertionError):
        store.write("runs", "../../etc/passwd", [run(1)])


def test_a_store_at_a_url_holds_the_same(tmp_path: Path) -> None:
    store = ResultStore(f"file://{tmp_path}/results")
    store.write("runs", "p", [run(1, bits=2)])
    assert store.publications("runs") == {"p"}
    assert store.read("runs", [pointer(1, "p")], ["bits"]).to_pylist() == [{"bits": 2}]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultStore:
    """A store on a file system that is not the machine's own to Arrow, as S3's is not."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    files = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    monkeypatch.setattr("qsweep.db.results.open_url", lambda url: (files, url.removeprefix("far://")))
    return ResultStore("far://sweeps")


def test_a_store_on_another_file_system_is_listed_and_cleaned_likewise(remote: ResultStore) -> None:
    assert remote.files() == []
    assert remote.identity() is None
    remote._files.create_dir("sweeps/runs")
    remote.write("runs", "p", [run(1, bits=2)])
    remote.take("an identity")
    assert remote.identity() == "an identity"
    assert remote.publications("runs") == {"p"}
    assert remote.holds("runs", "p")
    assert not remote.holds("runs", "q")
    (identity, file) = remote.files()
    assert (identity.name, file.name) == ("STORE", "runs/p.parquet")
    assert file.size > 0
    assert abs(file.modified - time.time()) < 60
    assert remote.read_file("runs", "p").num_rows == 1
    assert remote.read("runs", [pointer(1, "p")], ["bits"]).to_pylist() == [{"bits": 2}]
    assert remote.delete("runs/p.parquet")
    assert not remote.delete("runs/p.parquet")
    with pytest.raises(VanishedResults):
        remote.read_file("runs", "p")


def test_a_flipped_bit_gives_no_other_rows(store: ResultStore) -> None:
    """Some bits of a page's header say nothing of its rows; every other is noticed."""
    store.write("runs", "p", [run(number) for number in range(200)])
    path = Path(store.path("runs", "p"))
    whole, rows = path.read_bytes(), store.read_file("runs", "p")
    footer, noticed = int.from_bytes(whole[-8:-4], "little") + 8, 0
    for place in range(4, len(whole) - footer, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert store.read_file("runs", "p") == rows
        except DamagedResults:
            noticed += 1
    assert noticed > 150


def test_the_file_says_its_kind_and_schema(store: ResultStore) -> None:
    store.write("layers", "p", [{"job": f"{1:032x}", "attempt": 1, "layer": "head"}])
    metadata = pq.read_schema(store.path("layers", "p")).metadata
    assert metadata[b"qsweep.kind"] == b"layers"
    assert metadata[b"qsweep.schema"] == b"1"
