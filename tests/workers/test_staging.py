"""A node's own copy of a data set: made once, whole, checked, and never waited for in vain."""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qsweep.sweeps.datasets import DATASETS, DataSet
from qsweep.sweeps.errors import InputError
from qsweep.workers.agent.node import data_folder
from qsweep.workers.data import images, load_staged
from qsweep.workers.data.images import fingerprint
from qsweep.workers.device import check_device

NFS = "36 35 0:32 / / rw - ext4 /dev/sda rw\n37 36 0:33 / /shared rw - nfs4 server:/x rw\n"


def arrays() -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (6, 1, 2, 2), dtype=np.uint8)
    labels = np.arange(6, dtype="<i8")
    return pixels[:4], labels[:4], pixels[4:], labels[4:]


def read(data: DataSet, folder: Path | None, download: bool) -> tuple[np.ndarray, ...]:
    """A reader like those of the data sets: of a folder with one file."""
    assert folder is not None
    with np.load(folder / str(data.folder) / "all.npz") as file:
        return tuple(file[f"arr_{number}"] for number in range(4))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """A small data set in `tmp_path/shared`, known to the loader."""
    monkeypatch.setitem(images.READERS, "small", read)
    (tmp_path / "shared" / "small").mkdir(parents=True)
    np.savez(tmp_path / "shared" / "small" / "all.npz", *arrays())
    return replace(DATASETS["digits"], name="small", folder="small", fingerprint=fingerprint(arrays()))


def test_the_copy_is_read_even_when_the_original_is_gone(data: DataSet, tmp_path: Path) -> None:
    shared, node = tmp_path / "shared", tmp_path / "node"
    load_staged(data, shared, node)
    (shared / "small" / "all.npz").rename(tmp_path / "away.npz")
    again = load_staged(data, shared, node)
    assert torch.equal(again.train_images, torch.from_numpy(arrays()[0]))
    assert node.stat().st_mode & 0o777 == 0o700


def test_a_damaged_copy_is_made_anew(data: DataSet, tmp_path: Path) -> None:
    shared, node = tmp_path / "shared", tmp_path / "node"
    load_staged(data, shared, node)
    copy = node / data.fingerprint / "small" / "all.npz"
    changed = [one.copy() for one in arrays()]
    changed[0][0, 0, 0, 0] ^= 1
    np.savez(copy, *changed)
    loaded = load_staged(data, shared, node)
    assert torch.equal(loaded.train_images, torch.from_numpy(arrays()[0]))
    assert copy.read_bytes() == (shared / "small" / "all.npz").read_bytes()


def test_a_damaged_original_is_named_and_not_its_copy(data: DataSet, tmp_path: Path) -> None:
    np.savez(tmp_path / "shared" / "small" / "all.npz", *(one[:1] for one in arrays()))
    with pytest.raises(InputError, match=str(tmp_path / "shared")):
        load_staged(data, tmp_path / "shared", tmp_path / "node")


def test_what_a_killed_agent_left_half_copied_is_removed(data: DataSet, tmp_path: Path) -> None:
    node = tmp_path / "node"
    half = node / f".{data.fingerprint}.dead"
    half.mkdir(parents=True, mode=0o700)
    load_staged(data, tmp_path / "shared", node)
    assert not half.exists()


def test_without_room_for_a_copy_the_original_is_read(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "node").write_text("a file stands where the folder should be")
    loaded = load_staged(data, tmp_path / "shared", tmp_path / "node")
    assert len(loaded.train_images) == 4


def test_a_folder_of_somebody_else_is_not_trusted(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "node").symlink_to(tmp_path / "elsewhere")
    load_staged(data, tmp_path / "shared", tmp_path / "node")
    assert not list((tmp_path / "elsewhere").iterdir())


def _stage(data: DataSet, shared: Path, node: Path, barrier: object) -> None:
    images.READERS["small"] = read
    logging.basicConfig(filename=node.with_suffix(".log"), level=logging.INFO, force=True)
    barrier.wait()  # type: ignore[attr-defined]
    load_staged(data, shared, node)
    os._exit(0 if (node / data.fingerprint / "small" / "all.npz").is_file() else 1)


def test_of_agents_that_come_at_once_one_copies(data: DataSet, tmp_path: Path) -> None:
    shared, node = tmp_path / "shared", tmp_path / "node"
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    agents = [fork.Process(target=_stage, args=(data, shared, node, barrier)) for _ in range(4)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(300)
    assert [agent.exitcode for agent in agents] == [0] * 4
    assert sorted(one.name for one in node.iterdir()) == [data.fingerprint, f"{data.fingerprint}.lock"]
    assert node.with_suffix(".log").read_text().count("was copied to") == 1


def test_data_on_a_network_file_system_is_copied_and_other_data_is_not(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(NFS)
    near = data_folder(Path("/shared/data"), {}, mounts=mounts)
    assert near is not None
    assert near.name == f"qsweep-data-{os.getuid()}"
    assert data_folder(Path("/local/data"), {}, mounts=mounts) is None
    assert data_folder(Path("/local/data"), {"QSWEEP_NODE_DATA": "/nvme"}, mounts=mounts) == Path("/nvme")
    assert data_folder(Path("/shared/data"), {"QSWEEP_NODE_DATA": ""}, mounts=mounts) is None


def test_a_device_that_torch_computes_on_passes_and_another_is_refused() -> None:
    check_device(torch.device("cpu"))
    with pytest.raises(InputError, match="can't compute on this meta"):
        check_device(torch.device("meta"))
