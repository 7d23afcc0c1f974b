"""What a bundle asks for: its jobs as they were claimed for it, with all that their trainings depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsweep.db.model_names import PATTERN
from qsweep.db.rows import CalibrationRow, Claim, ParentModel
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job, with_training
from qsweep.sweeps.kinds import TRAIN, kind_named
from qsweep.sweeps.strict_json import read_strictly
from qsweep.workers.bundle.plain import (
    DIGEST,
    as_flag,
    as_list,
    as_match,
    as_number,
    as_object,
    as_text,
    as_whole,
    read_plain,
)

FORMAT = 1
FILE = "bundle.json"
WHOLE = "copy the bundle again, or pack a new one"
KEYS = {"token", "name", "title", "holder", "code", "packed_at", "format", "calibrations", "jobs"}
CLAIM = {"id", "identity", "attempt", "alone", "slots_limit", "keep_model", "parent", "job"}
PARENT = ParentModel.__dataclass_fields__
IDENTITY = re.compile("[0-9a-f]{32}")
MODEL_FILE = re.compile(f"[0-9a-f]{{2}}/{PATTERN.pattern}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `bundle.json`. It never changes after the bundle was packed.

    `token` and `holder` say which bundle of which registry this is; `claims` hold the attempt that each job
    counts as, no matter which machine computes it, and how often.
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
        return {job.training.data for job in with_training(claim.job for claim in self.claims)}

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
        if not path.exists():
            raise _no_bundle(folder)
        return _parse(read_plain(path), path)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"[:500]
        raise InputError(f"this bundle's list of jobs is damaged ({reason})", place=str(path), allowed=WHOLE) from None


def _no_bundle(folder: Path) -> InputError:
    return InputError(
        f"there is no {FILE}: this is no bundle",
        place=str(folder),
        allowed="name what `qsweep pack` wrote, or the --results of it",
    )


def seed(folder: Path) -> str:
    """The digest that the bundle's ledger begins with: that of the manifest."""
    return hashlib.sha256(read_plain(folder / FILE)).hexdigest()


def _parse(text: bytes, path: Path) -> Manifest:
    content = read_strictly(text)
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError("it is no list of jobs")
    if content["format"] != FORMAT:
        raise InputError(
            f"this bundle has format {content['format']!r}", place=str(path), allowed=f"this program's is {FORMAT}"
        )
    as_object(content, KEYS)
    claims = tuple(_claim_from(one, path) for one in as_list(content["jobs"], "jobs"))
    if len({claim.job_id for claim in claims}) < len(claims) or len({one.job.identity for one in claims}) < len(claims):
        raise ValueError("a job stands twice")
    return Manifest(
        **{name: as_text(content[name], name) for name in ("token", "name", "title", "code")},
        holder=as_whole(content["holder"], "holder"),
        packed_at=as_number(content["packed_at"], "packed_at"),
        calibrations=tuple(CalibrationRow(**one) for one in as_list(content["calibrations"], "calibrations")),
        claims=claims,
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
    as_object(content, CLAIM)
    job, limit = Job.from_json(json.dumps(content["job"])), content["slots_limit"]
    if job.identity != content["identity"]:
        raise InputError(
            f"job {str(content['identity'])[:12]} is not what its identity says", place=str(path), allowed=WHOLE
        )
    return Claim(
        job_id=as_whole(content["id"], "id"),
        job=job,
        attempt=as_whole(content["attempt"], "attempt", 1),
        alone=as_flag(content["alone"], "alone"),
        slots_limit=None if limit is None else as_whole(limit, "slots_limit", 1),
        keep_model=as_flag(content["keep_model"], "keep_model"),
        parent=None if content["parent"] is None else _parent_from(content["parent"]),
    )


def _parent_from(content: Any) -> ParentModel:
    """The chain of jobs above one, as they were when it was packed."""
    levels = []
    while content is not None:
        # Bundles of older versions hold no chain: every parent was a training.
        levels.append(as_object({"kind": TRAIN.name, "parent": None, **content}, set(PARENT)))
        content = levels[-1]["parent"]
    found: ParentModel | None = None
    for one in reversed(levels):
        file, digest = one["model_file"], one["model_hash"]
        found = ParentModel(
            identity=as_match(one["identity"], "identity", IDENTITY),
            attempt=as_whole(one["attempt"], "attempt"),
            model_file=None if file is None else as_match(file, "model_file", MODEL_FILE),
            model_hash=None if digest is None else as_match(digest, "model_hash", DIGEST),
            diverged=as_flag(one["diverged"], "diverged"),
            kind=kind_named(as_text(one["kind"], "kind")).name,
            parent=found,
        )
    assert found is not None, "a chain has at least one job"
    return found
