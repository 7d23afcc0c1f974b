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
from qsweep.workers.models.stage import EPSILON, bounded
from qsweep.workers.models.transformer import Transformer
from qsweep.workers.quantizers.activations import tensors_of
from qsweep.workers.quantizers.deployment import deployed_rows


class DeployedNetwork(nn.Module):
    """Logits (B, classes) of images (B, channels, side, side), standardized as in training.

    `layers` has one module a layer, in their order: `activation` where what it reads is rounded, `conv` if it has
    weights, and `norm` if it has batch norm.
    """

    def __init__(self, layers: tuple[Layer, ...], rounded: Collection[str] = ()) -> None:
        """`rounded` names the layers that read quantized activations."""
        super().__init__()
        self.geometry = layers
        self.layers = nn.ModuleList(_layer(one, rounded=one.name in rounded) for one in layers)

    def forward(self, images: Tensor) -> Tensor:
        outputs: dict[str, Tensor] = {}
        signal = images
        for layer, module in zip(self.geometry, self.layers, strict=True):
            signal = signal if layer.source is None else outputs[layer.source]
            if layer.pool is not None:
                signal = pool_planes(signal, layer.pool)
            signal = module(signal)
            if layer.residual is not None:
                signal = signal + outputs[layer.residual]
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


def deployed(training: Training, model: Mapping[str, Tensor]) -> nn.Module:
    """The module of a kept model (its tensors by name), in evaluation mode; of a module of the user, that one. Raises
    QsweepError if it is of another network."""
    try:
        return _deployed(training, model)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise QsweepError(f"the kept model is none of {training.model.title} ({problem})") from error


def _deployed(training: Training, model: Mapping[str, Tensor]) -> nn.Module:
    computing = network_of(training)
    layout = computing.layout
    parameters, statistics = deployed_rows(training, model, layout, torch.float32)
    found = dict(layout.named(parameters, statistics))
    if isinstance(computing, ModuleNetwork):
        return computing.deployed(parameters, statistics)
    if isinstance(computing, Transformer):
        return DeployedTransformer(computing, found).eval()
    network = DeployedNetwork(layout.layers, {one.layer for one in layout.signals})
    signals = tensors_of(layout, layout.tensors(parameters[None], parameters[None], statistics[None]))
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(layout.layers):
        if layer.weights:
            state[f"{number}.conv.weight"] = found[f"{layer.name}.weight"]
        if layer.bias:
            state[f"{number}.conv.bias"] = found[f"{layer.name}.bias"]
        if layer.norm:
            names = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{number}.norm.{name}": found[f"{layer.name}.norm.{name}"] for name in names}
            state[f"{number}.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        if layer.name in signals:
            signal = signals[layer.name]
            for name, value in (("step", signal.step), ("low", signal.low), ("high", signal.high)):
                state[f"{number}.activation.{name}"] = value[0]
    network.layers.load_state_dict(state)
    return network.eval()
