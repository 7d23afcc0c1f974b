"""What a command prints reaches a person and a program as it should, and never ends anything in a traceback."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

import pytest
import typer.main
from rich.live import Live
from rich.text import Text
from typer.testing import CliRunner

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Scope
from qsweep.db.states import FailureClass
from qsweep.orchestrator.cli import app
from qsweep.orchestrator.screen import Screen
from qsweep.orchestrator.terminal import Outlet, outlets
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, SCRIPT, Qsweep, environment
from tests.db.conftest import agent_info
from tests.orchestrator.conftest import copied
from tests.reports.made import SWEEP, Made, launch, work

ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b2J\r\x08"
COMMANDS_WITHOUT_JSON = {
    "launch", "resume", "worker", "logs", "report", "retry", "cancel", "invalidate", "pack", "recall", "delete", "init",
    "db upgrade", "db serve", "ui",
}  # fmt: skip
"""What does something, prints a log or writes a page: no listing."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its name, groups taken apart."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from ((f"{name} {sub}", one) for sub, one in inner.items()) if inner else [(name, command)]


@pytest.mark.parametrize(("name", "command"), [*commands()], ids=lambda one: one if isinstance(one, str) else "")
def test_every_bracket_of_a_help_text_is_shown(name: str, command: Any) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    shown = " ".join(shown.replace("│", " ").split())
    texts = [command.help or "", command.epilog or "", *(getattr(one, "help", None) or "" for one in command.params)]
    for text in texts:
        for paragraph in text.split("\n\n"):
            assert " ".join(paragraph.split()) in shown


def test_the_help_of_set_says_list() -> None:
    for name in ("plan", "launch", "pack", "calibrate", "tune"):
        assert "a [list] makes it an axis" in " ".join(
            CliRunner().invoke(app, [name, "--help"], env={"TERMINAL_WIDTH": "400"}).output.replace("│", " ").split()
        )


@pytest.mark.parametrize(("name", "command"), [*commands()], ids=lambda one: one if isinstance(one, str) else "")
def test_every_listing_takes_json(name: str, command: Any) -> None:
    takes = any("--json" in one.opts for one in command.params)
    assert takes or name in COMMANDS_WITHOUT_JSON


@pytest.fixture(scope="module")
def failed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, str]:
    """A sweep with results, and a job that failed with a hostile error on a hostile machine, with its identity."""
    home = tmp_path_factory.mktemp("failed") / "home"
    made = work(launch(Home.at(home), SWEEP.replace('"Made up"', '"T <b> | `x`"')), cohorts=2)
    scope = Scope(sweep=made.sweep.id)
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info(host=f"host{ESCAPES}"))
        head = registry.queue.next_cohort(agent, scope)
        assert head is not None
        (claim,) = registry.queue.claim(agent, head, 1, scope)
        registry.queue.fail(agent, [claim], FailureClass.INPUT, f"it {ESCAPES}\nand more")
        registry.queue.beat(
            agent, '{"jobs": 1, "cohort": "train/x' + json.dumps(ESCAPES)[1:-1] + '", "step": 1, "steps": 2}'
        )
    log = home / "agent.log"
    log.write_text(f"a line {ESCAPES}\n", encoding="utf-8")
    return made, claim.job.identity


@pytest.fixture
def failed(failed_once: tuple[Made, str], home: Path) -> str:
    """The same in the test's own home; the job's identity."""
    made, job = failed_once
    copied(made, home)
    return job


def test_escape_sequences_of_others_reach_no_terminal(here: Qsweep, failed: str) -> None:
    sql = "SELECT host, error FROM attempts WHERE error IS NOT NULL"
    for command in (
        ("show", failed), ("logs", failed), ("jobs", "made"), ("status",), ("query", sql), ("tables", "made"),
        ("query", "SELECT '" + ESCAPES + "' AS \"" + ESCAPES.replace("\r", "") + "\""), ("status", "\x1b[31mnope"),
    ):  # fmt: skip
        answer = here(*command)
        for text in (answer.stdout, answer.stderr):
            assert not {char for char in text if ord(char) < 32 or 127 <= ord(char) < 160} - {"\n", "\t"}, command
    assert "it red" in here("show", failed).stdout


