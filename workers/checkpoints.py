"""Files of tensors that are whole or refused: checkpoints and trained models."""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.wholefiles import write_whole


class DamagedFile(QsweepError):
    """A file of tensors is missing, truncated or altered: use an older one."""


def save(path: Path, state: Mapping[str, Any]) -> str:
    """Write `state` (tensors and plain values) so that `path` is the old file or the whole new one.

    Returns the SHA-256 of the content in hex.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content, at="checkpoint")
    return hashlib.sha256(content).hexdigest()


def load(path: Path, checksum: str) -> dict[str, Any]:
    """Read what `save` wrote. Raises DamagedFile if the content is not that of `checksum`, or holds no tensors.

    A bundle may bring anything as a model.
    """
    point("checkpoint.reading", path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device would never end
            raise DamagedFile(f"{path} is not a file")
        content = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path} can't be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DamagedFile(f"{path} is damaged: its checksum is not the recorded one")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of what is not a file of tensors, torch's reader raises a dozen kinds of error
        raise DamagedFile(f"{path} holds no tensors: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise DamagedFile(f"{path} holds no tensors by name")
    return state
