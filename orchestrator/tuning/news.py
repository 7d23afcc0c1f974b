"""What a tuning run says while it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback
from rich.console import Console

from qsweep.db.progress import Rhythm
from qsweep.orchestrator.layout import tell
from qsweep.sweeps.tuning import Tuning


class News(Callback):
    """Counts trials, and says now and then how far they are and what was best.

    Ctrl-C that got lost on its way (`interrupts` holds it) is raised again at the next step.
    """

    def __init__(
        self, console: Console, title: str, tuning: Tuning, trials: int, interrupts: Sequence[int] = ()
    ) -> None:
        self._interrupts = interrupts
        self._console = console
        self._title = title
        self._tuning = tuning
        self._trials = trials
        self._ended = 0
        self._early = 0
        self._best: float | None = None
        self._rhythm = Rhythm()

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps snapshots of its callbacks; ours go on from the registry, and hold a terminal."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self._interrupts:
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._take(result)
        self._say()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._ended += 1
        result = trial.last_result or {}
        if "problem" in result:
            tell(self._console, result["problem"])
        elif not result.get("whole"):
            self._early += 1
        self._say(last=self._ended == self._trials)

    def _take(self, result: dict[str, Any]) -> None:
        value = result.get(self._tuning.metric)
        if (
            value is not None
            and math.isfinite(value)
            and (self._best is None or self._tuning.better(value, self._best))
        ):
            self._best = value

    def _say(self, *, last: bool = False) -> None:
        if not self._rhythm.is_due(self._ended / max(self._trials, 1)) and not last:
            return
        best = "" if self._best is None else f" · best {self._tuning.metric} so far {self._best:.4f}"
        text = f"{self._title}: {self._ended}/{self._trials} trials ended, {self._early} of them early{best}"
        tell(self._console, text)
