"""What a function of the user is given beside its settings: `train(config, run)`."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import select
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.returned import DEEPEST, check_logged, check_row
from qsweep.sweeps.wholefiles import write_whole


class Run:
    """One run of the function: its device and seed, what it logs and saves, and whether it is to stop.

    `restored` is what an earlier attempt saved last, None in the first.
    """

    def __init__(self, request: Mapping[str, Any], messages: int, control: int) -> None:
        self.device: str = request["device"]
        """`cpu`, or the GPU that this run has, as torch calls it."""
        self.seed: int = request["seed"]
        self.job: str = request["job"]
        self.attempt: int = request["attempt"]
        self.told = False
        """Whether the function has been told to stop."""
        self._folder = Path(request["checkpoints"])
        self._saved: str | None = request["saved"]
        self._step: int = request["step"]
        self._steps: int = request["step"]
        self._logged: dict[tuple[int, str], float] = {}
        self._earlier: list[tuple[int, str, float]] | None = None
        self._messages, self._control = messages, control
        self._said = False
        self._state: Any = None

    @property
    def restored(self) -> Any:
        """What `save` was given last, by an earlier attempt of this job; None in the first one."""
        self._read()
        return self._state

    @property
    def should_stop(self) -> bool:
        """Whether to save and return now: the machine is wanted back, or a tuning run wants no more of this.

        What is returned after that is not counted: the job goes on from what it saved.
        """
        if not self._said:  # one that never asks is not waited for
            self._said = True
            self.say({"asks": True})
        if not self.told and select.select([self._control], [], [], 0)[0]:
            self.told = True
        return self.told

    def log(self, step: int, **values: float) -> None:
        """Log numbers of this step, such as losses: they are the curves of the report, and what `tune` looks at."""
        found = {name: number(value, name) for name, value in values.items()}
        for name in values or ("nothing",):
            check_logged(int(step), name)
        self._step = int(step)
        for name, value in found.items():
            self._logged[self._step, name] = value
        self.say({"logged": {"step": self._step, "values": found}})

    def save(self, state: Any, step: int | None = None) -> None:
        """Save whatever is needed to go on (anything that pickles), in place of what was saved before."""
        self._read()
        self._steps = max(self._step if step is None else int(step), self._steps + 1)
        logged = [(at, name, value) for (at, name), value in self._logged.items()]
        content = pickle.dumps({"state": state, "logged": logged, "step": self._step}, protocol=pickle.HIGHEST_PROTOCOL)
        file = f"{self.job}/{self.attempt}-{self._steps}.pt"
        path = self._folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        checksum = hashlib.sha256(content).hexdigest()
        self.say({"saved": {"step": self._steps, "file": file, "checksum": checksum}})

    def go_on(self) -> None:
        """What an earlier attempt had logged, when it saved last, is logged."""
        self._read()
        for step, name, value in self._earlier or ():
            self.say({"logged": {"step": step, "values": {name: value}}})

    def last_logged(self) -> dict[str, float]:
        """The last value of each name: the row of a function that returns nothing."""
        return {name: value for (_, name), value in sorted(self._logged.items())}

    def say(self, message: Mapping[str, Any]) -> None:
        """One line of JSON to the agent."""
        content = json.dumps(message).encode() + b"\n"
        while content:
            content = content[os.write(self._messages, content) :]

    def _read(self) -> None:
        if self._saved is None or self._earlier is not None:
            return
        content = pickle.loads((self._folder / self._saved).read_bytes())  # this very job wrote it
        self._state, self._earlier = content["state"], content["logged"]
        self._step = content["step"]
        self._logged = {(step, name): value for step, name, value in content["logged"]} | self._logged


def number(value: Any, name: str) -> float:
    """A logged value, of any library, as a float. Raises TypeError."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"run.log takes numbers, and {name} is {value!r:.100}") from None


def row_of(returned: Any, run: Run) -> dict[str, Any]:
    """What a function returned as a row: a dictionary, a number (as `value`), or nothing (what it logged last).

    Raises InputError for what is none.
    """
    if returned is None:
        return dict(run.last_logged())
    if not isinstance(returned, Mapping):
        plain = _plain(returned)
        if isinstance(plain, bool) or not isinstance(plain, int | float):
            raise InputError(
                f"the function returned {returned!r:.100}",
                allowed="allowed: a dictionary of numbers, texts, true and false; a number; or nothing",
            )
        return {"value": plain}
    return checked_row(returned)


def checked_row(returned: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of plain values by name. Raises InputError."""
    row = {name: _plain(value) for name, value in returned.items()}
    check_row(row)
    return row


def _plain(value: Any, depth: int = DEEPEST) -> Any:
    """Numbers of numpy and torch as Python's."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(one, depth - 1) for one in value] if depth else value
    item = getattr(value, "item", None)
    try:
        return value if item is None else item()
    except (TypeError, ValueError, RuntimeError):
        return value
