"""Whether the models that a selection's measures take are there: asked before anything is written."""

from __future__ import annotations

from db.home import Home
from db.registry import Registry
from db.states import State
from orchestrator.selection import Selection
from sweeps.errors import InputError


def check_models(home: Home, selection: Selection) -> None:
    """Raise InputError if a measure is asked of a trained model that was not kept. Changes nothing."""
    asked = {job.parent for job in selection.chosen if job.parent is not None}
    registry = Registry.open_if_present(home.registry) if asked else None
    if registry is None:
        return
    with registry:
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
    if lost:
        raise InputError(
            f"measures are asked of {len(lost)} trained models that were not kept, such as that of job {lost[0][:12]}",
            place=selection.title,
            allowed="train these again: qsweep invalidate NAME --where EXPR --reason 'its model is needed' "
            "of the sweep that trained them, and then launch this",
        )
