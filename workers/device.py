"""What a device is, as far as numerics go: its class, its build of torch, and the precisions it trains in."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.workers.environment import GPU
from qsweep.workers.hardware import Hardware

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Without it cuBLAS may add up in another order, as its scratch memory happens to be free."""


def this_device() -> torch.device:
    """What this process computes on: its first GPU, made deterministic, or without one the processor.

    Raises InputError if it was started for a GPU and torch finds none: on the processor it would be another device
    than the launch expects, without a message.
    """
    if torch.cuda.is_available():
        make_deterministic()
        return torch.device("cuda")
    if name := os.environ.get(GPU):
        raise InputError(
            f"this agent was started for GPU {name}, and torch {torch.__version__} finds none: its driver does not "
            "answer, or is too old for this build (nvidia-smi says more)"
        )
    return torch.device("cpu")


def make_deterministic() -> None:
    """Let every operation of a GPU add up in a fixed order, where it can: the same training has the same bits.

    An operation that has no such order says so in a warning, and goes on; none of ours is known to. Products are taken
    in single precision, but for the steps of a training that asks for another.
    """
    set_precision("fp32")
    os.environ.setdefault(*WORKSPACE)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_device(device: torch.device) -> None:
    """Raises InputError if this build of torch can't compute on the device, however much it may see it."""
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"torch {torch.__version__} can't compute on this {_name(device)}: {reason}") from None


def _name(device: torch.device) -> str:
    try:
        return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type
    except RuntimeError:
        return "GPU"


def hardware_of(device: torch.device) -> Hardware:
    """What registries and results call it."""
    return Hardware(type=device.type, name=device_class(device), build=build(), precisions=precisions(device))


def device_class(device: torch.device) -> str:
    """The name under which calibrations of this device are kept: what decides its numerics."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def build() -> str:
    """The version of torch, whose kernels decide the numerics."""
    return str(torch.__version__)


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions in which a device trains: those that its own instructions compute in.

    A processor without bf16 instructions would take longer in bf16 than in fp32, so it does not offer it.
    """
    if device.type == "cuda":
        return ("fp32", "tf32", "bf16") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp32",)
    return ("fp32", "bf16") if _has_bf16() else ("fp32",)


def set_precision(precision: str) -> None:
    """Let matrix products and convolutions on a GPU round to tf32, or forbid it (PyTorch allows it for some)."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def precision_of(precision: str) -> Iterator[None]:
    """Around the training steps of that precision: whatever is computed between them is in single precision."""
    set_precision(precision)
    try:
        yield
    finally:
        set_precision("fp32")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, without waiting for what that still computes: a copy from pageable memory
    would."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _has_bf16() -> bool:
    """Whether the processor has AMX tiles, AVX-512 with bf16, or (ARM) bf16 matrix products."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        asked = getattr(torch.cpu, name, None)
        if asked is not None and asked():
            return True
    try:
        with open("/proc/cpuinfo") as lines:
            return any(line.startswith("Features") and " bf16" in line for line in lines)
    except OSError:
        return False
