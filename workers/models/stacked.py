"""What transformers are made of, for M models side by side: batched matrix products, layer norm, attention.

Tokens are (M, N, D), N of all images one after the other. Products are in the dtype of the arithmetic where that is
reduced (bf16), and everything between them in that of the parameters. Models never meet: each product, norm and sum
is taken model by model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.layers import LinearLayer
from qsweep.workers.models.layout import ModuleSpec, Role, TensorSpec
from qsweep.workers.quantizers.activations import SignalTensors, stacked

DEVIATION = 0.02
"""Of initial weights, positions, class tokens and bias tables: a normal one, cut off at ±2."""


def linear_module(layer: LinearLayer, shape: tuple[int, ...] | None = None) -> ModuleSpec:
    """The tensors of one matrix, its weight of `shape` (outputs, …) where that is not (outputs, inputs)."""
    name, weight = layer.name, shape or (layer.outputs, layer.inputs)
    tensors = [
        TensorSpec(
            name=f"{name}.weight",
            shape=weight,
            role=Role.WEIGHT,
            group=name,
            outer=layer.outer,
            linear=True,
            counted=layer.counted,
        )
    ]
    if layer.bias:
        tensors.append(TensorSpec(name=f"{name}.bias", shape=(layer.outputs,), role=Role.BIAS))
    tensors.append(TensorSpec(name=f"{name}.step", shape=(), role=Role.STEP_SIZE, group=name))
    return ModuleSpec(name=name, tensors=tuple(tensors), draw=partial(_draw_linear, layer, weight))


def _draw_linear(layer: LinearLayer, shape: tuple[int, ...]) -> dict[str, Tensor]:
    if layer.init == "transformer":
        return {f"{layer.name}.weight": truncated_normal(shape)}
    conv = torch.nn.Conv2d(shape[1], shape[0], shape[2])
    return {f"{layer.name}.{name}": value.detach() for name, value in conv.named_parameters()}


def norm_module(name: str, width: int) -> ModuleSpec:
    """γ = 1 and β = 0 of a layer norm."""
    tensors = (
        TensorSpec(name=f"{name}.weight", shape=(width,), role=Role.SCALE),
        TensorSpec(name=f"{name}.bias", shape=(width,), role=Role.SHIFT),
    )
    return ModuleSpec(name=name, tensors=tensors, draw=dict)


def free_module(name: str, shape: tuple[int, ...]) -> ModuleSpec:
    """A tensor that is trained and never quantized."""
    tensors = (TensorSpec(name=name, shape=shape, role=Role.BIAS),)
    return ModuleSpec(name=name, tensors=tensors, draw=lambda: {name: truncated_normal(shape)})


def truncated_normal(shape: tuple[int, ...]) -> Tensor:
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=DEVIATION)


def reduced_dtype(arithmetic: Any) -> torch.dtype | None:
    """The dtype in which the arithmetic of a form takes products, if it is another than that of the parameters."""
    found: torch.dtype | None = getattr(arithmetic, "reduced", None)
    return found


class Stack:
    """The tensors of M models by name, the signals that are quantized, and the dtype of products."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        signals: Mapping[str, SignalTensors] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._tensors, self.signals, self._dtype = tensors, signals or {}, dtype

    def of_dtype(self, dtype: torch.dtype | None) -> Stack:
        """The same with products in another dtype."""
        return Stack(self._tensors, self.signals, dtype)

    def quantized(self, name: str, activations: Tensor) -> Tensor:
        """Activations (M, …), or (1, …) that all models share, as the signal of this name is rounded; as they are where
        it is not."""
        signal = self.signals.get(name)
        return activations if signal is None else stacked(activations, signal)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def linear(self, name: str, tokens: Tensor) -> Tensor:
        """x·Wᵀ + b of tokens (M, N, inputs), or (1, N, inputs) that all models share: (M, N, outputs)."""
        weight, bias = self._tensors[f"{name}.weight"].flatten(2), self._tensors.get(f"{name}.bias")
        tokens = tokens.expand(len(weight), -1, -1)
        if self._dtype is None:
            return _product(tokens, weight, bias)
        bias = None if bias is None else bias.to(self._dtype)
        return _product(tokens.to(self._dtype), weight.to(self._dtype), bias)

    def norm(self, name: str, tokens: Tensor, epsilon: float) -> Tensor:
        """(x − mean)/√(variance + ε)·γ + β of each token."""
        gain, shift = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        normal = F.layer_norm(tokens.to(gain.dtype), tokens.shape[-1:], eps=epsilon)
        return torch.addcmul(shift[:, None], normal, gain[:, None])

    def attend(self, name: str, tokens: Tensor, heads: int, attended: int, bias: Tensor | None = None) -> Tensor:
        """softmax(q·kᵀ/√d + bias)·v by heads, each token over the `attended` ones that stand with it, then the
        projection. `bias` is (M, 1 or groups of an image, heads, attended, attended)."""
        models, count, width = tokens.shape
        read = self.quantized(f"{name}.attention", tokens)
        query, key, value = (
            self.quantized(f"{name}.{part}", self.linear(f"{name}.{part}", read))
            .view(models, -1, attended, heads, width // heads)
            .transpose(2, 3)
            for part in ("query", "key", "value")
        )
        scores = ((query * (width // heads) ** -0.5) @ key.mT).to(tokens.dtype)
        if bias is not None:
            scores = scores.view(models, -1, *bias.shape[1:]) + bias[:, None]
            scores = scores.flatten(1, 2)
        shares = self.quantized(f"{name}.softmax", scores.softmax(-1)).to(value.dtype)
        found = (shares @ value).transpose(2, 3).reshape(models, count, width)
        return self.linear(f"{name}.proj", self.quantized(f"{name}.proj", found))

    def mlp(self, name: str, tokens: Tensor) -> Tensor:
        """The two matrices of a block with an exact GELU between them."""
        inner = F.gelu(self.linear(f"{name}.fc1", self.quantized(f"{name}.fc1", tokens)))
        return self.linear(f"{name}.fc2", self.quantized(f"{name}.fc2", inner))


def _product(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(tokens, weight.mT)
    return torch.baddbmm(bias[:, None], tokens, weight.mT)


def kept_branches(draws: Tensor | None, rates: Sequence[float], like: Tensor) -> list[Tensor | None]:
    """What the branches of blocks are multiplied with, for each image (B): 0 of a share `rate`, 1/(1 − rate) of the
    others; None where all are kept. `draws` (branches, B) are uniform; None in evaluation."""
    if draws is None:
        return [None] * len(rates)
    return [
        (draw >= rate).to(like.dtype) / (1 - rate) if rate else None for draw, rate in zip(draws, rates, strict=True)
    ]


def added(tokens: Tensor, branch: Tensor, kept: Tensor | None) -> Tensor:
    """`tokens` (M, N, D) with a branch of the same shape, whose images are kept or not (B)."""
    if kept is None:
        return tokens + branch
    models, _, width = tokens.shape
    scaled = branch.view(models, len(kept), -1, width) * kept[:, None, None]
    return tokens + scaled.view(tokens.shape)
