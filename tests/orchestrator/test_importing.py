"""What somebody else made of a bundle: whatever it says, nothing is written outside, nothing counted half."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import stat
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import qsweep as api
from qsweep.db.audit import audit
from qsweep.db.foreign import KEYS
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.importing import import_results
from qsweep.orchestrator.registration import register
from qsweep.orchestrator.selection import read_selection
from qsweep.reports.bundle import BundleSource, write_bundle
from qsweep.reports.opening import opened_source
from qsweep.sweeps.code import code_version
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.bundle.archive import Bounds, unpack
from qsweep.workers.bundle.local_queue import LEDGER
from qsweep.workers.bundle.manifest import FILE
from qsweep.workers.bundle.parcel import write_results
from tests.orchestrator import parcels
from tests.orchestrator.parcels import Made, edit_manifest, edit_records, edit_table, finished, put


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return parcels.make(tmp_path_factory.mktemp("parcels"))


@pytest.fixture
def made(master: Made, tmp_path: Path) -> Made:
    return master.copy(tmp_path)


def rows(home: Path) -> list[JobRow]:
    with Registry.open(Home.at(home).registry) as registry:
        return registry.catalogue.jobs(registry.catalogue.sweeps()[0].id)


def files(folder: Path) -> dict[str, str]:
    """Every file with its hash, but for the registry's own log. Of code: with what changes when it is written."""
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return {path: state(path) for path in paths if "/registry.db-" not in path}


def state(path: str) -> str:
    if "/code/" in path:
        found = os.stat(path)
        return f"{found.st_ino} {found.st_size} {found.st_ctime_ns}"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def refused(made: Made, path: Path | None = None) -> str:
    """The one message with which the bundle is refused, and nothing written for it."""
    before = files(made.home)
    with pytest.raises(InputError) as error:
        import_results(Home.at(made.home), path or made.bundle)
    assert files(made.home) == before
    assert {row.state for row in rows(made.home)} == {State.RUNNING}
    return str(error.value)


@pytest.mark.slow
def test_a_sound_bundle_counts_with_models_named_here(made: Made) -> None:
    found = import_results(Home.at(made.home), made.bundle)
    assert (found.counted, found.refused, found.away, found.without_models) == (4, 0, 0, 0)
    for row in rows(made.home):
        content = (made.home / "models" / str(row.model_file)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.model_hash
        assert row.model_file == f"{row.identity[:2]}/{row.identity}-1-{str(row.model_hash)[:32]}.pt"
    assert import_results(Home.at(made.home), made.bundle).known == 4
    assert audit(Home.at(made.home), deep=True) == []
    assert len(api.results("four", home=made.home)) == 4


def test_a_parcel_as_one_file_counts_as_its_folder_does(made: Made, tmp_path: Path) -> None:
    assert import_results(Home.at(made.home), parcels.zipped(made.bundle, tmp_path / "results.zip")).counted == 4


# Names that lead elsewhere


@pytest.mark.parametrize(
    "name",
    [
        "../code/VERSION/qsweep/workers/agent/__main__.py",
        "../registry.db",
        "/tmp/model.pt",
        "ab/model.pt",
        "",
        7,
        ["x"],
    ],
)
def test_no_model_is_named_by_a_bundle(made: Made, name: Any) -> None:
    edit_records(made.bundle, lambda records: finished(records)["jobs"][0].update(model=name))
    assert "line 3 says what no bundle finds" in refused(made)


@pytest.mark.parametrize("name", ["../../home/registry", "000001-0000/../x", "", None, 3])
def test_no_publication_is_named_by_a_bundle(made: Made, name: Any) -> None:
    edit_records(made.bundle, lambda records: finished(records).update(publication=name))
    assert "line 3 says what no bundle finds" in refused(made)


@pytest.mark.parametrize("kind", ["../runs", "measures", ""])
def test_no_kind_of_results_is_named_by_a_bundle(made: Made, kind: str) -> None:
    edit_records(made.bundle, lambda records: finished(records)["files"].update({kind: "0" * 64}))
    assert "has the keys" in refused(made)


@pytest.mark.parametrize("what", ["models", "results/runs", "logs/far-1.log", LEDGER, FILE])
def test_links_in_a_folder_are_refused(made: Made, tmp_path: Path, what: str) -> None:
    path = made.bundle / what
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "link or a device" in refused(made)


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(made: Made) -> None:
    os.mkfifo(made.bundle / "logs" / "more.log")
    assert "link or a device" in refused(made)


def archive(path: Path, members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], Any] = lambda _: None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            made.writestr(info, content)
    return path


