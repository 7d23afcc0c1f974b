"""A launch begins to import torch before it knows more than that its sweep is new."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.orchestrator.warming import is_new
from qsweep.sweeps.errors import InputError


def test_only_a_sweep_that_was_never_launched_is_new(home: Path) -> None:
    place = Home.at(home)
    assert is_new(place, "grid@a")
    assert not home.exists()
    place.prepare()
    with Registry.open(place.registry, create=True) as registry:
        registry.add_sweep(name="grid", label="a", spec="{}", size=1)
    assert is_new(place, "grid@b")
    assert not is_new(place, "grid@a")


def test_a_registry_that_cannot_be_read_is_refused_before_anything_is_started(home: Path) -> None:
    place = Home.at(home)
    place.prepare()
    Path(place.registry).write_text("no database")
    with pytest.raises(InputError):
        is_new(place, "grid@a")
