"""Quantization on images, against a plain PyTorch implementation of Genie's `reconstruct.py` in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Nearest, Reconstruction
from qsweep.workers.deployed import DeployedNetwork, deployed
from qsweep.workers.measures.draws import generator as draws_of
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.zero_shot.quantization import ModelQuantizer, batch_rows
from qsweep.workers.zero_shot.rounding import Rounding, hard, power, soft, undecided
from qsweep.workers.zero_shot.scales import POWER, WeightGrid, weight_grid
from qsweep.workers.zero_shot.units import units_of
from tests.workers.trainings import model_of, training

CPU = torch.device("cpu")
WIDE = torch.float64
ASKED = Reconstruction(weight_bits=2, activation_bits=3, unit_iterations=12, unit_batch=5, unit_seed=4)
FAST = replace(ASKED, rounding_rate=0.3)
"""In twelve steps at the published rate no weight passes a half, and a wrong gradient of V would hardly show."""
RESNET: dict[str, Any] = {"model": "cifar-resnet", "depth": 20, "width": 2}


def images_for(one: Training, count: int = 34) -> Tensor:
    data = one.data
    draws = torch.Generator().manual_seed(9)
    return torch.randn(count, data.channels, data.size, data.size, generator=draws, dtype=WIDE)


def quantized(one: Training, asked: Nearest) -> ModelQuantizer:
    made = ModelQuantizer(one, model_of(one), asked, images_for(one), device=CPU, dtype=WIDE)
    while not made.finished:
        made.step()
    return made


# --- the plain implementation: a post-activation ResNet of basic blocks ------------------------------------------


class Act(nn.Module):
    """One activation quantizer: symmetric, signed if it has seen a negative value, of one step."""

    def __init__(self, seen: Tensor, bits: int) -> None:
        super().__init__()
        signed = bool((seen < 0).any())
        self.top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.bottom = -(2 ** (bits - 1)) if signed else 0
        largest = float(seen.abs().max())
        candidates = [largest * (2 if signed else 1) * (100 - i) / 100 / (2**bits - 1) for i in range(100)]
        errors = [float((seen - self.rounded(seen, torch.tensor(s))).abs().pow(2.4).mean()) for s in candidates]
        self.step = nn.Parameter(torch.tensor(candidates[errors.index(min(errors))], dtype=WIDE))

    def rounded(self, x: Tensor, step: Tensor) -> Tensor:
        u = torch.clamp(x / step, self.bottom, self.top)
        return (u + (u.round() - u).detach()) * step


class Plain:
    """Everything layer by layer, in dictionaries by the layers' names."""

    def __init__(self, one: Training, asked: Reconstruction, images: Tensor) -> None:
        network = deployed(one, model_of(one)).double()
        assert isinstance(network, DeployedNetwork)
        self.asked, self.images = asked, images
        self.layers = {layer.name: layer for layer in network.geometry}
        self.modules = {layer.name: module for layer, module in zip(network.geometry, network.layers, strict=True)}
        names = list(self.layers)
        before = dict(zip(names[1:], names, strict=False))
        self.source = {name: self.layers[name].source or before.get(name) for name in names}
        self.weights = {name: self.modules[name].conv.weight.detach() for name in names}
        bits = {name: 8 if name in (names[0], names[-1]) else asked.weight_bits for name in names}
        self.tables = {name: self.searched(self.weights[name], bits[name]) for name in names}
        self.bits = bits
        self.used = {name: self.nearest(name) for name in names}
        self.acts: dict[str, Act] = {}
        self.names = names

    @staticmethod
    def searched(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Channel by channel, ratio by ratio."""
        steps, zeros = [], []
        n = 2**bits - 1
        for row in weight.flatten(1):
            best: tuple[float, float, float] | None = None
            for place in range(100):
                r = 1 - place / 100
                step = float(row.max() - row.min()) * r / n
                zero = float(torch.round(torch.tensor(-float(row.min()) * r / step, dtype=WIDE)))
                codes = torch.clamp(torch.round(row / step) + zero, 0, n)
                error = float(((codes - zero) * step - row).abs().pow(2.4).mean())
                best = (error, step, zero) if best is None or error < best[0] else best
            assert best is not None
            steps.append(best[1])
            zeros.append(best[2])
        return torch.tensor(steps, dtype=WIDE)[:, None], torch.tensor(zeros, dtype=WIDE)[:, None]

    def nearest(self, name: str) -> Tensor:
        step, zero = self.tables[name]
        rows = self.weights[name].flatten(1)
        codes = torch.clamp(torch.round(rows / step) + zero, 0, 2 ** self.bits[name] - 1)
        return ((codes - zero) * step).view_as(self.weights[name])

    def layer(self, name: str, x: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
        layer, module = self.layers[name], self.modules[name]
        y = nn.functional.conv2d(x, weight, module.conv.bias, stride=layer.stride, padding=layer.padding)
        if layer.norm:
            y = module.norm(y)
        y = y if added is None else y + added
        return torch.relu(y) if layer.relu else y

    def run(
        self,
        given: dict[str | None, Tensor],
        names: list[str],
        weights: dict[str, Tensor],
        quantize: Callable[[Tensor, str, str], Tensor] | None,
    ) -> dict[str | None, Tensor]:
        """`quantize` is called with what a layer reads, whose output that is, and the layer's name."""
        outputs, kept = dict(given), dict[str, Tensor]()
        for name in names:
            source, residual = self.source[name], self.layers[name].residual
            x = outputs[source]
            if self.layers[name].pool is not None:
                x = x.mean((2, 3), keepdim=True)
            key = f"{source}/{self.layers[name].pool is not None}"
            if quantize is not None and source is not None:
                x = kept[key] = kept[key] if key in kept else quantize(x, key, name)
            added = None if residual is None else outputs[residual]
            other = f"{residual}/False"
            if added is not None and quantize is not None and other in self.acts:
                added = kept[other] = kept[other] if other in kept else quantize(added, other, name)
            outputs[name] = self.layer(name, x, weights[name], added)
        return outputs

    def calibrate(self) -> None:
        def first(x: Tensor, key: str, name: str) -> Tensor:
            place = self.names.index(name)
            self.acts[key] = Act(x, 8 if place in (1, len(self.names) - 1) else self.asked.activation_bits)
            return self.acts[key].rounded(x, self.acts[key].step)

        with torch.no_grad():
            self.run({None: self.images[:32]}, self.names, self.used, first)

    def reconstruct(self) -> None:
        asked, count = self.asked, len(self.images)
        blocks: list[list[str]] = []
        for name in self.names:
            prefix = name.rpartition(".")[0]
            if blocks and prefix and blocks[-1][0].rpartition(".")[0] == prefix:
                blocks[-1].append(name)
            else:
                blocks.append([name])
        with torch.no_grad():
            straight = self.run({None: self.images}, self.names, self.weights, None)
        rounded: Tensor = self.images
        for number, block in enumerate(blocks):
            entry = self.source[block[0]]
            x, y = straight[entry], straight[block[-1]].detach()
            variables, steps = {}, {}
            for name in block:
                step, _ = self.tables[name]
                rest = self.weights[name].flatten(1) / step - torch.floor(self.weights[name].flatten(1) / step)
                variables[name] = nn.Parameter(-torch.log(1.2 / (rest + 0.1) - 1))
                steps[name] = nn.Parameter(step.clone())
            mine = [
                act
                for key, act in self.acts.items()
                if any(key == f"{self.source[n]}/{self.layers[n].pool is not None}" for n in block)
            ]
            groups = [{"params": list(group), "lr": 0.0} for group in (variables.values(), steps.values())]
            groups += [{"params": [act.step for act in mine], "lr": 0.0}] if mine else []
            adam = torch.optim.Adam(groups)
            for t in range(asked.unit_iterations):
                rows = batch_rows(asked, count, number, t)
                draws = draws_of(asked.unit_seed, "drop", number, t)

                def mixed(a: Tensor, b: Tensor, draws: torch.Generator = draws) -> Tensor:
                    return torch.where(torch.rand(a.shape, generator=draws) < 0.5, a, b)

                read = mixed(x[rows], rounded[rows])
                weights = {}
                for name in block:
                    h = torch.clamp(1.2 * torch.sigmoid(variables[name]) - 0.1, 0, 1)
                    weights[name] = self.weight(name, h, steps[name])
                found = self.run(
                    {entry: read}, block, weights,
                    lambda v, key, _: mixed(v, self.acts[key].rounded(v, self.acts[key].step)),
                )  # fmt: skip
                loss = ((found[block[-1]] - y[rows]) ** 2).sum(1).mean()
                warm = 0.2 * asked.unit_iterations
                if t >= warm:
                    beta = 2 + 18 * (1 - (t - warm) / (asked.unit_iterations - warm))
                    for v in variables.values():
                        h = torch.clamp(1.2 * torch.sigmoid(v) - 0.1, 0, 1)
                        loss = loss + (1 - (2 * h - 1).abs() ** beta).sum()
                falling = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * t / asked.unit_iterations, dtype=WIDE))))
                for group, rate in zip(
                    adam.param_groups, (asked.rounding_rate, 1e-4 * falling, 4e-5 * falling), strict=False
                ):
                    group["lr"] = rate
                adam.zero_grad()
                loss.backward()
                adam.step()
            with torch.no_grad():
                for name in block:
                    self.used[name] = self.weight(name, (variables[name] >= 0).double(), steps[name])
                rounded = self.run(
                    {entry: rounded}, block, self.used, lambda v, key, _: self.acts[key].rounded(v, self.acts[key].step)
                )[block[-1]]

    def weight(self, name: str, h: Tensor, step: Tensor) -> Tensor:
        start, zero = self.tables[name]
        codes = torch.floor(self.weights[name].flatten(1) / start) + h + zero
        return ((torch.clamp(codes, 0, 2 ** self.bits[name] - 1) - zero) * step).view_as(self.weights[name])


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [ASKED, FAST])
def test_a_reconstruction_is_that_of_the_published_code(asked: Reconstruction) -> None:
    one = training(**RESNET)
    made, plain = quantized(one, asked), Plain(one, asked, images_for(one))
    plain.calibrate()
    plain.reconstruct()
    content = made.content()
    for name in plain.names:
        torch.testing.assert_close(content[f"{name}.weight"], plain.used[name], rtol=1e-9, atol=1e-12)
    found = [float(content[name]) for name in content if name.endswith(".activation.step")]
    torch.testing.assert_close(
        torch.tensor(sorted(found)), torch.tensor(sorted(float(act.step.detach()) for act in plain.acts.values()))
    )
    rows = list(made.unit_rows())
    assert [row["unit"] for row in rows][:3] == ["stem", "stage1.0", "stage1.1"]
    assert any(row["changed_share"] for row in rows) == (asked is FAST)