def link(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def device(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFCHR | 0o777) << 16


@pytest.mark.parametrize(
    "name", ["../escaped", "a/../../escaped", "/escaped", "a//b", "./a", "a\\..\\b", "C:escaped", "a\nb", "a/.."]
)
def test_no_member_of_an_archive_leads_out_of_it(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.zip", {"fine": b"", name: b"mine"})
    with pytest.raises(InputError, match="its member"):
        unpack(path, tmp_path / "deep" / "folder")
    assert not list(tmp_path.rglob("escaped*"))
    assert not any((tmp_path / "deep" / "folder").iterdir())


@pytest.mark.parametrize("kind", [link, device])
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, kind: Callable[[zipfile.ZipInfo], Any]) -> None:
    with pytest.raises(InputError, match="is a link or a device"):
        unpack(archive(tmp_path / "x.zip", {"a": b"/etc"}, kind), tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", {"a": b"1"})
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("a", b"2")
    with pytest.raises(InputError, match="stands there twice"):
        unpack(path, tmp_path / "out")


def test_an_archive_is_bounded_in_members_size_and_ratio(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", {f"{number}": bytes(1_000_000) for number in range(3)})
    for bounds, words in (
        (Bounds(members=2), "it has 3 files"),
        (Bounds(size=2_000_000), "would unpack to 3,000,000 bytes"),
        (Bounds(slack=0), "would unpack to 3,000,000 bytes"),
    ):
        with pytest.raises(InputError, match=words):
            unpack(path, tmp_path / "out", bounds)
    unpack(path, tmp_path / "out")
    assert sum(one.stat().st_size for one in (tmp_path / "out").iterdir()) == 3_000_000


def test_an_archive_with_images_and_hundreds_of_models_is_admitted(tmp_path: Path) -> None:
    dice = random.Random(1)
    members = {f"models/ab/{number}.pt": dice.randbytes(4096) for number in range(600)}
    unpack(archive(tmp_path / "x.zip", members | {"data/cifar10.npz": dice.randbytes(1 << 20)}), tmp_path / "out")
    assert len(list((tmp_path / "out" / "models" / "ab").iterdir())) == 600


def test_whatever_bytes_are_damaged_a_parcel_is_refused_in_one_message_or_sound(made: Made, tmp_path: Path) -> None:
    content = parcels.zipped(made.bundle, tmp_path / "sound.zip").read_bytes()
    broken = 0
    for number in range(400):
        dice, damaged = random.Random(number), bytearray(content)
        for _ in range(dice.choice([1, 1, 4, 40])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        if number % 10 == 0:
            del damaged[dice.randrange(len(damaged)) :]
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            unpack(tmp_path / "x.zip", tmp_path / f"out{number}")
        except InputError as error:
            broken += 1
            assert "x.zip" in str(error)  # noqa: PT017 - some damages leave a sound archive
    assert broken > 200
    (tmp_path / "x.zip").write_bytes(content[:-30])
    assert "truncated or damaged" in refused(made, tmp_path / "x.zip")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(archive(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    content[content.index(b"PK\3\4") + 6] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match="is encrypted"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


# Lists of jobs and ledgers that say what no bundle finds


def of(records: list[dict[str, Any]], what: str) -> dict[str, Any]:
    return next(one for one in records if one["what"] == what)


LEDGERS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a host that is a list": lambda r: of(r, "began").update(host=["far"]),
    "a host without end": lambda r: of(r, "began").update(host="x" * 5000),
    "no slots": lambda r: of(r, "calibrated").update(slots=0),
    "slots that are true": lambda r: of(r, "calibrated").update(slots=True),
    "a million slots": lambda r: of(r, "calibrated").update(slots=10**6),
    "an unknown form": lambda r: of(r, "calibrated").update(form="magic"),
    "a form that is a list": lambda r: of(r, "calibrated").update(form=["gather"]),
    "another shape": lambda r: of(r, "calibrated").update(shape="train/digits/other"),
    "another device": lambda r: of(r, "calibrated").update(device="cuda:H100"),
    "diverged maybe": lambda r: finished(r)["jobs"][0].update(diverged="maybe"),
    "diverged one": lambda r: finished(r)["jobs"][0].update(diverged=1),
    "an unknown job": lambda r: finished(r)["jobs"][0].update(job=99),
    "a job that is a text": lambda r: finished(r)["jobs"][0].update(job="1"),
    "no jobs": lambda r: finished(r).update(jobs=[]),
    "a hash that is none": lambda r: finished(r)["jobs"][0].update(model_hash="abc"),
    "a model without a hash": lambda r: finished(r)["jobs"][0].update(model_hash=None),
    "a finish twice": lambda r: r.append(finished(r)),
    "a job that also failed": lambda r: r.append(
        {"what": "failed", "job": finished(r)["jobs"][0]["job"], "class": "crash", "error": ""}
    ),
    "an unknown class": lambda r: r.append({"what": "failed", "job": 1, "class": "boredom", "error": ""}),
    "a class that is a list": lambda r: r.append({"what": "failed", "job": 1, "class": ["crash"], "error": ""}),
    "a kind of error that is none": lambda r: r.append(
        {"what": "failed", "job": 1, "class": "crash", "kind": 7, "error": ""}
    ),
    "a time beyond every number": lambda r: finished(r).update(at=10**400),
    "an unknown record": lambda r: r.append({"what": "conquered"}),
    "a record that is a list": lambda r: r.append([1]),  # type: ignore[arg-type]
    "a key too many": lambda r: finished(r).update(more=1),
    "a file too few": lambda r: finished(r)["files"].pop("layers"),
    "halved to nothing": lambda r: r.append({"what": "halved", "job": 1, "slots": 0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False])
def test_failures_of_a_bundle_that_are_alike_pause_the_sweep_and_others_do_not(tmp_path: Path, alike: bool) -> None:
    made = parcels.make_failing(tmp_path, [("OSError", "KeyError")[place % 2 and not alike] for place in range(12)])
    assert import_results(Home.at(made.home), made.bundle).failed == 12
    with Registry.open(Home.at(made.home).registry) as registry:
        (sweep,) = registry.catalogue.sweeps()
        assert sweep.state is (SweepState.PAUSED if alike else SweepState.ACTIVE)
        assert ("failed alike" in sweep.reason) is alike


def test_a_failure_of_a_bundle_that_older_code_ran_has_no_kind(tmp_path: Path) -> None:
    made = parcels.make_failing(tmp_path, ["OSError"])
    edit_records(made.bundle, lambda r: of(r, "failed").pop("kind"))
    assert import_results(Home.at(made.home), made.bundle).failed == 1


@pytest.mark.parametrize("what", LEDGERS)
def test_a_ledger_that_says_what_no_bundle_finds_is_refused(made: Made, what: str) -> None:
    edit_records(made.bundle, LEDGERS[what])
    assert "says what no bundle finds" in refused(made)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"what": NaN}', "NaN is not a number"),
        ('{"what": 1e999}', "too large a number"),
        ('{"what": 1, "what": 2}', "stands twice"),
        ('{"what": "\\ud800"}', "surrogates not allowed"),
        ('{"what": ' + "9" * 5000 + "}", "is damaged"),
        ("{", "is damaged"),
    ],
)
def test_a_ledger_that_is_odd_json_is_refused_in_one_message(made: Made, text: str, words: str) -> None:
    parcels.seal(made.bundle, [json.dumps(one) for one in parcels.records_of(made.bundle)] + [text])
    assert words in refused(made)


def test_bytes_that_are_no_text_are_refused(made: Made) -> None:
    content = (made.bundle / FILE).read_bytes()
    (made.bundle / FILE).write_bytes(b"\xff" + content)
    assert "list of jobs is damaged" in refused(made)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another job": lambda m: m["jobs"][0].update(id=2),
    "a job twice": lambda m: m["jobs"].append(m["jobs"][0]),
    "an unknown job": lambda m: m["jobs"][0].update(id=77),
    "a later attempt": lambda m: m["jobs"][0].update(attempt=9),
    "an attempt that is a text": lambda m: m["jobs"][0].update(attempt="1"),
    "no attempt": lambda m: m["jobs"][0].pop("attempt"),
    "another holder": lambda m: m.update(holder=m["holder"] + 1),
    "another token": lambda m: m.update(token="0" * 32),
    "jobs that are a number": lambda m: m.update(jobs=3),
    "another sweep": lambda m: m.update(title="nowhere@1"),
    "a title that is a list": lambda m: m.update(title=["four"]),
    "a parent elsewhere": lambda m: m["jobs"][0].update(
        parent={"identity": "a" * 32, "attempt": 1, "model_file": "../x", "model_hash": "b" * 64, "diverged": False}
    ),
    "settings of no training": lambda m: m["jobs"][0].update(job={"kind": "train", "parent": None, "settings": []}),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_list_of_jobs_that_is_not_what_was_packed_is_refused(made: Made, what: str) -> None:
    edit_manifest(made.bundle, MANIFESTS[what])
    refused(made)


@pytest.mark.parametrize("text", ["[]", "3", '{"models": "yes"}', "{}", "[" * 100_000])
def test_a_parcel_that_does_not_say_whether_it_has_models_is_refused(made: Made, text: str) -> None:
    (made.bundle / "contents.json").write_text(text)
    assert "this file is damaged" in refused(made)


# Rows


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])


def put_times(microseconds: int) -> Callable[[pa.Table], pa.Table]:
    """Other times at which everything was finished."""

    def edit(table: pa.Table) -> pa.Table:
        place, kind = table.column_names.index("finished_at"), table.schema.field("finished_at")
        return table.set_column(place, kind, pa.array([microseconds] * table.num_rows, pa.int64()).cast(kind.type))

    return edit


TABLES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "a run twice": ("runs", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "3 rows, where at most 2"),
    "one run for the other": ("runs", lambda t: pa.concat_tables([t.slice(0, 1), t.slice(0, 1)]), "stands twice"),
    "no run of a job": ("runs", lambda t: t.slice(0, 1), "is missing"),
    "a foreign job": ("runs", put("job", {0: "f" * 32}), "not among its jobs"),
    "another attempt": ("runs", put("attempt", {0: 2}), "not among its jobs"),
    "another setting": ("runs", put("learning_rate", {0: 3.0}), "or of another job"),
    "an infinite loss": ("runs", put("test_loss", {0: float("inf")}), "not finite"),
    "a loss that is none": ("runs", put("test_loss", {0: float("nan")}), "not finite"),
    "an accuracy above one": ("runs", put("test_accuracy", {0: 97.0}), "no share"),
    "diverged, and yet not": ("runs", put("diverged", {0: True}), "differ in whether it diverged"),
    "an unknown form": ("runs", put("form", {0: "magic"}), "there is no form"),
    "a negative time": ("runs", put("seconds", {0: -1.0}), "seconds holds -1, which is less than nothing"),
    "a loss below nothing": ("runs", put("test_loss", {0: -1.0}), "less than nothing"),
    "no accuracy": ("runs", put("test_accuracy", {0: None}), "has no test_accuracy"),
    "no accuracies at all": ("runs", lambda t: t.drop(["train_accuracy"]), "has no train_accuracy"),
    "an epoch chosen after the last": ("runs", put("chosen_epoch", {0: 3}), "has 2 epochs, and chose epoch 3"),
    "an epoch chosen before the first": ("runs", put("chosen_epoch", {0: 0}), "has 2 epochs, and chose epoch 0"),
    "a gap that is none of its losses": ("runs", put("generalization_gap", {0: 9.0}), "its gap is 9.0"),
    "no gap": ("runs", put("generalization_gap", {0: None}), "differ by 0.25, and its gap is None"),
    "no column of a setting": ("runs", lambda t: t.drop(["bits"]), "or of another job"),
    "a setting that the job has not": (
        "runs", lambda t: t.append_column("beta1", pa.array([0.5] * len(t), pa.float64())), "or of another job",
    ),
    "a time of no calendar": ("runs", put_times(2**62), "a time outside of the years 1 to 9999"),
    "a host without end": ("runs", put("host", {0: "x" * 3000}), "more than 255"),
    "a column of another type": (
        "runs", lambda t: t.set_column(t.column_names.index("host"), "host", [[1, 2]]), "the column host is int64",
    ),
    "no attempts": ("runs", lambda t: t.drop(["attempt"]), "no column attempt"),
    "every epoch twice": ("epochs", twice, "where at most 4"),
    "an epoch twice": ("epochs", put("epoch", {1: 1}), "stands twice"),
    "an epoch beyond the last": ("epochs", put("epoch", {1: 3}), "not each of its 2 epochs"),
    "an epoch less": ("epochs", lambda t: t.slice(1), "not each of its 2 epochs"),
    "epochs of a foreign job": ("epochs", put("job", {0: "f" * 32}), "not among its jobs"),
    "a layer twice": ("layers", put("index", {1: 0}), "stands twice"),
    "a layer of another name": ("layers", put("layer", {0: "other"}), "not each of its"),
    "no names of layers": ("layers", lambda t: t.drop(["layer"]), "no column layer"),
    "a layer less": ("layers", lambda t: t.slice(1), "not each of its"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_rows_that_are_not_exactly_those_of_the_jobs_are_refused(made: Made, what: str) -> None:
    kind, edit, words = TABLES[what]
    edit_table(made.bundle, kind, edit)
    assert words in refused(made)


CALLS = """
run = "file:train.py:train"
[axes]
x = [1, 2]
long = [[%s]]
"""
NO_ROWS = [None, "", "{", "[1]", "3", '{"a": {"b": 1}}', '{"job": 1}', '{"a b": 1}', '{"a": "\\ud800"}', '{"a": NaN}',
           '{"a": 1e999}', f'{{"a": {"9" * 400}}}', f'{{"a": {"[" * 1500}{"]" * 1500}}}']  # fmt: skip


def test_what_a_run_of_the_users_code_returned_is_a_row_or_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def train(config):\n    return 1\n")
    text = CALLS % ", ".join(map(str, range(1500)))  # more characters of settings than a text of ours may have
    made = parcels.make(tmp_path, text, "calls")
    spoiled = Made(home=made.home, bundle=tmp_path / "spoiled")
    for value in NO_ROWS:
        shutil.rmtree(spoiled.bundle, ignore_errors=True)
        shutil.copytree(made.bundle, spoiled.bundle)
        edit_table(spoiled.bundle, "returned", put("returned", {0: value}))
        assert "returned" in refused(spoiled), value
    assert import_results(Home.at(made.home), made.bundle).counted == 2
    assert api.query("SELECT loss FROM returned", home=made.home)["loss"].tolist() == [0.5, 0.5]


def test_parquet_that_is_damaged_and_sealed_is_refused_in_one_message(made: Made, tmp_path: Path) -> None:
    name = finished(parcels.records_of(made.bundle))["publication"]
    path = made.bundle / "results" / "runs" / f"{name}.parquet"
    content = path.read_bytes()
    for number in range(40):
        dice, damaged = random.Random(number), bytearray(content)
        for _ in range(dice.choice([1, 8, 80])):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged if number % 8 else damaged[: number * 9])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_records(made.bundle, lambda records, one=digest: finished(records)["files"].update(runs=one))  # type: ignore[misc]
        try:
            import_results(Home.at(made.home), made.bundle)
        except InputError as error:
            assert path.name in str(error)  # noqa: PT017 - as above
        else:  # what it says is still sound: so it counts, and the next one starts anew
            return
    assert {row.state for row in rows(made.home)} == {State.RUNNING}


def test_a_file_whose_pages_do_not_fit_their_checksums_never_counts(made: Made) -> None:
    name = finished(parcels.records_of(made.bundle))["publication"]
    path = made.bundle / "results" / "runs" / f"{name}.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content, speeds = bytearray(path.read_bytes()), struct.pack("<2d", *table["steps_per_second"].to_pylist())
    content[content.index(speeds)] ^= 1
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_records(made.bundle, lambda records: finished(records)["files"].update(runs=digest))
    assert "can't be read as results" in refused(made)


def test_a_file_of_an_older_version_lacks_what_came_later(made: Made) -> None:
    edit_table(made.bundle, "runs", lambda table: table.drop(["val_fraction", "weights", "corrupt"]))
    assert import_results(Home.at(made.home), made.bundle).counted == 4


def test_a_missing_file_of_a_kind_is_refused(made: Made) -> None:
    name = finished(parcels.records_of(made.bundle))["publication"]
    (made.bundle / "results" / "layers" / f"{name}.parquet").unlink()
    assert "is not here" in refused(made)


# Two of them


def test_two_imports_of_other_results_leave_the_counted_models_as_they_were_counted(made: Made, tmp_path: Path) -> None:
    other = made.copy(tmp_path / "again").bundle
    for path in (other / LEDGER, other / "checkpoints.jsonl"):
        path.unlink()
    parcels.work_off(other, loss=0.25)
    counted: list[int] = []

    def import_one(bundle: Path) -> None:
        counted.append(import_results(Home.at(made.home), bundle).counted)

    threads = [threading.Thread(target=import_one, args=(one,)) for one in (made.bundle, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == 4
    assert import_results(Home.at(made.home), other).counted == 0
    assert import_results(Home.at(made.home), made.bundle).counted == 0
    assert audit(Home.at(made.home), deep=True) == []
    for row in rows(made.home):
        content = (made.home / "models" / str(row.model_file)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.model_hash


def test_the_deep_check_names_models_and_checkpoints_that_are_not_what_was_counted(made: Made, here: Any) -> None:
    import_results(Home.at(made.home), made.bundle)
    (row, *_) = rows(made.home)
    (made.home / "models" / str(row.model_file)).write_bytes(b"other")
    assert here("db", "check", "--home", str(made.home)).returncode == 0
    found = here("db", "check", "--deep", "--home", str(made.home))
    assert found.returncode == 1
    assert f"job {row.identity[:12]}: its model {row.model_file} is not what was counted" in found.stdout


def test_a_model_of_a_bundle_that_is_none_is_one_message(made: Made) -> None:
    import_results(Home.at(made.home), made.bundle)
    (row, other, *_) = rows(made.home)
    with pytest.raises(QsweepError, match="holds no tensors"):
        api.load_model(row.identity, home=made.home)
    for content in ([1], {"a": torch.ones(1)}):
        path = made.home / "models" / str(other.model_file)
        torch.save(content, path)
        with sqlite3.connect(made.home / "registry.db") as database:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            database.execute("UPDATE jobs SET model_hash = ? WHERE id = ?", (digest, other.id))
        database.close()
        with pytest.raises(QsweepError, match=r"holds no tensors by name|the kept model is none of"):
            api.load_model(other.identity, home=made.home)


def test_a_calibration_that_is_unknown_here_is_not_used_and_fails_no_plan(made: Made) -> None:
    from qsweep.db.rows import Calibration
    from qsweep.orchestrator.estimates import Speeds
    from qsweep.orchestrator.planner import make_plan

    jobs = [row.job for row in rows(made.home)]
    for odd in (Calibration(slots=0, form="gather"), Calibration(slots=4, form="magic")):
        plan = make_plan(
            jobs,
            workers=1,
            device="cpu",
            keep="all",
            speeds=Speeds((), "cpu"),
            recorded=lambda _, one=odd: one,  # type: ignore[misc]
        )
        assert {one.form for one in plan.cohorts} == {"gather"}


# Models that measures take


def add_measures(made: Made, folder: Path) -> str:
    """A second sweep that measures the models of the same trainings; its title."""
    (folder / "measured.toml").write_text(parcels.SWEEP + parcels.MEASURES)
    selection = read_selection(str(folder / "measured.toml"))
    registry, sweep, _ = register(Home.at(made.home), selection, None, code=code_version())
    registry.close()
    return sweep.title


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_models_that_measures_ask_for_meanwhile_and_did_not_come_are_named_and_trained_again(
    tmp_path: Path, here: Any, kept: bool
) -> None:
    """Not kept there; or kept, and left out of the parcel."""
    made = parcels.make(tmp_path, ("" if kept else 'keep = "none"\n') + parcels.SWEEP)
    asking = add_measures(made, tmp_path)
    write_results(made.bundle, tmp_path / "results.zip", models=False)
    options = ("--home", str(made.home))
    said = here("import", str(tmp_path / "results.zip"), *options)
    assert said.returncode == 0, said.stderr
    assert "4 jobs counted" in said.stdout
    assert "4 of them without their models, which a sweep asks for" in said.stdout
    assert (
        f"measures of {asking} wait for 4 of these models; train them again with: qsweep retry {asking}" in said.stdout
    )
    refused = here("launch", str(tmp_path / "measured.toml"), *options)
    assert refused.returncode == 2
    assert f"qsweep retry {asking}" in refused.stderr.replace("\n", " ")
    again = here("retry", asking, *options)
    assert "4 trainings whose models are not there are repeated" in again.stdout
    with Registry.open(Home.at(made.home).registry) as registry:
        jobs = registry.catalogue.jobs(registry.catalogue.find_sweep(asking).id)
    assert {row.state for row in jobs} == {State.QUEUED}
    assert {row.blocked for row in jobs if row.kind == "measure"} == {True}


@pytest.mark.slow
def test_models_that_no_sweep_asks_for_are_not_missed(tmp_path: Path) -> None:
    made = parcels.make(tmp_path, 'keep = "none"\n' + parcels.SWEEP)
    found = import_results(Home.at(made.home), made.bundle)
    assert (found.counted, found.without_models, found.measured_by) == (4, 0, {})


@pytest.fixture
def together(tmp_path: Path) -> Made:
    """Trainings and their measures in one bundle."""
    return parcels.make(tmp_path, parcels.SWEEP + parcels.MEASURES)


@pytest.mark.slow
@pytest.mark.parametrize(("column", "value"), [("parent_attempt", 2), ("model_hash", "0" * 64), ("parent", "f" * 32)])
def test_a_measure_in_a_bundle_is_of_the_model_that_was_trained_in_it(together: Made, column: str, value: Any) -> None:
    edit_table(together.bundle, "measures", put(column, {0: value}))
    assert "its row is of another model than that of its parent" in refused(together)


@pytest.mark.slow
def test_a_sound_bundle_of_trainings_and_measures_counts(together: Made) -> None:
    found = import_results(Home.at(together.home), together.bundle)
    assert (found.counted, found.away, found.measured_by) == (8, 0, {})
    assert audit(Home.at(together.home), deep=True) == []


PARENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a later attempt": lambda parent: parent.update(attempt=2),
    "an earlier attempt": lambda parent: parent.update(attempt=0),
    "another model": lambda parent: parent.update(model_hash="0" * 64),
    "a diverged one": lambda parent: parent.update(diverged=True),
    "another job's": lambda parent: parent.update(identity="f" * 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PARENTS)
def test_the_models_that_measures_were_packed_with_are_held_against_the_registry(tmp_path: Path, what: str) -> None:
    trained = parcels.make(tmp_path)
    import_results(Home.at(trained.home), trained.bundle)
    made = parcels.make(tmp_path, parcels.SWEEP + parcels.MEASURES, "measured")
    edit_manifest(made.bundle, lambda manifest: PARENTS[what](manifest["jobs"][0]["parent"]))
    before = files(made.home)
    with pytest.raises(InputError, match="was never packed with the model that it names"):
        import_results(Home.at(made.home), made.bundle)
    assert files(made.home) == before


ZERO_SHOT = (
    parcels.SWEEP.replace("[32, 4]", "[32]").replace("[0.05, 0.1]", "[0.1]")
    + """
[[zero_shot]]
images = ["genie", "noise"]
rounding = ["nearest", "reconstruction"]
weight_bits = 4
activation_bits = 4
image_count = 4
image_batch = 4
image_iterations = 2
unit_iterations = 2
"""
)
UNITS: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "a unit twice": ("stands twice", put("index", {1: 0})),
    "a unit less": ("not each of its units once", lambda t: t.slice(1)),
    "no units": ("not each of its units once", lambda t: t.slice(0, 0)),
    "a loss less": ("has not its 2 synthesis_losses", lambda t: t.slice(1)),
}


def test_syntheses_and_quantizations_come_home_and_out_of_an_export(tmp_path: Path) -> None:
    made = parcels.make(tmp_path, ZERO_SHOT)
    for what, (words, edit) in UNITS.items():
        spoiled = Made(home=made.home, bundle=tmp_path / what)
        shutil.copytree(made.bundle, spoiled.bundle)
        edit_table(spoiled.bundle, "synthesis_losses" if "loss" in what else "units", edit)
        assert words in refused(spoiled), what
    assert import_results(Home.at(made.home), made.bundle).counted == 7
    assert audit(Home.at(made.home), deep=True) == []
    with opened_source("four", Home.at(made.home)) as source:
        write_bundle(source, tmp_path / "exported")
        kept = {name: source.read(name) for name in ("units", "quantizations", "synthetic_images")}
    exported = BundleSource(tmp_path / "exported")
    assert {name: exported.read(name) for name in kept} == kept
    assert kept["units"].num_rows == 6


def test_every_kind_of_rows_has_a_key() -> None:
    """Of a kind with many rows a job, what names one: else none of them comes home."""
    for name, kind in ROW_KINDS.items():
        assert kind.one_row_a_job or set(KEYS[name]) - {"job"} <= set(kind.columns.names), name
