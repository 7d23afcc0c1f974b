"""Text that a user gives may be of any depth, length and size: it ends in one clear message."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from qsweep.orchestrator.backends.base import StartRefused
from qsweep.reports.declaration import read_table
from qsweep.sweeps.errors import InputError, QsweepError, packed, raise_packed
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.logs import CleanFormatter
from qsweep.sweeps.spec import select
from qsweep.sweeps.text import clean
from qsweep.sweeps.toml import read_toml


@cache
def jobs() -> tuple[Job, ...]:
    return tuple(read_sweep("digits-grid").jobs())


MINE = 'title = "mine"\n[fixed]\ndata = "digits"\nmodel = "nin"\n'
HUGE = "0x" + "f" * 5000


@pytest.mark.parametrize(
    "text",
    [
        "not " * 2000 + "bits == 2",
        "not " * 100_000 + "bits == 2",
        "bits == " + "-" * 900 + "2",
        "bits == " + "-" * 100_000 + "2",
        "(" * 10_000 + "bits == 2" + ")" * 10_000,
        "bits in " + "[" * 150 + "2" + "]" * 150,
        "bits == " + "2+" * 3000 + "2",
        "bits" + ".bits" * 3000 + " == 2",
        f"bits == {HUGE}",
        f"bits == -{HUGE}",
        f"{HUGE}",
        f"f({HUGE}) == 2",
    ],
)
def test_a_condition_of_any_depth_or_size_is_one_short_message(text: str) -> None:
    with pytest.raises(InputError) as refused:
        select(jobs(), where=text)
    assert refused.value.place is not None
    assert refused.value.place.startswith("--where")
    assert len(str(refused.value)) < 500


def test_a_long_flat_condition_and_a_moderately_deep_one_are_judged() -> None:
    some = jobs()[:20]
    twos = select(some, where="bits == 2")
    assert 0 < len(twos) < len(some)
    assert select(some, where=" or ".join(["bits == 2"] * 5000)) == twos
    assert select(some, where="bits == " + "(" * 150 + "2" + ")" * 150) == twos
    assert select(some, where="not " * 30 + "bits == 2") == twos


DEEP = "[" * 150 + "]" * 150


@pytest.mark.parametrize("value", [DEEP, "[" * 100_000, "{a=" * 150 + "1" + "}" * 150, HUGE, f"[{HUGE}]"])
def test_a_set_of_any_depth_or_size_is_one_short_message(value: str) -> None:
    with pytest.raises(InputError) as refused:
        read_sweep("digits-grid", [f"epochs={value}"]).jobs()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "line",
    [
        f"width = {DEEP}",
        f"width = {HUGE}",
        "[" + ".".join("a" * 3000) + "]\nb = 1",
        "[fixed." + ".".join("a" * 500) + "]",
        "width = " + "[" * 50_000,
    ],
)
def test_a_sweep_file_and_a_declaration_of_any_depth_are_one_short_message(tmp_path: Path, line: str) -> None:
    sweep, table, user = tmp_path / "mine.toml", tmp_path / "table.toml", tmp_path / "user.toml"
    sweep.write_text(MINE + line)
    table.write_text('title = "t"\n' + line)
    user.write_text('tables = ["table.toml"]\n' + MINE)
    digits = read_sweep("digits-grid")
    reads: tuple[Callable[[], object], ...] = (
        lambda: read_sweep(str(sweep)).jobs(), lambda: read_table(table, digits), lambda: read_sweep(str(user))
    )  # fmt: skip
    for read in reads:
        with pytest.raises(InputError) as refused:
            read()
        assert "mine.toml" in str(refused.value) or "table.toml" in str(refused.value)
        assert len(str(refused.value)) < 500 + 3 * len(str(tmp_path))


def test_a_pipe_in_the_place_of_a_table_is_one_message_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.toml")
    with pytest.raises(InputError, match="this is not a file"):
        read_toml(tmp_path / "table.toml", "tables")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    content = Path("sweeps/builtin/digits-grid.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(content, encoding="utf-8-sig")
    assert read_sweep(str(tmp_path / "mine.toml")).jobs() == list(jobs())
    table = tmp_path / "table.toml"
    table.write_text(Path("reports/declarations/table1.toml").read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_table(table, read_sweep("digits-grid")).number == 1
    (tmp_path / "own.toml").write_text(
        'tables = ["table.toml"]\n' + content.partition("\n")[2].partition("tables")[2].partition("\n")[2],
        encoding="utf-8-sig",
    )
    assert read_sweep(str(tmp_path / "own.toml")).declarations


@pytest.mark.parametrize(
    ("dirty", "shown"),
    [
        ("plain – text\twith\nlines", "plain – text\twith\nlines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1bP+q\x1b\\device", "device"),
        ("\x1b]0;never ended\nnext line", "\nnext line"),
        ("over\rwritten\r\nlines\x08\x07\x7f", "overwritten\nlines"),
        ("\x1bcreset\x1b", "reset"),
        ("\u202eevil\u2069", "evil"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(dirty: str, shown: str) -> None:
    assert clean(dirty) == shown


def test_a_log_holds_no_escape_sequences_in_any_line_of_a_traceback() -> None:
    try:
        raise ValueError("\x1b[31mred — and\x1b]0;title\x07 more")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "it \x1b[2J failed", None, sys.exc_info())
    text = CleanFormatter().format(record)
    assert "ERROR it  failed" in text
    assert text.endswith("ValueError: red — and more")


@pytest.mark.parametrize(
    "error",
    [
        InputError("it is wrong", place="a file", allowed="allowed: right"),
        InputError("it is wrong"),
        QsweepError("something failed"),
    ],
)
def test_an_error_is_the_same_on_the_other_side_of_a_process(error: QsweepError) -> None:
    for travelled in (pickle.loads(pickle.dumps(error)), _raised(packed(error))):
        assert type(travelled) is type(error)
        assert str(travelled) == str(error)
        assert travelled.exit_code == error.exit_code
        assert vars(travelled) == vars(error)


def test_an_answer_without_an_error_raises_nothing() -> None:
    raise_packed({"cores": 2})
    assert pickle.loads(pickle.dumps(StartRefused("full", begun=2))).begun == 2


def _raised(content: dict[str, object]) -> QsweepError:
    with pytest.raises(QsweepError) as raised:
        raise_packed(content)
    return raised.value
