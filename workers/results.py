"""What one training found: the columns of its rows in the results, and its model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qsweep.sweeps.modules import Module
from qsweep.sweeps.operations import bit_operations
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.text import finite
from qsweep.sweeps.training import Training
from qsweep.workers.models.layout import Layout, Role
from qsweep.workers.optimizers import rate_at
from qsweep.workers.quantizers import ACTIVATION_QUANTIZATIONS, QUANTIZATIONS
from qsweep.workers.quantizers.activations import tensors_of
from qsweep.workers.weights import Start


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training's columns of `runs`, its rows of `epochs` and `layers`, and its model by tensor names."""

    run: dict[str, Any]
    epochs: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    model: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that has ended: its rows on the CPU, its epochs, and the passes over its chosen model.

    `passes` are train loss, train accuracy, test loss and test accuracy, then loss and accuracy on the
    validation split if there is one.
    """

    training: Training
    layout: Layout
    rows: Mapping[str, Tensor]
    epochs: int
    passes: Sequence[float]
    start: Start | None = None
    """The weights that it started from, if it was not initialized."""
    teacher_hash: str | None = None
    """The hash of its teacher's weights, if it has one."""


def initial_row(training: Training, layout: Layout) -> Tensor:
    """The parameters (P) of a training as its network is initialized, from its seed (CPU, float32).

    They are w₀ of the measures even where a training starts from weights: the paper's norms on ImageNet are those
    of a fresh initialization (`docs/decisions/0014-imagenet.md`).
    """
    return _stepped(training, layout, layout.initial_parameters(training.recipe.seed))


def starting_rows(training: Training, layout: Layout, start: Start | None) -> tuple[Tensor, Tensor]:
    """Parameters (P) and statistics (S) of a training before its first batch (CPU, float32), which sets the step sizes
    of activations."""
    if start is None:
        return initial_row(training, layout), _levelled(
            training, layout, layout.initial_statistics(training.recipe.seed)
        )
    return _stepped(training, layout, start.parameters.clone()), _levelled(training, layout, start.statistics.clone())


def _levelled(training: Training, layout: Layout, statistics: Tensor) -> Tensor:
    """`statistics` with the levels of its activations."""
    if training.activation_quantizer is not None:
        ACTIVATION_QUANTIZATIONS[training.activation_quantizer.name].levels(
            training.activation_quantizer, layout, statistics
        )
    return statistics


def _stepped(training: Training, layout: Layout, row: Tensor) -> Tensor:
    """`row` with the step sizes that its quantizer begins with."""
    if training.quantizer is not None:
        QUANTIZATIONS[training.quantizer.name].initialize(training.quantizer, layout, row)
    return row


def describe(trained: Trained) -> Result:
    """The result of a finished training. A diverged one has no chosen epoch, no metrics and no norms."""
    rows, layout, training = trained.rows, trained.layout, trained.training
    initial = initial_row(training, layout)
    begun = starting_rows(training, layout, trained.start)[0]
    final = rows["best_parameters"]
    chosen = int(rows["best_epoch"])
    kept = bool(chosen) or not training.recipe.epochs
    passes = [finite(value) if kept else None for value in trained.passes]
    train_loss, train_accuracy, test_loss, test_accuracy, *validated = passes
    val_loss, val_accuracy = validated or (None, None)
    weights = slice(0, layout.weights)
    run = {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "generalization_gap": None if train_loss is None or test_loss is None else test_loss - train_loss,
        "chosen_epoch": chosen if kept else None,
        "diverged": not kept,
        "last_train_loss": finite(float(rows["losses"][trained.epochs - 1])) if trained.epochs else None,
        "init_hash": hashlib.sha256(initial[weights].numpy().tobytes()).hexdigest()[:32],
        "weights_hash": None if trained.start is None else trained.start.file_hash,
        "teacher_hash": trained.teacher_hash,
        "weight_norm": _norm(layout.counted(final)) if kept else None,
        "distance": _norm(layout.counted(final).double() - layout.counted(begun).double()) if kept else None,
        "changed_codes": _changed_codes(training, rows, trained.epochs),
        "bops": None if isinstance(training.model, Module) else bit_operations(training),
    }
    return Result(
        run=run,
        epochs=epoch_rows(training, trained.rows, trained.epochs),
        layers=_layers(trained, begun),
        model={name: tensor.clone() for name, tensor in layout.named(final, rows["best_statistics"])},
    )


