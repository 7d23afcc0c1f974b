"""What a child process finds out is said as if it had been found out here."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from qsweep.orchestrator.children import ask
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.questions import QUESTIONS, DescribeImages, Question, WriteCorruptions
from qsweep.sweeps.service import Service
from qsweep.workers.service import reply
from tests.conftest import Qsweep
from tests.workers.folders import write_folder


@dataclass(frozen=True, kw_only=True)
class Unheard(Question):
    """A question that no child knows."""


def test_bad_input_that_a_child_finds_has_its_place_and_exit_code(here: Qsweep, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = here("corruptions", "imagenet", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert answer.returncode == InputError.exit_code
    assert answer.stderr.startswith(f"qsweep: --data {tmp_path / 'empty'}: there is no tree CLASS/FILE.JPEG")
    assert "; it may lie in DIR/imagenet/val" in answer.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError) as raised:
        ask(WriteCorruptions(dataset="imagenet", data=str(tmp_path / "empty")), failing="it")
    assert raised.value.place == f"--data {tmp_path / 'empty'}"
    assert (raised.value.allowed or "").startswith("it may lie in")


def test_a_child_that_dies_says_its_last_words() -> None:
    with pytest.raises(QsweepError, match=r"the test failed:\n(.|\n)*KeyError: 'Unheard'") as raised:
        ask(Unheard(), failing="the test")
    assert raised.value.exit_code == 1


def test_a_child_that_packs_data_answers_with_its_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "digits.npz")
    given = {"data": str(tmp_path), "out": str(tmp_path / "out"), "datasets": ["digits"]}
    found = reply({"question": "ArchiveData", "given": given})
    assert found["problem"]["place"] == str(tmp_path / "digits.npz")


def test_one_child_answers_one_question_after_another_and_an_error_ends_none(tmp_path: Path) -> None:
    missing = DescribeImages(folder=str(tmp_path / "missing"), size=8)
    place = write_folder(tmp_path / "some")
    with Service(os.environ, failing="it") as service:
        first = service.ask(DescribeImages(folder=str(place), size=8))
        with pytest.raises(InputError, match="this folder can't be read"):
            service.ask(missing)
        service.send(DescribeImages(folder=str(place), size=9))
        service.send(missing)
        assert service.receive() == first | {"image_size": 9}
        with pytest.raises(InputError):
            service.receive()


def test_what_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    code = (
        "import sys; from qsweep.workers import service; import qsweep.workers.data.folders as folders; "
        "folders.describe = lambda asked: print('from a library') or {'found': asked.size}; service.main()"
    )
    asked = json.dumps({"question": "DescribeImages", "given": {"folder": "x", "size": 3}}) + "\n"
    ended = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, text=True, check=True)
    assert (json.loads(ended.stdout), ended.stderr) == ({"answer": {"found": 3}}, "from a library\n")


def test_every_question_is_answered_by_a_function_that_takes_it() -> None:
    for question in QUESTIONS.values():
        module, _, name = question.answered_by.partition(":")
        function = getattr(importlib.import_module(module), name)
        (parameter,) = inspect.signature(function).parameters.values()
        assert parameter.annotation == question.__name__


@pytest.mark.slow
def test_a_described_folder_with_a_pipe_in_it_is_refused_with_its_path(here: Qsweep, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "some")
    os.mkfifo(place / "val" / "cat" / "odd.png")
    answer = here("images", str(place))
    assert answer.returncode == InputError.exit_code
    assert f"{place}/val/cat/odd.png: this is a named pipe, not a file" in answer.stderr
