"""A file of tensors is whole or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qsweep.workers.checkpoints import DamagedFile, load, save

STATE = {"position": 7, "row": torch.arange(1000.0), "name": "x"}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.pt"
    found = load(path, save(path, STATE))
    assert found["position"] == 7
    assert torch.equal(found["row"], torch.arange(1000.0))
    assert [file.name for file in path.parent.iterdir()] == ["one.pt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing", "another"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "one.pt"
    checksum = save(path, STATE)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        save(path, {"position": 8})
    with pytest.raises(DamagedFile, match=r"one\.pt"):
        load(path, checksum)


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    checksum = save(path, STATE)
    with pytest.raises(Exception, match="pickle"):
        save(path, {"bad": lambda: None})
    assert load(path, checksum)["position"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["one.pt"]


def test_a_pipe_in_the_place_of_a_checkpoint_is_damage_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(DamagedFile, match="is not a file"):
        load(tmp_path / "pipe.pt", "0" * 64)
