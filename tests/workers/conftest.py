"""Small trainings on the real digits, and a home with a registry for agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.sweeps.datasets import DATASETS
from qsweep.workers.data import Images, load
from qsweep.workers.decoding import pool
from tests.apart import APART
from tests.workers.trainings import first


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _forked_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that decode begin with their imports done: most tests decode a few images, in a pool of their own."""
    monkeypatch.setattr(pool, "ANEW", APART)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that is ready, instead of the folder of one."""
    made = Home.at(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    with Registry.open(home.registry, create=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def digits() -> Images:
    return load(DATASETS["digits"], None, download=False)


@pytest.fixture(scope="session")
def few(digits: Images) -> Images:
    """Images for what is computed in many ways: in batches of 32 an epoch is ten steps, with a last batch of 24."""
    return first(digits, 312, 90)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Compiled forms run the very functions that they would compile."""
    with torch.compiler.set_stance("force_eager"):
        yield
