"""The forward pass of M Swin Transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.sweeps.transformers import Swin
from qsweep.workers.models.layout import ModuleSpec
from qsweep.workers.models.stacked import Stack, added, free_module, linear_module, norm_module
from qsweep.workers.models.transformer import Transformer, drop_rates, patches_of

EPSILON = 1e-5
"""Of the layer norms."""
APART = -100.0
"""Added to the scores of tokens that only the cyclic shift brought into one window."""


class SwinNetwork(Transformer):
    """M models of one `Swin`: torchvision's `SwinTransformer`, but query, key and value have a matrix each."""

    def __init__(self, model: Swin, data: DataSet, quantizer: ActivationQuantizer | None = None) -> None:
        self._model, self._sides = model, model.sides(data)
        layers = list(model.layers(data))
        width, window = model.width, model.window_size
        patch = (width, data.channels, model.patch, model.patch)
        modules: list[ModuleSpec] = [linear_module(layers.pop(0), patch), norm_module("patch.norm", width)]
        for stage, depth in enumerate(model.depths):
            heads, table = model.heads * 2**stage, (2 * window - 1) ** 2
            if stage:
                modules += [norm_module(f"stage{stage + 1}.merge.norm", 4 * width), linear_module(layers.pop(0))]
                width *= 2
            for block in range(depth):
                name = f"stage{stage + 1}.{block}"
                modules += [norm_module(f"{name}.norm1", width), free_module(f"{name}.table", (table, heads))]
                modules += [linear_module(layers.pop(0)) for _ in range(4)]
                modules.append(norm_module(f"{name}.norm2", width))
                modules += [linear_module(layers.pop(0)) for _ in range(2)]
        modules += [norm_module("norm", width), linear_module(layers.pop(0))]
        super().__init__(
            modules, model.layers(data), drop_rates(sum(model.depths), model.drop_path), model.signals(data), quantizer
        )
        self._relative = relative_places(window)
        self._there: dict[tuple[int, int, torch.device], Tensor] = {}
        """What is made once for a device: a copy to it within a step could not be recorded."""

    def logits(self, images: Tensor, stack: Stack, kept: Sequence[Tensor | None]) -> Tensor:
        model, left = self._model, list(kept)
        patches = patches_of(images, model.patch)
        patches = stack.quantized("patch", patches.flatten(0, 1)[None])
        read = stack.linear("patch", patches).to(images.dtype)
        tokens = stack.norm("patch.norm", read, EPSILON)
        for stage, (depth, side) in enumerate(zip(model.depths, self._sides, strict=True)):
            name = f"stage{stage + 1}"
            if stage:
                merged = stack.norm(f"{name}.merge.norm", merge(tokens, 2 * side), EPSILON)
                tokens = stack.linear(f"{name}.merge", merged).to(images.dtype)
            for block in range(depth):
                place = f"{name}.{block}"
                shift = model.window_size // 2 if block % 2 and side > model.window_size else 0
                normal = stack.norm(f"{place}.norm1", tokens, EPSILON)
                found = self._attend(stack, place, normal, side, shift, model.heads * 2**stage)
                tokens = added(tokens, found, left.pop(0))
                normal = stack.norm(f"{place}.norm2", tokens, EPSILON)
                tokens = added(tokens, stack.mlp(place, normal), left.pop(0))
        last = stack.norm("norm", tokens, EPSILON)
        mean = last.view(len(last), len(images), -1, last.shape[-1]).mean(2)
        return stack.linear("head", stack.quantized("head", mean)).to(images.dtype).mT

    def _attend(self, stack: Stack, name: str, tokens: Tensor, side: int, shift: int, heads: int) -> Tensor:
        """Attention within the windows of a side of so many tokens, shifted by `shift`."""
        window = self._model.window_size
        table = stack[f"{name}.table"]
        places = self._at(table.device, 0, 0)
        bias = table[:, places].permute(0, 3, 1, 2)[:, None]
        if shift:
            bias = bias + self._at(table.device, side, shift).to(table.dtype)[None, :, None]
        rows = windows_of(tokens, side, window, shift)
        return tokens_of(stack.attend(name, rows, heads, window**2, bias), side, window, shift)

    def _at(self, device: torch.device, side: int, shift: int) -> Tensor:
        """On a device: `relative_places`, or with a shift what `apart` says of sides of so many tokens."""
        key = (side, shift, device)
        if key not in self._there:
            made = apart(side, self._model.window_size, shift) if shift else self._relative
            self._there[key] = made.to(device)
        return self._there[key]


def windows_of(tokens: Tensor, side: int, window: int, shift: int) -> Tensor:
    """Tokens (M, N, D) of sides of so many, window by window, after a cyclic shift up and to the left."""
    models, _, width = tokens.shape
    planes = tokens.view(models, -1, side, side, width)
    if shift:
        planes = planes.roll((-shift, -shift), (2, 3))
    count = side // window
    cut = planes.view(models, -1, count, window, count, window, width).transpose(3, 4)
    return cut.reshape(tokens.shape)


def tokens_of(rows: Tensor, side: int, window: int, shift: int) -> Tensor:
    """The reverse of `windows_of`."""
    models, _, width = rows.shape
    count = side // window
    planes = rows.view(models, -1, count, count, window, window, width).transpose(3, 4)
    planes = planes.reshape(models, -1, side, side, width)
    if shift:
        planes = planes.roll((shift, shift), (2, 3))
    return planes.reshape(rows.shape)


def merge(tokens: Tensor, side: int) -> Tensor:
    """Four neighbours in one token (M, N/4, 4·D) of tokens (M, N, D) of sides of so many: down, then across."""
    models, _, width = tokens.shape
    planes = tokens.view(models, -1, side // 2, 2, side // 2, 2, width)
    return planes.permute(0, 1, 2, 4, 5, 3, 6).reshape(models, -1, 4 * width)


def relative_places(window: int) -> Tensor:
    """The row of a bias table for each pair of a window's tokens (window², window²), by their relative position."""
    line = torch.arange(window)
    down, across = (one.flatten() for one in torch.meshgrid(line, line, indexing="ij"))
    rows = down[:, None] - down + window - 1
    return rows * (2 * window - 1) + across[:, None] - across + window - 1


def apart(side: int, window: int, shift: int) -> Tensor:
    """What is added to the scores of a shifted window's tokens (windows, window², window²): 0 where they are neighbours
    in the image, and a large negative number where only the cyclic shift brought them together."""
    line = torch.arange(side)
    region = (line >= side - window).long() + (line >= side - shift).long()
    regions = (3 * region[:, None] + region).view(1, side**2, 1)
    rows = windows_of(regions, side, window, 0).view(-1, window**2)
    return torch.where(rows[:, :, None] == rows[:, None, :], 0.0, APART)
