"""A bundle's results, looked at before anything of them is counted: each file whole, each row the job's own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from qsweep.db.foreign import check_returned, check_unique, check_values, is_of, parse
from qsweep.db.rows import Claim
from qsweep.db.schema import ROW_KINDS, VERSION, RowKind
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.kinds import QUANTIZATION, SYNTHESIS, File
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Reconstruction
from qsweep.workers.bundle.findings import Findings, Publication
from qsweep.workers.bundle.plain import NAME, read_plain
from qsweep.workers.forms import is_known

MOST_LOGGED = 200_000
"""Logged values that a call of the user's code has at most."""

AGAIN = "copy the bundle again; nothing was imported"
LARGEST = 1 << 33
"""Bytes of one file of results, or of one model."""
PROVENANCE = ("code", "torch", "device", "host")
MOST_LAYERS = 10_000
"""Layers of a module, at most."""
FOUND = ("train_accuracy", "test_accuracy", "chosen_epoch")
"""What every training has found that did not diverge. A loss may be missing: that it is no finite number."""


Origin: TypeAlias = tuple[str, int, str | None]
"""Of which model a measure is: identity, attempt and hash of its training."""


def check_results(folder: Path, findings: Findings, *, models: bool) -> None:
    """Raise InputError unless every file that was found is here and what was written, row by row."""
    trained = _trained(findings)
    for publication in findings.finished:
        for result in publication.results if models else ():
            if result.model_hash is not None:
                read_whole(folder / "models" / result.model, result.model_hash)
        for kind, digest in publication.files.items():
            path = results_file(folder, kind, publication)
            content = read_whole(path, digest)
            try:
                _check_file(content, ROW_KINDS[kind], publication, trained)
            except ValueError as error:
                raise InputError(str(error), place=str(path), allowed=AGAIN) from None


def _trained(findings: Findings) -> dict[str, Origin]:
    """The models that came about in the bundle itself."""
    found = (one for publication in findings.finished for one in publication.results)
    return {
        one.claim.job.identity: (one.claim.job.identity, one.claim.attempt, one.model_hash)
        for one in found
        if one.claim.job.kind.leaves is File.MODEL
    }


def results_file(folder: Path, kind: str, publication: Publication) -> Path:
    """Where a bundle keeps these results."""
    return folder / "results" / kind / f"{publication.name}.parquet"


def read_whole(path: Path, digest: str) -> bytes:
    """The content of a plain file with this SHA-256. Raises InputError."""
    content = read_plain(path, LARGEST)
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError("this file is truncated or was altered", place=str(path), allowed=AGAIN)
    return content


def _check_file(content: bytes, kind: RowKind, publication: Publication, trained: Mapping[str, Origin]) -> None:
    claims = [one.claim for one in publication.results]
    table = parse(content, kind.columns, rows=sum(_most(kind, claim) for claim in claims))
    meta = table.schema.metadata or {}
    if meta.get(b"qsweep.schema") != str(VERSION).encode() or meta.get(b"qsweep.kind") != kind.name.encode():
        raise ValueError(f"these are no {kind.name}, or of another version of qsweep")
    check_unique(table, kind.name)
    check_values(table)
    if kind.name == "returned":
        check_returned(table)
    _check_jobs(table, claims)
    if kind.name == "epochs":
        _check_epochs(table, publication)
    elif kind.name == "logged":
        _need(table, "step", "name", "value")
    elif kind.name == "layers":
        _check_layers(table, claims)
    elif kind.name == "units":
        _check_units(table, publication)
    elif not kind.one_row_a_job:
        _check_counts(table, kind, publication)
    else:
        _check_rows(table, kind, publication, trained)


def _most(kind: RowKind, claim: Claim) -> int:
    """The rows of this kind that a job has at most."""
    if kind.one_row_a_job:
        return 1
    if claim.job.kind.of_user:
        return MOST_LOGGED
    training = claim.job.training
    if claim.job.kind is SYNTHESIS:
        rows: Mapping[str, int] = claim.job.measure.rows()  # type: ignore[union-attr]
        return rows[kind.name]
    if claim.job.kind is QUANTIZATION:
        return len(training.model.layers(training.data))
    if kind.name == "epochs":
        return training.recipe.epochs
    weighted = _weighted(training)
    return MOST_LAYERS if weighted is None else len(weighted)


def _weighted(training: Training) -> list[str] | None:
    """The layers that have weights, each of which has a row; None of a module, whose layers only torch knows."""
    if isinstance(training.model, Module):
        return None
    return [one.name for one in training.model.layers(training.data) if one.weights]


def _need(table: pa.Table, *columns: str) -> None:
    for column in columns:
        if column not in table.column_names:
            raise ValueError(f"it has no column {column}")


def _check_jobs(table: pa.Table, claims: Sequence[Claim]) -> None:
    """No row of another job or attempt."""
    _need(table, "attempt")
    wanted = {(claim.job.identity, claim.attempt) for claim in claims}
    foreign = set(zip(table["job"].to_pylist(), table["attempt"].to_pylist(), strict=True)) - wanted
    if foreign:
        job, attempt = sorted(foreign, key=str)[0]
        raise ValueError(f"it has a row of job {str(job)[:12]}, attempt {attempt}, which is not among its jobs")


