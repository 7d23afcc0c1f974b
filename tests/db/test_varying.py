"""In which settings the jobs of a sweep differ, without reading all of them."""

from __future__ import annotations

import pytest

from qsweep.db import looking
from qsweep.db.registry import Registry
from qsweep.db.rows import Sweep
from qsweep.sweeps.settings import varying
from tests.db.conftest import trained


@pytest.mark.parametrize("suspected", [(), ("learning_rate", "epochs")])
def test_a_sample_and_what_is_suspected_tell_in_what_jobs_differ(
    registry: Registry, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, suspected: tuple[str, ...]
) -> None:
    odd = trained(1, learning_rate=0.05)[0]
    jobs = [*trained(40)[1:20], odd, *trained(40)[20:]]  # by their seeds; one of them by its learning rate too
    registry.sweeps.register(sweep.id, jobs)
    every = varying([job.settings() for job in jobs])
    assert set(every) == {"learning_rate", "seed"}
    assert registry.catalogue.varying(sweep.id, lambda: suspected) == every
    monkeypatch.setattr(looking, "LISTED", 10)
    monkeypatch.setattr(looking, "SAMPLE", 4)
    found = registry.catalogue.varying(sweep.id, lambda: suspected)
    assert found == (every if suspected else ["seed"])
