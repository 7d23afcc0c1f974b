"""What the machine that an agent runs on has of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from qsweep.db.filesystems import MOUNTS, network_kind
from qsweep.sweeps.errors import InputError


def data_folder(shared: Path, environment: Mapping[str, str], *, mounts: Path = MOUNTS) -> Path | None:
    """Where this node keeps its own copies of the data sets in `shared`; None if they are read where they are.

    QSWEEP_NODE_DATA names it, or says by being empty that there shall be none. Without it there is one in the
    temporary folder, as soon as `shared` lies on a network file system.
    """
    named = environment.get("QSWEEP_NODE_DATA")
    if named is not None:
        return Path(named).expanduser().absolute() if named else None
    if network_kind(shared, mounts=mounts) is None:
        return None
    return Path(tempfile.gettempdir()) / f"qsweep-data-{os.getuid()}"


def check_device(device: torch.device) -> None:
    """Raises InputError if this build of torch can't compute on the device, however much it may see it."""
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"torch {torch.__version__} can't compute on this {name}: {reason}") from None
