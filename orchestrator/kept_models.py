"""Whether the files that a selection's jobs take from done ones are there: asked before anything is written."""

from __future__ import annotations

from collections.abc import Container

from qsweep.db.home import Home
from qsweep.db.losses import find_lost_models
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.orchestrator.selection import Selection
from qsweep.sweeps.chains import source_of
from qsweep.sweeps.errors import InputError


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
