"""Models quantized on images that were synthesized from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

from qsweep.db.model_names import model_name
from qsweep.db.rows import Claim, ParentModel
from qsweep.sweeps.kinds import File
from qsweep.sweeps.zero_shot import Nearest
from qsweep.workers import checkpoints
from qsweep.workers.agent.models import INIT_HASH, PASSED, PASSES, KeptFile, KeptModel
from qsweep.workers.agent.workplace import Plan
from qsweep.workers.data import Part
from qsweep.workers.data import source_of as images_of
from qsweep.workers.kinds.base import Outcome, Tools
from qsweep.workers.kinds.source import flagged, named, source_of
from qsweep.workers.kinds.steps import take_steps
from qsweep.workers.kinds.synthesis import IMAGES
from qsweep.workers.zero_shot.quantization import ModelQuantizer

log = logging.getLogger(__name__)


class Quantize:
    """One quantization after another, each from its newest checkpoint. Without a model, or images, a row says so."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claims: Sequence[Claim], plan: Plan) -> Generator[Outcome, None, None]:
        for number, claim in enumerate(claims):
            images = _images_of(claim)
            if source_of(claim).diverged or images.diverged:
                yield _without_model(claim)
            else:
                yield self._quantize(claim, images, claims[number:])

    def _quantize(self, claim: Claim, above: ParentModel, left: Sequence[Claim]) -> Outcome:
        asked, training, device = claim.job.measure, claim.job.training, self._tools.place.device
        assert isinstance(asked, Nearest)
        model = self._tools.models.of(source_of(claim))
        images = self._tools.models.of(above).tensors[IMAGES]
        made = ModelQuantizer(training, model.tensors, asked, images, device=device)
        take_steps(self._tools, claim, left, made)
        row = self._row(claim, made, model) | {"images_hash": above.model_hash}
        if not all(math.isfinite(row[name]) for name in ("train_loss", "test_loss")):
            log.info("%s: the loss is not finite", claim.job.identity[:12])
            return _without_model(claim)
        rows = {"quantizations": [named(claim) | row], "units": list(made.unit_rows())}
        content = made.content() | {INIT_HASH: model.init_hash, PASSES: {name: row[name] for name in PASSED}}
        return Outcome(claims=[claim], rows=[rows], write=partial(self._write, claim, content))

    def _row(self, claim: Claim, made: ModelQuantizer, model: KeptModel) -> dict[str, Any]:
        """The columns of `quantizations`: the quantized model on training images and on the test set."""
        training = claim.job.training
        source = images_of(self._tools.images(training.data), training.recipe, self._tools.place.device, made.dtype)
        try:
            train, test = made.judge(source, Part.TRAIN), made.judge(source, Part.TEST)
        finally:
            source.close()
        loss, accuracy = float(test.loss), float(test.accuracy)
        before = model.passes or {}
        kept = before.get("test_accuracy")
        return {
            "diverged": False,
            "train_loss": float(train.loss),
            "train_accuracy": float(train.accuracy),
            "test_loss": loss,
            "test_accuracy": accuracy,
            "generalization_gap": loss - float(train.loss),
            "float_test_loss": before.get("test_loss"),
            "float_test_accuracy": kept,
            "accuracy_drop": None if kept is None else kept - accuracy,
            "weights_hash": made.weights_hash(),
        }

    def _write(self, claim: Claim, content: Mapping[str, Any], place: int) -> KeptFile:
        file = model_name(claim.job.identity, claim.attempt)
        return file, checkpoints.save(self._tools.models.folder / file, content)


def _images_of(claim: Claim) -> ParentModel:
    source = claim.source(File.IMAGES)
    assert source is not None, "a quantization stands on a synthesis"
    return source


def _without_model(claim: Claim) -> Outcome:
    return Outcome(claims=[claim], rows=[{"quantizations": [named(claim) | flagged()]}])
