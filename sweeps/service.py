"""Questions to a child process that has torch: a line of JSON each way, and an error arrives as it was raised there.

The child is `python -m qsweep.workers.service`. It answers one question after another and ends with its input.
Everything that a command wants of torch goes this way; agents, which work on their own, do not.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any, Self

from qsweep.sweeps import processes
from qsweep.sweeps.errors import QsweepError, raise_packed
from qsweep.sweeps.questions import Question

MOST = 2000
"""Characters of what a child said before it died."""
ANSWER = "answer"
"""The key under which a line holds an answer."""


class Died(QsweepError):
    """The child ended without an answer, with `code`: a negative one is the signal that killed it."""

    def __init__(self, failing: str, code: int, last_words: str) -> None:
        self.code = code
        self.last_words = last_words
        super().__init__(f"{failing} failed:\n{last_words or _ended(code)}")


def _ended(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Service:
    """One child process that answers questions; it is gone when the context is left.

    It runs in a session of its own, so that Ctrl-C reaches the command alone. `failing` says what failed if it dies.
    What a `watched` one writes to stderr is seen as it comes; else it is kept for the message if it dies.
    """

    def __init__(self, environment: Mapping[str, str], *, failing: str, watched: bool = False) -> None:
        self._failing = failing
        self._log = None if watched else _temporary()
        self._child = processes.start(
            [*processes.PYTHON, "qsweep.workers.service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
            errors="replace",
            env=dict(environment),
            start_new_session=not watched,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._child.communicate()
        if self._log is not None:
            self._log.close()

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._child.kill()

    def ask(self, question: Question) -> dict[str, Any]:
        """The answer. Raises the error that the child answers with, or Died."""
        self.send(question)
        return self.receive()

    def send(self, question: Question) -> None:
        """Ask without waiting; `receive` takes the answers in the order of the questions."""
        request = {"question": type(question).__name__, "given": asdict(question)}
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` says why

    def receive(self) -> dict[str, Any]:
        """The answer to the question asked first of those not answered yet. Raises as `ask` does."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith("\n"):  # nothing, or half an answer
            raise Died(self._failing, self._child.wait(), self._last_words())
        found = json.loads(line)
        raise_packed(found)
        answer: dict[str, Any] = found[ANSWER]
        return answer

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().strip()[-MOST:]


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def ask_once(
    question: Question, environment: Mapping[str, str], *, failing: str, watched: bool = False
) -> dict[str, Any]:
    """What a child answers that is started for this one question. Raises as `Service.ask` does."""
    with Service(environment, failing=failing, watched=watched) as service:
        return service.ask(question)
