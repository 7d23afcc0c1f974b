"""What others call the tensors of transformers in their files of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from qsweep.sweeps.models import Model
from qsweep.sweeps.transformers import Vit

WRAPPERS = ("model", "state_dict")
"""Entries that hold the tensors of a file that holds more."""
FUSED = re.compile(r"(.*\.)qkv\.(weight|bias)")
PARTS = {"query": "q", "key": "k", "value": "v"}


def unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a file by name, without what wraps them, and a fused matrix of query, key and value as three."""
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    found: dict[str, Any] = {}
    for name, value in content.items():
        fused = FUSED.fullmatch(name)
        if fused is not None and isinstance(value, Tensor) and value.dim() and len(value) % 3 == 0:
            found |= {f"{fused[1]}{part}.{fused[2]}": one for part, one in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[name] = value
    return found


def foreign_names(content: Mapping[str, Any], model: Model) -> Callable[[str], str]:
    """What the tensor of each of our names is called in `content`: by timm and DeiT, torchvision, or Swin's authors."""
    if isinstance(model, Vit):
        return _of_deit
    return _of_torchvision if any(name.startswith("features.") for name in content) else _of_swin


def _of_deit(name: str) -> str:
    beside = {"class_token": "cls_token", "positions": "pos_embed"}
    if name in beside:
        return beside[name]
    if name.startswith("patch."):
        return name.replace("patch.", "patch_embed.proj.")
    if name.startswith("block"):
        block, part, tensor = name.removeprefix("block").split(".")
        return f"blocks.{block}.{_part(part, 'mlp.fc1', 'mlp.fc2')}.{tensor}"
    return name


def _of_torchvision(name: str) -> str:
    if name.startswith("patch."):
        return re.sub(r"patch\.(norm\.)?", lambda found: "features.0.2." if found[1] else "features.0.0.", name)
    if not name.startswith("stage"):
        return name
    stage, rest = name.removeprefix("stage").split(".", 1)
    if rest.startswith("merge."):
        return f"features.{2 * int(stage) - 2}.{_merged(rest)}"
    return f"features.{2 * int(stage) - 1}.{_in_block(rest, 'mlp.0', 'mlp.3')}"


def _of_swin(name: str) -> str:
    if name.startswith("patch."):
        return re.sub(r"patch\.(norm\.)?", lambda found: f"patch_embed.{'norm' if found[1] else 'proj'}.", name)
    if not name.startswith("stage"):
        return name
    stage, rest = name.removeprefix("stage").split(".", 1)
    if rest.startswith("merge."):
        return f"layers.{int(stage) - 2}.downsample.{_merged(rest)}"
    return f"layers.{int(stage) - 1}.blocks.{_in_block(rest, 'mlp.fc1', 'mlp.fc2')}"


def _merged(rest: str) -> str:
    """`merge.weight` is of the matrix, `merge.norm.weight` of the norm before it."""
    found = rest.removeprefix("merge.")
    return found if found.startswith("norm.") else f"reduction.{found}"


def _in_block(rest: str, first: str, second: str) -> str:
    block, part, *tensor = rest.split(".")
    if part == "table":
        return f"{block}.attn.relative_position_bias_table"
    return f"{block}.{_part(part, first, second)}.{tensor[0]}"


def _part(part: str, first: str, second: str) -> str:
    names = {"proj": "attn.proj", "fc1": first, "fc2": second}
    return f"attn.{PARTS[part]}" if part in PARTS else names.get(part, part)
