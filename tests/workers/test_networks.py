"""A network of its own kind, which declares its tensors and makes its own views, is trained and measured like any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.sweeps.models import Model
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.targets import Targets
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.layout import Layout, ModuleSpec, Role, TensorSpec
from qsweep.workers.models.network import Network
from tests.workers.plain import PlainLsq
from tests.workers.test_independence import finish
from tests.workers.trainings import on, training

CPU = torch.device("cpu")
WIDTH, PATCH, TOKENS, CLASSES = 6, 16, 4, 10


class Attention:
    """Four patches of a digit, one head of attention whose three projections share a step size, and a linear head."""

    draws = 0
    saved = None

    def __init__(self, model: Model, data: DataSet) -> None:
        self.layout = Layout([
            _linear("embed", WIDTH, PATCH, outer=True),
            ModuleSpec(
                name="positions",
                tensors=(TensorSpec(name="positions", shape=(TOKENS, WIDTH), role=Role.BIAS),),
                draw=lambda: {"positions": 0.1 * torch.randn(TOKENS, WIDTH)},
            ),
            ModuleSpec(
                name="norm",
                tensors=(
                    TensorSpec(name="norm.weight", shape=(WIDTH,), role=Role.SCALE),
                    TensorSpec(name="norm.bias", shape=(WIDTH,), role=Role.SHIFT),
                ),
                draw=dict,
            ),
            ModuleSpec(
                name="attention",
                tensors=(
                    *(
                        TensorSpec(name=f"{part}.weight", shape=(WIDTH, WIDTH), role=Role.WEIGHT, group="attention")
                        for part in ("query", "key", "value")
                    ),
                    TensorSpec(name="attention.step", shape=(), role=Role.STEP_SIZE, group="attention"),
                ),
                draw=lambda: {f"{part}.weight": torch.randn(WIDTH, WIDTH) / 3 for part in ("query", "key", "value")},
            ),
            _linear("head", CLASSES, WIDTH, outer=True),
        ])  # fmt: skip
        self.activation = TOKENS * PATCH

    def views(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return tensors

    def train(self, images: Tensor, views: Mapping[str, Tensor], arithmetic: Any) -> tuple[Tensor, None]:
        return self.evaluate(images, views), None

    def evaluate(self, images: Tensor, views: Mapping[str, Tensor]) -> Tensor:
        models = len(views["positions"])
        tokens = patches(images).expand(models, -1, -1, -1)
        read = tokens @ views["embed.weight"].mT[:, None] + views["embed.bias"][:, None, None]
        read = read + views["positions"][:, None]
        normal = torch.nn.functional.layer_norm(read, (WIDTH,))
        normal = normal * views["norm.weight"][:, None, None] + views["norm.bias"][:, None, None]
        query, key, value = (normal @ views[f"{part}.weight"].mT[:, None] for part in ("query", "key", "value"))
        read = read + (query @ key.mT / WIDTH**0.5).softmax(-1) @ value
        return (read.mean(2) @ views["head.weight"].mT + views["head.bias"][:, None]).mT

    def ready(self, views: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda images: self.evaluate(images, views)

    def statistics(self, rows: Tensor) -> _Nothing:
        return _Nothing()

    def fold(self, parameters: Tensor, statistics: Tensor) -> Tensor:
        return torch.ones_like(parameters[: self.layout.weights])


class _Nothing:
    """There are no running statistics."""

    def update(self, rows: Tensor, parameters: Tensor, moments: None, images: int) -> None: ...


def _linear(name: str, outputs: int, inputs: int, *, outer: bool) -> ModuleSpec:
    def draw() -> dict[str, Tensor]:
        linear = torch.nn.Linear(inputs, outputs)
        return {f"{name}.weight": linear.weight.detach(), f"{name}.bias": linear.bias.detach()}

    tensors = (
        TensorSpec(name=f"{name}.weight", shape=(outputs, inputs), role=Role.WEIGHT, group=name, outer=outer),
        TensorSpec(name=f"{name}.bias", shape=(outputs,), role=Role.BIAS),
        TensorSpec(name=f"{name}.step", shape=(), role=Role.STEP_SIZE, group=name),
    )
    return ModuleSpec(name=name, tensors=tensors, draw=draw)


def patches(images: Tensor) -> Tensor:
    """Images (B, 1, 8, 8) as patches (B, 4, 16)."""
    return images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(images), TOKENS, PATCH)


@pytest.fixture(autouse=True)
def _attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "nin", Attention)  # type: ignore[arg-type]


def trainings_on(images: Images, **settings: Any) -> list[Training]:
    return on(images, [training(bits=bits, weight_decay=1e-3, seed=bits, **settings) for bits in (32, 4, 3)])


class PlainAttention:
    """The same with plain tensors and torch.optim, one model, float64."""

    def __init__(self, one: Training) -> None:
        self.bits = one.bits
        torch.manual_seed(one.recipe.seed)
        embed = torch.nn.Linear(PATCH, WIDTH)
        positions = 0.1 * torch.randn(TOKENS, WIDTH)
        attention = [torch.randn(WIDTH, WIDTH) / 3 for _ in range(3)]
        head = torch.nn.Linear(WIDTH, CLASSES)
        drawn = [
            embed.weight, embed.bias, positions, torch.ones(WIDTH), torch.zeros(WIDTH), *attention,
            head.weight, head.bias,
        ]  # fmt: skip
        self.tensors = [tensor.detach().double().requires_grad_() for tensor in drawn]
        groups = ([0], [5, 6, 7], [8])
        means = [torch.cat([drawn[index].flatten() for index in group]).abs().mean() for group in groups]
        widths = (8, self.bits, 8)
        self.steps = [
            (2 * mean / (2 ** (bits - 1) - 1) ** 0.5).detach().double().requires_grad_()
            for mean, bits in zip(means, widths, strict=True)
        ]
        chosen: Any = one.optimizer
        parts = [{"params": self.tensors, "weight_decay": chosen.weight_decay}, {"params": self.steps}]
        self.optimizer = torch.optim.SGD(parts, lr=chosen.learning_rate, momentum=chosen.momentum)

    def logits(self, images: Tensor) -> Tensor:
        embed, embed_bias, positions, scale, shift, *attention, head, head_bias = self.tensors
        if self.bits != 32:
            embed = PlainLsq.apply(embed, self.steps[0], 8)
            flat = torch.cat([one.flatten() for one in attention])
            attention = list(PlainLsq.apply(flat, self.steps[1], self.bits).view(3, WIDTH, WIDTH))
            head = PlainLsq.apply(head, self.steps[2], 8)
        read = torch.nn.functional.linear(patches(images), embed, embed_bias) + positions
        normal = torch.nn.functional.layer_norm(read, (WIDTH,), scale, shift)
        query, key, value = (torch.nn.functional.linear(normal, one) for one in attention)
        read = read + torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return torch.nn.functional.linear(read.mean(1), head, head_bias)

    def step(self, images: Tensor, targets: Targets) -> None:
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.logits(images), targets.labels).backward()
        self.optimizer.step()


def test_it_trains_as_plain_tensors_do_and_weights_of_one_group_share_a_step_size(few: Images) -> None:
    trainings = trainings_on(few, batch_size=104, milestones=[])
    cohort = Cohort(trainings, few, slots=4, form=Form.GATHER, device=CPU, dtype=torch.float64)
    plain = [PlainAttention(one) for one in trainings]
    batches = Batches(few, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    for number in range(3):
        for one in plain:
            one.step(*batches.batch(number))
        cohort.step()
    names = ["embed.weight", "embed.bias", "positions", "norm.weight", "norm.bias", "query.weight", "key.weight"]
    names += ["value.weight", "head.weight", "head.bias"]
    for member, reference in enumerate(plain):
        state = cohort.state(member)
        found = dict(cohort.layout.named(state["parameters"], state["statistics"]))
        for name, tensor in zip(names, reference.tensors, strict=True):
            torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=1e-10, msg=name)
        if reference.bits != 32:
            steps = [found[f"{name}.step"] for name in ("embed", "attention", "head")]
            for step, wanted in zip(steps, reference.steps, strict=True):
                torch.testing.assert_close(step, wanted.detach(), rtol=0, atol=1e-10)


def test_its_results_and_measures_are_those_of_any_network(few: Images) -> None:
    trainings = trainings_on(few, batch_size=52, epochs=2, learning_rate=0.05)
    results = finish(Cohort(trainings, few, slots=3, form=Form.GATHER, device=CPU))
    for result, one in zip(results, trainings, strict=True):
        assert [row["layer"] for row in result.layers] == ["embed", "query", "key", "value", "head"]
        widths = [32] * 5 if one.bits == 32 else [8, one.bits, one.bits, one.bits, 8]
        assert [row["bits"] for row in result.layers] == widths
        steps = {row["step_size"] for row in result.layers[1:4]}
        assert len(steps) == 1
    models = [result.model for result in results]
    for measure in (
        PacBayes(iterations=3, copies=2),
        Sharpness(iterations=2, copies=2, ascent_steps=2, ascent_batch=30, ascent_rate=0.05),
    ):
        rows = measure_models(trainings, models, measure, few, device=CPU)
        for row, result in zip(rows, results, strict=True):
            assert row["clean_accuracy"] == pytest.approx(result.run["train_accuracy"])
            assert row["weight_norm"] == pytest.approx(result.run["weight_norm"], rel=1e-6)
        alone = measure_models(trainings[1:2], models[1:2], measure, few, device=CPU)
        assert alone[0]["trace"] == rows[1]["trace"]


def test_it_is_a_network() -> None:
    one = training()
    network: Network = Attention(one.model, one.data)
    assert network.layout.omega == WIDTH * PATCH + 3 * WIDTH * WIDTH + CLASSES * WIDTH


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ([("a", "one", Role.WEIGHT), ("a", "one", Role.STEP_SIZE)], "one name"),
        ([("a", "one", Role.WEIGHT), ("b", "two", Role.STEP_SIZE)], "groups"),
        ([("a", "one", Role.WEIGHT), ("b", "two", Role.WEIGHT), ("c", "one", Role.WEIGHT), ("s", "one", Role.STEP_SIZE),
          ("t", "two", Role.STEP_SIZE)], "groups"),
    ],
)  # fmt: skip
def test_a_layout_that_fits_no_quantizer_is_refused(tensors: list[tuple[str, str, Role]], problem: str) -> None:
    specs = tuple(TensorSpec(name=name, shape=(2,), role=role, group=group) for name, group, role in tensors)
    with pytest.raises(ValueError, match=problem):
        Layout([ModuleSpec(name="some", tensors=specs, draw=dict)])
