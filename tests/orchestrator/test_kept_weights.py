"""No launch replaces weights in a home: a name means one content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from qsweep.orchestrator.machine import KeptWeights
from qsweep.sweeps.errors import InputError


def found(folder: Path, name: str, content: bytes) -> KeptWeights:
    """Weights as a launch finds them that the home does not have yet."""
    source = folder / name
    source.write_bytes(content)
    return KeptWeights(source=source, hash=hashlib.sha256(content).hexdigest(), target=folder / "home" / "mine.pth")


def test_of_two_launches_at_once_with_other_weights_of_one_name_the_second_is_refused(tmp_path: Path) -> None:
    first, second, same = (found(tmp_path, name, name[:1].encode()) for name in ("a.pth", "b.pth", "a2.pth"))
    first.keep()
    with pytest.raises(InputError, match=r"kept other weights than .*b\.pth under this name; give these another name"):
        second.keep()
    same.keep()
    assert first.target.read_bytes() == b"a"
    assert [path.name for path in first.target.parent.iterdir()] == ["mine.pth"]
