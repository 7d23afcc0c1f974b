"""The trained models that an agent's other jobs take: still in memory, or from their files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qsweep.db.model_names import model_name
from qsweep.db.rows import Claim, ParentModel
from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from qsweep.workers.results import Result

KEPT = 64
"""Models that an agent keeps in memory after it trained them."""
INIT_HASH = "init_hash"
"""The entry of a model's file that says from which weights the training started."""
PASSES = "passes"
"""The entry that holds what the training found of its model on clean images: these columns of `runs`."""
PASSED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


KeptFile: TypeAlias = tuple[str, str]
"""The file of a model, below the folder of the models, and its hash."""


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """A trained model: its tensors, and what its file says beside them, if that is known."""

    tensors: Mapping[str, Tensor]
    init_hash: str | None
    passes: Mapping[str, float] | None


def _content(result: Result) -> dict[str, Any]:
    passes = {name: result.run[name] for name in PASSED}
    return {**result.model, INIT_HASH: result.run["init_hash"], PASSES: passes}


class Models:
    """Models by job and attempt: those trained last in memory, all kept ones below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recent: OrderedDict[tuple[str, int], dict[str, Any]] = OrderedDict()

    def remember(self, claim: Claim, result: Result) -> None:
        """Have this model in memory for a while."""
        self._recent[claim.job.identity, claim.attempt] = _content(result)
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)

    def write(self, claim: Claim, result: Result) -> KeptFile:
        """Write one model; its file and hash."""
        from qsweep.workers import checkpoints  # here, as below: it imports torch

        file = model_name(claim.job.identity, claim.attempt)
        return file, checkpoints.save(self.folder / file, _content(result))

    def of(self, parent: ParentModel) -> KeptModel:
        """The parent's model.

        Raises InputError if it was not kept, DamagedFile if its file is not what was written.
        """
        from torch import Tensor

        from qsweep.workers import checkpoints

        content = self._recent.get((parent.identity, parent.attempt))
        if content is None:
            if parent.model_file is None or parent.model_hash is None:
                raise InputError(
                    f"the model of job {parent.identity[:12]} was not kept",
                    allowed="qsweep retry NAME of a sweep that measures it trains it again",
                )
            content = checkpoints.load(self.folder / parent.model_file, parent.model_hash)
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        return KeptModel(tensors=tensors, init_hash=content.get(INIT_HASH), passes=content.get(PASSES))
