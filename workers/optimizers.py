"""The optimizers' steps over the rows of several models, under their names in `sweeps.optimizers`.

Each works on the `parameters` and `slopes` (m, P) of the m models that use it, with two rows of state a
model, and follows PyTorch's update; `rate` (m, 1) is the current learning rate and `number` counts the steps from
1, a float64 scalar: what changes from step to step is on the device. Columns are float64 where PyTorch computes
on Python numbers, and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from sweeps.optimizers import Adam, RmsProp, Sgd
from sweeps.training import Recipe, Training


class Stepper(Protocol):
    """One optimizer's update; leaves NaN and its cause in the model where they arise."""

    def step(
        self, parameters: Tensor, slopes: Tensor, first: Tensor, second: Tensor, rate: Tensor, number: Tensor
    ) -> None: ...


class SgdSteps:
    """m ← μ·m + g; p ← p − lr·m. Its `first` row is m, the second is unused."""

    def __init__(self, settings: Sequence[Sgd], device: torch.device, dtype: torch.dtype) -> None:
        self._momentum = _column([one.momentum for one in settings], device).to(dtype)

    def step(
        self, parameters: Tensor, slopes: Tensor, first: Tensor, second: Tensor, rate: Tensor, number: Tensor
    ) -> None:
        first.mul_(self._momentum).add_(slopes)
        parameters.sub_(first * rate.to(first.dtype))


class AdamSteps:
    """m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − lr/(1−β₁ᵗ)·m/(√v/√(1−β₂ᵗ) + ε). Rows m and v."""

    def __init__(self, settings: Sequence[Adam], device: torch.device, dtype: torch.dtype) -> None:
        self._beta1 = _column([one.beta1 for one in settings], device)
        self._beta2 = _column([one.beta2 for one in settings], device)
        self._keep1, self._keep2 = self._beta1.to(dtype), self._beta2.to(dtype)
        self._take1, self._take2 = (1 - self._beta1).to(dtype), (1 - self._beta2).to(dtype)
        self._epsilon = _column([one.epsilon for one in settings], device).to(dtype)

    def step(
        self, parameters: Tensor, slopes: Tensor, first: Tensor, second: Tensor, rate: Tensor, number: Tensor
    ) -> None:
        size = (rate / (1 - self._beta1**number)).to(first.dtype)
        spread = (1 - self._beta2**number).sqrt_().to(first.dtype)
        first.mul_(self._keep1).add_(slopes * self._take1)
        second.mul_(self._keep2).add_(slopes.square().mul_(self._take2))
        divisor = second.sqrt().div_(spread).add_(self._epsilon)
        parameters.sub_(torch.div(first, divisor, out=divisor).mul_(size))


class RmsPropSteps:
    """v ← α·v + (1−α)·g²; p ← p − lr·g/(√v + ε). Its `second` row is v, the first is unused."""

    def __init__(self, settings: Sequence[RmsProp], device: torch.device, dtype: torch.dtype) -> None:
        alpha = _column([one.alpha for one in settings], device)
        self._keep, self._take = alpha.to(dtype), (1 - alpha).to(dtype)
        self._epsilon = _column([one.epsilon for one in settings], device).to(dtype)

    def step(
        self, parameters: Tensor, slopes: Tensor, first: Tensor, second: Tensor, rate: Tensor, number: Tensor
    ) -> None:
        second.mul_(self._keep).add_(slopes.square().mul_(self._take))
        divisor = second.sqrt().add_(self._epsilon)
        parameters.sub_(torch.div(slopes, divisor, out=divisor).mul_(rate.to(second.dtype)))


STEPPERS = {"sgd": SgdSteps, "adam": AdamSteps, "rmsprop": RmsPropSteps}


class CohortOptimizer:
    """The optimizers of the models in rows 0 to m−1, where models with the same optimizer are neighbours.

    Weight decay is coupled L2, g ← g + λp, on everything before `steps_start`; on the step sizes from there
    on only where the quantizer says so. The rate is that of `torch.optim.lr_scheduler.MultiStepLR`.
    """

    def __init__(
        self, trainings: Sequence[Training], steps_start: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._trainings = tuple(trainings)
        self._steps_start = steps_start
        self._device = device
        self._decay = _column([one.optimizer.weight_decay for one in trainings], device).to(dtype)
        self._step_decay = _column([_step_decay(one) for one in trainings], device).to(dtype)
        self._rates = _column([one.optimizer.learning_rate for one in trainings], device)
        self._groups: list[tuple[slice, Stepper]] = []
        for name, group in groupby(enumerate(trainings), key=lambda item: item[1].optimizer.name):
            items = list(group)
            stepper = STEPPERS[name]([one.optimizer for _, one in items], device, dtype)
            self._groups.append((slice(items[0][0], items[-1][0] + 1), stepper))

    def open(self, epoch: int) -> None:
        """Set the learning rates of an epoch (from 0)."""
        rates = [rate_at(one.recipe, one.optimizer.learning_rate, epoch) for one in self._trainings]
        self._rates.copy_(torch.tensor(rates, dtype=torch.float64)[:, None])

    def step(self, parameters: Tensor, slopes: Tensor, first: Tensor, second: Tensor, number: Tensor) -> None:
        """One step of every model; `slopes` is used up."""
        count, start = len(self._trainings), self._steps_start
        decayed = slopes[:count]
        decayed[:, :start].add_(parameters[:count, :start] * self._decay)
        decayed[:, start:].add_(parameters[:count, start:] * self._step_decay)
        for rows, stepper in self._groups:
            stepper.step(parameters[rows], slopes[rows], first[rows], second[rows], self._rates[rows], number)


def rate_at(recipe: Recipe, rate: float, epoch: int) -> float:
    """The learning rate in an epoch (from 0): multiplied once for each milestone that has been reached."""
    for milestone in recipe.milestones:
        rate *= recipe.lr_factor if milestone <= epoch else 1.0
    return rate


def _step_decay(training: Training) -> float:
    quantizer = training.quantizer
    return training.optimizer.weight_decay if quantizer is not None and quantizer.decay_step else 0.0


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(device)[:, None]
