"""A process that is forked is in every way one that was started cold: only sooner there."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from qsweep.sweeps import code, processes
from qsweep.sweeps.processes import PYTHON, Forked, ForkServer

THING = """
import atexit, json, os, resource, signal, sys, threading, time

loaded_in = os.getpid()

def main():
    match sys.argv[1]:
        case "tell":
            print(json.dumps({
                "pid": os.getpid(), "parent": os.getppid(), "loaded_in": loaded_in, "arguments": sys.argv[1:],
                "folder": os.getcwd(), "variable": os.environ.get("THING"), "session": os.getsid(0),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "cores": sorted(os.sched_getaffinity(0)),
                "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
                "open": sorted(int(one) for one in os.listdir("/proc/self/fd")),
            }))
        case "echo":
            sys.stderr.write("heard\\n")
            sys.stdout.write(sys.stdin.read().upper())
        case "wait":
            print("ready", flush=True)
            time.sleep(600)
        case "exit":
            sys.exit(int(sys.argv[2]))
        case "say":
            sys.exit(sys.argv[2])
        case "raise":
            raise ValueError("a fault of its own")
        case "end":
            atexit.register(print, "at exit", flush=True)
            threading.Thread(target=lambda: (time.sleep(0.2), print("thread", flush=True))).start()
        case "pass":
            os.write(int(sys.argv[2]), b"through a file of the parent's")
        case "start":
            from qsweep.sweeps import processes
            child = processes.run([*processes.PYTHON, "thing", "tell"], stdout=-1, text=True)
            print(json.dumps({"mine": os.getpid(), "child": json.loads(child.stdout)}))
        case "abandon":
            from qsweep.sweeps import processes
            print(processes.start([*processes.PYTHON, "thing", "wait"], stdout=-3, stderr=-3).pid, flush=True)
            os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thing")
    (folder / "thing.py").write_text(THING)
    return folder


@pytest.fixture(scope="module")
def surroundings(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(processes.LOADED)}
    return kept | {"PYTHONPATH": os.pathsep.join([str(folder), str(code.ROOT)])}


@pytest.fixture(scope="module")
def server(surroundings: Mapping[str, str]) -> Iterator[ForkServer]:
    server = ForkServer.started(["thing"], surroundings)
    yield server
    server.close()


