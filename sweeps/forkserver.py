"""A process that has imported everything once and forks whatever is asked of it: `python -m qsweep.sweeps.forkserver`.

Started by `sweeps.processes`, which talks to it through a socket that it inherits. Each request is a payload (what to
run, and in which surroundings) with the three standard streams. The new process is forked twice, so that the one in
between ends and the kernel gives the orphan to the client, who waits for it as for any child. Right after its birth it
forks a server of its own, while nothing of its work has begun: no thread runs, no file is open, nothing needs tidying.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qsweep.sweeps import code, processes

MOST_FILES = 64
ABOVE = 200
"""Descriptors of files that a process asks to be given are smaller."""
INHERITED: list[object] = []
"""The server's own streams, which nobody may close: a library may have remembered them."""
HARMLESS_THREADS = ("jemalloc_bg_thd",)
"""Threads that survive a fork by handlers of their own."""


def main(arguments: list[str] | None = None) -> int:
    connection, *preload = sys.argv[1:] if arguments is None else arguments
    code.code_version()  # of the files as they are imported
    gc.disable()  # what is imported stays: to look for garbage in it takes a third of the time that importing takes
    for module in preload:
        if module.strip():
            importlib.import_module(module)
    _check_threads()
    gc.freeze()  # or each collection of a child would copy every page
    gc.enable()
    serve(socket.socket(fileno=int(connection)), dict(os.environ))


def serve(connection: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Fork what is asked until the client is gone. `environment` is the one that this process was loaded with."""
    for number in processes.IGNORED:
        signal.signal(number, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(connection, 16, MOST_FILES)
        if not message:
            os._exit(0)
        with open(files[0], "rb") as payload:
            payload.seek(0)
            request = json.load(payload)
        answer, its = os.pipe()
        middle = os.fork()
        if middle == 0:
            middle = os.getpid()
            child = os.fork()
            if child:
                os.write(its, str(child).encode())
                os._exit(0)
            os.close(answer)
            os.close(its)
            connection.close()
            while os.getppid() == middle:  # its end makes this process the client's child
                time.sleep(0.0002)
            _become(request, files[1:], environment)
        os.close(its)
        os.waitpid(middle, 0)
        with open(answer, "rb") as told:
            connection.send(told.read())
        for file in files[1:]:
            os.close(file)


def _become(request: Mapping[str, Any], files: Sequence[int], environment: Mapping[str, str]) -> NoReturn:
    """Turn this fork into the process that was asked for, and be it to its end."""
    if request["new_session"]:
        os.setsid()
    given = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, ABOVE) for file in files]  # out of the way of all numbers asked
    for file in files:
        os.close(file)
    for number, file in zip([0, 1, 2, *request["kept"]], given, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    os.sched_setaffinity(0, request["affinity"])
    for which, soft, hard in request["limits"]:
        resource.setrlimit(which, (soft, hard))
    if hasattr(time, "tzset"):
        time.tzset()
    _fork_server(environment)
    _reset_signals(request["blocked"])
    _show(request["command"])
    _take_code(os.environ.get("PYTHONPATH", "").partition(os.pathsep)[0])
    _open_streams()
    _live(*request["command"][2:])


def _open_streams() -> None:
    """The standard streams as an interpreter opens them: whether they can seek depends on what they lead to."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        INHERITED.append(old)
        line_buffering = number == 2 or os.isatty(number)
        stream = open(  # noqa: SIM115  # it stays open to the end of the process
            number,
            "w" if number else "r",
            buffering=1 if line_buffering else -1,
            encoding=old.encoding,
            errors=old.errors,
            newline="\n" if number else None,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _fork_server(environment: Mapping[str, str]) -> None:
    """Gives this process a server of its own."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # or a reader of this process's output would wait for its server
            os.dup2(nothing, number)
        serve(its, environment)
    its.close()
    processes.be_served_by(processes.ForkServer(ours, environment))


def _reset_signals(blocked: Sequence[int]) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _show(command: Sequence[str]) -> None:
    """Writes the command line over the server's own, so that a list of processes shows what this one is."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"\0".join(os.fsencode(word) for word in command)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _take_code(snapshot: str) -> None:
    """What is imported from now on comes from this snapshot of the same code, which nobody edits."""
    root = Path(snapshot)
    if not snapshot or not (root / code.STAMP).is_file():
        return
    sys.path.insert(0, snapshot)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == code.PACKAGE and hasattr(module, "__path__"):
            module.__path__ = [str(root.joinpath(*name.split(".")))]
    code.ROOT = root
    for known in (code.code_version, code.code_origin):
        known.cache_clear()


def _live(module: str, *arguments: str) -> NoReturn:
    """Runs the module's `main` as the interpreter would run it, to the end of the process."""
    sys.argv = [module, *arguments]
    status = 0
    try:
        found = importlib.import_module(module)
        if hasattr(found, "__path__"):
            found = importlib.import_module(f"{module}.__main__")
        sys.modules["__main__"] = found
        status = _status(found.main())
    except SystemExit as end:
        status = _status(end.code)
    except KeyboardInterrupt:
        traceback.print_exc()
        _finish(0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(_finish(status))


def _status(value: object) -> int:
    if value is None or isinstance(value, int):
        return (value or 0) & 0xFF
    sys.stderr.write(f"{value}\n")
    return 1


def _finish(status: int) -> int:
    """What an interpreter does at its end; its exit status."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    return status


def _check_threads() -> None:
    """A thread may hold a lock that a fork would never see opened."""
    tasks = Path("/proc/self/task")
    running = {(one / "comm").read_text().strip() for one in tasks.iterdir() if one.name != str(os.getpid())}
    if others := running - set(HARMLESS_THREADS):
        raise RuntimeError(f"the fork server has threads: {', '.join(sorted(others))}")


if __name__ == "__main__":
    sys.exit(main())
