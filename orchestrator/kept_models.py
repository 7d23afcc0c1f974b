"""The files that done jobs have left: whether those that a selection takes are there, and models named as weights."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.losses import find_lost_models
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import State
from qsweep.orchestrator.selection import Selection
from qsweep.sweeps.chains import source_of
from qsweep.sweeps.errors import InputError

JOB = re.compile(r"[0-9a-f]{6,32}")
"""The first digits of a job's identity, by which the model is named that was kept of it."""


def check_models(home: Home, selection: Selection) -> None:
    """Raise InputError if a job takes the file of a done one which has none, or whose file is lost. Changes nothing."""
    registry = Registry.open_if_present(home.registry) if any(job.kind.takes for job in selection.chosen) else None
    if registry is None:
        return
    with registry:
        launched = selection.title in {sweep.title for sweep in registry.catalogue.sweeps()}
        done = {
            row.identity: row
            for sweep in registry.catalogue.sweeps()
            for row in registry.catalogue.jobs(sweep.id, state=State.DONE)
        }
    sources = [done[one] for one in _sources(selection, done) if one in done]
    if gone := list(find_lost_models(home, sources)):
        raise InputError(
            f"measures are asked of {len(gone)} trained models whose files are lost, such as "
            f"{home.root / gone[0].file}",
            place=selection.title,
            allowed="`qsweep db check --repair` takes their trainings back into the queue; or name the home that has "
            "the files by --home",
        )
    if lost := sorted(row.identity for row in sources if row.model_file is None and not row.diverged):
        raise InputError(
            f"measures are asked of {len(lost)} trained models that were not kept, such as that of job {lost[0][:12]}",
            place=selection.title,
            allowed=f"train these again: qsweep retry {selection.title}"
            if launched
            else "train these again: qsweep invalidate NAME --where EXPR --reason 'its model is needed' "
            "of the sweep that trained them, and then launch this",
        )


def _sources(selection: Selection, done: Container[str]) -> dict[str, None]:
    """The jobs of which others that are not done take the file, each once, in order."""
    jobs = {job.identity: job for job in selection.jobs}
    found = (
        source_of(job, file, jobs) for job in selection.chosen if job.identity not in done for file in job.kind.takes
    )
    return {one.identity: None for one in found if one is not None}


def with_kept(home: Home, given: Sequence[Path]) -> tuple[Path, ...]:
    """Files and folders of weights as they were given; where one is named by the first digits of a job's identity, the
    model that was kept of it. Raises InputError if that has none."""
    named = [one for one in given if JOB.fullmatch(str(one)) and not one.exists()]
    registry = Registry.open_if_present(home.registry) if named else None
    if registry is None:
        return tuple(given)
    with registry:
        rows = {one: registry.catalogue.job(str(one)) for one in named}
    return tuple(_kept(home, rows[one]) if one in rows else one for one in given)


def _kept(home: Home, row: JobRow) -> Path:
    """The model of a job. Raises InputError if it was not kept."""
    if row.model_file is None:
        raise InputError(
            f"job {row.identity[:12]} has left no model",
            place="--weights",
            allowed="a training that is done and whose model was kept, or a file",
        )
    return home.models / row.model_file