def test_what_is_learned_is_on_its_grid_and_nothing_is_learned_of_nearest_rounding() -> None:
    one = training(**RESNET)
    learned, nearest = (quantized(one, asked).content() for asked in (FAST, Nearest(weight_bits=2, activation_bits=3)))
    bits = {layer.name: 2 for layer in one.model.layers(one.data)[1:-1]}
    for content in (learned, nearest):
        for name, kept in content["codes"].items():
            levels = 2 ** bits.get(name, 8) - 1
            assert (kept["levels"], kept["codes"].dtype) == (levels, torch.uint8)
            assert int(kept["codes"].max()) <= levels
            weight = (kept["codes"].double() - kept["zero"]) * kept["step"]
            torch.testing.assert_close(content[f"{name}.weight"].flatten(1), weight, rtol=1e-12, atol=0)
    assert any(not torch.equal(learned["codes"][name]["codes"], nearest["codes"][name]["codes"]) for name in bits)


@pytest.mark.parametrize("stops", [(1,), (12, 30), (5, 24)])
def test_going_on_from_a_state_gives_the_same_bits(stops: tuple[int, ...]) -> None:
    one = training(**RESNET)
    asked = replace(ASKED, unit_iterations=12)
    images = images_for(one).float()

    def made() -> ModelQuantizer:
        return ModelQuantizer(one, model_of(one), asked, images, device=CPU)

    straight = made()
    while not straight.finished:
        straight.step()
    broken = made()
    for stop in (*stops, straight.steps):
        while broken.position < stop:
            broken.step()
        state = broken.state()
        broken = made()
        broken.restore(state)
    assert broken.weights_hash() == straight.weights_hash()
    assert list(broken.unit_rows()) == list(straight.unit_rows())


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"model": "resnet", "width": 2}, ["stem", "stage1.0", "stage1.1", "stage2.0", "stage2.1"]),
        ({"model": "cifar-resnet", "depth": 20, "width": 2, "preact": True}, ["stem", "stage1.0", "stage1.1"]),
        ({"model": "mobilenet-v2", "width": 4}, ["stem", "block1", "block2", "block3"]),
        ({"model": "nin", "width": 2, "depth": 1}, ["block0", "head"]),
    ],
)
def test_units_are_blocks_in_the_order_of_the_graph(settings: dict[str, Any], names: list[str]) -> None:
    one = training(**settings)
    network = NETWORKS[one.model.name](one.model, one.data)
    assert isinstance(network, ConvNetwork)
    units = units_of(network.nodes)
    assert [unit.name for unit in units][: len(names)] == names
    assert [number for unit in units for number in unit.numbers] == list(range(len(network.nodes)))
    for unit in units:
        inner = set(unit.numbers) - {unit.last}
        after = network.nodes[unit.last + 1 :]
        assert not any(inner & {node.source, node.residual} for node in after)


