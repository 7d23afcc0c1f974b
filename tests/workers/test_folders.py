"""Images from their files: the same pixels as torchvision's transforms, in an order and with cuts from counters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import Measure, PacBayes, Sharpness
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import ImageFiles, Part, find
from qsweep.workers.data.folders import classes_fingerprint
from qsweep.workers.data.images import Images
from qsweep.workers.data.source import epoch_generator
from qsweep.workers.data.stream import DEVIATION, MEAN, Stream
from qsweep.workers.data.targets import Targets
from qsweep.workers.decoding.pixels import BrokenImage, Cut, draw_cut, evaluation_pixels, training_pixels
from qsweep.workers.forms import Form
from qsweep.workers.measures import ascent, measure_models
from qsweep.workers.measures import files as measured_files
from qsweep.workers.models import graph
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.results import Result
from qsweep.workers.weights import read_start
from tests.late import Late
from tests.workers.folders import described, training_on, write_folder

torchvision = Late("torchvision")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "some")


def files_of(place: Path, one: Training) -> ImageFiles:
    found = find(one.data, place.parent, download=False)
    assert isinstance(found, ImageFiles)
    return found


@pytest.fixture
def streams() -> Iterator[list[Stream]]:
    opened: list[Stream] = []
    yield opened
    for one in opened:
        one.close()


@pytest.mark.slow
def test_classes_and_files_are_those_of_torchvisions_imagefolder(place: Path) -> None:
    files = files_of(place, training_on(place))
    for listing, part in ((files.train, "train"), (files.test, "val")):
        wanted = torchvision.datasets.ImageFolder(str(place / part))
        assert [str(listing.path(number)) for number in range(len(listing))] == [path for path, _ in wanted.samples]
        assert listing.labels.tolist() == wanted.targets


def test_evaluation_cuts_the_pixels_that_torchvision_cuts(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    cut = torchvision.transforms.Compose([torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)])
    for number, (height, width) in enumerate(((375, 500), (500, 333), (64, 64), (300, 301), (230, 1000))):
        path = tmp_path / f"{number}.png"
        coarse = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(path)
        wanted = np.asarray(cut(Image.open(path).convert("RGB"))).transpose(2, 0, 1)
        assert np.array_equal(evaluation_pixels(path, 224), wanted)


def test_a_grey_or_transparent_image_becomes_rgb(tmp_path: Path) -> None:
    for mode, value in (("L", 100), ("RGBA", (10, 20, 30, 255)), ("CMYK", (0, 0, 0, 0)), ("P", 0)):
        path = tmp_path / f"{mode}.tiff"
        Image.new(mode, (30, 40), value).save(path)
        assert evaluation_pixels(path, 16).shape == (3, 16, 16)


def test_a_training_cut_is_the_drawn_one_resized_and_flipped(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    seen = set()
    for number in range(8):
        cut = draw_cut(50, 40, f"0/0/cuts/{number}")
        part = Image.fromarray(pixels[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width])
        wanted = np.asarray(part.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        wanted = wanted[:, :, ::-1] if cut.flipped else wanted
        assert np.array_equal(cut_at(path, 16, f"0/0/cuts/{number}"), wanted)
        seen.add(cut.flipped)
    assert seen == {True, False}


def test_cuts_are_distributed_as_torchvision_draws_them() -> None:
    ours = [draw_cut(500, 375, str(number)) for number in range(3000)]
    assert all(cut.left + cut.width <= 500 and cut.top + cut.height <= 375 and cut.width > 0 for cut in ours)
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = [
        torchvision.transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)
    ]
    mean = torch.tensor([[cut.top, cut.left, cut.height, cut.width] for cut in ours]).double().mean(0)
    wanted = torch.tensor(theirs).double()
    error = wanted.std(0) / 3000**0.5
    assert bool(((mean - wanted.mean(0)).abs() < 5 * error).all())
    assert 0.45 < sum(cut.flipped for cut in ours) / 3000 < 0.55
    assert draw_cut(500, 375, "7") == draw_cut(500, 375, "7")
    narrow = [draw_cut(10, 400, str(number)) for number in range(20)]
    assert {(cut.width, cut.height) for cut in narrow} <= {(10, 13), *((cut.width, cut.height) for cut in narrow)}
    assert Cut(left=0, top=193, width=10, height=13, flipped=False) in {
        dataclasses.replace(cut, flipped=False) for cut in narrow
    }


def test_a_batch_is_what_its_counters_say_from_whatever_step_it_is_asked(place: Path, streams: list[Stream]) -> None:
    one = training_on(place, data_seed=3)
    files = files_of(place, one)
    stream = Stream(files, one.recipe, CPU, torch.float64)
    streams.append(stream)
    assert one.steps_per_epoch == 5
    seen: dict[tuple[int, int], tuple[torch.Tensor, Targets]] = {}
    for epoch in range(2):
        stream.open(epoch)
        for number in range(5):
            seen[epoch, number] = stream.batch(number)
    labels = torch.cat([targets.labels for (epoch, _), (_, targets) in seen.items() if epoch == 0])
    assert sorted(labels.tolist()) == sorted(files.train.labels.tolist())
    stream.open(1)
    again = stream.batch(3)
    assert torch.equal(again[0], seen[1, 3][0])
    assert torch.equal(again[1].labels, seen[1, 3][1].labels)
    order = torch.randperm(24, generator=epoch_generator(3, 1, "order"))
    mean, deviation = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (MEAN, DEVIATION))
    for image, spot in zip(seen[1, 2][0], order[10:15].tolist(), strict=True):
        pixels = torch.from_numpy(cut_at(files.train.path(spot), 16, f"3/1/cuts/{spot}")).double()
        torch.testing.assert_close(image, (pixels / 255 - mean) / deviation, rtol=0, atol=1e-12)


def test_held_out_images_are_evaluated_and_never_trained_on(place: Path, streams: list[Stream]) -> None:
    one = training_on(place, val_fraction=0.25, augment="none", batch_size=18)
    files = files_of(place, one)
    stream = Stream(files, one.recipe, CPU, torch.float32)
    streams.append(stream)
    assert stream.parts == (Part.TRAIN, Part.TEST, Part.VAL)
    sizes = {part: [len(labels) for _, labels in stream.passes(part, 5)] for part in stream.parts}
    assert sizes == {Part.TRAIN: [5, 5, 5, 3], Part.TEST: [5, 5, 2], Part.VAL: [5, 1]}
    stream.open(0)
    trained = {image.numpy().tobytes() for image in stream.batch(0)[0]}
    held_out = {image.numpy().tobytes() for images, _ in stream.passes(Part.VAL, 6) for image in images}
    assert (len(trained), len(held_out)) == (18, 6)
    assert not trained & held_out


def cut_at(path: Path, side: int, counter: str) -> np.ndarray:
    return training_pixels(path, side, lambda width, height: [draw_cut(width, height, counter)])[0]


def finish(cohort: Cohort, steps: int | None = None) -> list[Result]:
    try:
        while not cohort.finished and steps != 0:
            cohort.step()
            steps = None if steps is None else steps - 1
        return cohort.results() if cohort.finished else []
    finally:
        cohort.close()


def test_a_training_from_files_is_that_of_the_same_pixels_in_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation every image is a fixed picture, so a cohort in memory can be given the same batches."""
    one = training_on(place, augment="none", select_by="evaluated")
    files = files_of(place, one)
    with monkeypatch.context() as patch:  # evaluated as large images are
        patch.setattr(graph, "LARGE_IMAGE", 0)
        streamed = finish(Cohort([one], files, slots=1, form=Form.LOOP, device=CPU, dtype=torch.float64))[0]
    parts = [
        torch.from_numpy(np.stack([evaluation_pixels(part.path(spot), 16) for spot in range(len(part))]))
        for part in (files.train, files.test)
    ]
    held = Images(
        data=one.data, train_images=parts[0], train_labels=torch.from_numpy(files.train.labels),
        test_images=parts[1], test_labels=torch.from_numpy(files.test.labels),
    )  # fmt: skip
    cohort = Cohort([one], held, slots=1, form=Form.LOOP, device=CPU, dtype=torch.float64)
    batches: Any = cohort._source
    batches._mean = 255 * torch.tensor(MEAN, dtype=torch.float64)[:, None, None]
    batches._deviation = 255 * torch.tensor(DEVIATION, dtype=torch.float64)[:, None, None]
    in_memory = finish(cohort)[0]
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "distance"):
        assert streamed.run[name] == pytest.approx(in_memory.run[name], abs=1e-9), name


