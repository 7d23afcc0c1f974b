"""The publication of a finished cohort: rows on the disk first, then the pointers to them, fenced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from qsweep.db.publication_names import new_name
from qsweep.db.results import ResultStore
from qsweep.db.rows import Accepted, Claim, Finished
from qsweep.sweeps.faults import point
from qsweep.workers.agent.models import KeptFile
from qsweep.workers.agent.rows import Provenance
from qsweep.workers.agent.workplace import Plan, Workplace

log = logging.getLogger(__name__)


def provenance(
    place: Workplace, claims: Sequence[Claim], plan: Plan, seconds: float, *, steps: int | None
) -> Provenance:
    """Where the results of a cohort come from, that took `seconds` (and that many optimizer `steps`)."""
    return Provenance(
        code=place.code,
        torch=place.hardware.build,
        device=place.hardware.name,
        slots=plan.slots,
        form=plan.form.value,
        seconds=seconds / len(claims),
        steps_per_second=None if steps is None else steps * len(claims) / seconds,
        finished_at=datetime.now(UTC),
    )


def publish(
    place: Workplace,
    claims: Sequence[Claim],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    diverged: Sequence[bool],
    kept: Sequence[KeptFile | None],
    keep: Callable[[int], KeptFile] | None = None,
) -> None:
    """Write the rows (the kept models lie there already) and have them counted. Raises LeaseGone.

    `keep` writes the model of the claim of that place, if a sweep has come to ask for it while it was trained.
    """
    publication = new_name(f"{place.agent:06d}", place.incarnation)
    finished = [
        Finished(
            job_id=claim.job_id,
            attempt=claim.attempt,
            publication=publication,
            model_file=model[0] if model else None,
            model_hash=model[1] if model else None,
            diverged=lost,
            unkept=keep is not None and model is None,
        )
        for claim, lost, model in zip(claims, diverged, kept, strict=True)
    ]
    results = ResultStore(place.home.store)
    for kind, some in rows.items():
        results.write(kind, publication, some)
    place.check_lease()
    accepted = place.queue.finish(place.agent, finished)
    counted = len(accepted.jobs)
    _forget(place, accepted)
    if keep is not None and accepted.asked:
        log.info("%d models are asked for by now", len(accepted.asked))
        late = [_with_model(one, keep(index)) for index, one in enumerate(finished) if one.job_id in accepted.asked]
        place.check_lease()
        accepted = place.queue.finish(place.agent, late)
        counted += len(accepted.jobs)
        _forget(place, accepted)
    point("finished", counted)
    place.published()
    log.info("%d of %d results counted", counted, len(claims))


def _with_model(one: Finished, kept: KeptFile) -> Finished:
    return replace(one, model_file=kept[0], model_hash=kept[1], unkept=False)


def _forget(place: Workplace, accepted: Accepted) -> None:
    for done in accepted.deletable:
        (place.home.checkpoints / done).unlink(missing_ok=True)