def test_the_scales_have_the_least_error_of_all_ratios() -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=WIDE, generator=torch.Generator().manual_seed(1))
    grid = weight_grid(weight, 3)
    error = (weight.flatten(1) - grid.values(grid.codes(weight))).abs().pow(POWER).mean(1)
    for row, mine in zip(weight.flatten(1), error, strict=True):
        for place in range(100):
            ratio = (100 - place) / 100
            step = (row.max() - row.min()) * ratio / 7
            zero = (-row.min() * ratio / step).round()
            other = ((row / step).round().add(zero).clamp(0, 7) - zero) * step
            assert mine <= (row - other).abs().pow(POWER).mean() + 1e-15


def test_a_channel_of_equal_weights_is_on_its_grid() -> None:
    weight = torch.tensor([0.0, 0.7, -0.3], dtype=WIDE)[:, None].expand(3, 9)
    grid = weight_grid(weight, 2)
    torch.testing.assert_close(grid.values(grid.codes(weight)), weight, rtol=1e-15, atol=0)
    torch.testing.assert_close(Rounding.of(weight, grid).values(torch.zeros(3, 9), grid.step), weight)


def test_a_rounding_begins_as_none_and_ends_at_the_nearest() -> None:
    weight = torch.randn(5, 40, dtype=WIDE, generator=torch.Generator().manual_seed(3))
    whole = WeightGrid(step=torch.full((5, 1), 0.5, dtype=WIDE), zero=torch.full((5, 1), 8.0, dtype=WIDE), levels=15)
    rounding = Rounding.of(weight, whole)
    variables = rounding.initial(weight)
    torch.testing.assert_close(rounding.values(soft(variables), whole.step), weight, rtol=1e-13, atol=1e-14)
    assert torch.equal(rounding.codes(hard(variables)), whole.codes(weight))


