"""What commands print on a terminal and into a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from qsweep.db.home import Home
from qsweep.orchestrator.cli import main
from qsweep.orchestrator.layout import broken, counted
from qsweep.reports.render import Layout
from qsweep.reports.screen import cells, drawn
from qsweep.reports.source import RegistrySource
from qsweep.reports.summary import MOST, summarize
from tests.conftest import Qsweep
from tests.reports.drawn import made_source
from tests.reports.made import Made

Pane = Callable[..., str]


@pytest.fixture
def pane(home: Path, monkeypatch: pytest.MonkeyPatch) -> Pane:
    """Run a command in this process on a real terminal of that width; what stood on it."""

    def run(width: int, *arguments: str) -> str:
        outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        found = bytearray()

        def read() -> None:
            try:
                while part := os.read(outer, 65536):
                    found.extend(part)
            except OSError:
                pass  # the other end is closed

        reader = threading.Thread(target=read)
        reader.start()
        with monkeypatch.context() as patch, os.fdopen(inner, "w") as screen:
            for name in [name for name in os.environ if name.startswith("QSWEEP_")]:
                patch.delenv(name)
            patch.setenv("QSWEEP_HOME", str(home))
            patch.setenv("COLUMNS", str(width))
            patch.setattr(sys, "argv", ["qsweep", *arguments])
            patch.setattr(sys, "stdout", screen)
            patch.setattr(sys, "stderr", screen)
            with suppress(SystemExit):
                main()
        reader.join()
        os.close(outer)
        return found.decode().replace("\r\n", "\n")

    return run


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ("sweeps",),
        ("status",),
        ("jobs", "made"),
        ("du",),
        ("gc", "--dry-run"),
        ("db", "check"),
        ("tables", "made", "--against-paper"),
        ("query", "FROM runs"),
        ("query", "--tables"),
    ],
    ids=" ".join,
)
def test_a_terminal_gets_lines_that_fit_it(pane: Pane, made: Made, arguments: tuple[str, ...], width: int) -> None:
    text = pane(width, *arguments)
    assert max(map(cells, text.splitlines())) <= width
    assert made.sweep.title in text or arguments[0] not in ("status", "tables", "query") or "--tables" in arguments
    if arguments[0] not in ("gc", "db"):
        assert "───" in text


def test_a_pipe_gets_markdown_and_plain_lines(here: Qsweep, made: Made) -> None:
    assert "\n| Dataset | Model | Precision |" in here("tables", "made").stdout
    assert "─" not in here("jobs", "made").stdout + here("sweeps").stdout + here("status").stdout


def test_a_format_that_was_asked_for_is_kept_on_a_terminal(pane: Pane, made: Made) -> None:
    assert "| Dataset | Model |" in pane(80, "tables", "made", "--format", "markdown")


def test_the_history_and_the_log_of_a_job_fit_the_terminal(pane: Pane, made: Made, home: Path) -> None:
    job = made.rows["runs"][0]["job"]
    (home / "agent.log").write_text("epoch 1: " + " ".join(f"{one:08x} 0.{one:04}" for one in range(30)) + "\n")
    for command in ("show", "logs"):
        text = pane(80, command, job)
        assert max(map(cells, text.splitlines())) <= 80, text
        assert len(text.splitlines()) > 5


def test_the_only_row_of_a_summary_has_all_its_numbers_at_80_columns() -> None:
    five = next(iter(summarize(made_source("digits-distortion"), Layout(against_paper=True)))).sheet
    assert len(five.rows) == 1
    text = " ".join(drawn(five, 80).split())
    assert "columns shown" not in text
    assert all(cell in text for cell in five.rows[0])


def test_a_terminal_obeys_nothing_that_stands_in_a_csv(pane: Pane, made: Made) -> None:
    text = pane(80, "query", "SELECT chr(27) || '[31mred' AS one", "--format", "csv")
    assert text == "one\nred\n"


def test_an_error_keeps_what_one_copies_in_one_piece(pane: Pane, made: Made) -> None:
    text = pane(60, "jobs", "nope")
    assert text.startswith("qsweep: ")
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_command_in_a_message_stands_on_one_line(width: int) -> None:
    command = "qsweep resume digits-grid@472f5d4b"
    text = f"interrupted with 3 of 972 jobs done, and quite some more words here; go on with: {command}"
    lines = broken(text, width).split("\n")
    assert any(command in line for line in lines)
    assert max(map(len, lines)) <= width
    assert " ".join(lines) == text
    assert broken(text, None) == text


def test_the_other_lines_of_a_labelled_one_stand_below_its_text() -> None:
    assert broken("time    about 7 s on two agents of this machine", 30) == (
        "time    about 7 s on two\n        agents of this machine"
    )


def test_a_number_has_its_noun() -> None:
    assert (counted(1, "job"), counted(2, "job"), counted(1234, "job")) == ("1 job", "2 jobs", "1,234 jobs")


def test_a_launch_ends_with_what_a_screen_holds_and_the_way_to_the_rest(made: Made) -> None:
    source = made_source("digits-distortion")
    found = list(summarize(source, Layout(against_paper=True)))
    assert [len(one.sheet.rows) <= MOST for one in found] == [True] * len(found) == [True, True]
    six = found[1]
    assert six.rest == (
        "5 of 80 rows of Table 6; all of them: qsweep tables digits-distortion@made --table 6 --against-paper"
    )
    assert {row[2] for row in six.sheet.rows if row[0]} == {"mean"}


def test_a_table_that_fits_is_shown_whole(made: Made, home: Path) -> None:
    from qsweep.db.registry import Registry

    place = Home.at(home)
    with Registry.open(place.registry) as registry:
        (one,) = summarize(RegistrySource(place, registry, made.sweep), Layout(against_paper=True))
    assert one.rest == ""
