"""A bundle that was packed by the product and worked off by nobody: its results are made up, and written as an agent
of the bundle writes them. No torch, no process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qsweep.db.home import Home
from qsweep.db.model_names import model_name
from qsweep.db.results import ResultStore
from qsweep.db.rows import Claim, Finished
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import FailureClass
from qsweep.orchestrator.packing import pack
from qsweep.orchestrator.selection import read_selection
from qsweep.sweeps.kinds import QUANTIZATION, SYNTHESIS, File
from qsweep.sweeps.zero_shot import Genie, Noise, Reconstruction
from qsweep.workers.bundle.ledger import _seal
from qsweep.workers.bundle.local_queue import LEDGER, LocalQueue
from qsweep.workers.bundle.manifest import FILE, read_manifest, seed
from qsweep.workers.bundle.parcel import write_results

SWEEP = """
title = "Four models"
[fixed]
data = "digits"
model = "nin"
width = 2
depth = 1
channels_per_width = 2
optimizer = "sgd"
weight_decay = 0.0
epochs = 2
batch_size = 128
[axes]
learning_rate = [0.05, 0.1]
bits = [32, 4]
"""
MEASURES = """
[[measures]]
measure = "pac_bayes"
measure_samples = 200
"""
BEGAN = {"host": "far", "device": "cpu", "torch": "2.0", "code": "1.0+made"}
ORIGIN = {"code": "1.0+made", "torch": "2.0", "device": "cpu", "host": "far", "slots": 4, "form": "gather",
          "seconds": 1.5, "steps_per_second": 10.0}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Made:
    """A home, and the folder of the bundle that left it."""

    home: Path
    bundle: Path

    def copy(self, folder: Path) -> Made:
        """The same in another folder, with the same files of code."""
        shutil.copytree(self.home, folder / "home", copy_function=link_code)
        shutil.copytree(self.bundle, folder / "far", symlinks=True, copy_function=link_code)
        return Made(home=folder / "home", bundle=folder / "far")


def link_code(source: str, target: str) -> None:
    """A copy of a file, or another name of it if it is code, which nobody writes."""
    if "/code/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def make(folder: Path, text: str = SWEEP, name: str = "four") -> Made:
    """Pack this sweep's jobs, and have them found done."""
    (folder / f"{name}.toml").write_text(text)
    home = Home.at(folder / "home")
    selection = read_selection(str(folder / f"{name}.toml"), changes=(), where=None, limit=None)
    pack(home, selection, folder / f"far-{name}", with_data=False, code=None)
    work_off(folder / f"far-{name}")
    return Made(home=folder / "home", bundle=folder / f"far-{name}")


def make_failing(folder: Path, kinds: Sequence[str]) -> Made:
    """Pack a training for each of these kinds of error, by which it then fails for good, each with its own words."""
    rates = ", ".join(f"{0.01 * (place + 1):g}" for place in range(len(kinds)))
    text = SWEEP.replace("[0.05, 0.1]", f"[{rates}]").replace("[32, 4]", "[4]")
    (folder / "failing.toml").write_text(text)
    home = Home.at(folder / "home")
    selection = read_selection(str(folder / "failing.toml"), changes=(), where=None, limit=None)
    pack(home, selection, folder / "far", with_data=False, code=None)
    queue = LocalQueue(Home.at(folder / "far"), read_manifest(folder / "far"))
    try:
        queue.enlist(1, ("fp32",))
        queue.began(BEGAN)
        for kind in kinds:
            head = queue.next_cohort(1)
            assert head is not None
            claims = queue.claim(1, head, 1)
            queue.fail(1, claims, FailureClass.INPUT, f"{kind} at job {claims[0].job_id}", kind=kind)
    finally:
        queue.close()
    return Made(home=folder / "home", bundle=folder / "far")


def work_off(bundle: Path, loss: float = 0.5) -> None:
    """Two publications of two jobs each, a calibration and a log."""
    place = Home.at(bundle)
    for one in (place.results, place.models, place.checkpoints, place.logs):
        one.mkdir(exist_ok=True)
    (place.logs / "far-1.log").write_text("done\n")
    queue = LocalQueue(place, read_manifest(bundle))
    try:
        queue.enlist(1, ("fp32",))
        queue.began(BEGAN)
        while (head := queue.next_cohort(1)) is not None:
            queue.calibration(shape=head.job.shape, device="cpu", build="2.0", slots=4, form="gather")
            claims = queue.claim(1, head, 2)
            _publish(place, queue, claims, loss)
    finally:
        queue.close()