def test_json_and_csv_keep_what_stands_there(here: Qsweep, failed: str) -> None:
    shown = json.loads(here("show", failed, "--json").stdout)
    assert shown["attempts"][0]["error"] == f"it {ESCAPES}\nand more"
    sql = "SELECT error FROM attempts WHERE error IS NOT NULL"
    assert json.loads(here("query", sql, "--json").stdout)[0]["error"] == f"it {ESCAPES}\nand more"
    assert ESCAPES.replace("\r", "") in here("query", sql, "--format", "csv").stdout.replace("\r", "")


def test_a_screen_shows_markup_and_takes_escapes_out(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(stderr=False).print(f"[bold]a [list]{ESCAPES}", soft_wrap=True)
    assert capsys.readouterr().out.splitlines()[0].startswith("[bold]a [list]red")


@pytest.mark.parametrize("stderr", [True, False])
def test_a_live_display_is_drawn_over_itself_and_shows_no_escapes_of_others(
    monkeypatch: pytest.MonkeyPatch, stderr: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr" if stderr else "sys.stdout", terminal)
        with outlets(), Live(console=Screen(stderr=stderr, width=40), auto_refresh=False) as live:
            for text in ("first\nlook", "second\nlook", "\x1b[31mthird\x1b[0m\nlook"):
                live.update(Text(text), refresh=True)
    drawn = b""
    with contextlib.suppress(OSError):  # the other end is closed, and everything is read
        while part := os.read(ours, 1 << 16):
            drawn += part
    os.close(ours)
    shown = drawn.decode()
    up = "\r\x1b[2K\x1b[1A\x1b[2K"
    assert f"first\r\nlook{up}second\r\nlook{up}third\r\nlook" in shown
    assert "\x1b[31m" not in shown


def test_no_module_makes_a_console_of_its_own() -> None:
    for path in Path("orchestrator").rglob("*.py"):
        if path.name == "screen.py":
            continue
        calls = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call)]
        assert not [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "Console"], path


LISTINGS: tuple[tuple[str, ...], ...] = (
    ("sweeps",), ("sweeps", "digits-grid"), ("status",), ("jobs", "made"), ("show", "{job}"), ("tables", "made"),
    ("tables", "made", "--explain", "Digits/NiN/FP32/test_loss"), ("query", "SELECT 1e400 AS x"),
    ("query", "--tables"),
    ("analyze", "made"), ("analyze", "--paper"), ("du",), ("gc", "--dry-run"), ("gc",), ("compact", "made"),
    ("db", "check"), ("figures", "made", "--figure", "paired"), ("export", "made", "--out", "out"),
)  # fmt: skip


