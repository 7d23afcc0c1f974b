"""The quantization of a trained model on some images: to nearest, or block by block (Genie, `reconstruct.py`).

Every draw comes from counters, and what a reconstruction goes on from is the tensors of the blocks that are done and
those of the one at hand: going on gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Quantization, Reconstruction
from qsweep.workers.data import Part, Source
from qsweep.workers.device import sent
from qsweep.workers.evaluation import Tally, tally
from qsweep.workers.measures.draws import balanced
from qsweep.workers.measures.draws import generator as draws_of
from qsweep.workers.measures.inference import models_in_turn
from qsweep.workers.models import network_of
from qsweep.workers.models.arithmetic import pool_planes
from qsweep.workers.models.convolved import rescale
from qsweep.workers.models.graph import IMAGES
from qsweep.workers.models.rounded import Read, RoundedNetwork
from qsweep.workers.quantizers.activations import stacked
from qsweep.workers.zero_shot.rounding import Rounding, cosine, hard, power, soft, undecided
from qsweep.workers.zero_shot.scales import round_activations
from qsweep.workers.zero_shot.student import CALIBRATED_ON, Student, step_with, with_rows
from qsweep.workers.zero_shot.units import Unit, units_of

AT_ONCE = 128
"""Images of one pass through a block, or the network, that is not learned."""
JUDGED_SEED = 0
"""Of the training images that models are judged by, where these are not all: every quantization has the same."""
LEAST_STEP = 1e-8
"""A learned scale stays above zero."""
Outputs: TypeAlias = dict[int, Tensor]
"""What layers put out, or the images, by the layer's number: of all images, on the host."""


