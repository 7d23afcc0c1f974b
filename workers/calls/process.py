"""The agent's side of a host: start it, hand it a call, hear what the call says, and end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from qsweep.workers.calls.host import LEAVE

HOST = "qsweep.workers.calls.host"
LARGEST = 1 << 16
TAIL = 1 << 18
"""Characters of a call's output that are kept: its last JSON line is the row of a command."""


class HostLost(Exception):
    """The process that imports the user's file has died."""


class Hosted:
    """A host, and the call that it runs, if it does. One call at a time."""

    def __init__(self, *, warm: bool) -> None:
        self.warm = warm
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-m", HOST, str(its.fileno()), *([] if warm else ["cold"])]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[its.fileno()]
        )
        its.close()
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._output = self._process.stdout.fileno()
        self._connection = ours
        self._messages, self._control = -1, -1
        self._half, self._line = b"", b""
        self.pid = 0
        self.tail = ""
        """The end of what the call has printed."""

    def begin(self, request: Mapping[str, Any]) -> None:
        """Hand over a call. Raises HostLost."""
        heard, its_messages = os.pipe()
        its_control, said = os.pipe()
        self._messages, self._control = heard, said
        os.set_blocking(heard, False)
        self._half, self._line, self.tail, self.pid = b"", b"", "", 0
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], [its_messages, its_control])
        except OSError as error:
            raise HostLost(str(error)) from None
        finally:
            os.close(its_messages)
            os.close(its_control)

    def hear(self, timeout: float) -> Iterator[dict[str, Any]]:
        """What happens within the timeout, in order: messages of the call, `{"printed": line}`, and its end, `status`
        (or `cold`). Raises HostLost."""
        waiting = [self._messages, self._output, self._connection.fileno()]
        ready = select.select(waiting, [], [], timeout)[0]
        ended: dict[str, Any] | None = None
        if self._connection.fileno() in ready:
            answer = self._connection.recv(LARGEST)
            if not answer:
                yield from self._drain()
                raise HostLost("the process that imports your file has died")
            said = json.loads(answer)
            if "pid" in said:
                self.pid = said["pid"]
            else:
                ended = said
        if ready:
            yield from self._drain()
        if ended is not None:
            if self._line:
                yield self._printed(self._line)
            yield ended

    def _drain(self) -> Iterator[dict[str, Any]]:
        *lines, self._line = (self._line + _read(self._output)).split(b"\n")
        for line in lines:
            yield self._printed(line)
        *lines, self._half = (self._half + _read(self._messages)).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _printed(self, line: bytes) -> dict[str, Any]:
        text = line.decode("utf-8", errors="backslashreplace")
        self.tail = f"{self.tail}{text}\n"[-TAIL:]
        return {"printed": text}

    def ask_to_stop(self) -> None:
        """The call's `run.should_stop` is true from now on."""
        with contextlib.suppress(OSError):
            os.write(self._control, b"s")

    def kill(self) -> None:
        """End the call, with all that it has started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def over(self) -> None:
        """The call has ended."""
        for file in (self._messages, self._control):
            if file >= 0:
                os.close(file)
        self._messages, self._control, self.pid = -1, -1, 0

    def close(self) -> None:
        """End the host, and the call if it runs."""
        self.kill()
        self.over()
        self._process.send_signal(LEAVE)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _read(file: int) -> bytes:
    """All that is there."""
    found = b""
    while file >= 0:
        try:
            part = os.read(file, LARGEST)
        except BlockingIOError:
            break
        if not part:
            break
        found += part
    return found
