"""Bringing a bundle's results home: checked whole, fenced by job and attempt, counted once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from db.belonging import check_belonging
from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import BundleRow, Claim, Finished, JobRow
from db.schema import KINDS, VERSION
from db.states import FailureClass, State
from sweeps.errors import InputError
from workers.bundle.desk import LEDGER, digest_of
from workers.bundle.ledger import Record, read_ledger
from workers.bundle.manifest import Manifest, read_manifest, seed
from workers.bundle.parcel import has_models, opened

AGAIN = "copy the bundle again; nothing was imported"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import found, in jobs."""

    title: str
    counted: int
    failed: int
    known: int
    """Counted by an earlier import of the same results."""
    refused: int
    """Whose attempt is over: recalled, invalidated, or done elsewhere meanwhile."""
    away: int
    """What the bundle still holds."""
    without_models: int
    """Counted without the model that a sweep wants kept."""


def bring_home(home: Home, path: Path) -> Imported:
    """Count what the bundle or parcel at `path` has found. Raises InputError, with nothing changed, if it is damaged,
    altered, or of another registry."""
    with opened(path) as folder, Registry.open(home.registry) as registry:
        check_belonging(home, registry)
        manifest = read_manifest(folder)
        records = read_ledger(folder / LEDGER, seed(folder))
        bundle = _find_bundle(registry, manifest, path)
        models = has_models(folder)
        _check_files(folder, manifest, records, models=models)
        return _Import(home, registry, folder, manifest, bundle, models=models).run(records)


def _find_bundle(registry: Registry, manifest: Manifest, path: Path) -> BundleRow:
    for one in registry.bundles():
        if (one.id, one.token) == (manifest.holder, manifest.token):
            return one
    raise InputError(
        "this bundle was packed from another registry", place=str(path), allowed="import it where it was packed"
    )


class _Import:
    def __init__(
        self, home: Home, registry: Registry, folder: Path, manifest: Manifest, bundle: BundleRow, *, models: bool
    ) -> None:
        self.home = home
        self.registry = registry
        self.results = ResultStore(home.store)
        self.folder = folder
        self.manifest = manifest
        self.bundle = bundle
        self.models = models
        self.claims = {claim.job_id: claim for claim in manifest.claims}
        self.rows = {row.id: row for row in registry.jobs(registry.find_sweep(manifest.title).id)}
        self.counted = self.failed = self.known = self.refused = self.without_models = 0

    def run(self, records: Sequence[Record]) -> Imported:
        self._bring_logs()
        for record in records:
            match record["what"]:
                case "finished":
                    self._finish(record)
                case "failed":
                    self._fail(record)
                case "calibrated":
                    self.registry.calibration(
                        **{name: record[name] for name in ("shape", "device", "build", "slots", "form")}
                    )
        began = [record for record in records if record["what"] == "began"]
        if began:
            self.registry.land(
                self.bundle.id,
                host=_listed(began, "host"),
                device=_listed(began, "device"),
                build=_listed(began, "torch"),
            )
        away = next(one.jobs for one in self.registry.bundles() if one.id == self.bundle.id)
        return Imported(
            title=self.manifest.title,
            counted=self.counted,
            failed=self.failed,
            known=self.known,
            refused=self.refused,
            away=away,
            without_models=self.without_models,
        )

    def _finish(self, record: Record) -> None:
        """Files first, then the pointers to them, in one fenced transaction, as an agent does it."""
        publication = self._publication(record)
        fresh = []
        for one in record["jobs"]:
            row = self.rows.get(one["job"])
            if self._holds(row, one["job"]):
                fresh.append(one)
            elif self._counts(row, one["job"], publication):
                self.known += 1
            else:
                self.refused += 1
        if not fresh:
            return
        for kind in record["files"]:
            content = self._file(kind, record["publication"]).read_bytes()
            self.results.adopt(kind, publication, content)
        finished = [self._finished(one, publication) for one in fresh]
        accepted = self.registry.finish(self.bundle.id, finished).jobs
        self.counted += len(accepted)
        self.refused += len(fresh) - len(accepted)

    def _finished(self, one: Mapping[str, Any], publication: str) -> Finished:
        kept = self.models and one["model"] is not None
        self.without_models += one["model"] is not None and not self.models
        if kept:
            self._bring(self.folder / "models" / one["model"], self.home.models / one["model"])
        return Finished(
            job_id=one["job"],
            attempt=self.claims[one["job"]].attempt,
            publication=publication,
            model_file=one["model"] if kept else None,
            model_hash=one["model_hash"] if kept else None,
            diverged=one["diverged"],
        )

    def _fail(self, record: Record) -> None:
        """The budget that the job has here decides what follows."""
        if self._holds(self.rows.get(record["job"]), record["job"]):
            failure = FailureClass(record["class"])
            claim = self.claims[record["job"]]
            self.failed += len(self.registry.fail(self.bundle.id, [claim], failure, record["error"]))

    def _holds(self, row: JobRow | None, job_id: int) -> bool:
        """Whether the job still waits for this bundle. The registry's fence decides; this spares it the question."""
        return (
            row is not None
            and row.state is State.RUNNING
            and row.agent_id == self.bundle.id
            and row.attempt == self.claims[job_id].attempt
        )

    def _counts(self, row: JobRow | None, job_id: int, publication: str) -> bool:
        """Whether this very result counts already, here or copied elsewhere by a compaction."""
        if row is None or row.state is not State.DONE or row.attempt != self.claims[job_id].attempt:
            return False
        return row.publication == publication or publication in self.registry.published()

    def _publication(self, record: Record) -> str:
        """A name that the same results always get here."""
        content = hashlib.sha256("".join(f"{kind}{record['files'][kind]}" for kind in sorted(record["files"])).encode())
        return f"{self.bundle.id:06d}-{content.hexdigest()[:12]}"

    def _file(self, kind: str, publication: str) -> Path:
        return _results_file(self.folder, kind, publication)

    def _bring_logs(self) -> None:
        logs = sorted((self.folder / "logs").glob("*.log"))
        if logs:
            target = self.home.logs / "agents" / f"bundle-{self.manifest.token[:12]}.log"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"".join(log.read_bytes() for log in logs))

    def _bring(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{self.manifest.token}")
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)