def test_a_resumed_training_from_files_ends_with_the_same_bits(place: Path) -> None:
    trainings = [training_on(place, bits=bits) for bits in (32, 4)]
    files = files_of(place, trainings[0])

    def cohort() -> Cohort:
        return Cohort(trainings, files, slots=2, form=Form.LOOP, device=CPU)

    whole = finish(cohort())
    first, second = cohort(), cohort()
    finish(first, steps=7)
    for member in range(2):
        second.restore(member, first.state(member))
    for one, other in zip(whole, finish(second), strict=True):
        assert (one.run, one.epochs) == (other.run, other.epochs)
        assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())


def test_no_epochs_are_an_evaluation_of_the_weights_as_they_are(place: Path, tmp_path: Path) -> None:
    one = training_on(place, epochs=0, weights="mine", augment="none")
    content = dict(ConvLayout(one.model.layers(one.data)).named(*initial(one, seed=9)))
    torch.save(content, tmp_path / "kept.pt")
    start = read_start(one, tmp_path / "kept.pt")
    files = files_of(place, one)
    cohort = Cohort([one], files, slots=1, form=Form.LOOP, device=CPU, dtype=torch.float64, start=start)
    assert cohort.finished
    result = finish(cohort)[0]
    assert (result.run["diverged"], result.run["chosen_epoch"], result.run["distance"]) == (False, 0, 0.0)
    assert result.run["weights_hash"] == hashlib.sha256((tmp_path / "kept.pt").read_bytes()).hexdigest()
    assert not result.epochs
    network = ConvNetwork(one.model, one.data)
    rows = [row[None].double() for row in (start.parameters, start.statistics)]
    pixels = np.stack([evaluation_pixels(files.test.path(spot), 16) for spot in range(len(files.test))])
    mean, deviation = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (MEAN, DEVIATION))
    images = (torch.from_numpy(pixels).double() / 255 - mean) / deviation
    logits = network.evaluate(images, network.views(network.layout.tensors(rows[0], rows[0], rows[1])))[0].t()
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(files.test.labels))
    assert result.run["test_loss"] == pytest.approx(float(loss), abs=1e-9)
    with pytest.raises(InputError, match="0 of a training that starts from weights"):
        training_on(place, epochs=0)


