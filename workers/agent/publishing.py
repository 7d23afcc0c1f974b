"""The publication of a finished cohort: rows on the disk first, then the pointers to them, fenced."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from db.results import ResultStore
from db.rows import Claim, Finished
from sweeps.faults import point
from workers.agent.rows import Provenance
from workers.agent.workplace import Plan, Workplace
from workers.device import build, device_class

log = logging.getLogger(__name__)


def provenance(
    place: Workplace, claims: Sequence[Claim], plan: Plan, seconds: float, *, steps: int | None
) -> Provenance:
    """Where the results of a cohort come from, that took `seconds` (and so many optimizer `steps`)."""
    return Provenance(
        code=place.code,
        torch=build(),
        device=device_class(place.device),
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
    kept: Sequence[tuple[str, str] | None],
) -> None:
    """Write the rows (the kept models lie there already) and have them counted. Raises LeaseGone."""
    publication = f"{place.agent:06d}-{uuid.uuid4().hex[:12]}"
    finished = [
        Finished(
            job_id=claim.job_id,
            attempt=claim.attempt,
            publication=publication,
            model_file=model[0] if model else None,
            model_hash=model[1] if model else None,
            diverged=lost,
        )
        for claim, lost, model in zip(claims, diverged, kept, strict=True)
    ]
    results = ResultStore(place.home.store)
    for kind, some in rows.items():
        results.write(kind, publication, some)
    place.check_lease()
    accepted = place.registry.finish(place.agent, finished)
    point("finished", len(accepted.jobs))
    log.info("%d of %d results counted", len(accepted.jobs), len(claims))
    for done in accepted.deletable:
        (place.home.checkpoints / done).unlink(missing_ok=True)
