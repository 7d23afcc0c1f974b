"""The weights that a training starts from: found, matched with the network's layers, and kept in the home.

A file is a state_dict under torchvision's names (ResNets with the large stem, MobileNet-V2, Swin), those of timm, DeiT
or Swin's authors, or a model that qsweep kept, under its own. It is used for a network if every tensor of that
network is in it with the same shape, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.models import MobileNetV2, Model, ResNet, is_transformer, published_name
from qsweep.sweeps.start import IMAGENET_WEIGHTS
from qsweep.sweeps.training import Training
from qsweep.sweeps.wholefiles import digest_of
from qsweep.workers.models import network_of
from qsweep.workers.models.layout import QUANTIZERS, Layout, Role
from qsweep.workers.transformer_names import foreign_names, unwrapped

FOLDER = "weights"
"""Beside the data: the folder in which files of weights are looked for."""
SUFFIXES = (".pth", ".pt")

BESIDE = (
    "step",
    "low",
    "high",
    "module",
    "offset",
    "init_hash",
    "passes",
    "num_batches_tracked",
    "relative_position_index",
    "attn_mask",
)
"""Entries that no network here reads: what qsweep keeps beside a model's own, what PyTorch's batch norm counts, and
what follows from a Swin Transformer's windows."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights in a network's rows, parameters (P) and statistics (S), float32, and the hash of their file."""

    parameters: Tensor
    statistics: Tensor
    file_hash: str


def start_of(training: Training, folder: Path) -> Start | None:
    """The weights that a training starts from, from a home's `folder` of them; None if it is initialized.

    Raises InputError if they are not there, or not this network's.
    """
    if not training.starts_from_weights:
        return None
    path = folder / training.weights_file
    if not path.is_file():
        raise InputError(
            f"the weights {training.start.weights!r} of {training.model.label} are not here",
            place=str(path),
            allowed="name their file: qsweep launch … --weights FILE",
        )
    return read_start(training, path)


def read_start(training: Training, path: Path) -> Start:
    """The weights of a file. Raises InputError if it can't be read, or is not this network's."""
    content, digest = _read(path)
    layout = network_of(training).layout
    if (problem := misfit(content, training.model, layout)) is not None:
        raise InputError(f"these weights do not fit {_network(training)}: {problem}", place=str(path))
    parameters, statistics = packed(content, training.model, layout)
    return Start(parameters=parameters, statistics=statistics, file_hash=digest)


def packed(content: Mapping[str, Any], model: Model, layout: Layout) -> tuple[Tensor, Tensor]:
    """The rows (parameters, statistics) of a state_dict, float32. Step sizes are 1 until a quantizer sets them."""
    names = tensor_names(content, model, layout)
    parameters, statistics = _blank(layout)
    for name, place in layout.named(parameters, statistics):
        if layout.role_of(name) in QUANTIZERS:
            place.fill_(1.0)
        else:
            place.copy_(content[names[name]].reshape(place.shape))
    return parameters, statistics


def misfit(content: Mapping[str, Any], model: Model, layout: Layout) -> str | None:
    """Why a state_dict is not this network's, in words; None if it is."""
    names = tensor_names(content, model, layout)
    wanted = dict(layout.named(*_blank(layout)))
    for name, place in wanted.items():
        if layout.role_of(name) in QUANTIZERS:
            continue
        found = content.get(names[name])
        if not isinstance(found, Tensor):
            return f"it has no {names[name]}"
        if (*found.shape, *(1,) * (place.dim() - found.dim())) != tuple(place.shape):
            return f"{names[name]} is of shape {tuple(found.shape)}, not {tuple(place.shape)}"
    used = {names[name] for name in wanted if layout.role_of(name) not in QUANTIZERS}
    others = (name for name in content if name not in used and name.rpartition(".")[2] not in BESIDE)
    extra = next(others, None)
    return None if extra is None else f"the network has no {extra}"


def _blank(layout: Layout) -> tuple[Tensor, Tensor]:
    """Rows of zeros (parameters, statistics)."""
    return torch.zeros(layout.parameters_length), torch.zeros(layout.statistics_length)


def tensor_names(content: Mapping[str, Any], model: Model, layout: Layout) -> dict[str, str]:
    """Our name of each tensor, with its name in `content`: torchvision's, or ours."""
    own = {name: name for name, _ in layout.named(*_blank(layout)) if layout.role_of(name) not in QUANTIZERS}
    first = layout.of_role(Role.WEIGHT)[0].name
    if first in content:
        return own
    if is_transformer(model):
        foreign = foreign_names(content, model)
        return {name: foreign(name) for name in own}
    if not isinstance(model, ResNet | MobileNetV2) or _is_small(model):
        return own
    places = {one.layer: torchvision_names(model, one.layer) for one in layout.of_role(Role.WEIGHT)}
    found = {}
    for name in own:
        layer, _, tensor = name.rpartition(".")
        conv, norm = places[layer.removesuffix(".norm")]
        found[name] = f"{norm if layer.endswith('.norm') else conv}.{tensor}"
    return found


