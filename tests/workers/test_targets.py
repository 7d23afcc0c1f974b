"""Soft targets: a teacher's and those of FKD's files, and several crops of an image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, source_of
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.folders import read_files
from qsweep.workers.data.soft_labels import check_soft_labels, find_soft_labels
from qsweep.workers.data.targets import Targets
from qsweep.workers.evaluation import cross_entropy, soft_cross_entropy
from qsweep.workers.forms import Form
from tests.workers.folders import CLASSES, training_on, write_folder
from tests.workers.plain import PlainTraining, named
from tests.workers.test_equivalence import tensors
from tests.workers.test_independence import assert_same_bits, cohort_of, finish
from tests.workers.trainings import TEACHER, on, training

CPU = torch.device("cpu")
TAUGHT: dict[str, Any] = {"targets": "teacher", **TEACHER}


def test_soft_targets_of_one_class_are_hard_ones_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3, 7, 50, generator=generator)).requires_grad_()
    labels = torch.randint(7, (50,), generator=generator)
    shares = torch.nn.functional.one_hot(labels, 7).float()
    hard, soft = cross_entropy(logits, labels), soft_cross_entropy(logits, shares)
    assert torch.equal(hard, soft)
    (first,), (second,) = (torch.autograd.grad(one.mean(), logits) for one in (hard, soft))
    assert torch.equal(first, second)


def test_a_cohort_with_a_teacher_is_plain_models_on_its_first_classes(few: Images) -> None:
    """Six steps in double precision; the teacher's shares are found here class by class."""
    pair = [{"optimizer": "sgd", "bits": 4}, {"optimizer": "adam", "bits": 32, "epsilon": 1e-3, "learning_rate": 1e-3}]
    trainings = on(few, [training(batch_size=50, seed=seed, **TAUGHT, **one) for seed, one in enumerate(pair, 7)])
    cohort = Cohort(trainings, few, slots=3, form=Form.GATHER, device=CPU, dtype=torch.float64)
    plain = [PlainTraining(one) for one in trainings]
    teacher = trainings[0].teacher
    assert teacher is not None
    large = PlainTraining(teacher).net.eval()
    batches = Batches(few, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    for number in range(min(6, trainings[0].steps_per_epoch)):
        cohort.step()
        images, targets = batches.batch(number)
        with torch.no_grad():
            shares = torch.stack([first_three(one) for one in large(images).softmax(1)])
        for one in plain:
            one.step(images, Targets(labels=targets.labels, shares=shares))
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        found = tensors(cohort, member, one)
        for name, tensor in named(reference.net, one).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=name)


def first_three(shares: Tensor) -> Tensor:
    kept = sorted(range(len(shares)), key=lambda place: -float(shares[place]))[:3]
    rest = (1 - sum(float(shares[place]) for place in kept)) / (len(shares) - 3)
    wanted = [float(one) if place in kept else rest for place, one in enumerate(shares)]
    return torch.tensor(wanted, dtype=torch.float64)


def test_with_a_teacher_neighbours_and_an_interruption_change_no_bit(few: Images) -> None:
    """Of both methods' cohorts, one of which takes a batch in parts."""
    for settings in ({}, {"method": "sam", "rho": 0.05, "ascent_images": 20}):
        both = [training(batch_size=50, seed=seed, bits=4, **TAUGHT, **settings) for seed in range(2)]
        first = cohort_of(both, few, Form.GATHER, slots=3)
        for _ in range(2):
            first.step()
        states = [first.state(member) for member in range(2)]
        together = finish(first)
        again = cohort_of(both[::-1], few, Form.GATHER, slots=3)
        for member, state in enumerate(states[::-1]):
            again.restore(member, state)
        for one, other in zip(together, finish(again)[::-1], strict=True):
            assert_same_bits(one, other)
        assert_same_bits(together[1], finish(cohort_of(both[1:], few, Form.GATHER, slots=3))[0])
        hard = finish(cohort_of([training(batch_size=50, seed=1, bits=4, **settings)], few, Form.GATHER, slots=3))
        assert hard[0].run["train_loss"] != together[1].run["train_loss"]


