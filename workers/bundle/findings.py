"""What a ledger says was found, checked against the jobs that were packed before anything is believed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsweep.db.model_names import model_name
from qsweep.db.rows import CalibrationRow, Claim
from qsweep.db.states import FailureClass
from qsweep.sweeps.errors import InputError
from qsweep.workers.bundle.ledger import Record
from qsweep.workers.bundle.plain import (
    DIGEST,
    as_flag,
    as_list,
    as_match,
    as_number,
    as_object,
    as_text,
    as_whole,
)
from qsweep.workers.forms import MOST_SLOTS, is_known

PUBLICATION = re.compile(r"\d{6,12}-[0-9a-f]{12}")
"""The name under which an agent of a bundle publishes."""
FINAL = (FailureClass.CRASH, FailureClass.MEMORY, FailureClass.TIMEOUT, FailureClass.INPUT)
"""The classes in which a job ends for good: in any other it would have gone on there."""
ERROR = 100_000
"""Characters of an error at most."""


@dataclass(frozen=True, kw_only=True)
class Began:
    """Where and with what an agent set to work."""

    host: str
    device: str
    torch: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished job. `model_hash` is the SHA-256 of its model, None where none was kept."""

    claim: Claim
    model_hash: str | None
    diverged: bool

    @property
    def model(self) -> str:
        """Where its model lies below the bundle's models: where that attempt's agent puts it."""
        return model_name(self.claim.job.identity, self.claim.attempt)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Jobs that finished together. `files` are the digests of their results by kind."""

    name: str
    files: Mapping[str, str]
    results: tuple[Result, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A job that failed for good there."""

    claim: Claim
    failure: FailureClass
    error: str
    kind: str
    """The kind of error, by which failures are alike; empty in bundles of older versions."""


@dataclass(kw_only=True)
class Findings:
    """All that a bundle found, in the ledger's order. Each job ended at most once."""

    began: list[Began] = field(default_factory=list)
    finished: list[Publication] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    calibrated: list[CalibrationRow] = field(default_factory=list)


def read_findings(records: Sequence[Record], claims: Sequence[Claim], path: Path) -> Findings:
    """What these records of the ledger at `path` say. Raises InputError, with the line, for one that can't be."""
    reader = _Reader(claims)
    for number, record in enumerate(records, 1):
        try:
            reader.take(record)
        except ValueError as error:
            raise InputError(
                f"line {number} says what no bundle finds: {error}", place=str(path),
                allowed="copy the bundle again; nothing was imported",
            ) from None  # fmt: skip
    return reader.findings


class _Reader:
    def __init__(self, claims: Sequence[Claim]) -> None:
        self.findings = Findings()
        self._claims = {claim.job_id: claim for claim in claims}
        self._shapes = {claim.job.shape for claim in claims}
        self._ended: set[int] = set()
        self._publications: set[str] = set()

    def take(self, record: Any) -> None:
        what = record.get("what") if isinstance(record, dict) else None
        match what:
            case "began":
                self._began(as_object(record, {"what", "host", "device", "torch", "code", "at"}))
            case "finished":
                self._finished(as_object(record, {"what", "publication", "files", "jobs", "at"}))
            case "failed":
                self._failed(as_object({"kind": "", **record}, {"what", "job", "class", "kind", "error"}))
            case "halved":
                halved = as_object(record, {"what", "job", "slots"})
                self._claim(halved["job"])
                as_whole(halved["slots"], "slots", 1, MOST_SLOTS)
            case "calibrated":
                self._calibrated(as_object(record, {"what", "shape", "device", "build", "slots", "form"}))
            case _:
                raise ValueError(f"there is no record of the kind {what!r:.100}")

    def _began(self, record: Record) -> None:
        as_number(record["at"], "at")
        as_text(record["code"], "code")
        texts = {name: as_text(record[name], name) for name in ("host", "device", "torch")}
        self.findings.began.append(Began(**texts))

    def _calibrated(self, record: Record) -> None:
        found = read_calibration(record, self._shapes)
        if (found.device, found.build) not in {(one.device, one.torch) for one in self.findings.began}:
            raise ValueError("the calibration is of a device on which no agent of the bundle worked")
        self.findings.calibrated.append(found)

    def _failed(self, record: Record) -> None:
        claim, failure, error = self._end(record["job"]), record["class"], record["error"]
        if failure not in [one.value for one in FINAL]:
            raise ValueError(f"no job fails for good as {failure!r:.100}")
        if not isinstance(error, str) or len(error) > ERROR:
            raise ValueError(f"the error is not a text of at most {ERROR} characters")
        error = error.replace("\0", "\N{REPLACEMENT CHARACTER}")  # which Postgres keeps in no text
        kind = as_text(record["kind"], "the kind of error")
        self.findings.failed.append(Failure(claim=claim, failure=FailureClass(failure), error=error, kind=kind))

    def _finished(self, record: Record) -> None:
        as_number(record["at"], "at")
        name = as_match(record["publication"], "the publication", PUBLICATION)
        if name in self._publications:
            raise ValueError(f"the publication {name} stands twice")
        self._publications.add(name)
        results = tuple(self._result(one) for one in as_list(record["jobs"], "jobs"))
        kinds = {one.claim.job.kind for one in results}
        if len(kinds) != 1:
            raise ValueError("its jobs are none, or of several kinds")
        (kind,) = kinds
        files = as_object(record["files"], set(kind.rows))
        digests = {rows: as_match(digest, f"the digest of {rows}", DIGEST) for rows, digest in files.items()}
        self.findings.finished.append(Publication(name=name, files=digests, results=results))

    def _result(self, given: Any) -> Result:
        found = as_object(given, {"job", "model", "model_hash", "diverged"})
        claim, digest = self._end(found["job"]), found["model_hash"]
        result = Result(
            claim=claim,
            model_hash=None if digest is None else as_match(digest, "model_hash", DIGEST),
            diverged=as_flag(found["diverged"], "diverged"),
        )
        expected = None if digest is None or claim.job.kind.leaves is None else result.model
        if found["model"] != expected or (expected is None and digest is not None):
            raise ValueError(f"the model of job {claim.job.identity[:12]} is not where a bundle keeps it")
        return result

    def _claim(self, job_id: Any) -> Claim:
        claim = self._claims.get(as_whole(job_id, "the job"))
        if claim is None:
            raise ValueError(f"job {job_id} was not packed")
        return claim

    def _end(self, job_id: Any) -> Claim:
        claim = self._claim(job_id)
        if claim.job_id in self._ended:
            raise ValueError(f"job {claim.job.identity[:12]} ends twice")
        self._ended.add(claim.job_id)
        return claim


def read_calibration(given: Any, shapes: Set[str]) -> CalibrationRow:
    """A calibration of one of these shapes. Raises ValueError unless this version can run it."""
    shape, slots, form = given["shape"], given["slots"], given["form"]
    if not isinstance(shape, str) or shape not in shapes:
        raise ValueError("the calibration is of a shape that none of its jobs has")
    as_whole(slots, "slots", 1, MOST_SLOTS)
    if not is_known(slots, form):
        raise ValueError(f"there is no form {form!r:.100}")
    device, build = as_text(given["device"], "device"), as_text(given["build"], "build")
    return CalibrationRow(shape=shape, device=device, build=build, slots=slots, form=form)