def _is_small(model: ResNet | MobileNetV2) -> bool:
    """Whether it has layers that torchvision's network of that name has not."""
    return isinstance(model, MobileNetV2) and not model.is_large


def torchvision_names(model: ResNet | MobileNetV2, layer: str) -> tuple[str, str]:
    """What torchvision calls a layer's convolution (or linear layer), and its batch norm."""
    return _resnet_names(layer) if isinstance(model, ResNet) else _mobilenet_names(layer)


def _resnet_names(name: str) -> tuple[str, str]:
    if name in ("stem", "head"):
        return {"stem": ("conv1", "bn1"), "head": ("fc", "")}[name]
    stage, block, part = name.split(".")
    place = f"{stage.replace('stage', 'layer')}.{block}"
    if part == "shortcut":
        return f"{place}.downsample.0", f"{place}.downsample.1"
    return f"{place}.{part}", f"{place}.{part.replace('conv', 'bn')}"


def _mobilenet_names(name: str) -> tuple[str, str]:
    ends = {"stem": "features.0", "last": "features.18"}
    if name == "head":
        return "classifier.1", ""
    if name in ends:
        return f"{ends[name]}.0", f"{ends[name]}.1"
    block, part = name.split(".")
    place = f"features.{block.removeprefix('block')}.conv"
    expands = block != "block1"
    if part == "project":
        return f"{place}.{1 + expands}", f"{place}.{2 + expands}"
    number = int(part == "depthwise" and expands)
    return f"{place}.{number}.0", f"{place}.{number}.1"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Weights that were found for a training: their file, its hash, and where a home is to keep it."""

    source: Path
    file_hash: str
    target: Path


def find_weights(training: Training, *, kept: Path, given: Iterable[Path], data: Path | None, download: bool) -> Found:
    """The weights that a training starts from: in the home, among the files given, beside the data, or downloaded.

    Raises InputError if there are none, or the home keeps others under this name already.
    """
    target = kept / training.weights_file
    source = _matching(training, given)
    if target.is_file():
        there = digest_of(target)
        if source is not None and source[1] != there:
            raise InputError(
                f"{source[0]} holds other weights than this home keeps as {training.start.weights!r}",
                place="--weights",
                allowed="give them another name, with --set weights=NAME",
            )
        return Found(source=target, file_hash=there, target=target)
    if source is None and data is not None and (data / FOLDER).is_dir():
        source = _matching(training, [data / FOLDER])
    if source is None and training.start.weights == IMAGENET_WEIGHTS and download:
        source = _downloaded(training)
    if source is None:
        raise InputError(
            f"the weights {training.start.weights!r} are missing for {_network(training)}",
            place="weights",
            allowed=f"name their file with --weights FILE, or put it into the folder {FOLDER} of the data",
        )
    return Found(source=source[0], file_hash=source[1], target=target)


def _matching(training: Training, given: Iterable[Path]) -> tuple[Path, str] | None:
    """The first of the files, or of those in the folders, that holds this network's weights, and its hash: of several,
    one that is called as the weights are."""
    layout = network_of(training).layout
    for path in sorted(_files(given), key=lambda path: path.stem != training.start.weights):
        content, digest = _read(path)
        if misfit(content, training.model, layout) is None:
            return path, digest
    return None


def _files(given: Iterable[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
        elif path.is_file():
            yield path
        else:
            raise InputError("there is no such file or folder", place=f"--weights {path}")


def check_given(trainings: Iterable[Training], given: Iterable[Path]) -> None:
    """Raise InputError for a file of weights that is none of these networks'; a folder may hold others."""
    networks = [(one, network_of(one).layout) for one in trainings]
    for path in given:
        if not path.is_file():
            continue
        content, _ = _read(path)
        problems = [misfit(content, one.model, layout) for one, layout in networks]
        if None not in problems:
            each = [f"of {_network(one)}: {said}" for (one, _), said in zip(networks, problems, strict=True)]
            said = "; ".join(dict.fromkeys(each)) or "asked for: no training has any"
            raise InputError(f"these are no weights {said}", place=f"--weights {path}")


def _downloaded(training: Training) -> tuple[Path, str]:
    """torchvision's IMAGENET1K_V1 of this network, in its cache."""
    from torchvision.models import get_model_weights

    name = published_name(training.model)
    assert name is not None, "a training with torchvision's weights is checked to have them"
    url = get_model_weights(name)["IMAGENET1K_V1"].url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / str(url).rpartition("/")[2]
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"torchvision's weights of {training.model.title} can't be downloaded: {error}",
                place=str(url),
                allowed=f"name their file with --weights FILE, or put it into the folder {FOLDER} of the data",
            ) from None
    return path, digest_of(path)


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    """A file's tensors by name, and its hash. Nothing but tensors and plain values is unpickled."""
    try:
        digest = digest_of(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, torch's reader raises a dozen kinds of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"these weights can't be read: {reason}", place=str(path)) from None
    if not isinstance(content, Mapping):
        raise InputError("this is not a state_dict", place=str(path))
    return unwrapped(content), digest


def _network(training: Training) -> str:
    return f"{training.model.label} for {training.data.classes:,} classes"