def test_crops_of_an_image_follow_one_another_and_an_epoch_has_all_of_them(few: Images) -> None:
    (one,) = on(few, [training(batch_size=40, crops=4, augment="crop-flip")])
    batches = Batches(few, one.recipe, CPU, torch.float64)
    batches.open(0)
    found = [batches.batch(number) for number in range(one.steps_per_epoch)]
    labels = torch.cat([targets.labels for _, targets in found]).reshape(-1, 4)
    assert torch.equal(labels, labels[:, :1].expand(-1, 4))
    assert sorted(labels[:, 0].tolist()) == sorted(few.train_labels.tolist())
    four = torch.cat([images for images, _ in found]).flatten(1).reshape(len(few.train_labels), 4, -1)
    assert sum(len(torch.unique(one, dim=0)) > 1 for one in four) > 0.9 * len(four)
    result = finish(Cohort([one], few, slots=1, form=Form.GATHER, device=CPU))[0]
    assert all(0 <= row["train_accuracy"] <= 1 for row in result.epochs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three classes with FKD's files of six cuts an image: half of numpy's arrays, half of tensors."""
    place = write_folder(tmp_path / "pets")
    draw = np.random.default_rng(1)
    for number, path in enumerate(sorted((place / "train").rglob("*.JPEG"))):
        boxes = np.concatenate([draw.uniform(0, 0.4, (6, 2)), draw.uniform(0.3, 0.6, (6, 2))], axis=1)
        flips = draw.integers(0, 2, 6).astype(bool)
        own = np.full(6, CLASSES.index(path.parent.name), dtype=np.float32)
        content: list[Any] = [boxes.astype(np.float32), flips, np.stack([own, draw.uniform(0.5, 1, 6)], 1)[:, :, None]]
        target = place / "soft" / "train" / path.parent.name / f"{path.stem}.tar"
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save([torch.as_tensor(one) for one in content] if number % 2 else content, target)
    return place


def soft(place: Path, **settings: Any) -> Training:
    given: dict[str, Any] = {"targets": "fkd", "soft_labels": "soft", "crops": 2, "batch_size": 10}
    return training_on(place, **given | settings)


def test_fkds_cuts_and_shares_are_those_of_its_files(folder: Path) -> None:
    one = soft(folder)
    files = read_files(one.data, folder.parent)
    check_soft_labels(find_soft_labels(folder, "soft", files.train, 3), files.train, 2)
    source = source_of(files, one.recipe, CPU, torch.float64, one.targets)
    try:
        source.open(0)
        batches = [source.batch(number) for number in range(one.steps_per_epoch)]
        source.open(0)
        images, targets = source.batch(3)  # from the middle, as after a resume
    finally:
        source.close()
    assert [len(some) for _, some in batches] == [10, 10, 10, 10, 8]
    assert torch.equal(images, batches[3][0])
    assert targets.shares is not None
    assert batches[3][1].shares is not None
    assert torch.equal(targets.shares, batches[3][1].shares)
    seen = set()
    for pictures, wanted in batches:
        assert wanted.shares is not None
        for picture, label, shares in zip(pictures, wanted.labels.tolist(), wanted.shares, strict=True):
            seen.add(matching(folder, picture, label, shares))
    assert len(seen) == 48, "two different cuts of each image"


def matching(folder: Path, picture: Tensor, label: int, shares: Tensor) -> tuple[str, int]:
    """The image and the number of the cut that a picture and its shares are of."""
    for path in sorted((folder / "train" / CLASSES[label]).iterdir()):
        boxes, flips, found = torch.load(
            folder / "soft" / "train" / CLASSES[label] / f"{path.stem}.tar", weights_only=False
        )
        for number, (top, left, height, width) in enumerate(np.asarray(boxes).tolist()):
            share = float(found[number][1][0])
            wanted = [share if place == label else (1 - share) / 2 for place in range(3)]
            if not np.allclose(shares.numpy(), wanted, rtol=0, atol=1e-6):
                continue
            with Image.open(path) as image:
                across, down = image.size
                box = (left * across, top * down, (left + width) * across, (top + height) * down)
                small = image.convert("RGB").crop(box).resize((16, 16), Image.Resampling.BILINEAR)
            pixels = np.asarray(small)[:, ::-1] if flips[number] else np.asarray(small)
            mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            assert np.allclose(picture.permute(1, 2, 0).numpy(), (pixels / 255 - mean) / deviation, atol=1e-9)
            return path.name, number + 10 * label
    raise AssertionError("these shares are of no cut of this class")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: shutil.rmtree(place), "the soft labels 'soft' of these images are not here"),
        (
            lambda place: (place / "train" / "bee" / "3.tar").unlink(),
            "1 of 24 training images have no soft labels.*bee/3",
        ),
        (lambda place: swap(place / "train"), "of other images: of 24 images, only 0 have their class"),
        (lambda place: bee(place).write_bytes(b"x"), "can't be read"),
        (
            lambda place: torch.save([torch.zeros(6, 4)] * 3, bee(place)),
            "its arrays are of shapes",
        ),
    ],
)
def test_soft_labels_that_are_missing_or_of_other_images_are_refused(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    one = soft(folder)
    files = read_files(one.data, folder.parent)
    spoil(folder / "soft")
    with pytest.raises(InputError, match=said):
        check_soft_labels(find_soft_labels(folder, "soft", files.train, 3), files.train, 2)


def test_fkds_files_are_found_where_they_are_published_and_where_its_generator_writes_them(folder: Path) -> None:
    files, before = read_files(soft(folder).data, folder.parent), folder / "soft" / "train"
    for below in ("imagenet/train", "imagenet", f"{folder.name}/train"):
        place = folder / below.replace("/", "-") / below
        shutil.copytree(before, place)
        assert find_soft_labels(folder, below.replace("/", "-"), files.train, 3).root == place


def bee(place: Path) -> Path:
    return place / "train" / "bee" / "3.tar"


def swap(place: Path) -> None:
    """Give each class the soft labels of another one."""
    for name in CLASSES:
        (place / name).rename(place / f"{name}-old")
    for name, other in zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True):
        (place / f"{name}-old").rename(place / other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": "warm"}, "targets: 'warm' is not known; allowed: fkd, hard, teacher"),
        ({"targets": "fkd"}, "targets: FKD has no files of Digits"),
        ({**TAUGHT, "teacher": "nun"}, "teacher: 'nun' is not known"),
        ({**TAUGHT, "teacher_depth": 99}, "teacher: depth: 99 is not allowed"),
        ({**TAUGHT, "teacher_weights": "none"}, "teacher_weights: a teacher has weights"),
        ({**TAUGHT, "teacher_top": 10}, "teacher_top: 10 of 10 classes leave none"),
        ({**TAUGHT, "label_smoothing": 0.1}, "label_smoothing: soft targets are not smoothed again"),
        ({**TAUGHT, "teacher": "vit", "teacher_patch": 3, "teacher_heads": 1}, "teacher: patch: .*8"),
        ({"crops": 2}, "crops: 2 crops of an image would be equal"),
        ({"crops": 4, "augment": "crop-flip", "batch_size": 50}, "crops: batches of 50 do not hold whole images"),
    ],
)
def test_targets_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        training(**settings)


def test_fkds_cuts_exclude_others(folder: Path) -> None:
    for settings, said in (
        ({"augment": "none", "crops": 1}, "augment: 'none' is not for FKD"),
        ({"corrupt": "skip"}, "corrupt: 'skip' is not for FKD"),
        ({"soft_labels": "../soft"}, "soft_labels: '../soft' is not allowed"),
    ):
        with pytest.raises(InputError, match=said):
            soft(folder, **settings)


def test_what_a_teacher_is_counts_for_the_identity_and_hard_targets_do_not() -> None:
    plain, taught = training(), training(**TAUGHT)
    assert "targets" not in plain.settings()
    assert Job(training=plain).identity == Job(training=training(targets="hard", crops=1)).identity
    others = ({"teacher_depth": 3}, {"teacher_weights": "x"}, {"teacher_top": 4}, {})
    jobs = [Job(training=training(**TAUGHT | other)) for other in others]
    assert len({job.identity for job in (*jobs, Job(training=plain))}) == len({job.cohort_key for job in jobs}) + 1 == 5
    assert Training.from_settings(taught.settings()) == taught
    assert [one.weights_file for one in taught.with_weights] == [f"large/{taught.with_weights[0].model.label}-10.pth"]
