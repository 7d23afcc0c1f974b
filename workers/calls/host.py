"""`python -m qsweep.workers.calls.host`: imports the user's file once, and forks a process for each of its calls.

It talks with its agent through a socket: a request comes with two pipes, one for what the call says and one by which it
is told to stop; the answers are `{"pid": …}` and, at its end, `{"status": …}`. It ends when the agent does, and takes
with it whatever the call has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from qsweep.sweeps.errors import InputError
from qsweep.workers.calls.run import Run, row_of

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LARGEST = 1 << 20
"""Bytes of a request."""
LEAVE = signal.SIGUSR2
"""What ends a host: no cluster sends it. Those that end an allocation signal every process in it; then it is for the
agent alone to say when a call ends."""
HEARD_BY_AGENT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
VICTIM = 600
"""How much sooner the kernel ends a call than others, if the machine runs out of memory (`oom_score_adj`)."""


class Host:
    """One process with the user's modules, by the hash of their code."""

    def __init__(self, connection: socket.socket, *, warm: bool) -> None:
        self._connection = connection
        self._warm = warm
        self._modules: dict[str, ModuleType] = {}
        self._child = 0

    def serve(self) -> None:
        """Run one call after another until the agent is gone."""
        while True:
            message, files, _, _ = socket.recv_fds(self._connection, LARGEST, 2)
            if not message:
                return
            request = json.loads(message)
            answer: dict[str, Any] = {}
            if self._warm and request["form"] == "run" and not self._prepared(request, files[0]):
                answer = {"cold": True} if self._is_unsafe() else {"status": 1}
            if answer:
                self._answer(answer, files)
                continue
            self._answer({"status": self._run(request, files)}, files)

    def _answer(self, answer: Mapping[str, Any], files: list[int]) -> None:
        for file in files:
            os.close(file)
        self._connection.send(json.dumps(answer).encode())

    def _run(self, request: Mapping[str, Any], files: list[int]) -> int:
        self._child = os.fork()
        if self._child == 0:
            self._connection.close()
            _live(request, self._modules, *files)
        self._connection.send(json.dumps({"pid": self._child}).encode())
        _, status = os.waitpid(self._child, 0)
        self.end_child()
        return os.waitstatus_to_exitcode(status)

    def end_child(self) -> None:
        """Whatever the call has started ends with it."""
        child, self._child = self._child, 0
        if child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _prepared(self, request: Mapping[str, Any], messages: int) -> bool:
        """Import the user's file; False if that failed, which is said, or makes this process unfit to fork."""
        if request["code"] in self._modules:
            return True
        try:
            self._modules[request["code"]] = load(request)
        except BaseException as error:
            _tell(messages, error)
            return False
        return not self._is_unsafe()

    def _is_unsafe(self) -> bool:
        """Whether a fork would miss something that this process has: threads, or a GPU."""
        torch = sys.modules.get("torch")
        return threading.active_count() > 1 or (torch is not None and torch.cuda.is_initialized())


def load(request: Mapping[str, Any]) -> ModuleType:
    """The user's file as a module, by the name of the file unless another module has it."""
    folder, main = Path(request["folder"]), str(request["main"])
    name = main.removesuffix(".py")
    name = f"user_{name}" if name in sys.modules or name in sys.stdlib_module_names else name
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / main)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _live(request: Mapping[str, Any], modules: Mapping[str, ModuleType], messages: int, control: int) -> NoReturn:
    """Be one call, to the end of the process."""
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        for one in HEARD_BY_AGENT:
            signal.signal(one, signal.SIG_DFL)
        signal.signal(LEAVE, signal.SIG_DFL)
        if request["form"] == "run":
            _outlive_the_agents_signal()
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(VICTIM))
        with contextlib.suppress(OSError):
            os.chdir(request["origin"])
        if request["form"] == "command":
            _become(request)
        run = Run(request, messages, control)
        status = _call(request, modules, run, messages)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _outlive_the_agents_signal() -> None:
    """Have SIGTERM end what this process forks or becomes, and not itself: it is told by its agent when to save."""
    own = os.getpid()

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, hear)


def _call(request: Mapping[str, Any], modules: Mapping[str, ModuleType], run: Run, messages: int) -> int:
    try:
        _seed(run.seed)
        module = modules.get(request["code"]) or load(request)
        function = getattr(module, request["name"])
        run.go_on()
        returned = function(*_positional(request, run), **_named(request))
        run.say({"row": row_of(returned, run), "told": run.told})
    except BaseException as error:
        _tell(messages, error)
        return 1
    return 0


def _positional(request: Mapping[str, Any], run: Run) -> list[Any]:
    """The first argument is the settings, the second the run; one called `run` is the run wherever it stands."""
    names = request["positional"]
    return [run if name == "run" or place == 1 else dict(request["config"]) for place, name in enumerate(names)]


def _named(request: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes by keyword."""
    config, names = request["config"], request["named"]
    return dict(config) if names is None else {name: config[name] for name in names if name in config}


def _seed(seed: int) -> None:
    """The generators of what is imported by now."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % (1 << 32))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def _tell(messages: int, error: BaseException) -> None:
    """Say an error to the agent, with the user's part of its traceback."""
    shown = error.__traceback__
    ours = ("qsweep.", "importlib", "__main__")
    while shown is not None and str(shown.tb_frame.f_globals.get("__name__")).startswith(ours):
        shown = shown.tb_next
    if isinstance(error, SystemExit):
        text = f"the function called sys.exit({error.code!r})"
    elif isinstance(error, InputError):
        text = str(error)
    else:
        text = "".join(traceback.format_exception(type(error), error, shown))
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    said = {
        "type": type(error).__qualname__,
        "text": text[-30_000:],
        "memory": memory,
        "input": isinstance(error, InputError),
        "errno": error.errno if isinstance(error, OSError) else None,
    }
    content = json.dumps({"error": said}).encode() + b"\n"
    while content:
        content = content[os.write(messages, content) :]


def _become(request: Mapping[str, Any]) -> NoReturn:
    """Turn into the command, with the environment of the user and not of an agent."""
    words = [str(one) for one in request["words"]]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    if request["python_path"]:
        environment["PYTHONPATH"] = request["python_path"]
    environment |= {"QSWEEP_JOB": request["job"], "QSWEEP_SEED": str(request["seed"]), "PYTHONUNBUFFERED": "1"}
    environment["QSWEEP_DEVICE"] = request["device"]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    found = shutil.which(words[0], path=environment.get("PATH")) or words[0]
    try:
        os.execve(found, words, environment)
    except OSError as error:
        sys.stderr.write(f"{words[0]} can't be started: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, int(LEAVE))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.dont_write_bytecode = True
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    gc.freeze()  # or each collection of a call would copy every page
    host = Host(socket.socket(fileno=int(given[0])), warm="cold" not in given[1:])

    def leave(number: int, frame: FrameType | None) -> None:
        host.end_child()
        os._exit(0)

    signal.signal(LEAVE, leave)
    for one in HEARD_BY_AGENT:
        signal.signal(one, signal.SIG_IGN)
    if os.getppid() == 1:
        return 0
    host.serve()
    host.end_child()
    return 0


if __name__ == "__main__":
    sys.exit(main())