def _publish(place: Home, queue: LocalQueue, claims: list[Claim], loss: float) -> None:
    publication = f"000001-{claims[0].job_id:012x}"
    store = ResultStore(place.results)
    for kind, rows in rows_of(claims, loss).items():
        store.write(kind, publication, rows)
    finished = []
    for claim in claims:
        if not claim.keep_model or claim.job.kind.leaves is None:
            finished.append(Finished(job_id=claim.job_id, attempt=claim.attempt, publication=publication))
            continue
        name, content = model_name(claim.job.identity, claim.attempt), f"{claim.job.identity} {loss}".encode()
        (place.models / name).parent.mkdir(exist_ok=True)
        (place.models / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        finished.append(
            Finished(
                job_id=claim.job_id, attempt=claim.attempt, publication=publication, model_file=name, model_hash=digest
            )
        )
    queue.finish(1, finished)


def rows_of(claims: list[Claim], loss: float) -> dict[str, list[dict[str, Any]]]:
    if claims[0].job.kind in (SYNTHESIS, QUANTIZATION):
        return zero_shot(claims)
    if claims[0].parent is not None:
        return {"measures": [measured(claim) | {"radius": 0.5} for claim in claims]}
    if claims[0].job.call is not None:
        return {"returned": [returned(claim, loss) for claim in claims], "logged": []}
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "epochs": [], "layers": []}
    for claim in claims:
        key, training = {"job": claim.job.identity, "attempt": claim.attempt}, claim.job.training
        found = {"train_loss": loss, "test_loss": 0.75, "generalization_gap": 0.75 - loss, "train_accuracy": 0.75,
                 "test_accuracy": 0.5, "chosen_epoch": 2, "diverged": False}  # fmt: skip
        at = {"finished_at": datetime(2026, 1, 1, tzinfo=UTC)}
        rows["runs"].append(key | ORIGIN | at | claim.job.settings() | found)
        rows["epochs"] += [key | {"epoch": epoch, "train_loss": loss, "train_accuracy": 0.5} for epoch in (1, 2)]
        layers = training.model.layers(training.data)
        rows["layers"] += [key | {"layer": one.name, "index": place} for place, one in enumerate(layers)]
    return rows


def returned(claim: Claim, loss: float) -> dict[str, Any]:
    """What a call is stored as."""
    found = {"finished_at": datetime(2026, 1, 1, tzinfo=UTC), "returned": json.dumps({"loss": loss}), "diverged": False}
    origin = ORIGIN | {"slots": 1, "form": "loop"}
    return {"job": claim.job.identity, "attempt": claim.attempt} | origin | claim.job.columns() | found


def zero_shot(claims: list[Claim]) -> dict[str, list[dict[str, Any]]]:
    """The rows of syntheses or of quantizations: of each, as many as its kind says; of units three."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in claims[0].job.kind.rows}
    for claim in claims:
        key, asked = {"job": claim.job.identity, "attempt": claim.attempt}, claim.job.measure
        rows[claim.job.kind.rows[0]].append(measured(claim))
        if isinstance(asked, Reconstruction):
            rows["units"] += [key | {"unit": f"block {place}", "index": place} for place in range(3)]
        elif isinstance(asked, Genie | Noise):
            counts = asked.rows()
            rows["synthetic_images"] += [key | {"image": place} for place in range(counts["synthetic_images"])]
            steps = range(counts["synthesis_losses"])
            rows["synthesis_losses"] += [key | {"batch": 0, "iteration": place} for place in steps]
    return rows


def measured(claim: Claim) -> dict[str, Any]:
    """A row of what was found of a model."""
    source = claim.source(File.MODEL)
    assert source is not None
    origin = {"parent": source.identity, "parent_attempt": source.attempt, "model_hash": source.model_hash}
    at = {"finished_at": datetime(2026, 1, 1, tzinfo=UTC), "diverged": False}
    return {"job": claim.job.identity, "attempt": claim.attempt} | ORIGIN | at | origin | claim.job.settings()


# Alterations by somebody who can seal


def records_of(bundle: Path) -> list[dict[str, Any]]:
    lines = (bundle / LEDGER).read_text().splitlines()
    return [json.loads(line.partition(" ")[2]) for line in lines]


def seal(bundle: Path, texts: list[str]) -> None:
    """Write a ledger of these records, soundly sealed."""
    digest, lines = seed(bundle), []
    for text in texts:
        digest = _seal(digest, text)
        lines.append(f"{digest} {text}\n")
    (bundle / LEDGER).write_text("".join(lines))


def edit_records(bundle: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    records = records_of(bundle)
    edit(records)
    seal(bundle, [json.dumps(one) for one in records])


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    records = records_of(bundle)
    content = json.loads((bundle / FILE).read_text())
    edit(content)
    (bundle / FILE).write_text(json.dumps(content))
    seal(bundle, [json.dumps(one) for one in records])


def finished(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The first record of a finish."""
    return finish_of(records, "")


def finish_of(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The first record of a finish that wrote this kind of results; of any without a kind."""
    return next(one for one in records if one["what"] == "finished" and (not kind or kind in one["files"]))


def edit_table(bundle: Path, kind: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Alter the first publication's rows of a kind, with a digest that fits."""
    name = finish_of(records_of(bundle), kind)["publication"]
    path = bundle / "results" / kind / f"{name}.parquet"
    table = pq.read_table(path)
    pq.write_table(edit(table).replace_schema_metadata(table.schema.metadata), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_records(bundle, lambda records: finish_of(records, kind)["files"].update({kind: digest}))


def put(column: str, values: Mapping[int, Any]) -> Callable[[pa.Table], pa.Table]:
    """Other values in some rows of a column, which a file has not where nobody has a value in it."""

    def edit(table: pa.Table) -> pa.Table:
        if column not in table.column_names:
            kind = next(one.columns for one in ROW_KINDS.values() if column in one.columns.names)
            table = table.append_column(kind.field(column), pa.nulls(len(table), kind.field(column).type))
        place, field = table.column_names.index(column), table.schema.field(column)
        listed = table[column].to_pylist()
        for row, value in values.items():
            listed[row] = value
        return table.set_column(place, field, pa.array(listed, field.type))

    return edit


def zipped(bundle: Path, out: Path) -> Path:
    write_results(bundle, out, models=True)
    return out
