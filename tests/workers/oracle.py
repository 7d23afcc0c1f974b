"""A slow oracle of the searches: one plain model after another, float64, nothing of the engine but its draws."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qsweep.sweeps.measures import PacBayes, Search, Sharpness
from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.data.batches import moments
from qsweep.workers.measures import draws
from qsweep.workers.models import network_of
from qsweep.workers.models.declaration import ConvLayout, LayerSpans, NormSpans
from tests.workers.plain import PLAIN, NormAlone, Plain, PlainLsq, named


def plain_model(training: Training, model: Mapping[str, Tensor]) -> Plain:
    """A kept model as plain modules in evaluation mode, float64."""
    net = PLAIN[training.model.name](training).double()
    for name, place in named(net, training).items():
        place.copy_(model[name].double())
    weighted = (one.name for one in training.model.layers(training.data) if one.weights)
    for name, conv in zip(weighted, net.convs(), strict=True):
        if conv.reads is not None:
            conv.reads.begun, conv.reads.signed = True, bool(model[f"{name}.activation.low"] < 0)
    return net.eval()


def folded(training: Training, measure: Search) -> bool:
    """science.md, section 4: the reference folds batch norm into plain convolutions, so in full precision alone."""
    return {"all": True, "none": False, "reference": training.bits == 32}[measure.fold_bn]


def fold(net: Plain) -> None:
    """Fold each batch norm into its convolution, which then has a bias; γ = 1 and β = 0 stay parameters."""
    for pair in net.pairs():
        conv, norm = pair.conv, pair.norm
        if isinstance(norm, nn.BatchNorm2d):
            factor = norm.weight.data / (norm.running_var + norm.eps).sqrt()
            conv.weight.data = conv.weight.data * factor[:, None, None, None]
            before = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias.data
            conv.bias = nn.Parameter(norm.bias.data + (before - norm.running_mean) * factor)
            norm.weight.data, norm.bias.data = torch.ones_like(factor), torch.zeros_like(factor)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)


def deploy(net: Plain) -> None:
    """Put the rounded weights in the place of the latent ones."""
    for conv in net.convs():
        if conv.bits != 32:
            conv.weight.data = PlainLsq.apply(conv.weight.data, conv.step.data, conv.bits)
            conv.bits = 32
            del conv.step


def clamp(net: Plain) -> None:
    """Keep the step sizes above zero."""
    for conv in net.convs():
        if conv.bits != 32:
            conv.step.data.clamp_(min=torch.finfo(torch.float32).eps)
        if conv.reads is not None:
            conv.reads.size.data.clamp_(min=torch.finfo(torch.float32).eps)


def standardized(images: Images, places: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = (one[:, None, None] for one in moments(images.train_images))
    return (images.train_images[places].double() - mean) / deviation, images.train_labels[places]


class Oracle:
    """One search, written straight down from science.md."""

    def __init__(self, training: Training, model: Mapping[str, Tensor], measure: Search, images: Images) -> None:
        self.measure, self.images = measure, images
        self.net = plain_model(training, model)
        if measure.perturb == "quantized":
            deploy(self.net)
        self.folded = folded(training, measure)
        if self.folded:
            fold(self.net)
        self.layout: ConvLayout = network_of(training).layout
        self.pixels, self.labels = standardized(
            images, draws.balanced(images.train_labels, measure.measure_samples, measure.measure_seed)
        )

    def places(self, net: Plain) -> list[tuple[nn.Parameter, slice]]:
        """Each perturbed parameter, and where its noise lies in a row of draws."""
        found: list[tuple[nn.Parameter, slice]] = []
        steps = itertools.count(self.layout.steps.start)
        for layer, pair, spans in zip(self.layout.layers, net.stages(), self.layout.spans, strict=True):
            if isinstance(pair, NormAlone):
                assert isinstance(spans, NormSpans)
                found.append((pair.norm.weight, slice(spans.gamma.start, spans.gamma.stop)))
                found.append((pair.norm.bias, slice(spans.beta.start, spans.beta.stop)))
                continue
            assert isinstance(spans, LayerSpans)
            conv, norm, start = pair.conv, pair.norm, next(steps)
            found.append((conv.weight, slice(spans.weight.start, spans.weight.stop)))
            if conv.bias is not None:
                assert spans.bias is not None
                found.append((conv.bias, slice(spans.bias.start, spans.bias.stop)))
            counts = not self.folded or self.measure.perturb_folded == "reference"
            if isinstance(norm, nn.BatchNorm2d) and counts:
                assert spans.norm is not None
                found.append((norm.weight, slice(spans.norm.gamma.start, spans.norm.gamma.stop)))
                found.append((norm.bias, slice(spans.norm.beta.start, spans.norm.beta.stop)))
            if conv.bits != 32 and self.measure.perturb_step:
                found.append((conv.step, slice(start, start + 1)))
            if conv.reads is not None and self.measure.perturb_step:
                span = self.layout[f"{layer.name}.activation.step"]
                found.append((conv.reads.size, slice(span.start, span.stop)))
        return found

    @torch.no_grad()
    def accuracy(self, net: Plain) -> float:
        return float((net(self.pixels).argmax(1) == self.labels).double().mean())

    def noisy(self, sigma: float, noise: Tensor) -> float:
        assert isinstance(self.measure, PacBayes)
        net = copy.deepcopy(self.net)
        for parameter, place in self.places(net):
            if self.measure.scaling == "plain":
                variance = torch.full_like(parameter, sigma**2)
            else:
                variance = sigma**2 * parameter.data**2 + self.measure.magnitude_epsilon**2
            std = variance if self.measure.noise_std == "reference" else variance.sqrt()
            parameter.data += noise[place].double().view_as(parameter) * std
        return self._judged(net)

    def _judged(self, net: Plain) -> float:
        clamp(net)
        return self.accuracy(net)

    def climbed(self, radius: float, iteration: int, copy_: int) -> float:
        """The accuracy at the end of one ascent."""
        measure = self.measure
        assert isinstance(measure, Sharpness)
        net = copy.deepcopy(self.net)
        places = self.places(net)
        centre = [parameter.data.clone() for parameter, _ in places]
        length, total = self.layout.parameters_length, sum(one.numel() for one in centre)
        if measure.scaling == "plain":
            row = draws.gaussian(measure.measure_seed, iteration, measure.copies, length)[copy_].double()
            start = torch.cat([row[place] for _, place in places])
            reach = float(draws.radii(measure.measure_seed, iteration, measure.copies)[copy_]) ** (1 / total)
            start *= radius * reach / start.norm()
            parts = torch.split(start, [one.numel() for one in centre])
            moved = [part.view_as(one) for part, one in zip(parts, centre, strict=True)]
        else:
            row = draws.uniform(measure.measure_seed, iteration, measure.copies, length)[copy_].double()
            moved = [
                row[place].view_as(one) * one.abs() * radius for (_, place), one in zip(places, centre, strict=True)
            ]
        for step in range(measure.ascent_steps):
            count = len(self.images.train_labels)
            seen = draws.places(measure.measure_seed, iteration, step, measure.ascent_batch, count)
            pixels, labels = standardized(self.images, seen)
            self._move(net, places, centre, moved)
            loss = nn.functional.cross_entropy(net(pixels), labels)
            gradients = torch.autograd.grad(loss, [parameter for parameter, _ in places])
            moved = [one + measure.ascent_rate * gradient for one, gradient in zip(moved, gradients, strict=True)]
            if measure.scaling == "plain":
                norm = torch.cat([one.flatten() for one in moved]).norm()
                moved = [one * min(1.0, radius / float(norm)) for one in moved]
            else:
                limits = [radius * one.abs() for one in centre]
                moved = [one.clamp(-limit, limit) for one, limit in zip(moved, limits, strict=True)]
        self._move(net, places, centre, moved)
        return self._judged(net)

    @staticmethod
    def _move(net: Plain, places: list[Any], centre: list[Tensor], moved: list[Tensor]) -> None:
        for (parameter, _), one, by in zip(places, centre, moved, strict=True):
            parameter.data = one + by
        clamp(net)

    def search(self) -> list[tuple[float, float]]:
        """Each candidate radius with its displacement, in order."""
        measure = self.measure
        clean = self.accuracy(self.net)
        low, high, trace = 0.0, measure.search_upper, []
        for iteration in range(measure.iterations):
            radius = (low + high) / 2
            if isinstance(measure, PacBayes):
                noise = draws.gaussian(measure.measure_seed, iteration, measure.copies, self.layout.parameters_length)
                found = [self.noisy(radius, row) for row in noise]
                accuracy = sum(found) / len(found)
            else:
                accuracy = min(self.climbed(radius, iteration, one) for one in range(measure.copies))
            displacement = abs(accuracy - clean)
            trace.append((radius, displacement))
            if abs(displacement - measure.target) < measure.tolerance:
                break
            if displacement > measure.target:
                high = radius
            else:
                low = radius
        return trace
