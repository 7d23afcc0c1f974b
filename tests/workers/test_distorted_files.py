"""Distortions of images from their files are those of the same pixels in memory, whatever the batches they come in."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.questions import WriteCorruptions
from qsweep.sweeps.training import Training
from qsweep.workers.corruptions.constants import IMAGENET
from qsweep.workers.corruptions.corrupt import corrupt
from qsweep.workers.corruptions.files import Drawn, corrupted_files
from qsweep.workers.corruptions.sets import CorruptedSets
from qsweep.workers.corruptions.writing import write
from qsweep.workers.data import ImageFiles, Images, Part, find
from qsweep.workers.data.stream import DEVIATION, MEAN, Stream
from qsweep.workers.decoding.pixels import BrokenImage
from qsweep.workers.measures import distortion as distorting
from qsweep.workers.measures import inference
from qsweep.workers.measures.distortion import Known, distort_models
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.results import starting_rows
from tests.workers.folders import CLASSES, training_on, write_folder

CPU = torch.device("cpu")
SIDE, MARGIN = 24, 27
"""Pixels that images are cut to, and that the files of the first tests have: the cut begins at the second."""
TREE = 40
"""Pixels a side of the images of a tree."""
COUNTS = {"train": 20, "val": 13}
"""Images of each class."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of lossless images that are larger than the cut by a margin."""
    folder = tmp_path_factory.mktemp("data") / "some"
    draw = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                coarse = draw.integers(0, 256, (4, 5, 3)).astype(np.uint8) // 2 + 60 * label
                picture = Image.fromarray(coarse.astype(np.uint8)).resize((MARGIN, MARGIN))
                picture.save(folder / part / name / f"{number:02}.png")
    return folder


def model_of(one: Training, seed: int) -> dict[str, Tensor]:
    """The tensors of a model as it is initialized under a seed."""
    layout = ConvLayout(one.model.layers(one.data))
    parameters, statistics = starting_rows(one, layout, None)
    parameters[: layout.weights] *= 1 + seed / 10
    return dict(layout.named(parameters, statistics))


def trainings_on(place: Path, **settings: Any) -> list[Training]:
    return [training_on(place, augment="none", bits=bits, image_size=SIDE, **settings) for bits in (32, 4)]


def distorted(
    trainings: list[Training], measure: Distortion, images: ImageFiles | Images, folder: Path | None, cache: Path
) -> list[dict[str, Any]]:
    models = {(str(number), 1): model_of(one, number) for number, one in enumerate(trainings)}
    sets = CorruptedSets(folder, cache)
    return distort_models(trainings, models, measure, images, sets, Known(), slots=2, device=CPU)


def files_of(place: Path, one: Training) -> ImageFiles:
    found = find(one.data, place.parent, download=False)
    assert isinstance(found, ImageFiles)
    return found


def pixels_of(place: Path, part: str) -> tuple[Tensor, list[str]]:
    """The middle of every image of a part, cut out of the array, and its name, class by class."""
    paths = sorted((place / part).rglob("*.png"))
    cut = slice(2, 2 + SIDE)
    images = [np.asarray(Image.open(path))[cut, cut].transpose(2, 0, 1) for path in paths]
    return torch.from_numpy(np.stack(images)), [f"{path.parent.name}/{path.stem}" for path in paths]


