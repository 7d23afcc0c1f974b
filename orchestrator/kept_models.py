"""Whether the models that a selection's measures take are there: asked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qsweep.db.home import Home
from qsweep.db.losses import find_lost_models
from qsweep.db.registry import Registry
from qsweep.db.rows import JobRow
from qsweep.db.states import State
from qsweep.orchestrator.selection import Selection
from qsweep.sweeps.errors import InputError


def _unmeasured(selection: Selection, known: Mapping[str, JobRow], measured: set[str]) -> list[str]:
    """The trained models that measures still have to take."""
    found = {job.parent: None for job in selection.chosen if job.parent in known and job.identity not in measured}
    return [one for one in found if one is not None]


def _check_files(home: Home, parents: Sequence[JobRow], selection: Selection) -> None:
    """Raise InputError if the file of a kept model is gone."""
    gone = list(find_lost_models(home, parents))
    if gone:
        raise InputError(
            f"measures are asked of {len(gone)} trained models whose files are lost, such as "
            f"{home.root / gone[0].file}",
            place=selection.title,
            allowed="`qsweep db check --repair` takes their trainings back into the queue; or name the home that has "
            "the files by --home",
        )


def check_models(home: Home, selection: Selection) -> None:
    """Raise InputError if a measure is asked of a trained model that was not kept. Changes nothing."""
    asked = {job.parent for job in selection.chosen if job.parent is not None}
    registry = Registry.open_if_present(home.registry) if asked else None
    if registry is None:
        return
    with registry:
        launched = selection.title in {sweep.title for sweep in registry.sweeps()}
        known = {row.identity: row for sweep in registry.sweeps() for row in registry.jobs(sweep.id, state=State.DONE)}
    measured = {job.identity for job in selection.chosen if job.parent is not None and job.identity in known}
    lost = sorted(
        {
            job.parent
            for job in selection.chosen
            if job.parent in known
            and job.identity not in measured
            and known[job.parent].model_file is None
            and not known[job.parent].diverged
        }
    )
    _check_files(home, [known[parent] for parent in _unmeasured(selection, known, measured)], selection)
    if lost:
        raise InputError(
            f"measures are asked of {len(lost)} trained models that were not kept, such as that of job {lost[0][:12]}",
            place=selection.title,
            allowed=f"train these again: qsweep retry {selection.title}"
            if launched
            else "train these again: qsweep invalidate NAME --where EXPR --reason 'its model is needed' "
            "of the sweep that trained them, and then launch this",
        )
