"""The networks that a sweep names by where their module comes from: a file of the user, torchvision or timm."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from torch import nn

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.modules import Module
from qsweep.sweeps.quantizers import ActivationQuantizer
from qsweep.workers.models.module import ModuleNetwork
from qsweep.workers.user_code import function_of

KEPT = 4
"""Networks that a process keeps ready: a cohort's measures take the same."""


@lru_cache(maxsize=KEPT)
def network_of_module(model: Module, data: DataSet, quantizer: ActivationQuantizer | None = None) -> ModuleNetwork:
    """The network of a module. Raises InputError if it can't be used, and whatever the user's code raises."""
    if model.reference is not None:
        function = function_of(model.code, model.reference.name)
        build: Callable[[], Any] = partial(function, data, **dict(model.arguments))
    else:
        library, _, name = model.source.partition(":")
        build = partial(LIBRARIES[library], name, data)
    return ModuleNetwork(build, data.shape, data.classes, quantizer=quantizer, place=f"model {model.source}")


def _torchvision(name: str, data: DataSet) -> nn.Module:
    models = _imported("torchvision.models", "torchvision")
    if name not in models.list_models(module=models):
        raise InputError(
            f"torchvision has no network {name!r}", place="model", allowed="torchvision.models.list_models()"
        )
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return _reading(models.get_model(name, weights=None, num_classes=data.classes, **extra), data.shape[0])


def _timm(name: str, data: DataSet) -> nn.Module:
    timm = _imported("timm", "timm")
    if not timm.is_model(name):
        raise InputError(f"timm has no network {name!r}", place="model", allowed="timm.list_models()")
    module: nn.Module = timm.create_model(name, num_classes=data.classes, in_chans=data.shape[0])
    return module


LIBRARIES: dict[str, Callable[[str, DataSet], nn.Module]] = {"torchvision": _torchvision, "timm": _timm}


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{package} is not installed", place="model", allowed=f"pip install {package}") from None


def _reading(module: nn.Module, channels: int) -> nn.Module:
    """The module with a first convolution that reads so many channels, initialized as PyTorch does."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            if layer.in_channels != channels:
                parent, _, last = name.rpartition(".")
                other = nn.Conv2d(
                    channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,  # type: ignore[arg-type]
                    layer.dilation, bias=layer.bias is not None,  # type: ignore[arg-type]
                )  # fmt: skip
                setattr(module.get_submodule(parent), last, other)
            return module
    return module
