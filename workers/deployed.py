"""A trained model as a plain PyTorch module, with the weights that it is deployed with: rounded, if it is quantized."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.layers import ConvLayer, Layer
from qsweep.sweeps.training import Training
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.stage import EPSILON, bounded
from qsweep.workers.quantizers.deployment import deployed_rows


class DeployedNetwork(nn.Module):
    """Logits (B, classes) of images (B, channels, side, side), standardized as in training.

    `layers` has one module a layer, in their order: `conv` if it has weights, and `norm` if it has batch norm.
    """

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        self.geometry = layers
        self.layers = nn.ModuleList(_layer(one) for one in layers)

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


def _layer(layer: Layer) -> nn.Sequential:
    """The convolution of one layer, and its batch norm."""
    found = nn.Sequential()
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


def deployed(training: Training, model: Mapping[str, Tensor]) -> DeployedNetwork:
    """The module of a kept model (its tensors by name), in evaluation mode. Raises QsweepError if it is of another
    network."""
    try:
        return _deployed(training, model)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise QsweepError(f"the kept model is none of {training.model.title} ({problem})") from error


def _deployed(training: Training, model: Mapping[str, Tensor]) -> DeployedNetwork:
    layout = NETWORKS[training.model.name](training.model, training.data).layout
    network = DeployedNetwork(layout.layers)
    found = dict(layout.named(*deployed_rows(training, model, layout, torch.float32)))
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
    network.layers.load_state_dict(state)
    return network.eval()
