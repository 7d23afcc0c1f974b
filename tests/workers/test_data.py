"""Data sets are what they claim to be; order and augmentation come from counters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from qsweep.sweeps.components import PARTS
from qsweep.sweeps.datasets import DATASETS, Arrays
from qsweep.sweeps.errors import InputError
from qsweep.workers.data import Images, load
from qsweep.workers.data.batches import Batches, Shifts, draw_shifts, moments, shifted
from tests.workers.trainings import training

CPU = torch.device("cpu")


def test_every_data_set_that_a_sweep_may_name_is_in_the_table_of_components() -> None:
    assert set(PARTS["data"].components) == {*DATASETS, Arrays.name}


def test_digits_are_split_by_every_fifth_image_of_a_class(digits: Images) -> None:
    bunch = load_digits()
    images = np.concatenate([digits.train_images.numpy(), digits.test_images.numpy()])[:, 0]
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    order = np.lexsort(images.reshape(len(images), -1).T)
    known = np.lexsort(bunch.images.reshape(len(images), -1).T)
    assert np.array_equal(images[order], bunch.images[known])
    assert np.array_equal(labels[order], bunch.target[known])
    assert digits.train_images.shape == (1442, 1, 8, 8)
    assert digits.test_images.shape == (355, 1, 8, 8)
    assert torch.bincount(digits.test_labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_other_content_is_refused() -> None:
    other = dataclasses.replace(DATASETS["digits"], fingerprint="0" * 32)
    with pytest.raises(InputError, match="fingerprint is 86e31c2ecbd8915e92a6bd3c14e776ed"):
        load(other, None, download=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_data_set_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not found.*--data"):
        load(DATASETS[name], tmp_path, download=False)
    with pytest.raises(InputError, match="needs a folder"):
        load(DATASETS[name], None, download=False)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(b"\x80" * size)
    with pytest.raises(InputError, match="truncated or damaged"):
        load(DATASETS["cifar10"], tmp_path, download=False)


def test_crop_and_flip_equal_a_loop_over_images_and_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 3, 9, 9), generator=generator).to(torch.uint8)
    shifts = draw_shifts(40, generator)
    found = shifted(images, shifts)
    for number in range(40):
        for row in range(9):
            for column in range(9):
                y = row + int(shifts.down[number]) - 4
                x = (8 - column if shifts.flipped[number] else column) + int(shifts.across[number]) - 4
                inside = 0 <= y < 9 and 0 <= x < 9
                wanted = images[number, :, y, x] if inside else torch.zeros(3, dtype=torch.uint8)
                assert torch.equal(found[number, :, row, column], wanted)


def test_shifts_reach_every_offset_and_both_sides() -> None:
    shifts = draw_shifts(2000, torch.Generator().manual_seed(0))
    for offsets in (shifts.down, shifts.across):
        assert sorted(offsets.unique().tolist()) == list(range(9))
    assert 900 < int(shifts.flipped.sum()) < 1100


def test_an_unmoved_image_stays_itself() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    centre = torch.tensor([4])
    still = Shifts(down=centre, across=centre, flipped=torch.tensor([False]))
    assert torch.equal(shifted(images, still), images)


def test_order_depends_on_seed_and_epoch_and_not_on_the_way_there(digits: Images) -> None:
    def labels_of(epoch: int, *, first: tuple[int, ...] = (), data_seed: int = 0) -> list[int]:
        recipe = training(data_seed=data_seed, augment="crop-flip", batch_size=1442).recipe
        batches = Batches(digits, recipe, CPU, torch.float32)
        for earlier in first:
            batches.open(earlier)
        batches.open(epoch)
        images, targets = batches.batch(0)
        return [*targets.labels.tolist(), float(images.double().sum())]

    assert labels_of(3) == labels_of(3, first=(0, 1, 2)) == labels_of(3, first=(7,))
    assert labels_of(3) != labels_of(2)
    assert labels_of(3) != labels_of(3, data_seed=1)


def test_an_epoch_uses_every_image_once_and_the_last_batch_is_smaller(digits: Images) -> None:
    batches = Batches(digits, training(batch_size=100).recipe, CPU, torch.float32)
    batches.open(0)
    parts = [batches.batch(number) for number in range(15)]
    assert [len(targets) for _, targets in parts] == [100] * 14 + [42]
    found = torch.cat([images for images, _ in parts]).flatten(1).double().sum(1).sort().values
    wanted = batches.standardized(digits.train_images).flatten(1).double().sum(1).sort().values
    torch.testing.assert_close(found, wanted)


def test_images_are_standardized_by_the_training_sets_moments(digits: Images) -> None:
    pixels = digits.train_images.numpy().astype(np.float64)
    mean, deviation = moments(digits.train_images)
    assert mean.tolist() == pytest.approx([pixels.mean()])
    assert deviation.tolist() == pytest.approx([pixels.std()])