def initial(one: Training, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    layout = ConvLayout(one.model.layers(one.data))
    return layout.initial_parameters(seed), layout.initial_statistics()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of which one image to train on and one to test on are cut short."""
    folder = write_folder(tmp_path / "broken", train=4, test=4, seed=1)
    for part in ("train", "val"):
        path = folder / part / "bee" / "1.JPEG"
        path.write_bytes(path.read_bytes()[:200])
    return folder


def test_an_image_that_cannot_be_decoded_ends_the_training_by_its_name(broken: Path) -> None:
    one = training_on(broken)
    with pytest.raises(BrokenImage, match=r"train/bee/1\.JPEG: this image can't be decoded: .*corrupt=skip"):
        finish(Cohort([one], files_of(broken, one), slots=1, form=Form.LOOP, device=CPU))


def test_images_that_cannot_be_decoded_are_left_out_if_asked(broken: Path, streams: list[Stream]) -> None:
    one = training_on(broken, corrupt="skip", batch_size=12)
    files = files_of(broken, one)
    stream = Stream(files, one.recipe, CPU, torch.float32)
    streams.append(stream)
    assert sum(len(labels) for _, labels in stream.passes(Part.TEST, 5)) == 11
    stream.open(0)
    images, targets = stream.batch(0)
    assert len(images) == 12
    assert sorted(targets.labels.tolist()) == sorted(files.train.labels.tolist())
    result = finish(Cohort([one], files, slots=1, form=Form.LOOP, device=CPU))[0]
    assert not result.run["diverged"]
    assert (result.run["test_accuracy"] * 11) == pytest.approx(round(result.run["test_accuracy"] * 11), abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: (place / "val").rename(place / "test"), "val: this folder can't be read"),
        (lambda place: (place / "val" / "cat").rename(place / "val" / "dog"), "the class 'cat' stands in only one"),
        (lambda place: [one.unlink() for one in (place / "train" / "ant").iterdir()], "ant: this class has no images"),
        (lambda place: (place / "train" / "ant" / "0.JPEG").unlink(), "there are 23 images to train on, not 24"),
        (lambda place: (place / "val" / "ant" / "0.JPEG").write_bytes(b"other"), "this is not some: its fingerprint"),
    ],
)
def test_a_folder_that_is_not_what_was_described_is_refused(spoil: Any, said: str, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "some")
    one = training_on(place)
    spoil(place)
    with pytest.raises(InputError, match=said):
        files_of(place, one)


def test_imagenet_is_known_by_its_classes_and_numbers() -> None:
    names = sorted(pytest.importorskip("timm.data").ImageNetInfo().label_names())
    data = DATASETS["imagenet"]
    assert classes_fingerprint(names, data.train_images, data.test_images) == data.fingerprint


def test_imagenet_that_is_not_there_is_named() -> None:
    data = DATASETS["imagenet"]
    with pytest.raises(InputError, match="data set ImageNet-1K not found"):
        find(data, Path("/nonexistent"), download=True)


@pytest.mark.slow
def test_the_processes_that_decode_end_with_the_agent_even_if_that_is_killed(place: Path) -> None:
    program = (
        "import sys, time, json, torch\n"
        "from pathlib import Path\n"
        "from qsweep.sweeps.training import Training\n"
        "from qsweep.workers.data import find\n"
        "from qsweep.workers.data.stream import Stream\n"
        "if __name__ == '__main__':\n"
        "    one = Training.from_settings(json.loads(sys.argv[1]))\n"
        "    files = find(one.data, Path(sys.argv[2]), download=False)\n"
        "    stream = Stream(files, one.recipe, torch.device('cpu'), torch.float32)\n"
        "    stream.open(0)\n"
        "    stream.batch(0)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    script = place.parent / "stream.py"
    script.write_text(program)
    source = Path(__file__).parents[2] / "src"
    child = subprocess.Popen(
        [sys.executable, str(script), json.dumps(described(place)), str(place.parent)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(source)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    decoders = psutil.Process(child.pid).children(recursive=True)
    assert decoders
    child.kill()
    assert child.stdout.read() == ""  # nobody else holds the agent's output open
    _, alive = psutil.wait_procs(decoders, timeout=300)
    assert not alive
    child.wait()
    child.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        PacBayes(measure_samples=12, copies=2, iterations=3),
        Sharpness(measure_samples=12, copies=2, iterations=2, ascent_steps=2, ascent_batch=6, ascent_rate=0.05),
    ],
)
def test_measures_on_images_from_files_are_those_of_the_same_pixels_in_memory(
    place: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = training_on(place, augment="none", epochs=1, learning_rate=0.05, bits=4)
    files = files_of(place, one)
    model = finish(Cohort([one], files, slots=1, form=Form.LOOP, device=CPU))[0].model
    with monkeypatch.context() as patch:  # as for large images: a gradient of one image at a time, one model a pass
        patch.setattr(graph, "LARGE_IMAGE", 0)
        patch.setattr(ascent, "GRAPH", 1)
        patch.setattr(measured_files, "CPU_ROWS", 1)
        patch.setattr(measured_files, "KEPT", 0)
        rows = measure_models([one, one], [model, model], measure, files, device=CPU, dtype=torch.float64)
    pixels = torch.from_numpy(np.stack([evaluation_pixels(files.train.path(spot), 16) for spot in range(24)]))
    held = Images(
        data=one.data, train_images=pixels, train_labels=torch.from_numpy(files.train.labels),
        test_images=pixels[:1], test_labels=torch.from_numpy(files.train.labels[:1]),
    )  # fmt: skip
    with monkeypatch.context() as patch:
        fixed = tuple(255 * torch.tensor(part, dtype=torch.float64) for part in (MEAN, DEVIATION))
        patch.setattr("qsweep.workers.data.batches.moments", lambda images: fixed)
        wanted = measure_models([one], [model], measure, held, device=CPU, dtype=torch.float64)[0]
    assert rows[0] == rows[1]
    for name in ("clean_accuracy", "radius", "reached", "value_init", "value_orig", "samples", "m"):
        assert rows[0][name] == pytest.approx(wanted[name], rel=1e-9), name
    assert rows[0]["m"] == 24
    assert rows[0]["samples"] == 12


def test_m_of_the_bounds_may_be_the_number_of_samples(place: Path) -> None:
    one = training_on(place, augment="none", epochs=1)
    files = files_of(place, one)
    model = finish(Cohort([one], files, slots=1, form=Form.LOOP, device=CPU))[0].model
    measure = PacBayes(measure_samples=12, copies=1, iterations=1, m_from="samples")
    assert measure_models([one], [model], measure, files, device=CPU)[0]["m"] == 12