@pytest.mark.parametrize("command", LISTINGS, ids=" ".join)
def test_a_listing_prints_one_document_of_json(here: Qsweep, failed: str, command: tuple[str, ...]) -> None:
    answer = here(*(one.format(job=failed) for one in command), "--json")
    assert answer.returncode in (0, 1), answer.stderr
    json.loads(answer.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_one_format_alone_is_asked_for(here: Qsweep, failed: str) -> None:
    for command in (("tables", "made", "--format", "latex"), ("query", "SELECT 1", "--format", "csv")):
        answer = here(*command, "--json")
        assert answer.returncode == 2
        assert "exclude each other" in answer.stderr


def test_cells_for_spreadsheets_are_no_formulas(here: Qsweep, failed: str) -> None:
    sql = "SELECT '=1+1' AS a, '+x' AS b, '-x' AS c, '@x' AS d, -1.5 AS e, chr(9) || 'x' AS f, 'x=1' AS \"=g\""
    plain = here("query", sql, "--format", "csv").stdout.splitlines()
    assert plain == ["a,b,c,d,e,f,=g", "=1+1,+x,-x,@x,-1.5,\tx,x=1"]
    safe = here("query", sql, "--format", "csv", "--spreadsheet").stdout.splitlines()
    assert safe == ["a,b,c,d,e,f,'=g", "'=1+1,'+x,'-x,'@x,-1.5,'\tx,x=1"]
    assert here("tables", "made", "--format", "csv", "--spreadsheet").returncode == 0
    assert here("tables", "made", "--spreadsheet").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_any_encoding_takes_any_text(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="qsweep.substitute")
    outlet = Outlet(stream, needed=True)
    outlet.write("a — b × c ± d → e 漢 \udcff\n")
    outlet.flush()
    written = raw.getvalue().decode(encoding)
    assert written.startswith("a ")
    if encoding == "ascii":
        assert written == "a - b x c +/- d -> e ? ?\n"


def cold(command: str, home: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """A line of shell, as a user would write it: only an interpreter that starts meets a closed stream or a locale."""
    line = command.replace("qsweep ", f"{SCRIPT} ")
    given = {name: value for name, value in environment(home).items() if name != "PYTHONUNBUFFERED"} | extra
    return subprocess.run(["bash", "-c", line], env=given, capture_output=True, encoding="utf-8", errors="replace")


def forked(home: Path, *arguments: str, stdout: IO[bytes] | int, stderr: IO[bytes] | int = PIPE) -> tuple[int, str]:
    """The exit code of a command with these streams, and what it said on standard error."""
    given = {name: value for name, value in environment(home).items() if name != "PYTHONUNBUFFERED"}
    answer = processes.run([*QSWEEP, *arguments], env=given, stdout=stdout, stderr=stderr)
    return answer.returncode, (answer.stderr or b"").decode()


@pytest.fixture
def full() -> Iterator[IO[bytes]]:
    """An output that takes nothing."""
    with open("/dev/full", "wb", buffering=0) as file:
        yield file


@pytest.fixture
def unread() -> Iterator[IO[bytes]]:
    """A pipe whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as file:
        yield file


NO_SPACE = "can't be written: No space left on device"
CLOSED = "was closed before everything was written"


@pytest.mark.parametrize(
    ("arguments", "output", "said"),
    [
        (("sweeps", "--json"), "full", NO_SPACE),
        (("query", "--tables"), "full", NO_SPACE),
        (("query", "--schema"), "unread", CLOSED),
    ],
    ids=str,
)
def test_an_output_that_takes_no_more_is_one_line(
    home: Path, request: pytest.FixtureRequest, arguments: tuple[str, ...], output: str, said: str
) -> None:
    code, error = forked(home, *arguments, stdout=request.getfixturevalue(output))
    assert (code, error) == (1, f"qsweep: standard output {said}\n")


def test_an_interpreter_that_starts_with_a_closed_or_full_output_says_one_line(home: Path) -> None:
    for stream, said in ((">&-", CLOSED), ("> /dev/full", NO_SPACE)):
        answer = cold(f"qsweep sweeps digits-grid {stream}", home)
        assert (answer.returncode, answer.stderr) == (1, f"qsweep: standard output {said}\n")


def test_a_finished_launch_says_so_by_its_exit_code_whatever_becomes_of_its_output(
    made: Made, home: Path, full: IO[bytes]
) -> None:
    launch = ("launch", f"{home.parent}/made.toml")
    code, said = forked(home, *launch, stdout=full)
    assert code == 0, said
    assert "can't be written" in said
    assert "Traceback" not in said
    assert f"see: qsweep tables {made.sweep.title}" in said
    assert forked(home, *launch, stdout=full, stderr=full) == (0, "")
    assert cold(f"qsweep {' '.join(launch)} 2> /dev/full >&-", home).returncode == 0


def test_errors_that_nobody_reads_keep_their_exit_code(home: Path, full: IO[bytes]) -> None:
    assert forked(home, "sweeps", "nope", stdout=PIPE, stderr=full) == (2, "")
    assert cold("qsweep sweeps nope 2>&-", home).returncode == 2


def test_a_locale_without_our_signs_changes_no_exit_code(home: Path, tmp_path: Path) -> None:
    signs = tmp_path / "signs.toml"
    signs.write_text(SWEEP.replace('"Made up"', '"σ → α"'), encoding="utf-8")
    for extra in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ):
        answer = cold(f"qsweep sweeps {signs}", home, **extra)
        assert answer.returncode == 0, answer.stderr
        assert "sigma -> alpha" in answer.stdout
        assert answer.stdout.isascii()
