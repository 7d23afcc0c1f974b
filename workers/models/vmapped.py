"""How layers of users' modules are computed for all models at once, under `torch.func.vmap`.

PyTorch's own rules bring the models to the front of a batch, and take what a kernel could do along as operations of
their own: a copy or a pass more at each layer. What works channel by channel has the channels of M models side by side
here, as their convolutions leave them, and what is drawn at random is each model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Draw = Callable[[Sequence[int], float, Tensor], Tensor]
"""Ones with a probability, and zeros, of M models (M, *shape), of the type and on the device of a tensor."""
POOLINGS = frozenset(
    {
        functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
    }
)  # fmt: skip
"""What makes of each channel of images another one."""
SPARED = {functional.dropout: 0, functional.dropout1d: 1, functional.dropout2d: 2, functional.dropout3d: 3}
"""What drops at random: how many last dimensions are dropped as one."""


class Vmapped(TorchFunctionMode):
    """Around the call of a module under `vmap`: its batch norms, poolings and dropouts are computed here, the last with
    what `draw` draws for each model. Whatever else draws is refused by `vmap`.

    `model` is any tensor that each model has of its own.
    """

    def __init__(self, model: Tensor, draw: Draw) -> None:
        super().__init__()
        self._model, self._draw = model, draw

    def __torch_function__(
        self, function: Any, types: Any, given: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        named = named or {}
        if function is functional.batch_norm:
            return self._normed(*given, **named)
        if function in POOLINGS and given and given[0].dim() == 4 and not named.get("return_indices"):
            return _Pooled.apply(given[0], function, given[1:], named)
        if function in SPARED:
            return self._dropped(SPARED[function], *given, **named)
        return function(*given, **named)

    def _normed(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        return _Normed.apply(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def _dropped(
        self, spared: int, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or not p:
            return input
        shape = (*input.shape[: input.dim() - spared], *(1,) * spared)
        mask: Tensor = _Mask.apply(self._model, input.detach(), self._draw, shape, 1.0 - p)
        return input.mul_(mask) if inplace else input * mask


class _Normed(Function):
    """`functional.batch_norm` of the models' channels side by side."""

    @staticmethod
    def forward(*given: Any) -> Tensor:
        return functional.batch_norm(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise NotImplementedError("it is called under vmap")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        models: int = info.batch_size
        beside: list[Any] = [
            _beside(one, dim, models, int(not place)) if isinstance(one, Tensor) else one
            for place, (one, dim) in enumerate(zip(args, in_dims, strict=True))
        ]
        found = functional.batch_norm(*beside)
        return torch.unflatten(found, 1, (models, -1)), 1


class _Pooled(Function):
    """A pooling of the models' channels side by side."""

    @staticmethod
    def forward(signal: Tensor, pooling: Any, given: Any, named: Any) -> Any:
        return pooling(signal, *given, **named)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise NotImplementedError("it is called under vmap")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        signal, pooling, given, named = args
        found: Tensor = pooling(_beside(signal, in_dims[0], info.batch_size, 1), *given, **named)
        return torch.unflatten(found, 1, (info.batch_size, -1)), 1


class _Mask(Function):
    """What is drawn for each model, divided by how probable it is."""

    @staticmethod
    def forward(model: Tensor, like: Tensor, draw: Draw, shape: Sequence[int], kept: float) -> Tensor:
        raise NotImplementedError("it is called under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise NotImplementedError("it is called under vmap")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        _, like, draw, shape, kept = args
        return draw(shape, kept, like).div_(kept), 0


def _beside(tensor: Tensor, models_at: int | None, models: int, place: int) -> Tensor:
    """The models, which stand in a dimension of their own, or who share the tensor, as the outer part of another."""
    if models_at is None:
        tensor = tensor.unsqueeze(place).expand(*tensor.shape[:place], models, *tensor.shape[place:])
    else:
        tensor = tensor.movedim(models_at, place)
    return tensor.flatten(place, place + 1)