def saved(picture: np.ndarray) -> np.ndarray:
    """A picture as it comes out of a JPEG file of quality 85."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))


SEVERITY = 4


def in_memory(place: Path, one: Training, corruption: str, folder: Path) -> Images:
    """The same pixels in memory, and those corrupted one by one as arrays in the data folder.

    Of the other severities, which are not asked for, the images are as they were.
    """
    (train, _), (test, names) = pixels_of(place, "train"), pixels_of(place, "val")
    labels = {part: torch.arange(3).repeat_interleave(count) for part, count in COUNTS.items()}
    pictures = test.permute(0, 2, 3, 1).numpy()
    arrays = [
        saved(corrupt(one[None], corruption, severity, places=[name], seed=3, constants=IMAGENET)[0])
        if severity == SEVERITY
        else one
        for severity in (1, 2, 3, 4, 5)
        for one, name in zip(pictures, names, strict=True)
    ]
    (folder / "some-C").mkdir(parents=True)
    np.save(folder / "some-C" / f"{corruption}.npy", np.stack(arrays))
    np.save(folder / "some-C" / "labels.npy", np.tile(labels["val"].numpy(), 5))
    return Images(
        data=one.data, train_images=train, train_labels=labels["train"], test_images=test, test_labels=labels["val"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corruption", "samples"), [("gaussian_noise", 0), ("glass_blur", 0), ("zoom_blur", 20), ("snow", 0)]
)
def test_a_distortion_of_files_is_that_of_the_same_pixels_in_memory_bit_for_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corruption: str, samples: int
) -> None:
    monkeypatch.setattr(distorting, "BATCH", inference.SMALLEST_BATCH)  # sums have one order
    monkeypatch.setattr(inference, "CONVOLVED_ACTIVATION", 0)
    fixed = tuple(255 * torch.tensor(part, dtype=torch.float64) for part in (MEAN, DEVIATION))
    monkeypatch.setattr("qsweep.workers.data.batches.moments", lambda images: fixed)
    trainings = trainings_on(place)
    measure = Distortion(corruption=corruption, severity=SEVERITY, corruption_seed=3, measure_samples=samples)
    held = in_memory(place, trainings[0], corruption, tmp_path / "arrays")
    wanted = distorted(trainings, measure, held, tmp_path / "arrays", tmp_path)
    found = distorted(trainings, measure, files_of(place, trainings[0]), None, tmp_path)
    assert not any(tmp_path.glob("*-C-*"))  # nothing is written
    for one, other in zip(found, wanted, strict=True):
        assert (one.pop("source"), other.pop("source")) == ("generated", "published")
        fingerprints = one.pop("fingerprint"), other.pop("fingerprint")
        assert samples or fingerprints[0] == fingerprints[1]
        assert one == other
        assert one["samples"] == (samples or 39)
    assert found[0]["corrupted_loss"] != found[1]["corrupted_loss"] != found[1]["clean_loss"]


def test_what_the_training_found_on_clean_images_is_not_computed_again(place: Path, tmp_path: Path) -> None:
    """Nor does it change what is found on corrupted ones."""
    one = trainings_on(place)[0]
    models, sets = {("a", 1): model_of(one, 0)}, CorruptedSets(None, tmp_path)
    files, known = files_of(place, one), Known()
    passes = {"train_loss": 1.5, "train_accuracy": 0.25, "test_loss": 2.5, "test_accuracy": None}
    known.recall(("a", 1), passes)
    measure = Distortion(corruption="contrast", severity=1)
    (found,) = distort_models([one], models, measure, files, sets, known, slots=1, device=CPU)
    (computed,) = distort_models([one], models, measure, files, sets, Known(), slots=1, device=CPU)
    assert (found["train_loss"], found["train_accuracy"]) == (1.5, 0.25)
    same = {name for name in computed if found[name] == computed[name]}
    assert set(computed) - same == {"train_loss", "train_accuracy", "generalization_gap"}


def test_what_is_drawn_depends_on_no_batch_and_no_sample(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainings_on(place)[0]
    stream = Stream(files_of(place, one), one.recipe, CPU, torch.float32)
    drawn = Drawn(corruption="snow", severity=5, seed=0)

    def read(places: Tensor, size: int) -> Tensor:
        return torch.cat([pixels for pixels, _ in stream.pixels(Part.TEST, places, size, corrupted=drawn)])

    try:
        whole = read(torch.arange(39), 64)
        assert torch.equal(read(torch.arange(39), 5), whole)
        monkeypatch.setattr("qsweep.workers.data.stream.CHUNK", 3)
        assert torch.equal(read(torch.arange(39), 10), whole)
        assert torch.equal(read(torch.tensor([7, 20, 38]), 2), whole[[7, 20, 38]])
    finally:
        stream.close()
    assert not torch.equal(whole, pixels_of(place, "val")[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small files, and the tree that is written of it in the published layout, both in one place."""
    folder = tmp_path_factory.mktemp("written")
    write_folder(folder / "some", train=2, test=2)
    asked = WriteCorruptions(
        dataset="imagenet",
        data=str(folder / "some"),
        out=str(folder / "some-C"),
        corruptions=["contrast", "motion_blur"],
        severities=[2],
        size=TREE,
    )
    write(asked)
    return folder


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    """The same, of the test's own."""
    return shutil.copytree(written, tmp_path / "data")