def _listed(records: Sequence[Record], name: str) -> str:
    return ", ".join(sorted({record[name] for record in records}))


def _results_file(folder: Path, kind: str, publication: str) -> Path:
    return folder / "results" / kind / f"{publication}.parquet"


def _check_files(folder: Path, manifest: Manifest, records: Sequence[Record], *, models: bool) -> None:
    """Raise InputError unless every file that the ledger counts is here and is what was written, row by row."""
    claims = {claim.job_id: claim for claim in manifest.claims}
    for record in records:
        if record["what"] != "finished":
            continue
        wanted = {
            _results_file(folder, kind, record["publication"]): digest for kind, digest in record["files"].items()
        }
        if models:
            wanted |= {folder / "models" / one["model"]: one["model_hash"] for one in record["jobs"] if one["model"]}
        for path, digest in wanted.items():
            if not path.is_file():
                raise InputError("a file that the bundle counts is not here", place=str(path), allowed=AGAIN)
            if digest_of(path) != digest:
                raise InputError("this file is truncated or was altered", place=str(path), allowed=AGAIN)
        _check_rows(folder, record, [claims[one["job"]] for one in record["jobs"]])


def _check_rows(folder: Path, record: Record, claims: Sequence[Claim]) -> None:
    """Each job has its one row, with its attempt and its settings."""
    for kind in record["files"]:
        path = _results_file(folder, kind, record["publication"])
        table = pq.read_table(path)
        known = KINDS.get(kind)
        version = (table.schema.metadata or {}).get(b"qsweep.schema")
        if known is None or version != str(VERSION).encode():
            raise InputError("these results are of another version of qsweep", place=str(path), allowed=AGAIN)
        if known.one_row_a_job:
            found = {(row["job"], row["attempt"]): row for row in _rows(table, claims)}
            for claim in claims:
                row = found.get((claim.job.identity, claim.attempt))
                if row is None or any(row[name] != _stored(value) for name, value in claim.job.settings().items()):
                    raise InputError(
                        f"the row of job {claim.job.identity[:12]} is missing, or of another job",
                        place=str(path),
                        allowed=AGAIN,
                    )


def _rows(table: pa.Table, claims: Sequence[Claim]) -> Iterator[dict[str, Any]]:
    names = dict.fromkeys(name for claim in claims for name in claim.job.settings())
    yield from table.select(["job", "attempt", *names]).to_pylist()


def _stored(value: object) -> object:
    """A setting as Parquet gives it back."""
    return list(value) if isinstance(value, tuple) else value
