"""The forward pass of M Vision Transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.sweeps.transformers import Vit
from qsweep.workers.models.layout import ModuleSpec
from qsweep.workers.models.stacked import Stack, added, free_module, linear_module, norm_module
from qsweep.workers.models.transformer import Transformer, drop_rates, patches_of

EPSILON = 1e-6
"""Of the layer norms, as in DeiT."""


class VitNetwork(Transformer):
    """M models of one `Vit`: timm's `VisionTransformer`, but query, key and value have a matrix each."""

    def __init__(self, model: Vit, data: DataSet, quantizer: ActivationQuantizer | None = None) -> None:
        self._model, self._tokens = model, model.tokens(data)
        layers = model.layers(data)
        patch = (model.width, data.channels, model.patch, model.patch)
        modules: list[ModuleSpec] = [
            linear_module(layers[0], patch),
            free_module("class_token", (1, 1, model.width)),
            free_module("positions", (1, self._tokens, model.width)),
        ]
        for block in range(model.depth):
            name, of_block = f"block{block}", layers[1 + 6 * block :][:6]
            modules.append(norm_module(f"{name}.norm1", model.width))
            modules += map(linear_module, of_block[:4])
            modules.append(norm_module(f"{name}.norm2", model.width))
            modules += map(linear_module, of_block[4:])
        modules += [norm_module("norm", model.width), linear_module(layers[-1])]
        super().__init__(modules, layers, drop_rates(model.depth, model.drop_path), model.signals(data), quantizer)

    def logits(self, images: Tensor, stack: Stack, kept: Sequence[Tensor | None]) -> Tensor:
        count, heads, width = self._tokens, self._model.heads, self._model.width
        patches = patches_of(images, self._model.patch)
        read = stack.linear("patch", stack.quantized("patch", patches.flatten(0, 1)[None]))
        read = read.view(len(read), len(images), -1, width).to(images.dtype)
        first = stack["class_token"].expand(-1, len(images), -1, -1)
        tokens = (torch.cat([first, read], 2) + stack["positions"]).flatten(1, 2)
        for block in range(self._model.depth):
            name = f"block{block}"
            normal = stack.norm(f"{name}.norm1", tokens, EPSILON)
            tokens = added(tokens, stack.attend(name, normal, heads, count), kept[2 * block])
            normal = stack.norm(f"{name}.norm2", tokens, EPSILON)
            tokens = added(tokens, stack.mlp(name, normal), kept[2 * block + 1])
        last = stack.norm("norm", tokens.view(-1, len(images), count, width)[:, :, 0], EPSILON)
        return stack.linear("head", stack.quantized("head", last)).to(images.dtype).mT
