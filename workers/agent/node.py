"""What the machine that an agent runs on has of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qsweep.db.filesystems import MOUNTS, network_kind


def data_folder(shared: Path, environment: Mapping[str, str], *, mounts: Path = MOUNTS) -> Path | None:
    """Where this node keeps its own copies of the data sets in `shared`; None if they are read where they are.

    QSWEEP_NODE_DATA names it, or says by being empty that there is to be none. Without it there is one in the
    temporary folder, as soon as `shared` lies on a network file system.
    """
    named = environment.get("QSWEEP_NODE_DATA")
    if named is not None:
        return Path(named).expanduser().absolute() if named else None
    if network_kind(shared, mounts=mounts) is None:
        return None
    return Path(tempfile.gettempdir()) / f"qsweep-data-{os.getuid()}"
