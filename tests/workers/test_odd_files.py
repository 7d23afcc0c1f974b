"""What is called an image and is none is refused by its path, and never opened: a named pipe would block for ever."""

from __future__ import annotations

import os
import random
import resource
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.workers.corruptions.sets import check_labels, open_file
from qsweep.workers.corruptions.textures import texture_files
from qsweep.workers.corruptions.tree import list_tree, read_picture
from qsweep.workers.data import find
from qsweep.workers.data.archive import PARTS, read_archive, write_archive
from qsweep.workers.data.folders import list_files
from qsweep.workers.decoding.pixels import evaluation_pixels
from qsweep.workers.weights import _read as read_weights
from tests.workers.folders import some_data, write_folder


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = Path.cwd()
        os.chdir(path.parent)  # the whole path may be too long for a socket's
        try:
            one.bind(path.name)
        finally:
            os.chdir(before)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "this is a named pipe, not a file"),
    "socket": (_socket, "this is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "this is a link to a device, not a file"),
    "link to a pipe": (
        lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
        "this is a link to a named pipe, not a file",
    ),
    "nowhere": (lambda path: path.symlink_to("gone.png"), "this link leads nowhere"),
    "itself": (lambda path: path.symlink_to(path.name), "this link leads to itself"),
}


@pytest.fixture(params=ODD, ids=str)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A folder of images with an odd one, and what has to be said of it."""
    make, said = ODD[request.param]
    place = write_folder(tmp_path / "some")
    make(place / "train" / "bee" / "odd.png")
    return place, said


def test_image_folders_trees_and_decoding_refuse_it_by_its_path(odd: tuple[Path, str]) -> None:
    place, said = odd
    path = place / "train" / "bee" / "odd.png"
    reads: tuple[Callable[[], object], ...] = (
        lambda: list_files(some_data(place), place),
        lambda: list_tree(place / "train"),
        lambda: texture_files(path.parent),
        lambda: evaluation_pixels(path, 16),
        lambda: read_picture(path, 16),
    )
    for image in path.parent.glob("*.JPEG"):
        image.rename(image.with_stem(f"z{image.stem}"))  # photographs of frost are the first five of a folder
    for read in reads:
        with pytest.raises(InputError) as refused:
            read()
        assert said in str(refused.value)
        assert str(path) in str(refused.value)


def test_arrays_and_archives_refuse_it_too(tmp_path: Path) -> None:
    for data, name in (("digits", "digits.npz"), ("cifar10", "cifar-10-batches-py/data_batch_1")):
        path = tmp_path / data / name
        path.parent.mkdir(parents=True)
        os.mkfifo(path)
        with pytest.raises(InputError, match="this is a named pipe, not a file"):
            find(DATASETS[data], tmp_path / data, download=False)
    os.mkfifo(tmp_path / "labels.npy")
    with pytest.raises(InputError, match="this is a named pipe, not a file"):
        check_labels(tmp_path, DATASETS["cifar10"])


def _npz(path: Path) -> None:
    np.savez_compressed(path, **{part: np.arange(3000, dtype=np.uint8) % 7 for part in PARTS})


ARRAYS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "digits.npz": (_npz, lambda path: read_archive(DATASETS["digits"], path.parent)),
    "weights.pt": (lambda path: torch.save({"a": torch.ones(9), "b": torch.ones(9)}, path), read_weights),
    "labels.npy": (
        lambda path: np.save(path, np.zeros(9, np.int64)),
        lambda path: check_labels(path.parent, DATASETS["cifar10"]),
    ),
    "noise.npy": (lambda path: np.save(path, np.zeros(9)), lambda path: open_file(path, DATASETS["cifar10"])),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_whatever_bytes_are_damaged_a_file_of_arrays_is_refused_in_one_message_or_sound(
    tmp_path: Path, name: str
) -> None:
    write, read = ARRAYS[name]
    path = tmp_path / name
    write(path)
    content, refused = path.read_bytes(), 0
    for number in range(400):
        dice, damaged = random.Random(number), bytearray(content)
        for _ in range(dice.choice([1, 3, 30])):
            damaged[dice.randrange(min(len(damaged), 1000))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged if number % 8 else damaged[: number % 97])
        try:
            read(path)
        except InputError:  # anything else is a traceback
            refused += 1
    assert refused >= 50  # those that are cut short, at least


def _bomb(path: Path) -> None:
    """1 GiB of zeros in 1 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("train_images.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (1 << 30,)})
        for _ in range(1 << 10):
            member.write(bytes(1 << 20))


def _false_header(path: Path) -> None:
    """Nothing, with a header that says a pebibyte."""
    with zipfile.ZipFile(path, "w") as archive:
        for part in PARTS:
            with archive.open(f"{part}.npy", "w") as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
                np.lib.format.write_array_header_1_0(member, header)


@pytest.mark.slow
@pytest.mark.parametrize("write", [_bomb, _false_header])
def test_an_archive_that_would_unpack_to_more_than_the_data_set_is_refused_before_it_is_read(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "digits.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"damaged \(.*would unpack to"):
        read_archive(DATASETS["digits"], tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


def test_an_archive_in_the_place_of_an_array_is_no_array(tmp_path: Path) -> None:
    for name in ("labels.npy", "fog.npy"):
        np.savez(tmp_path / "some.npz", np.zeros(9, np.int64))
        (tmp_path / "some.npz").rename(tmp_path / name)
    with pytest.raises(InputError, match="the labels can't be read"):
        check_labels(tmp_path, DATASETS["cifar10"])
    with pytest.raises(InputError, match="this is no array of numpy"):
        open_file(tmp_path / "fog.npy", DATASETS["cifar10"])


def test_an_archive_of_the_product_is_read_whatever_its_size(tmp_path: Path) -> None:
    write_archive("digits", tmp_path, tmp_path, download=False)
    arrays = read_archive(DATASETS["digits"], tmp_path)
    assert arrays is not None
    assert [len(one) for one in arrays] == [1442, 1442, 355, 355]


def test_a_loop_of_links_and_an_unreadable_folder_are_one_message(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "some")
    loop = place / "train" / "bee" / "deeper"
    loop.symlink_to(place / "train" / "bee")
    with pytest.raises(InputError, match="bee/deeper: this link leads back into a folder above it"):
        list_files(some_data(place), place)
    loop.unlink()
    loop.mkdir()
    (loop / "0.JPEG").write_bytes((place / "train" / "bee" / "0.JPEG").read_bytes())
    assert len(list_files(some_data(place), place)[0].train) == 25
    with _unreadable(loop), pytest.raises(InputError, match="bee/deeper: this folder can't be read"):
        list_files(some_data(place), place)


def test_a_link_to_a_folder_elsewhere_holds_images_twice_without_harm(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "some")
    (place / "train" / "bee" / "more").symlink_to(place / "val" / "bee")
    assert len(list_files(some_data(place), place)[0].train) == 28


@contextmanager
def _unreadable(folder: Path) -> Iterator[None]:
    """Until its end this process may not read the folder, even if it is root's."""
    user = os.geteuid()
    for one in folder.parents:
        if one.stat().st_uid == user and not os.stat(one).st_mode & 0o001:
            one.chmod(0o755)
    folder.chmod(0o700 if user == 0 else 0o000)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
