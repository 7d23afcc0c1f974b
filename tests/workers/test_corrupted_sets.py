"""Corrupted test sets as files: the published layout comes and goes, a wrong file is refused, a right one is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qsweep.sweeps.corruptions import SEVERITIES
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.questions import WriteCorruptions
from qsweep.workers.corruptions import corrupt, sets
from qsweep.workers.corruptions.constants import IMAGENET
from qsweep.workers.corruptions.sets import CorruptedSets, TestSet, as_pictures, write_corruption
from qsweep.workers.corruptions.tree import list_tree, read_picture
from qsweep.workers.corruptions.writing import write
from qsweep.workers.data import Images
from tests.late import Late

torchvision = Late("torchvision")

DIGITS = DATASETS["digits"]
COUNT = DIGITS.test_images


@pytest.fixture(scope="module")
def clean(digits: Images) -> TestSet:
    return TestSet(data=DIGITS, images=digits.test_images.numpy(), labels=digits.test_labels.numpy())


@pytest.fixture(scope="module")
def kept(clean: TestSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets that holds two corruptions of the digits, drawn under a seed that nobody asks for."""
    folder = tmp_path_factory.mktemp("published") / "Digits-C"
    folder.mkdir()
    for name in ("fog", "gaussian_noise"):
        write_corruption(clean, name, folder, seed=77)
    (folder / "qsweep.json").unlink()
    return folder.parent


@pytest.fixture
def published(kept: Path, tmp_path: Path) -> Path:
    """The same, of the test's own."""
    return shutil.copytree(kept, tmp_path / "data")


def test_white_is_255_in_pictures_whatever_it_is_in_the_data(clean: TestSet) -> None:
    pictures = as_pictures(clean.images, DIGITS)
    assert (pictures.max(), clean.images.max()) == (255, 16)
    assert (np.rint(pictures[..., 0] * (16 / 255)) == clean.images[:, 0]).all()


def test_a_set_in_the_published_layout_is_severity_major_and_comes_back(clean: TestSet, tmp_path: Path) -> None:
    path = write_corruption(clean, "shot_noise", tmp_path, seed=3)
    stored = np.load(path)
    assert (path.name, stored.shape, stored.dtype) == ("shot_noise.npy", (5 * COUNT, 8, 8, 1), np.uint8)
    assert (np.load(tmp_path / "labels.npy") == np.tile(clean.labels, 5)).all()
    for severity in SEVERITIES:
        expected = corrupt(clean.pictures, "shot_noise", severity, places=range(COUNT), seed=3)
        assert (stored[(severity - 1) * COUNT : severity * COUNT] == expected).all()


def test_published_files_are_preferred_and_others_are_generated_once(
    clean: TestSet, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = CorruptedSets(published, tmp_path / "cache")
    fog = found.at(clean, "fog", 4)
    assert (fog.source, fog.frost) == ("published", None)
    assert (fog.images == np.load(published / "Digits-C" / "fog.npy")[3 * COUNT : 4 * COUNT]).all()
    contrast = found.at(clean, "contrast", 2)
    assert contrast.source == "generated"
    monkeypatch.setattr(sets, "write_corruption", lambda *_, **__: pytest.fail("it is there already"))
    again = CorruptedSets(published, tmp_path / "cache").at(clean, "contrast", 2)
    assert again.fingerprint == contrast.fingerprint
    assert isinstance(again.images.base, np.memmap)


def test_a_fingerprint_is_that_of_the_images(clean: TestSet, tmp_path: Path) -> None:
    found = CorruptedSets(None, tmp_path)
    one = {severity: found.at(clean, "glass_blur", severity).fingerprint for severity in SEVERITIES}
    other = CorruptedSets(None, tmp_path / "elsewhere").at(clean, "glass_blur", 3)
    assert len(set(one.values())) == 5
    assert other.fingerprint == one[3]
    assert found.at(clean, "glass_blur", 3, seed=1).fingerprint != one[3]


def test_frost_is_synthetic_unless_there_are_photographs(clean: TestSet, tmp_path: Path) -> None:
    synthetic = CorruptedSets(tmp_path, tmp_path / "cache").at(clean, "frost", 1)
    assert (synthetic.source, synthetic.frost) == ("generated", "synthetic")
    (tmp_path / "frost").mkdir()
    for number in range(3):
        Image.new("RGB", (80, 80), (60 * number, 0, 0)).save(tmp_path / "frost" / f"{number}.png")
    real = CorruptedSets(tmp_path, tmp_path / "cache").at(clean, "frost", 1)
    assert real.frost == "photographs"
    assert real.fingerprint != synthetic.fingerprint
    assert CorruptedSets(tmp_path, tmp_path / "cache").at(clean, "fog", 1).frost is None


def too_few(folder: Path) -> None:
    np.save(folder / "fog.npy", np.load(folder / "fog.npy")[:-1])


def wrong_side(folder: Path) -> None:
    np.save(folder / "fog.npy", np.zeros((5 * COUNT, 32, 32, 3), dtype=np.uint8))


def wrong_type(folder: Path) -> None:
    np.save(folder / "fog.npy", np.load(folder / "fog.npy") / 255)


def truncated(folder: Path) -> None:
    content = (folder / "fog.npy").read_bytes()
    (folder / "fog.npy").write_bytes(content[: len(content) // 2])


def no_array(folder: Path) -> None:
    (folder / "fog.npy").write_text("<html>not found</html>")


def other_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[::-1])


def fewer_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:COUNT])


