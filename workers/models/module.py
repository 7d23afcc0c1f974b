"""A network that is any `torch.nn.Module`: M models are one module, called with the tensors of each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.parameter import is_lazy

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.sweeps.signals import Place, Signal
from qsweep.workers.models.calls import Calls
from qsweep.workers.models.layout import QUANTIZERS, Layout, ModuleSpec, Role, TensorSpec
from qsweep.workers.models.vmapped import Vmapped
from qsweep.workers.quantizers import ACTIVATION_QUANTIZATIONS
from qsweep.workers.quantizers.activations import SignalTensors, stacked, tensors_of

QUANTIZED = "quantized"
"""The attribute of a module that lists the names of the weights, or of their layers, that a quantizer rounds."""
LAYERS = (nn.Conv2d, nn.Linear)
"""The layers whose weights are rounded where the module does not list them."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
"""The layers whose weight and bias are γ and β of a norm."""
COUNTER = "num_batches_tracked"
TRIED = 4
"""Images of the pass that a module is looked at in."""
SAME = 1e-9
"""How far logits in double precision may be apart, in relation to the largest, where batch norm was folded."""

Build = Callable[[], nn.Module]
"""Makes the module anew; its random numbers come from torch's generator of the CPU."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A layer and the batch norm that alone reads its output, by name."""

    layer: str
    norm: str


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a layer read: numbers of one image, whether any was negative, and whether it was the images themselves."""

    features: int
    signed: bool
    images: bool


@dataclass(kw_only=True)
class Seen:
    """What a training pass of a module showed."""

    order: list[str] = field(default_factory=list)
    """Its layers with weights in the order in which they were first called."""
    pairs: list[Pair] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    """The buffers that it changed."""
    replaced: set[str] = field(default_factory=set)
    """Those of them in whose place it put another tensor, which no model keeps."""
    activation: int = 1
    """Numbers in the largest output of a layer, of one image."""
    random: bool = False
    """Whether it drew from the generators of Python, numpy or torch."""
    random_elsewhere: bool = False
    """Whether it drew from those of Python or numpy."""
    reads: dict[str, Read] = field(default_factory=dict)
    """What each layer with weights read first, by the layer's name."""


class Views(dict[str, Tensor]):
    """The tensors (M, *shape) of M models by name, and beside them what the activations are quantized with."""

    def __init__(self, tensors: Mapping[str, Tensor], signals: Mapping[str, SignalTensors]) -> None:
        super().__init__(tensors)
        self.signals = dict(signals)
        self.models = len(next(iter(tensors.values())))
        """How many models come before the vacant rows, which are not evaluated."""


