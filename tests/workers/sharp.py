"""Sharpness-aware steps of plain modules in float64, written from the methods' formulas; nothing of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets
from tests.workers.plain import PlainConv, PlainTraining


class SharpTraining(PlainTraining):
    """A plain training whose step is that of one of the methods, each tensor restored from a saved copy."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.method: Any = training.method
        self.convs = self.net.convs()
        hidden = {id(pair.conv.bias) for pair in self.net.pairs() if isinstance(pair.norm, nn.BatchNorm2d)}
        names = {name for name, one in self.net.named_parameters() if id(one) not in hidden}
        self.ball = {
            name: one
            for name, one in self.net.named_parameters()
            if name in names and (self.method.ball_steps or not name.endswith("step"))
        }
        self.norms: list[float] = []
        """‖ε‖ of each step."""
        self.changed: list[float] = []
        """The share of codes that ε changes, of each part of a batch."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(images), labels)

    def step(self, images: Tensor, targets: Targets) -> float:
        labels = targets.labels if targets.shares is None else targets.shares
        """One step, each part of the batch with an ε of its own; the first alone moves running statistics."""
        self.optimizer.zero_grad()
        size, mean = self.method.ascent_images or len(labels), 0.0
        for number, (some, names) in enumerate(zip(images.split(size), labels.split(size), strict=True)):
            kept = {name: value.clone() for name, value in self.net.named_buffers()}
            mean += len(names) / len(labels) * self.passes(some, names, len(names) / len(labels))
            if number:
                self.restore(kept)
        self.optimizer.step()
        self.clamp()
        return mean

    def passes(self, images: Tensor, labels: Tensor, share: float) -> float:
        kept = {name: value.clone() for name, value in self.net.named_buffers()}
        away, first = self.perturbation(images, labels)
        if self.by_float():
            self.restore(kept)
        kept = {name: value.clone() for name, value in self.net.named_buffers()}
        saved = {name: one.detach().clone() for name, one in self.ball.items()}
        self.changed.append(self.changed_by(away))
        self.move(away)
        loss = self.loss(images, labels)
        (share * loss).backward()
        with torch.no_grad():
            for name, one in self.ball.items():
                one.copy_(saved[name])
            for conv in self.convs:
                conv.away = None
        if not (self.method.bn_second_pass or self.by_float()):
            self.restore(kept)
        return float(loss.detach()) if self.by_float() else first

    @torch.no_grad()
    def changed_by(self, away: Mapping[str, Tensor]) -> float:
        """The share of all weights that LSQ or LIQ give another code at w + ε, and s + ε where ε has a share of s."""
        names, counts, weights = {id(one): name for name, one in self.net.named_parameters()}, 0, 0
        for conv in self.convs:
            weights += conv.weight.numel()
            if conv.bits != 32:
                step = conv.step + away.get(names[id(conv.step)], 0.0)
                moved = code_of(conv, conv.weight + away[names[id(conv.weight)]], step)
                counts += int((moved != code_of(conv, conv.weight, conv.step)).sum())
        return counts / weights

    def by_float(self) -> bool:
        return self.method.name == "saq1" and self.method.case1_gradient == "float"

    def perturbation(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], float]:
        """ε by the names of the ball, and the loss where it begins."""
        bits = [conv.bits for conv in self.convs]
        if self.by_float():
            for conv in self.convs:
                conv.bits = 32
        loss = self.loss(images, labels)
        places = dict(self.ball)
        if self.method.name == "saq3":
            deployed = {id(conv.weight): conv.deployed[0] for conv in self.convs}
            places = {name: deployed.get(id(one), one) for name, one in places.items()}
        gradients = dict(zip(places, torch.autograd.grad(loss, list(places.values())), strict=True))
        for conv, width in zip(self.convs, bits, strict=True):
            conv.bits = width
        away = self.adaptive(gradients) if self.method.name == "asam" else self.plain(gradients)
        self.norms.append(float(length(away)))
        return away, float(loss.detach())

    def plain(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        norm = length(gradients)
        return {name: self.method.rho * one / (norm + 1e-12) for name, one in gradients.items()}

    def adaptive(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        official = self.method.asam == "official"
        ending = ("weight",) if official else ("weight", "step", "size")
        sizes = {name: one.detach().abs() for name, one in self.ball.items() if name.endswith(ending)}
        scaling = {name: sizes[name] + self.method.eta if name in sizes else 1.0 for name in gradients}
        norm = length({name: scaling[name] * one for name, one in gradients.items()})
        stretch = scaling if official else {name: sizes.get(name, 1.0) for name in gradients}
        return {name: self.method.rho * stretch[name] ** 2 * one / (norm + 1e-16) for name, one in gradients.items()}

    @torch.no_grad()
    def move(self, away: Mapping[str, Tensor]) -> None:
        """Add ε to what the second pass takes: after rounding in cases 1 and 3, before in all others."""
        weights = {id(conv.weight): conv for conv in self.convs}
        for name, one in self.ball.items():
            if self.method.name in ("saq1", "saq3") and id(one) in weights:
                weights[id(one)].away = away[name]
            else:
                one.add_(away[name])
        self.clamp()

    @torch.no_grad()
    def clamp(self) -> None:
        for step in self.steps:
            step.clamp_(min=torch.finfo(torch.float32).eps)

    @torch.no_grad()
    def restore(self, buffers: Mapping[str, Tensor]) -> None:
        for name, value in self.net.named_buffers():
            value.copy_(buffers[name])


def length(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([one.detach().flatten() for one in parts.values()]).norm()


def code_of(conv: PlainConv, weights: Tensor, step: Tensor) -> Tensor:
    if not conv.liq:
        return (weights / step).clamp(-(2 ** (conv.bits - 1)), 2 ** (conv.bits - 1) - 1).round()
    if not conv.linear:
        weights = (weights - weights.mean()) / weights.std()
    return ((2**conv.bits - 1) * ((weights / step).clamp(-1, 1) + 1) / 2).round()
