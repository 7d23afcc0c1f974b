"""The compiled forms on a GPU, seen without one: Inductor writes their kernels and Triton compiles them for it.

Inductor asks the device what it is, and Triton its driver; both are told here. Nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from qsweep.workers.cohort import Cohort
from qsweep.workers.compiling import OPTIONS, Compiled
from qsweep.workers.data import Images
from qsweep.workers.forms import forms_of
from tests.workers.trainings import first, on, training

triton = pytest.importorskip("triton", reason="Triton comes with a torch that is built for CUDA")
META, GPU = torch.device("meta"), torch.device("cuda:0")
PROCESSORS = {80: 108, 90: 132}
"""Multiprocessors by compute capability: of an A100 and of an H100."""
KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '{3}(.*?)'{3}", re.DOTALL)

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Written(BaseException):
    """Inductor has written the code of a chain: its argument. Of a kind that nothing on the way takes for a failure."""


class Driver:
    """What Triton asks the driver of a GPU before it compiles for it."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0


@pytest.fixture(params=PROCESSORS)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inductor and Triton find a GPU of this compute capability."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime.hints import DeviceProperties

    capability: int = request.param
    major, minor = divmod(capability, 10)
    same = {"major": major, "regs_per_multiprocessor": 65536, "max_threads_per_multi_processor": 2048, "warp_size": 32}
    same |= {"multi_processor_count": PROCESSORS[capability]}
    told = DeviceProperties(type="cuda", index=0, cc=capability, max_threads_per_block=1024, **same)
    memory = {"total_memory": 80 << 30, "shared_memory_per_block_optin": 166912, "L2_cache_size": 40 << 20}
    found = SimpleNamespace(name="a GPU", gcnArchName="", minor=minor, **memory, **same)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: found)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, minor))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(CudaInterface, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(DeviceProperties, "create", lambda _: told)
    monkeypatch.setattr(scheduler, "has_triton", lambda: True)
    monkeypatch.setattr(triton_helpers, "set_driver_to_gpu", lambda: None)
    monkeypatch.setattr(GraphLowering, "compile_to_module", _written)
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(Driver(capability))
    yield
    triton.runtime.driver._active = before


def _written(graph: Any) -> None:
    raise Written(graph.codegen()[0].value)


@pytest.fixture
def chains(few: Images, uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> dict[Any, Call]:
    """What trainings in the compiled forms of a GPU have compiled, one of each function, precision and constants."""
    found: dict[Any, Call] = {}

    def recording(one: Compiled, *given: Any) -> Any:
        kinds = tuple(part.dtype if isinstance(part, Tensor) else type(part) for part in given)
        flags = tuple(part for part in given if isinstance(part, bool))
        found.setdefault((one._function.__name__, kinds, flags), (one._function, given))
        return one._function(*(part.detach() if isinstance(part, Tensor) else part for part in given))

    monkeypatch.setattr(Compiled, "__call__", recording)
    images = first(few, 150, 60)
    for precision in ("fp32", "bf16"):
        for form in (one for one in forms_of(precision, "cuda") if one.compiled):
            chosen = zip(("sgd", "adam", "rmsprop"), (32, 8, 2), strict=True)
            trainings = [training(depth=1, optimizer=one, bits=bits, precision=precision) for one, bits in chosen]
            cohort = Cohort(on(images, trainings), images, slots=len(trainings), form=form, device=META)
            while cohort.epoch < 1:
                cohort.step()
    return found


@pytest.mark.slow
def test_every_chain_compiles_for_a_gpu_and_no_reduction_is_chosen_by_the_clock(
    chains: dict[Any, Call], gpu: None
) -> None:
    from torch._inductor.codecache import PyCodeCache

    reductions = 0
    for function, given in chains.values():
        kernels = KERNEL.findall(_code(function, given))
        assert kernels, function.__name__
        for name, source in kernels:
            tuner = getattr(PyCodeCache.load(source), name)
            if not name.startswith("triton_poi"):  # whose blocks decide which numbers are added first
                reductions += 1
                assert len(tuner.configs) == 1
            for config in tuner.configs:
                assert tuner._precompile_config(config).kernel.cubin_raw.startswith(b"\x7fELF")
    assert reductions
    assert {function.__name__ for function, _ in chains.values()} == {
        "finish", "finish_backward", "quantize_own", "differentiate_own", "step_own",
    }  # fmt: skip


def _code(function: Callable[..., Any], given: tuple[Any, ...]) -> str:
    """The module that Inductor writes for this call on a GPU."""
    torch.compiler.set_stance("default")
    with FakeTensorMode():
        there = [_there(one) if isinstance(one, Tensor) else one for one in given]
        options = OPTIONS | {"joint_graph_constant_folding": False}  # it computes constants on the device
        torch._dynamo.reset()
        kernel = torch.compile(function, fullgraph=True, dynamic=False, options=options)
        with pytest.raises(Written) as written:
            kernel(*there)
    return str(written.value)


def _there(one: Tensor) -> Tensor:
    return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=GPU)
