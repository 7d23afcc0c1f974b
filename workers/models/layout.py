"""Where the tensors of a network lie in one flat row, so that M models are one matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsweep.sweeps.signals import Signal

if TYPE_CHECKING:
    from qsweep.workers.quantizers.activations import ActivationQuantizer

ALIGNMENT = 32
"""Row lengths are multiples of this many elements: no row ends in a vector kernel's scalar tail."""


class Role(StrEnum):
    """What a tensor is in its network. Tensors of one role lie side by side, roles in this order."""

    WEIGHT = "weight"
    """What a quantizer rounds, and norms and bounds are taken over."""
    HIDDEN_BIAS = "hidden-bias"
    """A bias under batch norm, which cancels it: the training loss gives it no gradient."""
    SCALE = "scale"
    """γ of a norm; it begins as 1."""
    SHIFT = "shift"
    """β of a norm."""
    BIAS = "bias"
    """Any other tensor that is trained and never quantized."""
    STEP_SIZE = "step-size"
    """Of a quantizer; it begins as 1, until the quantizer sets it."""
    ACTIVATION_STEP = "activation-step"
    """A step size of activations, on which the training loss depends; it begins as 1, until a first batch sets it."""
    MEAN = "mean"
    """A running mean of batch norm, in the row of statistics."""
    VARIANCE = "variance"
    """A running variance of batch norm, in the row of statistics; it begins as 1."""
    STATE = "state"
    """Any other tensor of a model that no gradient moves, in the row of statistics; it begins as it is drawn."""
    LEVEL = "level"
    """A bound of the levels that activations are rounded to, in the row of statistics."""


