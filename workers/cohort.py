"""The engine: up to M trainings of one cohort key, side by side on one device, as if each were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.components import PARTS
from qsweep.sweeps.training import Training
from qsweep.workers.data import Collection, Part, source_of
from qsweep.workers.device import precision_of, set_precision
from qsweep.workers.engine import Engine
from qsweep.workers.evaluation import evaluation_batch, tally
from qsweep.workers.forms import Form
from qsweep.workers.graphs import Step, StepGraphs
from qsweep.workers.methods import method_of
from qsweep.workers.models import network_of
from qsweep.workers.optimizers import update_kind
from qsweep.workers.quantizers.deployment import quantization
from qsweep.workers.results import Result, Trained, describe, epoch_rows, starting_rows
from qsweep.workers.teacher import Teacher
from qsweep.workers.weights import Start

__all__ = ["Cohort", "Result"]

HISTORY = ("losses", "hits", "val_losses", "val_accuracies", "changed_codes")
"""The rows that hold one value an epoch: those of validation only where images are held out, the last one only of
methods of two passes."""


class Cohort:
    """Trainings that share data, model and recipe (but for the seed), each in a slot of its own.

    Every tensor has one row a slot, and every operation works on rows apart: what a training computes
    depends on the training, the number of slots and the form, never on its neighbours or its slot. Nothing
    in `step` waits for the device. Master weights, batch norm's statistics and evaluation are in `dtype`; the
    recipe's precision is that of the training pass. `start` are the weights that all begin with, `teacher` those of the
    network that their targets are from. A pass over a whole data set calls `tick` with each batch, so that
    a watcher sees that it goes on.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        images: Collection,
        *,
        slots: int,
        form: Form,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        tick: Callable[[], None] = lambda: None,
        start: Start | None = None,
        teacher: Start | None = None,
    ) -> None:
        _check(trainings, slots)
        self._members = tuple(trainings)
        self._tick = tick
        places = sorted(range(len(trainings)), key=lambda member: _neighbourhood(trainings[member]))
        self._slot_of = {member: slot for slot, member in enumerate(places)}
        placed = [trainings[member] for member in places]
        first = trainings[0]
        self._recipe = first.recipe
        self._steps_per_epoch = first.steps_per_epoch
        self.steps = self._steps_per_epoch * first.recipe.epochs
        self._network = network_of(first)
        self.layout = self._network.layout
        self._device, self._dtype = device, dtype
        self._source = source_of(images, first.recipe, device, dtype, first.targets)
        self._start, self._teacher_hash = start, None if teacher is None else teacher.file_hash
        self._teacher = None if first.teacher is None else Teacher(first, teacher, device, dtype)
        self._rows = self._initial_rows(placed, slots)
        self._engine = Engine(self._network, placed, self._rows, form, tick=tick)
        step = method_of(placed, self._engine).step
        self._run_step: Step = step
        if device.type == "cuda" and self._engine.records:
            self._run_step = StepGraphs(step, list(self._rows.values()))
        self._ahead: dict[int, Mapping[str, Any]] = {}
        self._left = list(range(len(trainings)))
        self._position = 0
        self._open_epoch: int | None = None

    @property
    def position(self) -> int:
        """Optimizer steps done: those of the member that is furthest behind."""
        if self._left and len(self._ahead) == len(self._left):
            return min(int(state["position"]) for state in self._ahead.values())
        return self._position

    @property
    def left(self) -> tuple[int, ...]:
        """The members that have not been retired."""
        return tuple(self._left)

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.position // self._steps_per_epoch

    @property
    def between_epochs(self) -> bool:
        return self.position % self._steps_per_epoch == 0

    @property
    def finished(self) -> bool:
        """Nobody has a step to do."""
        return not self._left or self.position == self.steps

    def restore(self, member: int, state: Mapping[str, Any]) -> None:
        """Put a member where `state` left it. If that is ahead of others, it waits there for them."""
        if self._position:
            raise ValueError("members are restored before the first step")
        if "changed_codes" in self._rows and "changed_codes" not in state:  # an earlier version's
            state = {**state, "changed_codes": torch.full_like(self._rows["changed_codes"][0], torch.nan)}
        self._ahead[member] = state

    @property
    def active(self) -> int:
        """How many members train; the others wait until the cohort reaches them."""
        return len(self._left) - len(self._ahead)

    def position_of(self, member: int) -> int:
        """Optimizer steps that this member has done: ahead of `position` while it waits."""
        return int(self._ahead[member]["position"]) if member in self._ahead else self._position

    def state(self, member: int) -> dict[str, Any]:
        """Everything that an exact resume needs: CPU tensors and the position."""
        if member in self._ahead:
            return dict(self._ahead[member])
        slot = self._slot_of[member]
        rows = {name: row[slot].to("cpu", copy=True) for name, row in self._rows.items()}
        return {"position": self._position, **rows}

    def step(self) -> None:
        """One optimizer step of every member that is not ahead; ends the epoch after its last."""
        self._admit()
        epoch, number = divmod(self._position, self._steps_per_epoch)
        if self._open_epoch != epoch:
            self._source.open(epoch)
            self._engine.open(epoch)
            self._open_epoch = epoch
        self._engine.number.fill_(self._position + 1)
        images, targets = self._source.batch(number)
        if self._teacher is not None:
            targets = self._teacher.targets(images, targets.labels)
        with precision_of(self._recipe.precision):
            if not self._position:
                self._engine.start_activations(images)
            self._engine.begin(epoch, number, len(targets))
            losses, hits, *changed = self._run_step(images, targets)
        self._rows["losses"][:, epoch] += losses
        self._rows["hits"][:, epoch] += hits
        if "changed_codes" in self._rows:
            share = changed[0] if changed else torch.nan
            self._rows["changed_codes"][:, epoch] += share / self._steps_per_epoch
        self._position += 1
        if number == self._steps_per_epoch - 1:
            self._close(epoch)
        self._admit()

    def lost(self) -> list[int]:
        """Between epochs: the members whose last epoch's loss is no finite number, and whose weights are none either.

        No step makes such weights finite again, so nothing that they still could do changes their result.
        """
        self._admit()
        if not self._position or self.finished:
            return []
        weights = self._rows["parameters"][:, : self.layout.weights]
        return [
            member
            for member, (loss, _) in self.last_epoch().items()
            if not (math.isfinite(loss) or bool(weights[self._slot_of[member]].isfinite().all()))
        ]

    def retire(self, members: Sequence[int], interrupt: Callable[[], None] = lambda: None) -> list[Result]:
        """Between epochs: end these trainings here; what each found, as `results` says, with the epochs that it has.

        Their slots stay as they are, and their neighbours never notice. `interrupt` as in `results`.
        """
        found = self._describe(members, self.epoch, interrupt)
        self._left = [member for member in self._left if member not in members]
        return found

    def last_epoch(self) -> dict[int, tuple[float, float]]:
        """Between epochs: training loss and accuracy of each member that has just done one, from one read."""
        epoch = self._position // self._steps_per_epoch - 1
        losses, hits = self._rows["losses"][:, epoch].tolist(), self._rows["hits"][:, epoch].tolist()
        images = self._members[0].train_samples
        slots = {member: self._slot_of[member] for member in self._left if member not in self._ahead}
        return {member: (losses[slot], hits[slot] / images) for member, slot in slots.items()}

    def history(self, member: int) -> list[dict[str, Any]]:
        """The member's finished epochs, as rows of `epochs`."""
        rows = self._ahead.get(member)
        if rows is None:
            slot = self._slot_of[member]
            rows = {name: self._rows[name][slot].cpu() for name in HISTORY if name in self._rows}
        return epoch_rows(self._members[member], rows, self.position_of(member) // self._steps_per_epoch)

    def results(self, interrupt: Callable[[], None] = lambda: None) -> list[Result]:
        """What each training that is left found, in the members' order: the chosen epoch's model, fully evaluated.

        `interrupt` is called after each batch; what it raises leaves the cohort as it was.
        """
        if not self.finished:
            raise ValueError(f"{self.position} of {self.steps} steps are done")
        self._admit()
        return self._describe(self._left, self._recipe.epochs, interrupt)

    def _describe(self, members: Sequence[int], epochs: int, interrupt: Callable[[], None]) -> list[Result]:
        """What these members found in that many epochs. Where none of them has a model, nothing is evaluated."""
        if not self.steps:
            self._start_activations()
        set_precision("fp32")
        kept = {name: row.cpu() for name, row in self._rows.items()}
        slots = [self._slot_of[member] for member in members]
        parts = self._source.parts
        passes = [torch.full((len(self._rows["losses"]),), torch.nan)] * (2 * len(parts))
        if not epochs or any(kept["best_epoch"][slots]):
            passes = [one.cpu() for part in parts for one in self._evaluate("best_", part, interrupt)]
        return [
            describe(
                Trained(
                    training=self._members[member],
                    layout=self.layout,
                    rows={name: row[slot] for name, row in kept.items()},
                    epochs=epochs,
                    passes=[float(one[slot]) for one in passes],
                    start=self._start,
                    teacher_hash=self._teacher_hash,
                )
            )
            for member, slot in zip(members, slots, strict=True)
        ]

    def _start_activations(self) -> None:
        """Of trainings without a step, which are judged as they begin."""
        if self.layout.signals:
            self._source.open(0)
            with precision_of(self._recipe.precision):
                self._engine.start_activations(self._source.batch(0)[0])
            self._rows["best_parameters"].copy_(self._rows["parameters"])

    def close(self) -> None:
        """Let go of what would outlive it: processes that decode images, and the memory of a GPU's recorded steps."""
        self._source.close()
        if isinstance(self._run_step, StepGraphs):
            self._run_step.close()

    def _close(self, epoch: int) -> None:
        """End an epoch: its mean training loss, and the copy of the best model so far."""
        rows = self._rows
        rows["losses"][:, epoch] /= self._steps_per_epoch
        if Part.VAL in self._source.parts:
            val_loss, val_accuracy = self._evaluate("", Part.VAL)
            rows["val_losses"][:, epoch] = val_loss
            rows["val_accuracies"][:, epoch] = val_accuracy
        loss = rows["losses"][:, epoch]
        if self._recipe.select_by == "evaluated":
            loss = self._evaluate("", Part.TRAIN)[0]
        better = loss.isfinite() & (loss < rows["best_loss"])
        rows["best_loss"].copy_(torch.where(better, loss, rows["best_loss"]))
        rows["best_epoch"].masked_fill_(better, epoch + 1)
        for name in ("parameters", "statistics"):
            best = rows[f"best_{name}"]
            best.copy_(torch.where(better[:, None], rows[name], best))

    @torch.no_grad()
    def _evaluate(self, prefix: str, part: Part, interrupt: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor]:
        """Mean loss (float64) and accuracy of every slot's current or best model in evaluation mode."""
        views = self._engine.evaluated(self._rows[f"{prefix}parameters"], self._rows[f"{prefix}statistics"])

        def tick() -> None:
            self._tick()
            interrupt()

        batches = self._source.passes(part, evaluation_batch(self._members[0].data))
        slots = len(self._rows["parameters"])
        found = tally(lambda images: self._network.evaluate(images, views), batches, slots, self._device, tick=tick)
        return found.loss, found.accuracy

    def _admit(self) -> None:
        """Let those members in whose position the cohort has reached."""
        self._position = self.position
        for member, state in list(self._ahead.items()):
            if state["position"] == self._position:
                for name, row in self._rows.items():
                    row[self._slot_of[member]].copy_(state[name])
                del self._ahead[member]

    def _initial_rows(self, placed: Sequence[Training], slots: int) -> dict[str, Tensor]:
        """The rows of every slot at step 0. Vacant slots are zero: optimizer and quantizer leave them out."""
        layout, epochs = self.layout, self._recipe.epochs
        parameters = torch.zeros(slots, layout.parameters_length, dtype=self._dtype)
        statistics = torch.zeros(slots, layout.statistics_length, dtype=self._dtype)
        for slot, training in enumerate(placed):
            parameters[slot], statistics[slot] = starting_rows(training, layout, self._start)
        rows = {
            "parameters": parameters,
            "statistics": statistics,
            "first": torch.zeros_like(parameters),
            "second": torch.zeros_like(parameters),
            "best_parameters": parameters.clone(),
            "best_statistics": statistics.clone(),
            "best_loss": torch.full((slots,), torch.inf, dtype=torch.float64),
            "best_epoch": torch.zeros(slots, dtype=torch.int64),
            "losses": torch.zeros(slots, epochs, dtype=torch.float64),
            "hits": torch.zeros(slots, epochs, dtype=torch.int64),
        }
        if Part.VAL in self._source.parts:
            rows["val_losses"] = torch.zeros(slots, epochs, dtype=torch.float64)
            rows["val_accuracies"] = torch.zeros(slots, epochs, dtype=torch.float64)
        if self._members[0].method.passes > 1:
            rows["changed_codes"] = torch.zeros(slots, epochs, dtype=torch.float64)
        return {name: row.to(self._device) for name, row in rows.items()}


def _check(trainings: Sequence[Training], slots: int) -> None:
    """Refuse what can't be trained side by side, or not at all."""
    if not 1 <= len(trainings) <= slots:
        raise ValueError(f"{len(trainings)} trainings for {slots} slots")
    first = trainings[0]
    if any(one.shared() != first.shared() for one in trainings):
        raise ValueError("the trainings of a cohort share data, model and recipe")


def _neighbourhood(training: Training) -> tuple[int, bool, int]:
    """Sorted by this, models with one optimizer stand together, and those with one quantizer in few runs."""
    name, variant = update_kind(training.optimizer)
    optimizer = list(PARTS["optimizer"].components).index(name)
    quantizer = [None, *PARTS["quantizer"].components].index(quantization(training))
    return optimizer, variant, -quantizer if (optimizer + variant) % 2 else quantizer
