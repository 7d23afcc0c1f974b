"""What a device is, as far as numerics go: its class, its build of torch, and the precisions it trains in."""

from __future__ import annotations

import platform

import torch


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
