"""The tensors of a convolutional network, as its layers in `sweeps.models` declare them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer, Layer, NormLayer
from qsweep.sweeps.signals import Signal
from qsweep.workers.models.layout import Layout, ModuleSpec, Role, Span, TensorSpec

if TYPE_CHECKING:
    from qsweep.workers.quantizers.activations import ActivationQuantizer


@dataclass(frozen=True, kw_only=True)
class NormSpans:
    """The tensors of one batch norm, in the parameters' row and the statistics' row."""

    gamma: Span
    beta: Span
    mean: Span
    variance: Span


@dataclass(frozen=True, kw_only=True)
class LayerSpans:
    """The tensors of one layer. One without a bias has it under batch norm all the same, at zero: folding fills it."""

    weight: Span
    bias: Span | None
    norm: NormSpans | None


class ConvLayout(Layout):
    """The rows of a convolutional network, with the tensors of each of its layers; of one that is batch norm alone,
    those of that."""

    def __init__(
        self,
        layers: Sequence[Layer],
        signals: Sequence[Signal] = (),
        activations: type[ActivationQuantizer] | None = None,
    ) -> None:
        self.layers = tuple(layers)
        super().__init__([_module(layer) for layer in layers], signals, activations)
        self.spans = tuple(self._spans_of(layer) for layer in layers)

    def _spans_of(self, layer: Layer) -> LayerSpans | NormSpans:
        name, norm = layer.name, self._norm_spans(layer.name) if layer.norm else None
        if isinstance(layer, NormLayer):
            return self._norm_spans(name)
        bias = self[f"{name}.bias"] if has_bias(layer) else None
        return LayerSpans(weight=self[f"{name}.weight"], bias=bias, norm=norm)

    def _norm_spans(self, name: str) -> NormSpans:
        return NormSpans(
            gamma=self[f"{name}.norm.weight"],
            beta=self[f"{name}.norm.bias"],
            mean=self[f"{name}.norm.running_mean"],
            variance=self[f"{name}.norm.running_var"],
        )


def has_bias(layer: ConvLayer) -> bool:
    """Whether a bias is declared: the layer's own, or one that batch norm may be folded into."""
    return layer.bias or layer.norm


def _module(layer: Layer) -> ModuleSpec:
    if isinstance(layer, NormLayer):
        return ModuleSpec(name=layer.name, tensors=tuple(_norm_tensors(layer, folds=False)), draw=dict)
    return ModuleSpec(name=layer.name, tensors=tuple(_tensors(layer)), draw=partial(_draw, layer))


def _tensors(layer: ConvLayer) -> Iterator[TensorSpec]:
    name, channels = layer.name, (layer.outputs,)
    yield TensorSpec(
        name=f"{name}.weight",
        shape=weight_shape(layer),
        role=Role.WEIGHT,
        group=name,
        outer=layer.outer,
        linear=layer.linear,
        counted=layer.counted,
    )
    bias = Role.HIDDEN_BIAS if layer.norm else Role.BIAS
    if has_bias(layer):
        yield TensorSpec(name=f"{name}.bias", shape=channels, role=bias, kept=layer.bias)
    yield TensorSpec(name=f"{name}.step", shape=(), role=Role.STEP_SIZE, group=name)
    if layer.norm:
        yield from _norm_tensors(layer, folds=True)


def _norm_tensors(layer: Layer, *, folds: bool) -> Iterator[TensorSpec]:
    """Batch norm; `folds` says whether there is a convolution that it can be folded into."""
    for name, role in (
        ("weight", Role.SCALE), ("bias", Role.SHIFT), ("running_mean", Role.MEAN), ("running_var", Role.VARIANCE)
    ):  # fmt: skip
        yield TensorSpec(name=f"{layer.name}.norm.{name}", shape=(layer.outputs,), role=role, folds=folds)


def weight_shape(layer: ConvLayer) -> tuple[int, int, int, int]:
    """The shape of a layer's weight in one model."""
    return layer.outputs, layer.reads, layer.kernel, layer.kernel


def _draw(layer: ConvLayer) -> dict[str, Tensor]:
    """Weight and bias as PyTorch or torchvision initializes the plain module.

    A linear layer draws what a 1×1 convolution draws.
    """
    groups = layer.inputs if layer.depthwise else 1
    conv = torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, bias=layer.bias, groups=groups)
    _initialize(conv, layer.init)
    return {f"{layer.name}.{name}": value.detach() for name, value in conv.named_parameters()}


def _initialize(conv: torch.nn.Conv2d, init: str) -> None:
    """Draw again what torchvision's networks for ImageNet draw in their own way."""
    if init == "fan-out":
        torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    elif init == "small":
        torch.nn.init.normal_(conv.weight, 0, 0.01)
        if conv.bias is not None:
            torch.nn.init.zeros_(conv.bias)
