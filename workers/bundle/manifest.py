"""What a bundle asks for: its jobs as they were claimed for it, with all that their trainings depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.rows import CalibrationRow, Claim, ParentModel
from sweeps.datasets import DataSet
from sweeps.errors import InputError
from sweeps.job import Job

FORMAT = 1
FILE = "bundle.json"
WHOLE = "copy the bundle again, or pack a new one"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `bundle.json`. It never changes after the bundle was packed.

    `token` and `holder` say which bundle of which registry this is; `claims` hold the attempt that each job
    counts as, whoever computes it, and however often.
    """

    token: str
    name: str
    title: str
    holder: int
    code: str
    packed_at: float
    claims: tuple[Claim, ...]
    calibrations: tuple[CalibrationRow, ...]

    def data(self) -> set[DataSet]:
        """The data sets that the jobs need."""
        return {claim.job.training.data for claim in self.claims}

    def datasets(self) -> list[str]:
        """Their names."""
        return sorted({data.name for data in self.data()})

    def to_json(self) -> str:
        content = {name: getattr(self, name) for name in ("token", "name", "title", "holder", "code", "packed_at")}
        content |= {
            "format": FORMAT,
            "calibrations": [dataclasses.asdict(one) for one in self.calibrations],
            "jobs": [_claim_content(claim) for claim in self.claims],
        }
        return json.dumps(content, indent=1)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises InputError if there is none, or it is not what was packed."""
    path = folder / FILE
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(
            f"there is no {FILE}: this is no bundle",
            place=str(folder),
            allowed="name what `qsweep pack` wrote, or the --results of it",
        ) from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"this bundle's list of jobs is damaged ({reason})", place=str(path), allowed=WHOLE) from None


def seed(folder: Path) -> str:
    """The digest that the bundle's ledger begins with: that of the manifest."""
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()


def _parse(text: str, path: Path) -> Manifest:
    content: dict[str, Any] = json.loads(text)
    if content["format"] != FORMAT:
        raise InputError(
            f"this bundle has format {content['format']!r}", place=str(path), allowed=f"this program's is {FORMAT}"
        )
    fields = {name: content[name] for name in ("token", "name", "title", "holder", "code", "packed_at")}
    return Manifest(
        **fields,
        calibrations=tuple(CalibrationRow(**one) for one in content["calibrations"]),
        claims=tuple(_claim_from(one, path) for one in content["jobs"]),
    )


def _claim_content(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.job_id,
        "identity": claim.job.identity,
        "attempt": claim.attempt,
        "alone": claim.alone,
        "slots_limit": claim.slots_limit,
        "keep_model": claim.keep_model,
        "parent": None if claim.parent is None else dataclasses.asdict(claim.parent),
        "job": json.loads(claim.job.to_json()),
    }


def _claim_from(content: Mapping[str, Any], path: Path) -> Claim:
    """One job. That it is what its identity says guards the settings against any change."""
    job = Job.from_json(json.dumps(content["job"]))
    if job.identity != content["identity"]:
        raise InputError(
            f"job {str(content['identity'])[:12]} is not what its identity says", place=str(path), allowed=WHOLE
        )
    return Claim(
        job_id=int(content["id"]),
        job=job,
        attempt=int(content["attempt"]),
        alone=bool(content["alone"]),
        slots_limit=content["slots_limit"],
        keep_model=bool(content["keep_model"]),
        parent=None if content["parent"] is None else ParentModel(**content["parent"]),
    )
