"""A training step as a CUDA graph: recorded once for each size of batch, then started as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsweep.workers.data.targets import Targets

WARM_UP = 2
"""Steps before a recording, so that libraries have chosen and loaded their kernels."""
Step = Callable[[Tensor, Targets], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One graph with the tensors that it reads and writes."""

    graph: Any
    images: Tensor
    targets: Targets
    outputs: tuple[Tensor, ...]


class StepGraphs:
    """`step` on a GPU, where it changes nothing but `state` and does the same whatever the values are.

    The steps before a recording are undone, so that every step of a training is one of a graph, and a resumed
    training runs the kernels that an uninterrupted one runs. The last batch of an epoch may be smaller: it
    has a graph of its own. The outputs are overwritten by the next step of the same size.
    """

    def __init__(self, step: Step, state: Sequence[Tensor]) -> None:
        self._step, self._state = step, tuple(state)
        self._recordings: dict[int, Recording] = {}

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, ...]:
        one = self._recordings.get(len(targets))
        if one is None:
            one = self._recordings[len(targets)] = self._record(images, targets)
        one.images.copy_(images)
        one.targets.copy_(targets)
        one.graph.replay()
        return one.outputs

    def close(self) -> None:
        """Give the recordings' memory back: a graph keeps what a step needs for as long as it lives."""
        self._recordings.clear()

    def _record(self, images: Tensor, targets: Targets) -> Recording:
        images, targets = images.clone(), targets.clone()
        before = [tensor.clone() for tensor in self._state]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step(images, targets)
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(self._state, before, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        # What other threads ask of the device meanwhile is no part of the step and must not spoil the recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._step(images, targets)
        return Recording(graph=graph, images=images, targets=targets, outputs=outputs)
