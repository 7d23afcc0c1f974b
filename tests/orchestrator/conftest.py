"""What the tests of the orchestrator share: one real Ray for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.orchestrator.ray_cluster import RayCluster, two_nodes


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """A Ray of two nodes on this machine."""
    with two_nodes() as found:
        yield found
