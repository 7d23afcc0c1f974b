"""The model that a job works on, as its row names it."""

from __future__ import annotations

from typing import Any

from qsweep.db.rows import Claim, ParentModel
from qsweep.sweeps.kinds import File


def source_of(claim: Claim) -> ParentModel:
    """The nearest job above that makes a model."""
    source = claim.source(File.MODEL)
    assert source is not None, "what takes a model has an ancestor that makes one"
    return source


def named(claim: Claim) -> dict[str, Any]:
    """The columns that name the model."""
    source = source_of(claim)
    return {"parent": source.identity, "parent_attempt": source.attempt, "model_hash": source.model_hash}


def flagged() -> dict[str, Any]:
    """The row of a job whose training diverged: there is no model."""
    return {"diverged": True}
