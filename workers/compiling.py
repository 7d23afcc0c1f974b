"""Chains of operations on whole tensors as few kernels: `torch.compile`, so that shapes alone decide the bits.

Nothing here is imported from the compiler before a chain runs: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.errors import QsweepError

OPTIONS: dict[str, Any] = {
    "deterministic": True,
    "max_autotune": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "eager_numerics.division_rounding": True,
    "cpp.enable_floating_point_contract_flag": "off",
    "cpp.enable_unsafe_math_opt_flag": False,
    "realize_reads_threshold": 32,
    "realize_opcount_threshold": 200,
    "triton.cudagraphs": False,
    "compile_threads": 1,
}
"""Of Inductor. No choice by the clock (`deterministic` chooses a reduction's blocks by rule); a division rounds as it
does elsewhere; what two kernels need is computed twice rather than written out (the thresholds); the whole step is one
CUDA graph already; no pool of processes that could outlive an agent."""


class CompilationFailed(QsweepError):
    """A chain can't be compiled on this machine, most likely because there is no C++ compiler."""


_watchers: list[Callable[[], None]] = []


def watch(tick: Callable[[], None]) -> None:
    """Have `tick`, and no other, called after each shape that is compiled: a deep network has many."""
    _watchers[:] = [tick]


class Compiled:
    """`function` of tensors and constants, without a graph, compiled once a process for each set of shapes.

    The shapes are constants of the code, so that what is chosen for one of them depends on no other that came before.
    Each has a code object of its own: Dynamo counts and limits recompilations by code object. A graph break is an
    error. CompilationFailed if that is not possible.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._kernels: dict[tuple[Hashable, ...], Callable[..., Any]] = {}

    def __call__(self, *given: Any) -> Any:
        given = tuple(one.detach() if isinstance(one, Tensor) else one for one in given)
        key = tuple(_shape(one) if isinstance(one, Tensor) else one for one in given)
        kernel = self._kernels.get(key)
        if kernel is None:
            return self._compile(key, given)
        return kernel(*given)

    def _compile(self, key: tuple[Hashable, ...], given: tuple[Any, ...]) -> Any:
        """The first result for these shapes."""
        try:
            function = _copied(self._function, len(self._kernels))
            kernel = torch.compile(function, fullgraph=True, dynamic=False, options=OPTIONS)
            result = kernel(*given)
        except RuntimeError as error:
            if not _is_of_compiler(error):
                raise
            if isinstance(cause := getattr(error, "inner_exception", None), torch.OutOfMemoryError):
                raise cause from error
            raise CompilationFailed(_advice(error)) from error
        self._kernels[key] = kernel
        for tick in _watchers:
            tick()
        return result


@cache
def compiled(function: Callable[..., Any]) -> Compiled:
    """The compiled `function` of this process: what one cohort has compiled serves the next."""
    return Compiled(function)


def _shape(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _copied(function: Callable[..., Any], number: int) -> FunctionType:
    """The same function with a code object of its own."""
    assert isinstance(function, FunctionType)
    assert function.__closure__ is None
    name = f"{function.__name__}_{number}"
    return FunctionType(function.__code__.replace(co_name=name), function.__globals__, name, function.__defaults__)


def _is_of_compiler(error: RuntimeError) -> bool:
    """Whether Dynamo or Inductor failed (they find no C++ compiler or no Triton), Triton, or this torch is too old."""
    from torch._dynamo.exc import TorchDynamoException

    text = str(error)
    return isinstance(error, TorchDynamoException) or "C compiler" in text or "Unexpected optimization option" in text


def _advice(error: RuntimeError) -> str:
    cause = str(error).strip().splitlines()[0][:300]
    return (
        f"this form compiles parts of the training step when it starts, and that failed here: {cause}. "
        "It takes a C++ compiler (g++ or clang++), on a GPU also Triton, and a torch whose Inductor has the option "
        "`deterministic`; `qsweep calibrate --again` chooses among the other forms where these are missing"
    )