class Learned:
    """What is learned of one unit: V and the scale of each of its weights, and the scales of the activations that no
    unit before it reads."""

    def __init__(self, student: Student, unit: Unit, asked: Reconstruction, taken: set[Read]) -> None:
        self._asked, self._student = asked, student
        self.numbers = [number for number in unit.numbers if number in student.grids]
        self.weights = {number: student.float_stages[number].weight for number in self.numbers}
        self.roundings = {number: Rounding.of(self.weights[number], student.grids[number]) for number in self.numbers}
        stages = [student.stages[number] for number in self.numbers]
        names = {name for stage in stages for name in (stage.reads, stage.adds) if name is not None}
        self.names = sorted(names - taken)
        variables = [self.roundings[number].initial(self.weights[number]) for number in self.numbers]
        steps = [student.grids[number].step.clone() for number in self.numbers]
        signals = [student.scales[name].step.clone() for name in self.names]
        self.groups = [[one.detach().requires_grad_() for one in group] for group in (variables, steps, signals)]
        self._rates = (asked.rounding_rate, asked.weight_step_rate, asked.activation_step_rate)
        given = [{"params": group, "lr": rate} for group, rate in zip(self.groups, self._rates, strict=True) if group]
        self._adam = torch.optim.Adam(given)

    def stages(self) -> list[Any]:
        """All stages of the network, with the soft weights of this unit."""
        found = list(self._student.stages)
        variables, steps, _ = self.groups
        for number, variable, step in zip(self.numbers, variables, steps, strict=True):
            found[number] = with_rows(found[number], self.roundings[number].values(soft(variable), step))
        return found

    def quantize(self, values: Tensor, name: Read) -> Tensor:
        """Activations by the scale that is learned, or was in a unit before."""
        scale = self._student.scales[name]
        if name in self.names:
            scale = replace(scale, step=self.groups[2][self.names.index(name)])
        return round_activations(values, scale)

    def update(self, error: Tensor, iteration: int) -> None:
        """A step of Adam on the error, and from a fifth of the steps on on what is not decided."""
        iterations, exponent = self._asked.unit_iterations, power(iteration, self._asked.unit_iterations)
        if exponent is not None and self._asked.rounding_factor:
            left = torch.stack([undecided(one, exponent) for one in self.groups[0]]).sum()
            error = error + self._asked.rounding_factor * left
        learned = [one for group in self.groups for one in group]
        for one, gradient in zip(learned, torch.autograd.grad(error, learned, allow_unused=True), strict=True):
            one.grad = gradient
        for place, group in enumerate(self._adam.param_groups):
            group["lr"] = self._rates[place] if place == 0 else cosine(self._rates[place], iteration, iterations)
        self._adam.step()
        with torch.no_grad():
            for one in (*self.groups[1], *self.groups[2]):
                one.clamp_(min=LEAST_STEP)

    @torch.no_grad()
    def decided(self) -> dict[str, Any]:
        """What the unit ends with: by layer the codes and the scale, and the scales of activations."""
        variables, steps, signals = self.groups
        codes = [self.roundings[number].codes(hard(one)) for number, one in zip(self.numbers, variables, strict=True)]
        return {
            "codes": {number: one.to(torch.uint8).cpu() for number, one in zip(self.numbers, codes, strict=True)},
            "steps": {number: one.detach().cpu() for number, one in zip(self.numbers, steps, strict=True)},
            "signals": [(*name, one.detach().cpu()) for name, one in zip(self.names, signals, strict=True)],
        }

    def state(self) -> dict[str, Any]:
        """What `restore` takes, on the CPU."""
        groups = [[one.detach().cpu().clone() for one in group] for group in self.groups]
        return {"groups": groups, "adam": self._adam.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for group, kept in zip(self.groups, state["groups"], strict=True):
                for one, value in zip(group, kept, strict=True):
                    one.copy_(value)
        self._adam.load_state_dict(state["adam"])


class ModelQuantizer:
    """One quantization. `model` is the kept model of the training; `images` (N, channels, side, side) stay on the host,
    as does what the blocks read and put out of all of them."""

    def __init__(
        self,
        training: Training,
        model: Mapping[str, Tensor],
        asked: Quantization,
        images: Tensor,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._asked, self._model, self._device, self.dtype = asked, model, device, dtype
        bits = {"weight_bits": asked.weight_bits, "activation_bits": asked.activation_bits}
        self._student = Student(training, model, **bits, device=device, dtype=dtype)
        self._student.calibrate(images[:CALIBRATED_ON].to(device, dtype))
        grids = self._student.grids.items()
        self._codes = {number: grid.codes(self._student.float_stages[number].weight) for number, grid in grids}
        self._steps = {number: grid.step for number, grid in grids}
        self._nodes = self._student.network.nodes
        self._deployed: RoundedNetwork = network_of(training, quantized=True)
        self._units = units_of(self._nodes) if isinstance(asked, Reconstruction) else []
        self._images = images.to(dtype)
        self._decided: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self.position = 0
        """Steps done, of all units together."""
        self._enter()

    @property
    def steps(self) -> int:
        """Steps of all units together."""
        return len(self._units) * (self._asked.unit_iterations if isinstance(self._asked, Reconstruction) else 0)

    @property
    def finished(self) -> bool:
        return self.position == self.steps

    def _enter(self) -> None:
        self._float: Outputs = {IMAGES: self._images}
        self._rounded: Outputs = {IMAGES: self._images}
        self._taken: set[Read] = set()
        if not self.finished:
            self._begin()

    def _begin(self) -> None:
        """Collect what the next unit reads and should put out."""
        asked = self._asked
        assert isinstance(asked, Reconstruction)
        unit, student = self._units[len(self._decided)], self._student
        self._next = self._through(self._float, unit, student.float_stages)
        self._target = self._next[unit.last]
        nearest = self._through(self._rounded, unit, student.stages)
        self._nearest_error = self._error(nearest[unit.last])
        self._learned = Learned(student, unit, asked, self._taken)

    def step(self) -> None:
        """One iteration of the unit at hand; after its last one its roundings are decided."""
        asked = self._asked
        assert isinstance(asked, Reconstruction)
        number, iteration = divmod(self.position, asked.unit_iterations)
        unit = self._units[number]
        rows = batch_rows(asked, len(self._images), number, iteration)
        draws = draws_of(asked.unit_seed, "drop", number, iteration)

        def dropped(float_values: Tensor, values: Tensor) -> Tensor:
            if not asked.drop_share:
                return values
            kept = torch.rand(float_values.shape, generator=draws) < asked.drop_share
            return torch.where(sent(kept, self._device), float_values, values)

        def quantize(values: Tensor, name: Read) -> Tensor:
            return dropped(values, self._learned.quantize(values, name))

        outputs = {
            one: _ordered(dropped(self._brought(self._float[one][rows]), self._brought(self._rounded[one][rows])))
            for one in unit.reads
        }
        self._follow(outputs, unit, self._learned.stages(), quantize)
        error = (outputs[unit.last] - self._brought(self._target[rows])).square().sum(1).mean()
        self._learned.update(error, iteration)
        self.position += 1
        if iteration + 1 == asked.unit_iterations:
            self._decide(unit)

    def _decide(self, unit: Unit) -> None:
        """The end of a unit: hard roundings, and on to the next."""
        decided = self._learned.decided()
        learned = self._learned
        nearest = {number: self._student.grids[number].codes(learned.weights[number]) for number in learned.numbers}
        changed = sum(int((decided["codes"][one] != codes.cpu()).sum()) for one, codes in nearest.items())
        weights = sum(one.numel() for one in nearest.values())
        self._settle(decided)
        rounded = self._through(self._rounded, unit, self._student.stages)
        self._found.append(
            {
                "unit": unit.name,
                "index": len(self._found),
                "weights": weights,
                "error_nearest": self._nearest_error,
                "error": self._error(rounded[unit.last]),
                "changed_share": changed / weights,
            }
        )
        self._float, self._rounded = self._next, rounded
        if not self.finished:
            self._begin()

    def _settle(self, decided: Mapping[str, Any]) -> None:
        """Have the student compute with what a unit ended with."""
        student = self._student
        for number, codes in decided["codes"].items():
            step, zero = self._brought(decided["steps"][number]), student.grids[number].zero
            self._codes[number], self._steps[number] = self._brought(codes), step
            student.stages[number] = with_rows(student.stages[number], (self._codes[number] - zero) * step)
        for node, pooled, step in decided["signals"]:
            self._taken.add((node, pooled))
            student.scales[node, pooled] = replace(student.scales[node, pooled], step=self._brought(step))
        self._decided.append(dict(decided))

    def _through(self, outputs: Outputs, unit: Unit, stages: Sequence[Any]) -> Outputs:
        """What is read after the unit, of all images."""
        found: dict[int, list[Tensor]] = {}
        with torch.no_grad():
            for first in range(0, len(self._images), AT_ONCE):
                some = {one: _ordered(self._brought(all_[first : first + AT_ONCE])) for one, all_ in outputs.items()}
                self._follow(some, unit, stages, self._student.rounded)
                for one, values in some.items():
                    found.setdefault(one, []).append(values.cpu())
        return {one: torch.cat(parts) for one, parts in found.items()}

    def _follow(
        self, outputs: Outputs, unit: Unit, stages: Sequence[Any], quantize: Callable[[Tensor, Read], Tensor]
    ) -> None:
        self._student.network.follow(outputs, unit.numbers, stages, step_with(quantize), pool_planes, rescale, stacked)

    def _error(self, values: Tensor) -> float:
        """The mean over images and pixels of the sum over channels of squares, from what the unit should put out."""
        total = 0.0
        for some, target in zip(torch.split(values, AT_ONCE), torch.split(self._target, AT_ONCE), strict=True):
            total += float((some - target).double().square().sum())
        return total / (values.numel() / values.shape[1])

    def _brought(self, values: Tensor) -> Tensor:
        return sent(values, self._device).to(self.dtype)

    def state(self) -> dict[str, Any]:
        """What a quantization goes on from after `position` steps, on the CPU."""
        learned = None if self.finished else self._learned.state()
        return {"position": self.position, "decided": self._decided, "found": self._found, "learned": learned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave: the blocks that are done compute again what the next one reads."""
        done = state["decided"]
        for unit, decided in zip(self._units, done, strict=False):
            following = self._through(self._float, unit, self._student.float_stages)
            self._settle(decided)
            self._float, self._rounded = following, self._through(self._rounded, unit, self._student.stages)
        self._found, self.position = list(state["found"]), state["position"]
        if not self.finished:
            if done:
                self._begin()
            self._learned.restore(state["learned"])

    @torch.no_grad()
    def judge(self, source: Source, part: Part) -> Tally:
        """How the quantized model does on the images of a part, as all compute it that take its file: on training
        images as many as were asked for."""
        packed = self._deployed.layout.packed(self._tensors())
        logits = models_in_turn(self._deployed, *(row[None].to(self._device, self.dtype) for row in packed))
        count = self._asked.train_samples if part is Part.TRAIN else 0
        places = balanced(source.labels(part), count, JUDGED_SEED) if count else None
        batches = source.passes(part, AT_ONCE) if places is None else source.chosen(places, AT_ONCE)
        return tally(lambda images: logits(_ordered(images)), batches, 1, self._device)

    def unit_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `units`."""
        yield from self._found

    def content(self) -> dict[str, Any]:
        """What its file holds: the tensors of a `RoundedNetwork`, its weights rounded, and by layer their codes, scales
        and zeros."""
        codes = {
            self._nodes[number].layer.name: {
                "codes": self._codes[number].to(torch.uint8).cpu(),
                "step": self._steps[number].cpu(),
                "zero": grid.zero.cpu(),
                "levels": grid.levels,
            }
            for number, grid in self._student.grids.items()
        }
        return {**self._tensors(), "codes": codes}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: one for name, one in self._model.items() if isinstance(one, Tensor)}
        for number in self._student.grids:
            weight = self._student.stages[number].weight.detach().cpu().contiguous()
            name = f"{self._nodes[number].layer.name}.weight"
            tensors[name] = weight.view_as(tensors[name])
        for node, pooled, step, low, high in self._student.state():
            name = self._deployed.name_of((node, pooled))
            levels = {"low": step.new_tensor(low), "high": step.new_tensor(high)}
            tensors |= {f"{name}.{part}": value for part, value in {"step": step, **levels}.items()}
        return tensors

    def weights_hash(self) -> str:
        """SHA-256 of the rounded weights and the scales of activations."""
        found = hashlib.sha256()
        for number in self._student.grids:
            found.update(self._student.stages[number].weight.detach().cpu().contiguous().numpy().tobytes())
        for _, _, step, _, _ in self._student.state():
            found.update(step.numpy().tobytes())
        return found.hexdigest()


def batch_rows(asked: Reconstruction, images: int, unit: int, iteration: int) -> Tensor:
    """The images of one step: each pass over all of them in another order, without what the batches leave over."""
    size = asked.batch(images)
    round_, place = divmod(iteration, images // size)
    order = torch.randperm(images, generator=draws_of(asked.unit_seed, "batch", unit, round_))
    return order[place * size : (place + 1) * size]


def _ordered(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
