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
    """The precisions in which a device trains."""
    return ("fp32",)
