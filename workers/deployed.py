"""A trained model as a plain PyTorch module, with the weights that it is deployed with: rounded, if it is quantized."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.layers import ConvLayer, Layer
from qsweep.sweeps.training import Training
from qsweep.workers.models import network_of
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.module import ModuleNetwork
from qsweep.workers.models.stage import EPSILON, StageTensors, bounded
from qsweep.workers.models.transformer import Transformer
from qsweep.workers.quantizers.activations import SignalTensors
from qsweep.workers.quantizers.deployment import deployed_rows


class DeployedNetwork(nn.Module):
    """Logits (B, classes) of images (B, channels, side, side), standardized as in training.

    `layers` has one module a layer, in their order: `activation` where what it reads is rounded, `conv` if it has
    weights, and `norm` if it has batch norm. `added` has what rounds what a layer adds, by the layer's number.
    """

    def __init__(self, layers: tuple[Layer, ...], rounded: Collection[str] = (), adding: Collection[str] = ()) -> None:
        """`rounded` names the layers that read quantized activations, `adding` those that add such."""
        super().__init__()
        self.geometry = layers
        self.layers = nn.ModuleList(_layer(one, rounded=one.name in rounded) for one in layers)
        self.added = nn.ModuleDict(
            {str(number): RoundedActivations() for number, one in enumerate(layers) if one.name in adding}
        )

    def forward(self, images: Tensor) -> Tensor:
        outputs: dict[str, Tensor] = {}
        signal = images
        for number, (layer, module) in enumerate(zip(self.geometry, self.layers, strict=True)):
            signal = signal if layer.source is None else outputs[layer.source]
            if layer.pool is not None:
                signal = pool_planes(signal, layer.pool)
            signal = module(signal)
            if layer.residual is not None:
                added = outputs[layer.residual]
                signal = signal + (self.added[str(number)](added) if str(number) in self.added else added)
            if layer.relu:
                signal = bounded(signal, layer.ceiling)
            if layer.pool_after is not None:
                signal = pool_planes(signal, layer.pool_after)
            outputs[layer.name] = signal
        return signal.mean((2, 3))


class RoundedActivations(nn.Module):
    """step·round(clip(x/step, low, high))."""

    step: Tensor
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("step", "low", "high"):
            self.register_buffer(name, torch.ones(()))

    def forward(self, activations: Tensor) -> Tensor:
        return torch.clamp(activations / self.step, self.low, self.high).round() * self.step


def _layer(layer: Layer, *, rounded: bool) -> nn.Sequential:
    """The convolution of one layer, with the rounding of what it reads, and its batch norm."""
    found = nn.Sequential()
    if rounded:
        found.add_module("activation", RoundedActivations())
    if isinstance(layer, ConvLayer):
        groups = layer.inputs if layer.depthwise else 1
        conv = nn.Conv2d(
            layer.inputs,
            layer.outputs,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            groups=groups,
            bias=layer.bias,
        )
        found.add_module("conv", conv)
    if layer.norm:
        found.add_module("norm", nn.BatchNorm2d(layer.outputs, eps=EPSILON))
    return found


class DeployedTransformer(nn.Module):
    """As `DeployedNetwork`, of a transformer: `tensors` holds its parameters by their names, with `_` for the dots."""

    def __init__(self, network: Transformer, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._network, self._names = network, tuple(tensors)
        self.tensors = nn.ParameterDict({_plain(name): nn.Parameter(value) for name, value in tensors.items()})

    def forward(self, images: Tensor) -> Tensor:
        tensors = {name: self.tensors[_plain(name)][None] for name in self._names}
        return self._network.evaluate(images, self._network.views(tensors))[0].mT


def _plain(name: str) -> str:
    return name.replace(".", "_")


def deployed(training: Training, model: Mapping[str, Tensor], *, quantized: bool = False) -> nn.Module:
    """The module of a kept model (its tensors by name), in evaluation mode, that of a training or what it was
    `quantized` to on images; of a module of the user, that one. Raises QsweepError if it is of another network."""
    try:
        return _deployed(training, model, quantized=quantized)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise QsweepError(f"the kept model is none of {training.model.title} ({problem})") from error


def _deployed(training: Training, model: Mapping[str, Tensor], *, quantized: bool) -> nn.Module:
    computing = network_of(training, quantized=quantized)
    layout = computing.layout
    parameters, statistics = deployed_rows(training, model, layout, torch.float32)
    found = dict(layout.named(parameters, statistics))
    if isinstance(computing, ModuleNetwork):
        return computing.deployed(parameters, statistics)
    if isinstance(computing, Transformer):
        return DeployedTransformer(computing, found).eval()
    views = computing.views(layout.tensors(parameters[None], parameters[None], statistics[None]))
    stages = {layer.name: one for layer, one in zip(layout.layers, views, strict=True) if isinstance(one, StageTensors)}
    read = {name: one.signal for name, one in stages.items() if one.signal is not None}
    added = {name: one.added for name, one in stages.items() if one.added is not None}
    network = DeployedNetwork(layout.layers, read, added)
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(layout.layers):
        if layer.weights:
            state[f"layers.{number}.conv.weight"] = found[f"{layer.name}.weight"]
        if layer.bias:
            state[f"layers.{number}.conv.bias"] = found[f"{layer.name}.bias"]
        if layer.norm:
            names = ("weight", "bias", "running_mean", "running_var")
            state |= {f"layers.{number}.norm.{name}": found[f"{layer.name}.norm.{name}"] for name in names}
            state[f"layers.{number}.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        if layer.name in read:
            state |= _rounding(f"layers.{number}.activation", read[layer.name])
        if layer.name in added:
            state |= _rounding(f"added.{number}", added[layer.name])
    network.load_state_dict(state)
    return network.eval()


def _rounding(name: str, signal: SignalTensors) -> dict[str, Tensor]:
    """The state of the module of this name that rounds a signal."""
    return {f"{name}.step": signal.step[0], f"{name}.low": signal.low[0], f"{name}.high": signal.high[0]}