def _grouped(table: pa.Table, column: str) -> dict[str, list[Any]]:
    """The values of a column by job, in order."""
    found: dict[str, list[Any]] = {}
    for job, value in zip(table["job"].to_pylist(), table[column].to_pylist(), strict=True):
        found.setdefault(job, []).append(value)
    return found


def _check_epochs(table: pa.Table, publication: Publication) -> None:
    """Each epoch once, and all of them, except of a training that diverged."""
    found = _grouped(table, "epoch")
    for one in publication.results:
        epochs, all_of_them = sorted(found.get(one.claim.job.identity, [])), one.claim.job.training.recipe.epochs
        if epochs != list(range(1, len(epochs) + 1)) or (len(epochs) < all_of_them and not one.diverged):
            raise ValueError(f"job {one.claim.job.identity[:12]} has not each of its {all_of_them} epochs once")


def _check_layers(table: pa.Table, claims: Iterable[Claim]) -> None:
    _need(table, "layer", "index")
    names, places = _grouped(table, "layer"), _grouped(table, "index")
    for claim in claims:
        training, identity = claim.job.training, claim.job.identity
        weighted = _weighted(training)
        if weighted is None:
            if sorted(places.get(identity, []), key=str) != list(range(len(places.get(identity, ())))):
                raise ValueError(f"job {identity[:12]} has not each of its layers once")
            continue
        expected = list(enumerate(weighted))
        if sorted(zip(places.get(identity, []), names.get(identity, []), strict=True), key=str) != sorted(
            expected, key=str
        ):
            raise ValueError(f"job {identity[:12]} has not each of its {len(expected)} layers once")


def _check_units(table: pa.Table, publication: Publication) -> None:
    """Of a reconstruction each unit once, which only torch can count; of any other quantization none."""
    _need(table, "unit", "index")
    places = _grouped(table, "index")
    for one in publication.results:
        found = sorted(places.get(one.claim.job.identity, []))
        learned = isinstance(one.claim.job.measure, Reconstruction) and not one.diverged
        if found != list(range(len(found))) or bool(found) is not learned:
            raise ValueError(f"job {one.claim.job.identity[:12]} has not each of its units once")


def _check_counts(table: pa.Table, kind: RowKind, publication: Publication) -> None:
    """All of a job's rows, or none of one that diverged."""
    counts = Counter(table["job"].to_pylist())
    for one in publication.results:
        expected = 0 if one.diverged else _most(kind, one.claim)
        if counts[one.claim.job.identity] != expected:
            raise ValueError(f"job {one.claim.job.identity[:12]} has not its {expected} {kind.name}")


def _check_rows(table: pa.Table, kind: RowKind, publication: Publication, trained: Mapping[str, Origin]) -> None:
    """Each job has its one row, with its settings, its parent and what the ledger says of it."""
    rows = {row["job"]: row for row in table.to_pylist()}
    for one in publication.results:
        job, row = one.claim.job, rows.get(one.claim.job.identity)
        name = f"job {job.identity[:12]}"
        if row is None or not is_of(job, row):
            raise ValueError(f"the row of {name} is missing, or of another job")
        if row.get("diverged") is not one.diverged:
            raise ValueError(f"{name}: the row and the ledger differ in whether it diverged")
        if any(row.get(key) is not None and len(row[key]) > NAME for key in PROVENANCE):
            raise ValueError(f"{name}: its row names a host, device, torch or code of more than {NAME} characters")
        if not is_known(row.get("slots"), row.get("form")):
            raise ValueError(f"{name}: there is no form {row.get('form')!r} in {row.get('slots')} slots")
        if kind.name == "runs" and not one.diverged:
            _check_found(row, job.training.recipe.epochs, name)
        _check_gap(row, name)
        if File.MODEL in job.kind.takes:
            _check_origin(row, _origin(one.claim, trained), name)


def _origin(claim: Claim, trained: Mapping[str, Origin]) -> Origin | None:
    """The model that a measure took: that of a training done in the bundle, or before it left."""
    source = claim.source(File.MODEL)
    if source is None:
        return None
    return trained.get(source.identity) or (source.identity, source.attempt, source.model_hash)


def _check_origin(row: dict[str, Any], origin: Origin | None, name: str) -> None:
    if origin is None or (row.get("parent"), row.get("parent_attempt"), row.get("model_hash")) != origin:
        raise ValueError(f"{name}: its row is of another model than that of its parent")


def _check_found(row: dict[str, Any], epochs: int, name: str) -> None:
    if missing := [key for key in FOUND if row.get(key) is None]:
        raise ValueError(f"{name}: it did not diverge, and its row has no {missing[0]}")
    if not min(epochs, 1) <= row["chosen_epoch"] <= epochs:
        raise ValueError(f"{name}: it has {epochs} epochs, and chose epoch {row['chosen_epoch']}")


def _check_gap(row: dict[str, Any], name: str) -> None:
    """The gap is the loss on test images, or on corrupted ones, less that on training images."""
    trained, tested = row.get("train_loss"), row.get("corrupted_loss" if "corrupted_loss" in row else "test_loss")
    if trained is None or tested is None:
        return
    gap, of_losses = row.get("generalization_gap"), tested - trained
    if gap is None or not isclose(gap, of_losses, rel_tol=1e-6, abs_tol=1e-6 * max(trained, tested)):
        raise ValueError(f"{name}: its losses differ by {of_losses:g}, and its gap is {gap}")
