"""What a child process finds out is said as if it had been found out here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qsweep.orchestrator.children import ask_child
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.data import archive
from tests.conftest import Qsweep
from tests.workers.folders import write_folder


def test_bad_input_that_a_child_finds_has_its_place_and_exit_code(here: Qsweep, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = here("corruptions", "imagenet", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert answer.returncode == InputError.exit_code
    assert answer.stderr.startswith(f"qsweep: --data {tmp_path / 'empty'}: there is no tree CLASS/FILE.JPEG")
    assert "; it may lie in DIR/imagenet/val" in answer.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError) as raised:
        ask_child("qsweep.workers.corruptions", "imagenet", "--folder", str(tmp_path / "empty"), failing="it")
    assert raised.value.place == f"--data {tmp_path / 'empty'}"
    assert (raised.value.allowed or "").startswith("it may lie in")


def test_a_child_that_dies_says_its_last_words() -> None:
    words = r"the test failed:\n(.|\n)*No module named '?qsweep\.workers\.nothing"
    with pytest.raises(QsweepError, match=words) as raised:
        ask_child("qsweep.workers.nothing", failing="the test")
    assert raised.value.exit_code == 1


def test_a_child_that_packs_data_answers_with_its_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "digits.npz")
    code = archive.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out"), "digits"])
    assert code == InputError.exit_code
    assert json.loads(capsys.readouterr().out)["problem"]["place"] == str(tmp_path / "digits.npz")


@pytest.mark.slow
def test_a_described_folder_with_a_pipe_in_it_is_refused_with_its_path(here: Qsweep, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "some")
    os.mkfifo(place / "val" / "cat" / "odd.png")
    answer = here("images", str(place))
    assert answer.returncode == InputError.exit_code
    assert f"{place}/val/cat/odd.png: this is a named pipe, not a file" in answer.stderr