def no_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (too_few, "not uint8 (1775, 8, 8, 1)"),
        (wrong_side, "uint8 (1775, 32, 32, 3), not uint8 (1775, 8, 8, 1)"),
        (wrong_type, "float64 (1775, 8, 8, 1), not uint8"),
        (truncated, "this is no array of numpy"),
        (no_array, "this is no array of numpy"),
        (other_labels, "these are not the labels of Digits's test set"),
        (fewer_labels, "not 1775 labels"),
        (no_labels, "the labels can't be read"),
    ],
)
def test_a_wrong_published_file_is_refused_with_its_place(
    clean: TestSet, published: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(published / "Digits-C")
    with pytest.raises(InputError) as caught:
        CorruptedSets(published, tmp_path / "cache").at(clean, "fog", 1)
    assert message in str(caught.value)
    assert str(published / "Digits-C") in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_was_not_written_whole_is_none(
    clean: TestSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sets, "corrupt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            CorruptedSets(None, tmp_path).at(clean, "fog", 1)
    assert not list(tmp_path.rglob("fog.npy"))
    assert CorruptedSets(None, tmp_path).at(clean, "fog", 1).source == "generated"


PROCESS = """
import json, sys, time
from pathlib import Path
import numpy as np
from qsweep.sweeps.datasets import DATASETS
from qsweep.workers.corruptions import sets
from qsweep.workers.corruptions.sets import CorruptedSets, TestSet
digits = DATASETS["digits"]
images = np.arange(355 * 64).reshape(355, 1, 8, 8) % 17
clean = TestSet(data=digits, images=images.astype(np.uint8), labels=np.arange(355) % 10)
made = []
write = sets.write_corruption
def slow(*given, **more):
    made.append(1)
    time.sleep(1.0)
    return write(*given, **more)
sets.write_corruption = slow
found = CorruptedSets(None, Path(sys.argv[1])).at(clean, "fog", 2)
print(json.dumps([len(made), found.fingerprint]))
"""


def test_of_several_processes_one_makes_a_file_and_the_others_wait_for_it(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [json.loads(one.communicate()[0]) for one in started]
    assert sorted(made for made, _ in answers) == [0, 1]
    assert len({fingerprint for _, fingerprint in answers}) == 1


def test_the_command_writes_a_set_and_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = WriteCorruptions(dataset="digits", data=str(tmp_path), out=str(out), corruptions=["fog", "snow"])
    write(asked)
    assert {one.name for one in out.iterdir()} == {"fog.npy", "snow.npy", "labels.npy", "qsweep.json"}
    dates = {one.name: one.stat().st_mtime_ns for one in out.iterdir()}
    (out / "fog.npy").unlink()
    write(replace(asked, workers=2))
    same = {one.name for one in out.iterdir() if one.stat().st_mtime_ns == dates[one.name]}
    assert same == {"snow.npy", "labels.npy", "qsweep.json"}
    write(replace(asked, corruptions=["fog"], severities=[2]))
    assert (np.load(out / "fog-2.npy") == np.load(out / "fog.npy")[COUNT : 2 * COUNT]).all()


def test_the_command_does_not_add_to_another_set(published: Path, tmp_path: Path) -> None:
    asked = WriteCorruptions(
        dataset="digits", data=str(tmp_path), corruptions=["contrast"], out=str(published / "Digits-C")
    )
    with pytest.raises(InputError, match="files that were not generated here"):
        write(asked)
    own = replace(asked, out=str(tmp_path / "own"))
    write(own)
    with pytest.raises(InputError, match="this folder holds another set: seed 0"):
        write(replace(own, seed=1))


def test_a_set_that_was_generated_is_not_taken_for_the_published_one(clean: TestSet, tmp_path: Path) -> None:
    write_corruption(clean, "frost", tmp_path / "Digits-C", seed=4)
    sets_here = CorruptedSets(tmp_path, tmp_path / "cache")
    found = sets_here.at(clean, "frost", 2, seed=4)
    assert (found.source, found.frost) == ("generated", "synthetic")
    assert not (tmp_path / "cache").exists()
    assert sets_here.at(clean, "frost", 2, seed=5).fingerprint != found.fingerprint  # drawn as asked, into the cache


def test_a_contact_sheet_shows_the_image_under_every_corruption(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    asked = WriteCorruptions(dataset="digits", data=str(tmp_path), sheet=str(path), image=5)
    write(asked)
    sheet = np.asarray(Image.open(path))
    side, gap, left, top = 96, 6, 150, 24
    assert sheet.shape == (top + 15 * (side + gap), left + 6 * (side + gap), 3)
    cells = {
        sheet[top + row * 102 : top + row * 102 + side, left + column * 102 : left + column * 102 + side].tobytes()
        for row in range(15)
        for column in range(1, 6)
    }
    assert len(cells) >= 70  # severities of pixelate come out alike on 8 pixels
    with pytest.raises(InputError, match="there is no image 355"):
        write(replace(asked, image=355))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three pictures of two classes, of other sizes than the networks'."""
    draw = np.random.default_rng(0)
    for name, shape in (("cat/a.JPEG", (300, 400)), ("cat/b.png", (120, 90)), ("dog/c.JPEG", (256, 256))):
        path = tmp_path / "data" / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(draw.integers(0, 256, size=(12, 12, 3), dtype=np.uint8))
        small.resize(shape[::-1], Image.Resampling.BICUBIC).save(path)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_picture_is_resized_and_cropped_as_torchvision_does_it(tree: Path) -> None:
    wanted = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(256),
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.PILToTensor(),
        ]
    )
    for picture in list_tree(tree):
        expected = wanted(Image.open(picture.path).convert("RGB"))
        assert torch.equal(torch.from_numpy(read_picture(picture.path).copy()).permute(2, 0, 1), expected)


def test_a_tree_is_written_in_the_published_layout(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = WriteCorruptions(
        dataset="imagenet", data=str(tree), out=str(out), corruptions=["contrast"], severities=[4], seed=9
    )
    write(asked)
    files = sorted(out.rglob("*.JPEG"))
    assert [str(one.relative_to(out)) for one in files] == [
        "contrast/4/cat/a.JPEG",
        "contrast/4/cat/b.JPEG",
        "contrast/4/dog/c.JPEG",
    ]
    Image.new("RGB", (16, 16)).save(tmp_path / "85.jpeg", quality=85)
    with Image.open(files[0]) as written, Image.open(tmp_path / "85.jpeg") as plain:
        assert written.size == (224, 224)
        assert written.quantization == plain.quantization  # type: ignore[attr-defined]
        one = read_picture(tree / "val" / "cat" / "a.JPEG")[None]
        expected = corrupt(one, "contrast", 4, places=["cat/a"], seed=9, constants=IMAGENET)[0]
        assert np.abs(np.asarray(written).astype(int) - expected).mean() < 3
    dates = [one.stat().st_mtime_ns for one in files]
    files[1].unlink()
    left = [files[number].with_name(f".{files[number].name}.{'0' * 32}.tmp") for number in range(3)]
    for one in left:  # as a killed run leaves them, also beside what another has made since
        one.write_bytes(b"half")
    write(asked)
    assert not any(one.exists() for one in left)
    again = [one.stat().st_mtime_ns for one in sorted(out.rglob("*.JPEG"))]
    assert [old == new for old, new in zip(dates, again, strict=True)] == [True, False, True]


def test_a_broken_picture_of_a_tree_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "val" / "cat" / "b.png").write_bytes(b"no picture")
    asked = WriteCorruptions(dataset="imagenet", data=str(tree), out=str(tmp_path / "out"), corruptions=["contrast"])
    with pytest.raises(InputError) as raised:
        write(asked)
    assert (raised.value.place or "").endswith("b.png")
    assert raised.value.problem.startswith("this image can't be read")
    with pytest.raises(InputError):
        write(replace(asked, data=str(tmp_path / "nowhere")))