class Start:
    """Starts `thing`, forked or cold."""

    def __init__(self, server: ForkServer | None, surroundings: Mapping[str, str]) -> None:
        self.server = server
        self.surroundings = surroundings

    def __call__(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        options["env"] = {**self.surroundings, **options.get("env", {})}
        command = [*PYTHON, "thing", *arguments]
        if self.server is None:
            return subprocess.Popen([sys.executable, "-c", "import thing; thing.main()", *arguments], **options)
        assert self.server.fits(options)
        return Forked(self.server, command, **options)

    def told(self, *arguments: str, **options: Any) -> dict[str, Any]:
        output, errors = self(*arguments, **options).communicate(timeout=300)
        assert output, errors
        found: dict[str, Any] = json.loads(output)
        return found


@pytest.fixture(params=["forked", "cold"])
def start(request: pytest.FixtureRequest, server: ForkServer, surroundings: Mapping[str, str]) -> Start:
    return Start(server if request.param == "forked" else None, surroundings)


@pytest.fixture
def forked(server: ForkServer, surroundings: Mapping[str, str]) -> Start:
    return Start(server, surroundings)


def test_a_fork_imports_nothing_and_is_a_child_of_the_one_that_asked(forked: Start) -> None:
    process = forked("tell", "a b", "")
    told = json.loads(process.communicate(timeout=300)[0])
    assert told["pid"] == process.pid != told["loaded_in"]
    assert told["parent"] == os.getpid()
    assert told["arguments"] == ["tell", "a b", ""]
    assert process.returncode == 0


def test_a_process_has_the_surroundings_that_it_was_given(start: Start, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    cores, blocked = os.sched_getaffinity(0), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.sched_setaffinity(0, {min(cores)})
    try:
        told = start.told("tell", cwd=tmp_path, env={"THING": "here"})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.sched_setaffinity(0, cores)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert told["folder"] == str(tmp_path)
    assert told["variable"] == "here"
    assert told["files"] == 300
    assert told["cores"] == [min(cores)]
    assert told["blocked"] == [signal.SIGUSR1]
    assert told["session"] == os.getsid(0)


def test_a_process_may_have_a_session_of_its_own(start: Start) -> None:
    told = start.told("tell", start_new_session=True)
    assert told["session"] == told["pid"]


def test_pipes_carry_what_is_said(start: Start) -> None:
    assert start("echo", stdin=subprocess.PIPE).communicate("loud", timeout=300) == ("LOUD", "heard\n")


def test_output_may_go_to_a_file(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        assert start("echo", stdin=subprocess.DEVNULL, stdout=output, stderr=output).wait(timeout=300) == 0
    assert (tmp_path / "output").read_text() == "heard\n"


def test_a_process_uses_a_file_that_it_was_passed(start: Start) -> None:
    reading, writing = os.pipe()
    process = start("pass", str(writing), pass_fds=[writing])
    os.close(writing)
    assert process.communicate(timeout=300) == ("", "")
    with open(reading, "rb") as passed:
        assert passed.read() == b"through a file of the parent's"


@pytest.mark.parametrize(("arguments", "status"), [(("exit", "0"), 0), (("exit", "3"), 3), (("say", "no"), 1)])
def test_the_exit_status_arrives(start: Start, arguments: tuple[str, str], status: int) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status
    assert errors == ("no\n" if arguments[0] == "say" else "")


def test_an_exception_ends_a_process_with_its_traceback(start: Start) -> None:
    process = start("raise")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "ValueError: a fault of its own"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_process_as_always(start: Start, number: signal.Signals) -> None:
    process = start("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == -number


def test_what_is_left_at_the_end_is_done(start: Start) -> None:
    assert start("end").communicate(timeout=300) == ("thread\nat exit\n", "")


def test_a_list_of_processes_shows_what_a_fork_is(forked: Start) -> None:
    process = forked("wait", "--lease", "7", "a b")
    assert process.stdout is not None
    process.stdout.readline()
    shown = [word for word in psutil.Process(process.pid).cmdline() if word]
    process.kill()
    process.communicate()
    assert shown == [*PYTHON, "thing", "wait", "--lease", "7", "a b"]


def test_a_fork_has_the_files_of_a_cold_process_and_the_line_to_its_server(
    server: ForkServer, surroundings: Mapping[str, str]
) -> None:
    cold, forked = (Start(one, surroundings).told("tell")["open"] for one in (None, server))
    assert len(forked) == len(cold) + 1


def test_a_fork_starts_forks_that_are_its_own_children(forked: Start) -> None:
    told = forked.told("start")
    assert told["child"]["parent"] == told["mine"]
    assert told["child"]["loaded_in"] not in (told["mine"], told["child"]["pid"])


def test_the_server_of_a_fork_ends_with_it(forked: Start) -> None:
    process = forked("wait")
    assert process.stdout is not None
    process.stdout.readline()
    (its,) = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    its.wait(timeout=300)


def test_a_server_ends_with_its_client_and_its_forks_go_on(folder: Path, surroundings: Mapping[str, str]) -> None:
    server = ForkServer.started(["thing"], surroundings)
    process = Start(server, surroundings)("wait")
    assert process.stdout is not None
    process.stdout.readline()
    server.close()  # waits for its end
    assert process.poll() is None
    process.kill()
    process.communicate()
    with pytest.raises(RuntimeError, match="fork server is gone"):
        Forked(server, [*PYTHON, "thing", "tell"], env=dict(surroundings))


def test_what_a_dead_child_leaves_behind_does_not_become_ours(forked: Start) -> None:
    output, errors = forked("abandon", start_new_session=True).communicate(timeout=300)
    left = psutil.Process(int(output))
    parent = left.ppid()
    left.kill()
    assert parent != os.getpid(), errors


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"LD_PRELOAD": "libfaketime.so"}},
        {"env": {"OMP_NUM_THREADS": "64"}},
        {"env": {"PYTHONHASHSEED": "1"}},
        {"env": {"PYTHONPATH": "/elsewhere"}},
        {"preexec_fn": os.getpid},
    ],
)
def test_what_only_an_exec_can_give_is_started_cold(
    server: ForkServer, surroundings: Mapping[str, str], options: dict[str, Any]
) -> None:
    options = options | {"env": {**surroundings, **options.get("env", {})}}
    assert not server.fits(options)


def test_a_snapshot_of_the_same_code_is_taken_unless_a_byte_of_it_differs(
    server: ForkServer, surroundings: Mapping[str, str], tmp_path: Path
) -> None:
    snapshot = tmp_path / code.freeze(tmp_path)

    def fits(folder: Path) -> bool:
        return server.fits({"env": {**surroundings, "PYTHONPATH": f"{folder}{os.pathsep}{surroundings['PYTHONPATH']}"}})

    altered = tmp_path / "altered" / snapshot.name
    shutil.copytree(snapshot, altered)
    with (altered / "qsweep" / "workers" / "cohort.py").open("a") as file:
        file.write("# altered\n")
    assert fits(snapshot)
    assert not fits(altered)
    assert not fits(tmp_path)


SLOW = """
import time
from pathlib import Path

here = Path(__file__).parent
(here / "importing").touch()
while not (here / "go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def importing(tmp_path: Path, surroundings: Mapping[str, str]) -> Iterator[ForkServer]:
    """A server that has begun to import, and goes on when there is a file `go`."""
    (tmp_path / "slow.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), surroundings["PYTHONPATH"]])
    server = ForkServer.started(["slow", "thing"], {**surroundings, "PYTHONPATH": path})
    while not (tmp_path / "importing").exists():
        time.sleep(0.01)
    yield server
    (tmp_path / "go").touch()
    server.close()


def test_a_server_outlives_ctrl_c_while_it_imports(importing: ForkServer, tmp_path: Path) -> None:
    assert importing._process is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        importing._process.send_signal(number)
    (tmp_path / "go").touch()
    options: dict[str, Any] = {"env": dict(importing._environment), "stdout": subprocess.PIPE, "text": True}
    with Forked(importing, [*PYTHON, "thing", "tell"], **options) as child:
        assert json.loads(child.communicate(timeout=60)[0])["blocked"] == []


def test_a_server_that_still_imports_is_not_waited_for(importing: ForkServer) -> None:
    assert importing._process is not None
    importing.close()
    assert importing._process.returncode == -signal.SIGKILL
