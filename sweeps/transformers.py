"""The vision transformers that a sweep may name, as geometry. Their forward passes stand in `workers.models`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.layers import LinearLayer
from qsweep.sweeps.settings import Rule, setting
from qsweep.sweeps.signals import Place, Signal

SIDE = Rule(low=1, high=1024)
DROP_PATH = Rule(low=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Vit:
    """Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) as DeiT trains it (Touvron et al. 2021).

    Patches of `patch` pixels a side become tokens of `width` numbers, with a class token before them and learned
    positions added. `depth` blocks follow, each of attention with `heads` heads and of a GELU network `mlp_ratio` times
    as wide; each of the two stands behind a layer norm and is added to what it read. A layer norm and a linear head on
    the class token are the end. Query, key and value have a matrix each. In training each branch of a block is left out
    for a share of the images, from 0 in the first block to `drop_path` in the last (Huang et al. 2016). `patch` 16,
    `width` 192, `depth` 12 and `heads` 3 are DeiT-T.
    """

    name: ClassVar[str] = "vit"
    family: ClassVar[str] = "ViT"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True

    patch: int = setting(SIDE)
    width: int = setting(Rule(low=1, high=4096))
    depth: int = setting(Rule(low=1, high=64))
    heads: int = setting(Rule(low=1, high=64))
    mlp_ratio: int = setting(Rule(low=1, high=16), default=4)
    drop_path: float = setting(DROP_PATH, default=0.1)

    @property
    def title(self) -> str:
        return "DeiT-T" if self._is_tiny else "ViT"

    @property
    def label(self) -> str:
        ratio = "" if self.mlp_ratio == 4 else f"-mlp{self.mlp_ratio}"
        return f"vit-{self.depth}x{self.width}-patch{self.patch}-heads{self.heads}{ratio}"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the paper's network of this name."""
        return "" if self._is_tiny else f"{self.depth}x{self.width}, patch {self.patch}"

    @property
    def _is_tiny(self) -> bool:
        return (self.patch, self.width, self.depth, self.heads, self.mlp_ratio) == (16, 192, 12, 3, 4)

    def tokens(self, data: DataSet) -> int:
        """The patches of an image, and the class token."""
        return (data.size // self.patch) ** 2 + 1

    def check(self, data: DataSet, where: str) -> None:
        """Raise InputError if patches or heads don't divide what they are parts of."""
        _check_patch(self.patch, data, where)
        _check_heads(self.width, self.heads, where)

    def signals(self, data: DataSet) -> tuple[Signal, ...]:
        """What can be quantized, in the order of the forward pass, by names of their own where no layer reads it."""
        tokens, width = self.tokens(data), self.width
        found = [_images(data)]
        for block in range(self.depth):
            found += _block_signals(f"block{block}", width, tokens, self.mlp_ratio, self.heads, tokens)
        return (*found, _before_head(width))

    def layers(self, data: DataSet) -> tuple[LinearLayer, ...]:
        """Every matrix in the order of the forward pass; the patch embedding and the head are the outer ones."""
        tokens, width = self.tokens(data), self.width
        found = [_patches(self.patch, width, tokens - 1, data)]
        for block in range(self.depth):
            found += _block(f"block{block}", width, tokens, self.mlp_ratio, self.heads, tokens)
        return (*found, _head(width, data))


@dataclass(frozen=True, kw_only=True)
class Swin:
    """Swin Transformer (Liu et al. 2021, arXiv 2103.14030), as torchvision's `swin_t`.

    Patches of `patch` pixels a side become tokens of `width` numbers. Stages of `depths` blocks each; between two of
    them four tokens are merged into one of twice the width, by a layer norm and a matrix. A block attends within
    windows of `window_size` tokens a side, shifted by half of that in every second block, with a learned bias by
    relative position; `heads` heads in the first stage, twice as many in each one after it. A stage that is one window
    shifts nothing. The rest is as in `Vit`, with a linear head on the mean of the tokens. `patch` 4, `width` 96,
    `depths` 2, 2, 6, 2, `heads` 3 and `window_size` 7 are Swin-T.
    """

    name: ClassVar[str] = "swin"
    family: ClassVar[str] = "Swin"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True

    patch: int = setting(SIDE)
    width: int = setting(Rule(low=1, high=4096))
    depths: tuple[int, ...] = setting(Rule(low=1, high=64))
    heads: int = setting(Rule(low=1, high=64))
    window_size: int = setting(Rule(low=1, high=64))
    mlp_ratio: int = setting(Rule(low=1, high=16), default=4)
    drop_path: float = setting(DROP_PATH, default=0.1)

    @property
    def title(self) -> str:
        return "Swin-T" if self._is_tiny else "Swin"

    @property
    def label(self) -> str:
        ratio = "" if self.mlp_ratio == 4 else f"-mlp{self.mlp_ratio}"
        depths = ".".join(map(str, self.depths))
        return f"swin-{depths}x{self.width}-patch{self.patch}-window{self.window_size}-heads{self.heads}{ratio}"

    @property
    def shape(self) -> str:
        """What sets it apart in tables from the paper's network of this name."""
        depths = "-".join(map(str, self.depths))
        return "" if self._is_tiny else f"{depths}x{self.width}, patch {self.patch}, window {self.window_size}"

    @property
    def _is_tiny(self) -> bool:
        given = (self.patch, self.width, self.depths, self.heads, self.window_size, self.mlp_ratio)
        return given == (4, 96, (2, 2, 6, 2), 3, 7, 4)

    @property
    def published(self) -> str | None:
        """torchvision's name of this very network, if it has it."""
        return "swin_t" if self._is_tiny else None

    def sides(self, data: DataSet) -> list[int]:
        """Tokens a side in each stage."""
        return [data.size // self.patch // 2**stage for stage in range(len(self.depths))]

    def check(self, data: DataSet, where: str) -> None:
        """Raise InputError if patches, windows, merged tokens or heads don't divide what they are parts of."""
        if not self.depths:
            raise InputError("[] is not allowed", place=f"{where}depths", allowed="allowed: blocks of 1 stage or more")
        _check_patch(self.patch, data, where)
        _check_heads(self.width, self.heads, where)
        side, divisor = data.size // self.patch, self.window_size * 2 ** (len(self.depths) - 1)
        if side % divisor:
            stages = f"{len(self.depths)} stages, each of half as many" if len(self.depths) > 1 else "one stage"
            raise InputError(
                f"windows of {self.window_size} don't divide {side} tokens a side in {stages}",
                place=f"{where}window_size",
                allowed=f"allowed: window_size · {2 ** (len(self.depths) - 1)} a divisor of {side}",
            )

    def signals(self, data: DataSet) -> tuple[Signal, ...]:
        """As those of `Vit`, but for the images and what a merging reads, which VVTQ does not quantize."""
        found = list[Signal]()
        for stage, (depth, side) in enumerate(zip(self.depths, self.sides(data), strict=True)):
            width, heads = self.width * 2**stage, self.heads * 2**stage
            for block in range(depth):
                name = f"stage{stage + 1}.{block}"
                found += _block_signals(name, width, side**2, self.mlp_ratio, heads, self.window_size**2)
        return (*found, _before_head(self.width * 2 ** (len(self.depths) - 1)))

    def layers(self, data: DataSet) -> tuple[LinearLayer, ...]:
        """Every matrix in the order of the forward pass; patch embedding, mergings and head are the outer ones."""
        width, found = self.width, list[LinearLayer]()
        for stage, (depth, side) in enumerate(zip(self.depths, self.sides(data), strict=True)):
            if stage:
                found.append(
                    LinearLayer(
                        name=f"stage{stage + 1}.merge",
                        inputs=4 * width,
                        outputs=2 * width,
                        tokens=side**2,
                        bias=False,
                        outer=True,
                    )
                )
                width *= 2
            else:
                found.append(_patches(self.patch, width, side**2, data))
            for block in range(depth):
                heads = self.heads * 2**stage
                found += _block(
                    f"stage{stage + 1}.{block}", width, side**2, self.mlp_ratio, heads, self.window_size**2
                )  # fmt: skip
        return (*found, _head(width, data))


def _check_patch(patch: int, data: DataSet, where: str) -> None:
    if data.size % patch:
        divisors = ", ".join(str(one) for one in range(1, data.size + 1) if data.size % one == 0)
        raise InputError(
            f"patches of {patch} pixels don't divide images of {data.size} pixels a side",
            place=f"{where}patch",
            allowed=f"allowed: {divisors}",
        )


def _check_heads(width: int, heads: int, where: str) -> None:
    if width % heads:
        divisors = ", ".join(str(one) for one in range(1, 65) if width % one == 0)
        raise InputError(
            f"{heads} heads don't divide a width of {width}", place=f"{where}heads", allowed=f"allowed: {divisors}"
        )


def _patches(patch: int, width: int, tokens: int, data: DataSet) -> LinearLayer:
    return LinearLayer(
        name="patch", inputs=data.channels * patch**2, outputs=width, tokens=tokens, outer=True, init="default"
    )


def _head(width: int, data: DataSet) -> LinearLayer:
    return LinearLayer(name="head", inputs=width, outputs=data.classes, tokens=1, outer=True)


def _block(name: str, width: int, tokens: int, ratio: int, heads: int, attended: int) -> Iterator[LinearLayer]:
    """The matrices of a block, in which each token attends to so many."""
    for part in ("query", "key", "value"):
        yield LinearLayer(name=f"{name}.{part}", inputs=width, outputs=width, tokens=tokens)
    yield LinearLayer(
        name=f"{name}.proj", inputs=width, outputs=width, tokens=tokens,
        attended=attended, heads=heads,
    )  # fmt: skip
    yield LinearLayer(name=f"{name}.fc1", inputs=width, outputs=ratio * width, tokens=tokens)
    yield LinearLayer(name=f"{name}.fc2", inputs=ratio * width, outputs=width, tokens=tokens)


def _images(data: DataSet) -> Signal:
    return _signal("patch", data.channels * data.size**2, place=Place.IMAGES)


def _before_head(width: int) -> Signal:
    return _signal("head", width, place=Place.OUTER)


def _block_signals(name: str, width: int, tokens: int, ratio: int, heads: int, attended: int) -> Iterator[Signal]:
    """What query, key and value read, what comes of them, of the softmax and of the attention, and what the two other
    matrices read (`HuangOwen/VVTQ`)."""
    yield _signal(f"{name}.attention", tokens * width)
    for part in ("query", "key", "value"):
        yield _signal(f"{name}.{part}", tokens * width)
    yield _signal(f"{name}.softmax", heads * tokens * attended, signed=False)
    yield _signal(f"{name}.proj", tokens * width)
    yield _signal(f"{name}.fc1", tokens * width)
    yield _signal(f"{name}.fc2", tokens * ratio * width, after_gelu=True)


def _signal(
    layer: str, features: int, *, signed: bool = True, after_gelu: bool = False, place: Place = Place.INNER
) -> Signal:
    return Signal(layer=layer, features=features, signed=signed, linear=True, place=place, after_gelu=after_gelu)
