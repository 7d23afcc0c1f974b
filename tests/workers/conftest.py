"""Small trainings on the real digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sweeps.datasets import DATASETS
from workers.data import Images, load


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Images:
    return load(DATASETS["digits"], None, download=False)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Compiled forms run the very functions that they would compile."""
    with torch.compiler.set_stance("force_eager"):
        yield