def test_the_term_alone_decides_every_rounding_and_is_left_out_at_first() -> None:
    share = torch.rand(50, dtype=WIDE, generator=torch.Generator().manual_seed(5))
    variables = (-torch.log(1.2 / (share + 0.1) - 1)).requires_grad_()
    adam, iterations = torch.optim.Adam([variables], lr=1e-3), 20_000
    first = None
    for iteration in range(iterations):
        exponent = power(iteration, iterations)
        if exponent is None:
            continue
        first = iteration if first is None else first
        adam.zero_grad()
        undecided(variables, exponent).backward()
        adam.step()
    decided = soft(variables.detach())
    assert first == iterations // 5
    assert float(torch.minimum(decided, 1 - decided).max()) < 0.01
    assert (power(iterations // 5, iterations), power(iterations, iterations)) == (20.0, 2.0)


@pytest.mark.parametrize(
    ("images", "batches", "size"), [(1024, "genie", 32), (128, "genie", 4), (128, "fixed", 32), (8, "fixed", 8)]
)
def test_each_pass_sees_each_image_once(images: int, batches: str, size: int) -> None:
    asked = replace(ASKED, unit_batch=32, unit_batches=batches)
    rows = [batch_rows(asked, images, 2, iteration) for iteration in range(2 * (images // size))]
    assert {len(one) for one in rows} == {size}
    first, second = torch.cat(rows[: len(rows) // 2]), torch.cat(rows[len(rows) // 2 :])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(images))
    assert len(rows) == 2 or not torch.equal(first, second)
