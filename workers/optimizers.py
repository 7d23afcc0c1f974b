"""The optimizers' steps over the rows of several models, under their names in `sweeps.optimizers`.

Each works on the `parameters` and `gradients` (m, P) of the m models that use it, with two rows of state a
model, and follows PyTorch's update; `rate` (m, 1) is the current learning rate and `number` counts the steps from
1, a float64 scalar: what changes from step to step is on the device. Columns are float64 where PyTorch computes
on Python numbers, and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from qsweep.sweeps.components import Implementations
from qsweep.sweeps.optimizers import Adam, Optimizer, RmsProp, Sgd
from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.training import Training
from qsweep.workers.compiling import compiled
from qsweep.workers.device import sent
from qsweep.workers.models.layout import AFFINE, Layout

Update = Callable[..., None]
"""An update of `parameters` from `gradients` (m, P), `first` and `second`, in place, and columns (m, 1)."""


class Stepper(Protocol):
    """One optimizer's update; leaves NaN and its cause in the model where they arise."""

    update: Update
    """The update, of all columns that a step needs."""
    keeps: tuple[bool, bool]
    """Whether it moves the rows `first` and `second`."""
    decoupled: bool
    """Whether weight decay shrinks the parameters before the update, p ← (1 − lr·λ)·p, instead of entering the
    gradients, g ← g + λp."""

    def columns(self, rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        """What `update` takes behind the rows in this step, each (m, 1)."""


def sgd(parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, momentum: Tensor, rate: Tensor) -> None:
    """m ← μ·m + g; p ← p − lr·m. Its `first` row is m, the second is unused."""
    first.mul_(momentum).add_(gradients)
    parameters.sub_(first * rate)


def sgd_nesterov(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, momentum: Tensor, rate: Tensor
) -> None:
    """m ← μ·m + g; p ← p − lr·(g + μ·m): after Nesterov, as PyTorch has it. Rows as in `sgd`."""
    first.mul_(momentum).add_(gradients)
    parameters.sub_((gradients + first * momentum) * rate)


def adam(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    beta1: Tensor,
    one_minus_beta1: Tensor,
    beta2: Tensor,
    one_minus_beta2: Tensor,
    epsilon: Tensor,
    step_size: Tensor,
    sqrt_bias_correction2: Tensor,
) -> None:
    """m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − lr/(1−β₁ᵗ)·m/(√v/√(1−β₂ᵗ) + ε). Rows m and v."""
    first.mul_(beta1).add_(gradients * one_minus_beta1)
    second.mul_(beta2).add_(gradients.square().mul_(one_minus_beta2))
    divisor = second.sqrt().div_(sqrt_bias_correction2).add_(epsilon)
    parameters.sub_(torch.div(first, divisor, out=divisor).mul_(step_size))


def rmsprop(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    alpha: Tensor,
    one_minus_alpha: Tensor,
    epsilon: Tensor,
    rate: Tensor,
) -> None:
    """v ← α·v + (1−α)·g²; p ← p − lr·g/(√v + ε). Its `second` row is v, the first is unused."""
    second.mul_(alpha).add_(gradients.square().mul_(one_minus_alpha))
    divisor = second.sqrt().add_(epsilon)
    parameters.sub_(torch.div(gradients, divisor, out=divisor).mul_(rate))


class SgdSteps:
    """The columns of `sgd`, or of `sgd_nesterov`: the models of one group have one update (`update_kind`)."""

    keeps = (True, False)
    decoupled = False

    def __init__(self, settings: Sequence[Sgd], device: torch.device, dtype: torch.dtype) -> None:
        self.update: Update = sgd_nesterov if settings[0].nesterov else sgd
        self._momentum = _column([one.momentum for one in settings], device).to(dtype)

    def columns(self, rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        return self._momentum, rate.to(self._momentum.dtype)


class AdamSteps:
    """The columns of `adam`."""

    update = staticmethod(adam)
    keeps = (True, True)
    decoupled = False

    def __init__(self, settings: Sequence[Adam], device: torch.device, dtype: torch.dtype) -> None:
        self._beta1 = _column([one.beta1 for one in settings], device)
        self._beta2 = _column([one.beta2 for one in settings], device)
        betas = (self._beta1, 1 - self._beta1, self._beta2, 1 - self._beta2)
        self._moving_averages = tuple(one.to(dtype) for one in betas)
        self._epsilon = _column([one.epsilon for one in settings], device).to(dtype)

    def columns(self, rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        dtype = self._epsilon.dtype
        step_size = (rate / (1 - self._beta1**number)).to(dtype)
        sqrt_bias_correction2 = (1 - self._beta2**number).sqrt_().to(dtype)
        return *self._moving_averages, self._epsilon, step_size, sqrt_bias_correction2


class AdamWSteps(AdamSteps):
    """The columns of `adam`, behind decoupled weight decay."""

    decoupled = True


class RmsPropSteps:
    """The columns of `rmsprop`."""

    update = staticmethod(rmsprop)
    keeps = (False, True)
    decoupled = False

    def __init__(self, settings: Sequence[RmsProp], device: torch.device, dtype: torch.dtype) -> None:
        alpha = _column([one.alpha for one in settings], device)
        self._alpha, self._one_minus_alpha = alpha.to(dtype), (1 - alpha).to(dtype)
        self._epsilon = _column([one.epsilon for one in settings], device).to(dtype)

    def columns(self, rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        return self._alpha, self._one_minus_alpha, self._epsilon, rate.to(self._epsilon.dtype)


STEPPERS = Implementations("optimizer")
"""What steps an optimizer: a class whose instances are `Stepper`s, made from settings, a device and a dtype."""


def update_kind(optimizer: Optimizer) -> tuple[str, bool]:
    """Equal for optimizers whose models take one update together."""
    return optimizer.name, getattr(optimizer, "nesterov", False)


class CohortOptimizer:
    """The optimizers of the models in rows 0 to m−1, where models with the same optimizer are neighbours.

    Weight decay, coupled L2 or decoupled as the optimizer has it, acts on everything before the step sizes; on those of
    weights and of activations only where their quantizers say so. With `decays = "matrices"` tensors of
    one dimension are left out. The rate is that of `rate_at`.
    """

    def __init__(self, trainings: Sequence[Training], layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
        self._trainings = tuple(trainings)
        self._steps_start = layout.steps.start
        self._device, self._dtype = device, dtype
        self._decay = _column([one.optimizer.weight_decay for one in trainings], device)
        self._step_decay = _step_decays(trainings, layout).to(device)
        self._undecayed = _undecayed(trainings, layout, device)
        self._rates = _column([one.optimizer.learning_rate for one in trainings], device)
        self._groups: list[tuple[slice, Stepper]] = []
        for (name, _), group in groupby(enumerate(trainings), key=lambda item: update_kind(item[1].optimizer)):
            items = list(group)
            stepper = STEPPERS[name]([one.optimizer for _, one in items], device, dtype)
            self._groups.append((slice(items[0][0], items[-1][0] + 1), stepper))

    def open(self, epoch: int) -> None:
        """Set the learning rates of an epoch (from 0)."""
        rates = [rate_at(one.recipe, one.optimizer.learning_rate, epoch) for one in self._trainings]
        self._rates.copy_(sent(torch.tensor(rates, dtype=torch.float64)[:, None], self._device))

    def step(self, parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, number: Tensor) -> None:
        """One step of every model; `gradients` are used up."""
        for rows, stepper in self._groups:
            decays = self._decays(stepper, rows)
            DECAYS[stepper.decoupled](parameters[rows], gradients[rows], self._steps_start, *decays)
            columns = stepper.columns(self._rates[rows], number)
            stepper.update(parameters[rows], gradients[rows], first[rows], second[rows], *columns)

    def _decays(self, stepper: Stepper, rows: slice) -> tuple[Tensor, Tensor]:
        """What its decay takes for these rows: (m, 1), or of each parameter, for what comes before the step sizes and
        for these."""
        found = self._decay[rows], self._step_decay[rows]
        if stepper.decoupled:
            found = 1 - self._rates[rows] * found[0], 1 - self._rates[rows] * found[1]
        before, steps = found[0].to(self._dtype), found[1].to(self._dtype)
        if self._undecayed is not None:
            before = torch.where(self._undecayed[rows], float(stepper.decoupled), before)
        return before, steps


class CompiledOptimizer(CohortOptimizer):
    """The same with one kernel for each optimizer that occurs, always over the rows of all slots.

    It keeps what becomes of its own rows, so no shape depends on what stands beside a model, and leaves `gradients` as
    they are.
    """

    def __init__(
        self, trainings: Sequence[Training], slots: int, layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        vacant = slots - len(trainings)
        super().__init__([*trainings, *[trainings[-1]] * vacant], layout, device, dtype)
        names = [update_kind(one.optimizer) for one in trainings]
        self._kinds: list[tuple[Tensor, Stepper]] = []
        for kind in dict.fromkeys(names):
            some = trainings[names.index(kind)].optimizer
            settings = [one.optimizer if update_kind(one.optimizer) == kind else some for one in self._trainings]
            own = torch.tensor([one == kind for one in names] + [False] * vacant)[:, None]
            self._kinds.append((own.to(device), STEPPERS[kind[0]](settings, device, dtype)))

    def step(self, parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, number: Tensor) -> None:
        for own, stepper in self._kinds:
            decays = self._steps_start, *self._decays(stepper, slice(None))
            columns = stepper.columns(self._rates, number)
            rows = (parameters, gradients, first, second)
            given = (stepper.update, stepper.keeps, DECAYS[stepper.decoupled])
            compiled(step_own)(*given, own, *rows, *decays, *columns)


def decay(parameters: Tensor, gradients: Tensor, steps_start: int, rate: Tensor, step_rate: Tensor) -> None:
    """g ← g + λp, with rates (m, 1) for what comes before the step sizes, and for these (m, 1 or each)."""
    gradients[:, :steps_start].add_(parameters[:, :steps_start] * rate)
    gradients[:, steps_start:].add_(parameters[:, steps_start:] * step_rate)


def shrink(parameters: Tensor, gradients: Tensor, steps_start: int, factor: Tensor, step_factor: Tensor) -> None:
    """p ← (1 − lr·λ)·p, with these factors (m, 1) for what comes before the step sizes, and for these."""
    parameters[:, :steps_start].mul_(factor)
    parameters[:, steps_start:].mul_(step_factor)


DECAYS: dict[bool, Update] = {False: decay, True: shrink}
"""Weight decay, by whether it is decoupled from the gradients."""


def step_own(
    update: Update,
    keeps: tuple[bool, bool],
    decays: Update,
    own: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    steps_start: int,
    rate: Tensor,
    step_rate: Tensor,
    *columns: Tensor,
) -> None:
    """Decay and `update` the rows that `own` (M, 1) names, and leave the others."""
    gradients = gradients.clone()
    rows, moves = (parameters, first, second), (True, *keeps)
    new = [one.clone() if moved else one for one, moved in zip(rows, moves, strict=True)]
    decays(new[0], gradients, steps_start, rate, step_rate)
    update(new[0], gradients, *new[1:], *columns)
    for one, other, moved in zip(rows, new, moves, strict=True):
        if moved:
            one.copy_(torch.where(own, other, one))


def rate_at(recipe: Recipe, rate: float, epoch: int) -> float:
    """The learning rate in an epoch (from 0).

    With `steps` it is multiplied once for each milestone that has been reached (`MultiStepLR`); with `cosine` it falls
    from the end of the warm-up along half a wave to 0 after the last epoch (`CosineAnnealingLR`). Warm-up multiplies
    it by a factor that rises evenly to 1 (`LinearLR`).
    """
    warmup = recipe.warmup_epochs
    if recipe.schedule == "cosine" and epoch >= warmup:
        return rate * (1 + math.cos(math.pi * (epoch - warmup) / (recipe.epochs - warmup))) / 2
    for milestone in recipe.milestones if recipe.schedule == "steps" else ():
        rate *= recipe.lr_factor if milestone <= epoch else 1.0
    if epoch < warmup:
        rate *= recipe.warmup_factor + (1 - recipe.warmup_factor) * epoch / warmup
    return rate


def _undecayed(trainings: Sequence[Training], layout: Layout, device: torch.device) -> Tensor | None:
    """What weight decay leaves out before the step sizes, of each model (m, …); None if it leaves nothing out."""
    which = torch.tensor([getattr(one.optimizer, "decays", "all") == "matrices" for one in trainings])
    if not which.any():
        return None
    found = torch.zeros(layout.steps.start, dtype=torch.bool)
    for spec in layout.of_role(*AFFINE):
        if len(spec.shape) < 2:
            span = layout[spec.name]
            found[span.start : span.stop] = True
    return (which[:, None] & found).to(device)


def _step_decays(trainings: Sequence[Training], layout: Layout) -> Tensor:
    """The decays of the step sizes of weights (m, 1), or where there are those of activations, of all (m, P − …)."""
    weights = torch.tensor([_decays(one, one.quantizer, "decay_step") for one in trainings], dtype=torch.float64)
    if not layout.signals:
        return weights[:, None]
    found = weights[:, None].repeat(1, layout.parameters_length - layout.steps.start)
    place, start = layout.activation_steps, layout.steps.start
    ours = [_decays(one, one.activation_quantizer, "decay_activation_step") for one in trainings]
    found[:, place.start - start : place.stop - start] = torch.tensor(ours, dtype=torch.float64)[:, None]
    return found


def _decays(training: Training, quantizer: object, setting: str) -> float:
    return training.optimizer.weight_decay if getattr(quantizer, setting, False) else 0.0


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(device)[:, None]