def epoch_rows(training: Training, rows: Mapping[str, Tensor], epochs: int) -> list[dict[str, Any]]:
    """The first `epochs` epochs of a training's history, from its rows on the CPU."""
    found = [
        {
            "epoch": epoch + 1,
            "train_loss": finite(float(rows["losses"][epoch])),
            "train_accuracy": int(rows["hits"][epoch]) / training.train_samples,
            "learning_rate": rate_at(training.recipe, training.optimizer.learning_rate, epoch),
        }
        for epoch in range(epochs)
    ]
    if training.val_images:
        for epoch, row in enumerate(found):
            row["val_loss"] = finite(float(rows["val_losses"][epoch]))
            row["val_accuracy"] = float(rows["val_accuracies"][epoch])
    if _has_changed_codes(training):
        for epoch, row in enumerate(found):
            row["changed_codes"] = finite(float(rows["changed_codes"][epoch]))
    return found


def _has_changed_codes(training: Training) -> bool:
    return training.method.passes > 1 and training.quantizer is not None


def _changed_codes(training: Training, rows: Mapping[str, Tensor], epochs: int) -> float | None:
    """The mean over the steps of all epochs; none of plain training and of full precision."""
    if not (_has_changed_codes(training) and epochs):
        return None
    return finite(float(rows["changed_codes"][:epochs].mean()))


def _layers(trained: Trained, initial: Tensor) -> list[dict[str, Any]]:
    layout, quantizer = trained.layout, trained.training.quantizer
    final = trained.rows["best_parameters"]
    kept = bool(trained.rows["best_epoch"]) or not trained.training.recipe.epochs
    group_of = {group.name: index for index, group in enumerate(layout.groups)}
    bits = [FULL_PRECISION] * len(group_of)
    if quantizer is not None:
        bits = QUANTIZATIONS[quantizer.name].layer_bits(quantizer, layout)
    activations = _activations(trained)
    sizes = [layout.steps.of(row[None])[0] for row in (final, initial)]
    found = []
    for index, spec in enumerate(layout.of_role(Role.WEIGHT)):
        start, end = (layout[spec.name].of(row[None])[0] for row in (initial, final))
        group = group_of[spec.group]
        found.append(
            {
                "layer": spec.layer,
                "index": index,
                "bits": bits[group],
                "step_size": finite(float(sizes[0][group])) if quantizer and kept else None,
                "step_size_init": float(sizes[1][group]) if quantizer else None,
                "activation_bits": FULL_PRECISION if spec.layer not in activations else activations[spec.layer][0],
                "activation_step": activations[spec.layer][1] if spec.layer in activations and kept else None,
                "weights": math.prod(spec.shape),
                "weight_norm": _norm(end) if kept else None,
                "init_norm": _norm(start),
                "distance": _norm(end.double() - start.double()) if kept else None,
            }
        )
    return found


def _activations(trained: Trained) -> dict[str, tuple[int, float | None]]:
    """Bit width and step size of what each layer reads, where it is quantized."""
    quantizer, layout = trained.training.activation_quantizer, trained.layout
    if quantizer is None:
        return {}
    parameters, statistics = (trained.rows[f"best_{name}"][None] for name in ("parameters", "statistics"))
    signals = tensors_of(layout, layout.tensors(parameters, parameters, statistics))
    return {name: (quantizer.bits_of(one.signal), finite(float(one.step))) for name, one in signals.items()}


def _norm(values: Tensor) -> float | None:
    return finite(float(values.double().norm()))
