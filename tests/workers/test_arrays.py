"""Data sets of users: read from where they say, checked, kept as archives, and standardized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from qsweep.sweeps.datasets import Arrays, DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import DescribeArrays
from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.settings import build
from qsweep.workers.data import Part, load, load_staged
from qsweep.workers.data.arrays import describe
from qsweep.workers.data.batches import Batches

CPU = torch.device("cpu")
NUMBERS = np.random.default_rng(0)
ROWS, LABELS = NUMBERS.normal(size=(60, 5)), np.arange(60) % 3
PICTURES = NUMBERS.integers(0, 256, (60, 5, 6, 3), dtype=np.uint8)
DATA = """
import numpy as np
import torch
from beside import rows

class Pairs(torch.utils.data.Dataset):
    def __init__(self, some):
        self.some = some
    def __len__(self):
        return len(self.some)
    def __getitem__(self, place):
        return torch.as_tensor(self.some[place]), place % 3

def load():
    found = rows("rows.npy")
    return Pairs(found[:48]), Pairs(found[48:])

def fails():
    raise KeyError("nothing here")
"""


def described(folder: Path, source: str, *, keep: bool = False) -> DataSet:
    found = describe(DescribeArrays(source=source, folder=str(folder), data=str(folder / "data"), keep=keep))
    return build(Arrays, {**found, "data_shape": list(found["data_shape"])}).data(source)


def saved(folder: Path, **arrays: Any) -> DataSet:
    np.savez(folder / "points.npz", **arrays)
    return described(folder, "file:points.npz", keep=True)


def test_rows_of_features_are_split_and_standardized_by_the_training_set(tmp_path: Path) -> None:
    data = saved(tmp_path, X=np.column_stack([ROWS, np.full(60, 7.0)]), y=LABELS)
    assert (data.shape, data.classes, data.train_images, data.test_images) == ((6,), 3, 48, 12)
    images = load(data, tmp_path / "data", download=False)
    test = np.concatenate([np.flatnonzero(label == LABELS)[4::5] for label in range(3)])
    torch.testing.assert_close(images.test_images[:, :5], torch.from_numpy(ROWS[np.sort(test)]).float())
    before = images.train_images.clone()
    source = Batches(images, Recipe(epochs=1, batch_size=16), CPU, torch.float32)
    ((rows, _),) = source.passes(Part.TRAIN, 100)
    wanted = before[:, :5].double()
    wanted = (wanted - wanted.mean(0)) / wanted.std(0, correction=0)
    torch.testing.assert_close(rows[:, :5].double(), wanted, atol=1e-5, rtol=1e-5)
    assert not rows[:, 5].any()  # a feature that never changes
    assert torch.equal(images.train_images, before)


def test_images_come_with_channels_first_or_last(tmp_path: Path) -> None:
    split = {"x_train": PICTURES[:48], "y_train": LABELS[:48], "x_test": PICTURES[48:], "y_test": LABELS[48:]}
    data = saved(tmp_path, **split)
    assert (data.shape, data.values, data.form) == ((3, 5, 6), "uint8", (3, 5, 6))
    images = load(data, tmp_path / "data", download=False)
    assert np.array_equal(images.train_images.numpy(), PICTURES[:48].transpose(0, 3, 1, 2))
    assert images.train_images.dtype == torch.uint8
    square = saved(tmp_path, images=PICTURES[:, :4, :4, 0], labels=LABELS)
    assert (square.shape, square.form) == ((1, 4, 4), ())


def test_a_table_holds_features_a_label_and_a_split(tmp_path: Path) -> None:
    columns = {f"f{place}": ROWS[:, place] for place in range(5)}
    names = np.array(["cat", "dog", "ant"])[LABELS]
    split = np.where(np.arange(60) < 40, "train", "test")
    pq.write_table(pa.table({**columns, "label": names, "split": split}), tmp_path / "t.parquet")
    data = described(tmp_path, "file:t.parquet", keep=True)
    images = load(data, tmp_path / "data", download=False)
    torch.testing.assert_close(images.train_images, torch.from_numpy(ROWS[:40]).float())
    assert images.test_labels.tolist() == [{"ant": 0, "cat": 1, "dog": 2}[name] for name in names[40:]]


def test_a_function_returns_data_sets_of_torch_and_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "beside.py").write_text("import numpy as np\ndef rows(name): return np.load(name)\n")
    np.save(tmp_path / "rows.npy", ROWS)
    data = described(tmp_path, "file:data.py:load", keep=True)
    assert (data.shape, data.train_images, data.title) == ((5,), 48, "data.py:load")
    torch.testing.assert_close(
        load(data, tmp_path / "data", download=False).test_images, torch.from_numpy(ROWS[48:]).float()
    )
    with pytest.raises(InputError, match=r"it raises KeyError: 'nothing here' \(data.py, line 19, in fails\)"):
        described(tmp_path, "file:data.py:fails")


def test_a_data_set_of_torchvision_is_a_line(tmp_path: Path) -> None:
    """Its own files, as they are published, in the folder of the data sets: nothing is downloaded."""
    pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = NUMBERS.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    for name, part in (("train", slice(48)), ("t10k", slice(48, 60))):
        some, labels = images[part], LABELS[part].astype(np.uint8)
        head = np.array([0x0803, len(some), 28, 28], dtype=">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + some.tobytes())
        head = np.array([0x0801, len(some)], dtype=">i4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    data = described(tmp_path, "torchvision:FashionMNIST", keep=True)
    assert (data.shape, data.values, data.classes, data.train_images) == ((1, 28, 28), "uint8", 3, 48)
    found = load(data, tmp_path / "data", download=False)
    assert np.array_equal(found.test_images[:, 0].numpy(), images[48:])
    assert found.test_labels.tolist() == LABELS[48:].tolist()
    with pytest.raises(InputError, match="torchvision has no data set 'Nothing'"):
        described(tmp_path, "torchvision:Nothing")


def test_every_agent_checks_its_copy(tmp_path: Path) -> None:
    data = saved(tmp_path, X=ROWS, y=LABELS)
    shared, node = tmp_path / "data", tmp_path / "node"
    assert torch.equal(load_staged(data, shared, node).train_images, load(data, shared, download=False).train_images)
    assert (node / data.fingerprint / data.archive).is_file()
    np.savez(shared / data.archive, train_images=1, train_labels=2, test_images=3, test_labels=4)
    with pytest.raises(InputError, match=r"points\.npz"):
        load(data, shared, download=False)
    (shared / data.archive).unlink()
    with pytest.raises(InputError, match="launch the sweep from its file"):
        load(data, shared, download=False)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"X": ROWS, "z": LABELS}, "its arrays are called X, z"),
        ({"X": ROWS, "y": LABELS + 1}, "the labels are 0?1, 2, 3"),
        ({"X": np.where(ROWS > 2, np.nan, ROWS), "y": LABELS}, "not finite"),
        ({"X": ROWS, "y": LABELS * 0.5}, "labels are float64"),
        ({"X": ROWS[:, :, None, None, None], "y": LABELS}, "one example is of shape"),
        ({"X": ROWS.astype(str), "y": LABELS}, "images are"),
    ],
)
def test_what_can_not_be_trained_on_is_refused(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        saved(tmp_path, **arrays)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(InputError, match="this can't be read"):
        described(tmp_path, "file:broken.npz")
    with pytest.raises(InputError, match=r"this can't be read|there is no"):
        described(tmp_path, "file:none.npz")
