"""The blocks that a network is reconstructed by, in the order of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsweep.sweeps.layers import NormLayer
from qsweep.workers.models.graph import Node


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Consecutive layers of which only the last one's output is read by layers after them."""

    name: str
    numbers: range
    reads: tuple[int, ...]
    """Whose outputs before it it reads, the images' number among them."""

    @property
    def last(self) -> int:
        """The number of the layer whose output it is judged by."""
        return self.numbers[-1]


def units_of(nodes: Sequence[Node]) -> list[Unit]:
    """Layers whose names agree up to the last dot are one unit, as those of a residual block do; any other layer is one
    of its own, and so is each of a block whose inner outputs are read from outside. Batch norm that stands alone goes
    with the layers after it: it has nothing to round.
    """
    spans: list[range] = []
    start = 0
    for number in range(1, len(nodes) + 1):
        if number < len(nodes) and _block(nodes[number]) and _block(nodes[number]) == _block(nodes[start]):
            continue
        block = range(start, number)
        closed = all(one == number - 1 or not _is_read(nodes, one, number) for one in block)
        spans += [block] if closed else [range(one, one + 1) for one in block]
        start = number
    found: list[range] = []
    waiting: range | None = None
    for span in spans:
        span = span if waiting is None else range(waiting.start, span.stop)
        weighted = any(not isinstance(nodes[one].layer, NormLayer) for one in span)
        waiting = None if weighted else span
        found += [span] if weighted else []
    return [_unit(nodes, span) for span in found]


def _unit(nodes: Sequence[Node], span: range) -> Unit:
    reads = {one for number in span for one in (nodes[number].source, nodes[number].residual) if one is not None}
    layer = nodes[span[-1]].layer.name
    return Unit(
        name=_block(nodes[span[-1]]) or layer if len(span) > 1 else layer,
        numbers=span,
        reads=tuple(sorted(one for one in reads if one < span.start)),
    )


def _block(node: Node) -> str:
    return node.layer.name.rpartition(".")[0]


def _is_read(nodes: Sequence[Node], number: int, after: int) -> bool:
    return any(number in (node.source, node.residual) for node in nodes[after:])
