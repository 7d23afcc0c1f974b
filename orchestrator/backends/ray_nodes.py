"""Whether the nodes of a Ray cluster can do a home's work: asked before anything is registered."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.orchestrator.cluster import Node
from qsweep.sweeps.errors import InputError, QsweepError

PATIENCE = 120.0
"""Seconds that the nodes have for their answers."""


def check_nodes(found: Sequence[Node], home: Home) -> None:
    """Raises InputError for a node without qsweep, without this home's folder or that of the data, or from which no
    registry answers."""
    folder = next(one for one in (home.root, *home.root.parents) if one.is_dir())
    mark = folder / f".qsweep-{uuid.uuid4().hex}"
    data = str(home.data) if home.data.is_dir() else None
    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    mark.touch()
    try:
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                str(mark), home.registry, data
            ): node
            for node in found
        }
        ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
        for reference in [*ready, *silent]:
            if problem := "it does not answer" if reference in silent else _answer(reference):
                raise InputError(
                    f"node {asked[reference].host} can't run agents: {problem}",
                    place="--backend ray",
                    allowed="each node needs this qsweep, the folders of home and data, and a way to the registry",
                )
    finally:
        mark.unlink(missing_ok=True)


def look(mark: str, registry: str, data: str | None) -> str | None:
    """What is wrong on this node; None if nothing is. Changes nothing. `data` is None if the launcher has no such
    folder either."""
    if not Path(mark).exists():
        return f"it does not see {Path(mark).parent}, where the home is (or will be)"
    if data is not None and not Path(data).is_dir():
        return f"it does not see {data}, where the data sets are"
    try:
        with contextlib.ExitStack() as stack:
            opened = Registry.open_if_present(registry)
            if opened is not None:
                stack.enter_context(opened)
    except QsweepError as error:
        return str(error)
    return None


def _answer(reference: ray.ObjectRef[str | None]) -> str | None:
    try:
        answer: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]
    return answer