STATISTICS = (Role.MEAN, Role.VARIANCE, Role.STATE, Role.LEVEL)
BEGIN_AS_ONE = (Role.SCALE, Role.STEP_SIZE, Role.ACTIVATION_STEP, Role.VARIANCE)
QUANTIZERS = (Role.STEP_SIZE, Role.ACTIVATION_STEP, Role.LEVEL)
"""What quantizers set and plain weights lack."""
TRAINED = (Role.WEIGHT, Role.SCALE, Role.SHIFT, Role.BIAS, Role.ACTIVATION_STEP)
"""What gets a gradient from the training loss; a step size gets its own from its quantizer."""
AFFINE = (*TRAINED, Role.HIDDEN_BIAS)
ACTIVATION = "activation"
"""The module of what a layer reads, behind the layer's name."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of a network, as the network declares it."""

    name: str
    shape: tuple[int, ...]
    role: Role
    group: str = ""
    """Of a weight or a step size: weights of one group, declared one after another, share the step size of that
    group."""
    outer: bool = False
    """Whether a weight's group takes the outer bit width (the first and the last layer of a convolutional network)."""
    linear: bool = False
    """Whether a weight is that of a linear layer."""
    counted: bool = True
    """Whether a weight counts in ω and in the norms of the flatness measures."""
    kept: bool = True
    """Whether the network has it, and kept models with it. One that is not is zero, until folding fills it."""
    folds: bool = False
    """Whether `Network.fold` takes this γ or β of a norm into weights and biases."""

    @property
    def layer(self) -> str:
        """The module that has it: its name without the last part."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """Tensors that are declared, and initialized, together."""

    name: str
    tensors: tuple[TensorSpec, ...]
    draw: Callable[[], Mapping[str, Tensor]]
    """Draws initial values (float32) by the tensors' names, from torch's generator of the CPU. A tensor that it leaves
    out begins as 1 or 0, as its role says."""
    draws_statistics: bool = False
    """Whether it draws tensors of the row of statistics too."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tensor of shape `shape`, at `start` in a row."""

    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def of(self, rows: Tensor) -> Tensor:
        """The tensor of every row: a view (M, *shape) into `rows` (M, P)."""
        return rows[:, self.start : self.stop].view(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class StepGroup:
    """The weights that share a step size: how many, whether they take the outer bit width, and whether they are those
    of linear layers."""

    name: str
    count: int
    outer: bool
    linear: bool


class Layout:
    """The rows of a network: its parameters (weights first, step sizes last) and its batch norm's statistics.

    What is learned of its quantized `signals` comes last of the parameters, their levels last of the statistics, as
    their quantizer `activations` declares them. Raises ValueError if two tensors have one name, the weights of a group
    do not lie side by side, or a group has no step size of its own.
    """

    def __init__(
        self,
        modules: Sequence[ModuleSpec],
        signals: Sequence[Signal] = (),
        activations: type[ActivationQuantizer] | None = None,
    ) -> None:
        self.signals, self.activations = tuple(signals), activations
        if activations is not None:
            modules = [*modules, *(_module_of(signal, activations) for signal in signals)]
        self._modules = tuple(modules)
        specs = [spec for module in modules for spec in module.tensors]
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) < len(specs):
            raise ValueError("two tensors of the network have one name")
        parameters, statistics = _Row(), _Row()
        self._spans: dict[str, Span] = {}
        self._runs: dict[Role, slice] = {}
        for role in Role:
            row = statistics if role in STATISTICS else parameters
            start = row.stop
            self._spans |= {spec.name: row.add(*spec.shape) for spec in specs if spec.role is role}
            self._runs[role] = slice(start, row.stop)
        self.groups = _groups(specs)
        self.weights = self._runs[Role.WEIGHT].stop
        self.hidden_biases = self._runs[Role.HIDDEN_BIAS]
        self.means, self.variances = self._runs[Role.MEAN], self._runs[Role.VARIANCE]
        self.steps = Span(start=self._runs[Role.STEP_SIZE].start, shape=(len(self.groups),))
        of_activations = self._runs[Role.ACTIVATION_STEP]
        self.activation_steps = Span(start=of_activations.start, shape=(of_activations.stop - of_activations.start,))
        self.omega = sum(math.prod(one.shape) for one in self.of_role(Role.WEIGHT) if one.counted)
        self.parameters_length, self.statistics_length = parameters.padded, statistics.padded

    def __getitem__(self, name: str) -> Span:
        """Where the tensor of this name lies in its row."""
        return self._spans[name]

    def role_of(self, name: str) -> Role:
        """What the tensor of this name is."""
        return self._specs[name].role

    def of_role(self, *roles: Role) -> list[TensorSpec]:
        """The tensors of these roles, in the order of their declaration."""
        return [spec for spec in self._specs.values() if spec.role in roles]

    def spans_of(self, *roles: Role) -> list[Span]:
        """Where these tensors lie, in the order of their declaration."""
        return [self._spans[spec.name] for spec in self.of_role(*roles)]

    def counted(self, row: Tensor) -> Tensor:
        """The ω weights of one model's `row` (P, or the weights alone) that norms and bounds are taken over."""
        if self.omega == self.weights:
            return row[: self.weights]
        spans = (self._spans[one.name] for one in self.of_role(Role.WEIGHT) if one.counted)
        return torch.cat([row[span.start : span.stop] for span in spans])

    def tensors(self, parameters: Tensor, weights: Tensor, statistics: Tensor) -> dict[str, Tensor]:
        """Views (M, *shape) by name into rows of parameters (M, P), deployed weights (M, ω or more) and statistics
        (M, S): they follow the rows when those are changed in place."""
        rows = dict.fromkeys(Role, parameters) | dict.fromkeys(STATISTICS, statistics) | {Role.WEIGHT: weights}
        return {name: self._spans[name].of(rows[spec.role]) for name, spec in self._specs.items()}

    def leaves(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors, those that a loss may be differentiated in as leaves of a graph."""
        return {
            name: tensor.detach().requires_grad_() if self._specs[name].role in AFFINE else tensor
            for name, tensor in tensors.items()
        }

    def initial_parameters(self, seed: int) -> Tensor:
        """One row (P) as the modules are initialized, one after another, under `seed` (CPU, float32)."""
        row = torch.zeros(1, self.parameters_length)
        for spec in self.of_role(*BEGIN_AS_ONE):
            if spec.role not in STATISTICS:
                self._spans[spec.name].of(row)[:] = 1.0
        for name, value in self._drawn(seed):
            if self._specs[name].role not in STATISTICS:
                self._spans[name].of(row)[0] = value
        return row[0]

    def initial_statistics(self, seed: int = 0) -> Tensor:
        """Running means 0 and variances 1 (float32), but for what the modules draw under `seed`."""
        row = torch.zeros(self.statistics_length)
        row[self.variances] = 1.0
        if any(module.draws_statistics for module in self._modules):
            for name, value in self._drawn(seed):
                if self._specs[name].role in STATISTICS:
                    self._spans[name].of(row[None])[0] = value
        return row

    def _drawn(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """What the modules draw, one after another, under `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self._modules:
                yield from module.draw().items()

    def named(self, parameters: Tensor, statistics: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of one model, as its rows hold them, to be kept as plain tensors."""
        rows, moments = parameters.unsqueeze(0), statistics.unsqueeze(0)
        for name, spec in self._specs.items():
            if spec.kept:
                yield name, self._spans[name].of(moments if spec.role in STATISTICS else rows)[0]

    def packed(self, model: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The rows (parameters, statistics) of a model that `named` gave, in its dtype."""
        dtype = next(iter(model.values())).dtype
        parameters = torch.zeros(self.parameters_length, dtype=dtype)
        statistics = torch.zeros(self.statistics_length, dtype=dtype)
        for name, place in self.named(parameters, statistics):
            place.copy_(model[name])
        return parameters, statistics


def _module_of(signal: Signal, activations: type[ActivationQuantizer]) -> ModuleSpec:
    name = f"{signal.layer}.{ACTIVATION}"
    tensors = (replace(one, name=f"{name}.{one.name}") for one in activations.tensors(signal))
    return ModuleSpec(name=name, tensors=tuple(tensors), draw=dict)


def _groups(specs: Sequence[TensorSpec]) -> tuple[StepGroup, ...]:
    """The groups of weights in their order, which is that of the step sizes."""
    found = []
    for name, group in groupby((one for one in specs if one.role is Role.WEIGHT), key=lambda one: one.group):
        weights = list(group)
        count = sum(math.prod(one.shape) for one in weights)
        found.append(
            StepGroup(
                name=name,
                count=count,
                outer=any(one.outer for one in weights),
                linear=all(one.linear for one in weights),
            )
        )
    steps = [one.group for one in specs if one.role is Role.STEP_SIZE]
    if [one.name for one in found] != steps or len(set(steps)) != len(steps):
        raise ValueError(f"the weights' groups are {[one.name for one in found]}, those of the step sizes {steps}")
    return tuple(found)


class _Row:
    def __init__(self) -> None:
        self.stop = 0

    def add(self, *shape: int) -> Span:
        span = Span(start=self.stop, shape=shape)
        self.stop = span.stop
        return span

    @property
    def padded(self) -> int:
        return -(-self.stop // ALIGNMENT) * ALIGNMENT