@pytest.mark.parametrize("corruption", ["contrast", "motion_blur"])
def test_a_tree_is_preferred_and_one_written_here_holds_what_is_drawn(
    data: Path, tmp_path: Path, corruption: str
) -> None:
    one = training_on(data / "some", image_size=TREE, augment="none")
    files = files_of(data / "some", one)
    measure = Distortion(corruption=corruption, severity=2)
    (drawn,) = distorted([one], measure, files, None, tmp_path)
    (written,) = distorted([one], measure, files, data, tmp_path)
    assert (written["source"], drawn["source"]) == ("generated", "generated")
    assert written == drawn
    root = data / "some-C" / corruption / "2"
    (data / "some-C" / "qsweep.json").unlink()
    (published,) = distorted([one], measure, files, data, tmp_path)
    assert published == drawn | {"source": "published"}
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(root.rglob("*.JPEG"))])
    assert published["fingerprint"] == hashlib.sha256(pictures.tobytes()).hexdigest()[:32]
    Image.new("RGB", (TREE, TREE)).save(root / "bee" / "0.JPEG")
    (other,) = distorted([one], measure, files, data, tmp_path)
    assert other["corrupted_loss"] != published["corrupted_loss"]
    assert other["clean_loss"] == published["clean_loss"]


def test_a_tree_that_was_written_under_another_seed_is_not_taken(data: Path) -> None:
    some = training_on(data / "some", image_size=TREE).data
    for seed, corruption, severity in ((1, "contrast", 2), (0, "contrast", 3), (0, "fog", 2)):
        assert isinstance(corrupted_files(some, data, corruption, severity, seed=seed), Drawn)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "bee").rename(root / "wasp"), "2: the class 'bee' is missing; get some-C again"),
        (lambda root: (root / "cow").mkdir() or Image.new("L", (9, 9)).save(root / "cow" / "0.JPEG"), "no class 'cow'"),
        (lambda root: (root / "cat" / "1.JPEG").unlink(), "the class 'cat' has 1 images, not 2"),
        (lambda root: (root / "cat" / "1.JPEG").rename(root / "cat" / "x.JPEG"), "cat/1.JPEG is missing, and there is"),
        (lambda root: Image.new("RGB", (64, 64)).save(root / "ant" / "0.JPEG"), "has 64×64 pixels, not 40×40"),
        (lambda root: root.rename(root.with_name("3")), "contrast has no severity 2 here"),
    ],
)  # fmt: skip
def test_a_tree_that_is_not_of_the_test_images_is_refused(data: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    (data / "some-C" / "qsweep.json").unlink()
    one = training_on(data / "some", image_size=TREE, augment="none")
    spoil(data / "some-C" / "contrast" / "2")
    with pytest.raises(InputError, match=said):
        distorted(
            [one], Distortion(corruption="contrast", severity=2), files_of(data / "some", one), data, tmp_path / "cache"
        )


def test_a_corrupted_image_that_cannot_be_decoded_is_named_and_left_out_if_asked(data: Path, tmp_path: Path) -> None:
    broken = data / "some-C" / "contrast" / "2" / "bee" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:400])
    measure = Distortion(corruption="contrast", severity=2)
    one = training_on(data / "some", image_size=TREE, augment="none")
    with pytest.raises(BrokenImage, match=r"contrast/2/bee/1\.JPEG: this image can't be decoded: .*corrupt=skip"):
        distorted([one], measure, files_of(data / "some", one), data, tmp_path)
    skipping = training_on(data / "some", image_size=TREE, augment="none", corrupt="skip")
    (row,) = distorted([skipping], measure, files_of(data / "some", one), data, tmp_path)
    assert row["samples"] == 5
