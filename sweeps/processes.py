"""Every process of ours is started here: cold, as `python -m MODULE`, or forked from a server that has imported
everything already.

`start` and `run` take what `subprocess.Popen` and `subprocess.run` take. A cold process pays for its imports: with
torch some seconds. A process that called `warm_up`, or was forked by a server itself, has a fork server
(`sweeps.forkserver`), and what it starts is forked there: a real process all the same, with its own pid, signals,
limits, files and session, whose parent is the one that started it. A fork is asked for only where it would run what a
cold process runs: see `ForkServer.fits`.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsweep.sweeps.code import code_version, is_intact

LOADED = ("PYTHON", "LD_", "MALLOC_", "OMP_", "MKL_", "OPENBLAS_", "QSWEEP_COMPONENTS")
"""Beginnings of variables that are read when a process or a library is loaded: a fork is too late for others."""
TAKEN_OVER = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""Of these, those that a fork follows all the same."""
EXECUTE = getattr(subprocess.Popen, "_execute_child", None)
"""Where CPython's `Popen` forks and executes, with pipes and descriptors ready: `Forked` forks elsewhere."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
PYTHON = (sys.executable, "-m")
"""What the command line of a module of ours begins with."""
FORK_SERVER = "qsweep.sweeps.forkserver"


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command line that begins with `PYTHON`. `options` are those of `subprocess.Popen`."""
    server = _server
    if server is not None and tuple(command[:2]) == PYTHON and server.fits(options):
        return Forked(server, command, **options)
    return subprocess.Popen(command, **options)


def run(
    command: Sequence[str],
    *,
    input: str | bytes | None = None,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run such a command line to its end, as `subprocess.run` does."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(command, **options) as process:
        try:
            output, errors = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    ended = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        ended.check_returncode()
    return ended


def warm_up(*preload: str, environment: Mapping[str, str]) -> None:
    """Start a server that imports the modules `preload` meanwhile; from now on this process starts others there.

    Does nothing where there is one already, and where forks can't be had (outside Linux).
    """
    global _server
    if _server is None and sys.platform == "linux" and EXECUTE is not None:
        _server = ForkServer.started(preload, environment)
        atexit.register(cool_down)


def cool_down() -> None:
    """End this process's server; what it forked goes on."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


class ForkServer:
    """The client's side of a process that forks others. Its processes become children of the client.

    It ends when the client does. Raises RuntimeError from `fork` if it is gone.
    """

    def __init__(
        self, connection: socket.socket, environment: Mapping[str, str], process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._connection = connection
        self._environment = environment
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def started(cls, preload: Sequence[str], environment: Mapping[str, str]) -> ForkServer:
        """A cold one, which imports `preload` before its first fork."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**environment, "PYTHONSAFEPATH": "1"}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # inherited: Ctrl-C must not end it half imported
        try:
            with its:
                process = subprocess.Popen(
                    [*PYTHON, FORK_SERVER, str(its.fileno()), *preload, " " * 2000],  # room for command lines
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return cls(ours, environment, process)

    def close(self) -> None:
        """End it at once, though it may still import: what it forked has servers of its own."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def fits(self, options: Mapping[str, Any]) -> bool:
        """Whether a fork is what a cold process would be: nothing is asked that only an exec can give, no variable
        differs that is read when a process or a library is loaded, and no other code is named."""
        if options.get("preexec_fn") or options.get("executable") or options.get("user") or options.get("shell"):
            return False
        asked = os.environ if options.get("env") is None else options["env"]
        own = self._environment
        differing = [
            name
            for name, value in asked.items()
            if name.startswith(LOADED) and name not in TAKEN_OVER and own.get(name) != value
        ]
        return not differing and self._has_code(asked.get("PYTHONPATH", ""))

    def _has_code(self, search: str) -> bool:
        """Whether this search path leads to the code that the server has imported."""
        own = self._environment.get("PYTHONPATH", "")
        if search == own:
            return True
        first, _, rest = search.partition(os.pathsep)
        return rest == own and is_intact(Path(first), code_version())

    def fork(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        """The pid of a new child of this process, which runs what the request says."""
        payload = os.memfd_create("request")
        try:
            os.write(payload, json.dumps(request).encode())
            with self._lock:
                _adopt(True)
                try:
                    socket.send_fds(self._connection, [b"fork"], [payload, *files])
                    answer = self._connection.recv(64)
                finally:
                    _adopt(False)
        except OSError as error:
            raise RuntimeError(f"the fork server is gone: {error}") from None
        finally:
            os.close(payload)
        if not answer:
            raise RuntimeError("the fork server is gone")
        return int(answer)


class Forked(subprocess.Popen[Any]):
    """A process that a server forks instead of an exec; in every other way a `Popen`, pipes and waiting included."""

    def __init__(self, server: ForkServer, command: Sequence[str], **options: Any) -> None:
        self._server = server
        self._words = [os.fspath(word) for word in command]
        super().__init__(self._words, **options)

    def _execute_child(self, *given: Any, **named: Any) -> None:
        assert EXECUTE is not None
        asked = inspect.signature(EXECUTE).bind(self, *given, **named).arguments
        ends = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        cwd = asked["cwd"]
        request = {
            "command": self._words,
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "new_session": asked["start_new_session"],
            "kept": list(asked["pass_fds"]),
            "affinity": sorted(os.sched_getaffinity(0)),
            "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "limits": [[one, *resource.getrlimit(one)] for one in LIMITS],
        }
        try:
            standard = [number if end == -1 else end for number, end in enumerate(ends)]
            self.pid = self._server.fork(request, [*standard, *asked["pass_fds"]])
            self._child_created = True
        finally:
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(asked[one] for one in pipes))  # type: ignore[attr-defined]


LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_DATA)


def _adopt(wanted: bool) -> None:
    """Whether orphans among this process's descendants become its children: a fork's middle process ends at once.

    Another orphan of the same moment comes along. It does no harm: at its end it is a zombie, which counts as dead.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, int(wanted), 0, 0, 0)


_server: ForkServer | None = None


def served_by() -> ForkServer | None:
    """The server of this process."""
    return _server


def be_served_by(server: ForkServer | None) -> None:
    """Set this process's server: a forked process gets one of its own."""
    global _server
    _server = server


IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
"""Signals to a process group that its servers outlive: they end with those that they serve."""