class ModuleNetwork:
    """M models of one module side by side: a `workers.models.network.Network` whose views are `Views`.

    The module is made by `build` and called on images (B, `shape`); logits are (B, `classes`). Its trained parameters
    lie in the parameters' row. The weights of the Conv2d and Linear layers, or those that its attribute `quantized`
    names, are rounded by quantizers, each with a step size of its own; of those, the layer that is called first and the
    one that is called last have the outer bit width. Buffers that a training pass changes, and whatever else of a
    model is drawn from its seed, lie in the row of statistics. A bias before a batch norm gets no gradient: the norm
    cancels it.

    With a `quantizer` of activations, what each layer with such a weight reads is rounded before it: signed where
    anything was negative in a pass of noise. Such models are called one after another alone.

    Raises InputError if the module can't be used so, and whatever `build` and the module raise.
    """

    draws: ClassVar[int] = 0
    saved: ClassVar[int | None] = None

    def __init__(
        self,
        build: Build,
        shape: tuple[int, ...],
        classes: int,
        *,
        quantizer: ActivationQuantizer | None = None,
        place: str = "model",
    ) -> None:
        self._build, self._shape, self._classes, self._place = build, shape, classes, place
        self.module = self._made(0)
        other = self._made(1)
        self.seen = self._look(self.module)
        self._trained = {name: one for name, one in self.module.named_parameters() if one.requires_grad}
        self._own = self._own_tensors(other)
        self._weights = self._weight_names()
        self._constants: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        self._rounding: Mapping[str, SignalTensors] = {}
        """What the call that runs rounds activations with."""
        self._pairs: tuple[Pair, ...] = tuple(self.seen.pairs)
        self.layout = self._declared()
        self._steps = frozenset(spec.name for spec in self.layout.of_role(Role.STEP_SIZE))
        self._pairs = self._folding(self.seen.pairs)
        self.layout = self._declared(quantizer)
        self._steps = frozenset(spec.name for spec in self.layout.of_role(*QUANTIZERS))
        self.activation = self.seen.activation
        for signal in self.layout.signals:
            self.module.get_submodule(signal.layer).register_forward_pre_hook(partial(self._rounded, signal.layer))

    def views(self, tensors: Mapping[str, Tensor]) -> Views:
        own = {name: tensor for name, tensor in tensors.items() if name not in self._steps}
        return Views(own, tensors_of(self.layout, tensors))

    def signals(self, views: Views) -> list[SignalTensors]:
        return list(views.signals.values())

    def train(self, images: Tensor, views: Views, arithmetic: Calls) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (M, classes, B) of images (B, *shape), and what the buffers that training moves became (M, *shape)."""
        self.module.train()
        signals = views.signals
        own = {name: views[name] for name in (*self._trained, *self._own)}
        constants = self._constants_at(images.device, images.dtype)
        models = len(next(iter(own.values())))
        if arithmetic.stacked:
            draw = arithmetic.draw(models, images.device)

            def one_of_all(tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
                with Vmapped(next(iter(tensors.values())), draw):
                    return self._trained_by(images, arithmetic, tensors, constants)

            logits, moved = vmap(one_of_all)(own)
            return logits.mT, moved
        found, moved_of = list[Tensor](), list[dict[str, Tensor]]()
        parts = {name: tensor.unbind() for name, tensor in own.items()}
        for number in range(min(models, arithmetic.members)):
            arithmetic.seed(number, images.device, everything=self.seen.random)
            tensors = {name: some[number] for name, some in parts.items()}
            with self._rounds(signals, number):
                logits, one = self._trained_by(images, arithmetic, tensors, constants)
            found.append(logits)
            moved_of.append(one)
        vacant = models - len(found)
        found += [torch.zeros_like(found[0])] * vacant
        moved_of += [{name: torch.zeros_like(one) for name, one in moved_of[0].items()}] * vacant
        return torch.stack(found).mT, {name: torch.stack([one[name] for one in moved_of]) for name in moved_of[0]}

    def _trained_by(
        self, images: Tensor, arithmetic: Calls, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One model's logits (B, classes) in training mode, and what became of its buffers."""
        given = {name: self._in_its_kind(name, one) for name, one in tensors.items()}
        given |= {name: given[name].clone() for name in self._moved}
        counters = {name: one.clone() for name, one in constants.items() if name in self.seen.moved}
        with guarded(), arithmetic.rounded(images.device), self._holding({**constants, **counters, **given}):
            logits = self._checked(self.module(images))
        return logits.to(images.dtype), {name: given[name].detach().to(images.dtype) for name in self._moved}

    @contextmanager
    def _holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Have the module hold these tensors in the place of its own: what `torch.func.functional_call` does, which
        looks for their places each time."""
        places = [(*place, one) for name, one in tensors.items() for place in self._places[name]]
        before = [holder[key] for holder, key, _ in places]
        try:
            for holder, key, one in places:
                holder[key] = one
            yield
        finally:
            for (holder, key, _), one in zip(places, before, strict=True):
                holder[key] = one

    @cached_property
    def _places(self) -> dict[str, list[tuple[dict[str, Any], str]]]:
        """Where the module holds the tensor of each name, in several places if layers share it; and where it would hold
        a bias that it lacks."""
        holding: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for layer in self.module.modules():
            for holder in (layer._parameters, layer._buffers):
                for key, one in holder.items():
                    holding.setdefault(id(one), []).append((holder, key))
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        places = {name: holding[id(one)] for name, one in named}
        for spec in self.layout.of_role(Role.HIDDEN_BIAS):
            if spec.name not in places:
                places[spec.name] = [(self.module.get_submodule(spec.layer)._parameters, "bias")]
        return places

    @contextmanager
    def _rounds(self, signals: Mapping[str, SignalTensors], model: int) -> Iterator[None]:
        """Around the call of one model, whose layers round what they read."""
        self._rounding = {name: one.of(slice(model, model + 1)) for name, one in signals.items()}
        try:
            yield
        finally:
            self._rounding = {}

    def _rounded(self, name: str, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What a layer reads in the place of what it is given."""
        signal = self._rounding.get(name)
        return None if signal is None else (stacked(given[0][None], signal)[0], *given[1:])

    def evaluate(self, images: Tensor, views: Views) -> Tensor:
        """One model after another, in evaluation mode."""
        self.module.eval()
        found = []
        constants = self._constants_at(images.device, images.dtype)
        with guarded():
            for number in range(views.models):
                tensors = {name: self._in_its_kind(name, one[number]) for name, one in views.items()}
                with self._rounds(views.signals, number), self._holding({**constants, **tensors}):
                    found.append(self._checked(self.module(images)))
        found += [torch.zeros_like(found[0])] * (len(next(iter(views.values()))) - len(found))
        return torch.stack(found).mT

    def ready(self, views: Views) -> Callable[[Tensor], Tensor]:
        return lambda images: self.evaluate(images, views)

    def statistics(self, rows: Tensor) -> MovedBuffers:
        return MovedBuffers(self.layout)

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        """Batch norms that alone read a layer's output become γ = 1, β = 0 and statistics that change nothing."""
        layout = self.layout
        factors = torch.ones_like(parameters[: layout.weights])
        for pair in self._pairs:
            norm = self.module.get_submodule(pair.norm)
            assert isinstance(norm, BATCH_NORMS)
            row, moments = parameters[None], statistics[None]
            weight, bias = (layout[f"{pair.layer}.{part}"].of(row)[0] for part in ("weight", "bias"))
            gamma, beta = (layout[f"{pair.norm}.{part}"].of(row)[0] for part in ("weight", "bias"))
            mean, variance = (layout[f"{pair.norm}.{part}"].of(moments)[0] for part in ("running_mean", "running_var"))
            factor = gamma / (variance + norm.eps).sqrt()
            wide = factor.reshape(-1, *(1,) * (weight.dim() - 1))
            if f"{pair.layer}.weight" in self._weights:
                layout[f"{pair.layer}.weight"].of(factors[None])[0].mul_(wide)
            bias.copy_(beta + (bias - mean) * factor)
            weight.mul_(wide)
            gamma.fill_(1.0)
            beta.zero_()
            mean.zero_()
            variance.fill_(1.0 - norm.eps)
        return factors

    @cached_property
    def _moved(self) -> tuple[str, ...]:
        """The buffers in the row of statistics."""
        return tuple(name for name in self._own if name in dict(self.module.named_buffers()))

    @cached_property
    def _kinds(self) -> dict[str, torch.dtype]:
        """The types of numbers that are none with a point: rows hold them as such."""
        return {name: one.dtype for name, one in self._own.items() if not one.is_floating_point()}

    def _in_its_kind(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.to(self._kinds[name]) if name in self._kinds else tensor

    def _constants_at(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The buffers that all models share."""
        if (device, dtype) not in self._constants:
            self._constants[device, dtype] = {
                name: one.to(device, dtype if one.is_floating_point() else one.dtype)
                for name, one in self.module.named_buffers()
                if name not in self._own
            }
        return self._constants[device, dtype]

    def _made(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._new()

    def _new(self) -> nn.Module:
        """The module, as it is drawn from torch's generator of the CPU; Python's and numpy's are seeded by its seed."""
        seed = torch.initial_seed() % 2**32
        with guarded(), _other_generators(seed):
            module = self._build()
        if not isinstance(module, nn.Module):
            raise InputError(
                f"it returns a {type(module).__name__}", place=self._place, allowed="allowed: a torch.nn.Module"
            )
        for name, one in (*module.named_parameters(), *module.named_buffers()):
            if is_lazy(one):
                raise InputError(
                    f"{name} has no shape yet", place=self._place, allowed="allowed: layers that are not lazy"
                )
            if one.device.type != "cpu":
                raise InputError(
                    f"{name} is on {one.device}", place=self._place, allowed="leave the module on the CPU: it is moved"
                )
        return module

    def _look(self, module: nn.Module) -> Seen:
        """Watch a training pass of some noise."""
        seen = Seen()
        before = {name: one.clone() for name, one in module.named_buffers()}
        buffers = dict(module.named_buffers())
        names = {id(one): name for name, one in module.named_modules()}
        outputs: dict[int, tuple[Tensor, int, str]] = {}

        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            name = names[id(layer)]
            if "weight" in layer._parameters and inputs and isinstance(inputs[0], Tensor) and name not in seen.reads:
                signed = bool((inputs[0] < 0).any())
                features = inputs[0].numel() // TRIED
                seen.reads[name] = Read(features=features, signed=signed, images=inputs[0] is images)
            if isinstance(layer, BATCH_NORMS) and inputs and isinstance(inputs[0], Tensor):
                found = outputs.get(id(inputs[0]))
                if found is not None and found[0] is inputs[0] and found[1] == inputs[0]._version:
                    seen.pairs.append(Pair(layer=found[2], norm=name))
            if isinstance(output, Tensor):
                seen.activation = max(seen.activation, output.numel() // TRIED)
                if "weight" in layer._parameters and not isinstance(layer, NORMS):
                    outputs[id(output)] = (output, output._version, name)
            if "weight" in layer._parameters and name not in seen.order:
                seen.order.append(name)

        handles = [one.register_forward_hook(hook) for one in module.modules()]
        images = torch.randn(TRIED, *self._shape, generator=torch.Generator().manual_seed(0))
        module.train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _other_generators(0):
            torch.manual_seed(0)
            states = _generator_states()
            with guarded():
                self._checked(module(images))
            after = _generator_states()
            seen.random, seen.random_elsewhere = after != states, after[:-1] != states[:-1]
        for handle in handles:
            handle.remove()
        calls = [pair.layer for pair in seen.pairs]
        seen.pairs = [one for one in seen.pairs if calls.count(one.layer) == 1]
        with torch.no_grad():
            for name, one in module.named_buffers():
                if one is not buffers[name]:
                    seen.replaced.add(name)
                if not torch.equal(one, before[name]):
                    seen.moved.add(name)
                    one.copy_(before[name])
        return seen

    def _checked(self, logits: Any) -> Tensor:
        """Logits (B, classes). Raises InputError if they are something else."""
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] != self._classes:
            what = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f"of a batch of images it makes {what}",
                place=self._place,
                allowed=f"allowed: one row of {self._classes} logits an image",
            )
        return logits

    def _own_tensors(self, other: nn.Module) -> dict[str, Tensor]:
        """What a model has of its own beside its trained parameters, as the module has it."""
        frozen = {name: one for name, one in self.module.named_parameters() if not one.requires_grad}
        there = {**dict(other.named_parameters()), **dict(other.named_buffers())}
        mine = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        shapes, others = ({name: tuple(one.shape) for name, one in some.items()} for some in (mine, there))
        if shapes != others:
            name = sorted(set(shapes.items()) ^ set(others.items()))[0][0]
            raise InputError(
                f"it makes another module each time: {name} differs", place=self._place, allowed="allowed: one shape"
            )
        counters = {
            f"{name}.{COUNTER}".lstrip(".")
            for name, one in self.module.named_modules()
            if isinstance(one, (*BATCH_NORMS, nn.InstanceNorm2d)) and one.momentum is not None
        }
        candidates = {**frozen, **dict(self.module.named_buffers())}
        return {
            name: one
            for name, one in candidates.items()
            if name not in counters and (name in self.seen.moved or not torch.equal(one, there[name]))
        }

    def _weight_names(self) -> tuple[str, ...]:
        """The weights that quantizers round, in the order in which their layers are called."""
        names = {id(one): name for name, one in self._trained.items()}
        layers = dict(self.module.named_modules())
        listed: Sequence[str] | None = getattr(self.module, QUANTIZED, None)
        if listed is None:
            chosen = [layers[name]._parameters["weight"] for name in layers if isinstance(layers[name], LAYERS)]
        else:
            parameters = dict(self.module.named_parameters(remove_duplicate=False))
            chosen = []
            for one in listed:
                found = parameters.get(one, parameters.get(f"{one}.weight"))
                if found is None:
                    raise InputError(
                        f"it has no weight {one!r}",
                        place=f"{self._place}: {QUANTIZED}",
                        allowed="allowed: names of its parameters, or of layers that have a weight",
                    )
                chosen.append(found)
        found_names = dict.fromkeys(names[id(one)] for one in chosen if id(one) in names)
        if not found_names:
            raise InputError(
                "it has no Conv2d and no Linear layer that is trained",
                place=self._place,
                allowed=f"name the weights in an attribute {QUANTIZED!r} of the module",
            )
        called = {f"{name}.weight".lstrip("."): place for place, name in enumerate(self.seen.order)}
        return tuple(sorted(found_names, key=lambda name: called.get(name, len(called))))

    def _signals(self, quantizer: ActivationQuantizer) -> list[Signal]:
        """What the layers with quantized weights read, in the order of their calls."""
        layers = [name.rpartition(".")[0] for name in self._weights if name.rpartition(".")[2] == "weight"]
        called = [one for one in self.seen.order if one in layers and one in self.seen.reads]
        found = []
        for number, layer in enumerate(called):
            read = self.seen.reads[layer]
            place = Place.OUTER if number in (0, len(called) - 1) else Place.SECOND if number == 1 else Place.INNER
            found.append(
                Signal(
                    layer=layer,
                    features=read.features,
                    signed=read.signed,
                    linear=isinstance(self.module.get_submodule(layer), nn.Linear),
                    place=Place.IMAGES if read.images else place,
                )
            )
        return [one for one in found if one.place is not Place.IMAGES or quantizer.quantizes_images]

    def _declared(self, quantizer: ActivationQuantizer | None = None) -> Layout:
        """The tensors: weights in the order of their layers' calls, all others as the module has them, and what
        activations are quantized with."""
        roles, folded = self._roles(), {pair.norm for pair in self._pairs}
        specs = []
        for number, name in enumerate(self._weights):
            specs.append(
                TensorSpec(
                    name=name,
                    shape=tuple(self._trained[name].shape),
                    role=Role.WEIGHT,
                    group=name,
                    outer=number in (0, len(self._weights) - 1),
                )
            )
            specs.append(TensorSpec(name=f"{name}.step", shape=(), role=Role.STEP_SIZE, group=name))
        for name, one in {**self._trained, **self._own}.items():
            if name not in self._weights:
                role, folds = roles.get(name, Role.BIAS), name.rpartition(".")[0] in folded
                specs.append(TensorSpec(name=name, shape=tuple(one.shape), role=role, folds=folds))
        for pair in self._pairs:
            name, norm = f"{pair.layer}.bias", self._trained[f"{pair.norm}.weight"]
            if name not in self._trained:
                specs.append(TensorSpec(name=name, shape=tuple(norm.shape), role=Role.HIDDEN_BIAS, kept=False))
        modules = [ModuleSpec(name="module", tensors=tuple(specs), draw=self._draw, draws_statistics=True)]
        if quantizer is None:
            return Layout(modules)
        return Layout(modules, self._signals(quantizer), ACTIVATION_QUANTIZATIONS[quantizer.name])

    def deployed(self, parameters: Tensor, statistics: Tensor) -> nn.Module:
        """One model of rows (P) and (S) as its module, in evaluation mode: rounded where activations are."""
        tensors = self.layout.tensors(parameters[None], parameters[None], statistics[None])
        views = self.views(tensors)
        module = self._made(0).to(parameters.dtype)
        with torch.no_grad():
            for name, one in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
                if name in views:
                    one.copy_(self._in_its_kind(name, views[name][0]))
        for name, signal in views.signals.items():
            module.get_submodule(name).register_forward_pre_hook(partial(_rounded_by, signal))
        return module.eval()

    def _roles(self) -> dict[str, Role]:
        """The roles of tensors that are neither weights nor plain biases."""
        roles = dict.fromkeys(self._own, Role.STATE)
        for name, layer in self.module.named_modules():
            if isinstance(layer, NORMS):
                roles[f"{name}.weight"], roles[f"{name}.bias"] = Role.SCALE, Role.SHIFT
            if isinstance(layer, BATCH_NORMS):
                for part, role in (("running_mean", Role.MEAN), ("running_var", Role.VARIANCE)):
                    if f"{name}.{part}" in self._own:
                        roles[f"{name}.{part}"] = role
        return roles | {f"{pair.layer}.bias": Role.HIDDEN_BIAS for pair in self._pairs}

    def _draw(self) -> dict[str, Tensor]:
        module = self._new()
        there = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {name: there[name].detach() for name in (*self._trained, *self._own)}

    def _folding(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Those of the pairs whose folding leaves a noisy model's logits as they were: tried together, and each by
        itself only if that changes them."""
        known = {*self._trained, *self._own}
        whole = [one for one in pairs if known.issuperset(_tensors_of(one))]
        layout, noise = self.layout, torch.Generator().manual_seed(1)
        rows = layout.initial_parameters(0).double(), layout.initial_statistics(0).double()
        for row in rows:
            row += 0.1 * torch.rand(row.shape, generator=noise, dtype=row.dtype)
        for spec in layout.of_role(Role.HIDDEN_BIAS):
            if not spec.kept:
                layout[spec.name].of(rows[0][None]).zero_()
        images = torch.randn(TRIED, *self._shape, generator=noise, dtype=torch.float64)
        before = self._logits_of(images, *rows)

        def same(some: Sequence[Pair]) -> bool:
            parameters, statistics = (row.clone() for row in rows)
            self._pairs = tuple(some)
            self.fold(parameters, statistics)
            after = self._logits_of(images, parameters, statistics)
            return bool((after - before).abs().max() <= SAME * before.abs().max().clamp(min=1.0))

        return tuple(whole if not whole or same(whole) else (one for one in whole if same([one])))

    @torch.no_grad()
    def _logits_of(self, images: Tensor, parameters: Tensor, statistics: Tensor) -> Tensor:
        """Of one model's rows (P) and (S)."""
        rows = parameters[None]
        return self.evaluate(images, self.views(self.layout.tensors(rows, rows, statistics[None])))


def _rounded_by(signal: SignalTensors, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return stacked(given[0][None], signal)[0], *given[1:]


def _tensors_of(pair: Pair) -> list[str]:
    """What folding a pair takes, beside a bias."""
    norm = [f"{pair.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return [f"{pair.layer}.weight", *norm]


class MovedBuffers:
    """What a training pass left in the buffers becomes the running statistics."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def update(self, rows: Tensor, parameters: Tensor, moments: Mapping[str, Tensor], images: int) -> None:
        for name, value in moments.items():
            self._layout[name].of(rows).copy_(value)


@contextmanager
def guarded() -> Iterator[None]:
    """Around code that is not ours: what would end the process is an error of that code, and a process that it has
    forked never comes back from it as another one of us."""
    process = os.getpid()
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"the module called sys.exit({error.code!r})") from error
    finally:
        if os.getpid() != process:
            os._exit(1)


@contextmanager
def _other_generators(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's random numbers for a while."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _generator_states() -> tuple[object, ...]:
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), numbers[2], torch.get_rng_state().numpy().tobytes()
