"""A module of the user is trained and measured as the built-in networks are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.layout import Role
from qsweep.workers.models.module import ModuleNetwork
from qsweep.workers.models.named import network_of_module
from qsweep.workers.promises import problem_of
from qsweep.workers.quantizers.deployment import quantizer_of
from qsweep.workers.selfcheck import same_state
from tests.workers.test_independence import finish
from tests.workers.trainings import mixture, on, training

CPU = torch.device("cpu")
FORMS = (Form.LOOP, Form.VMAP)


def nin(data: DataSet, *, width: int, depth: int, channels_per_width: int) -> nn.Module:
    """The built-in NiN as anyone would write it."""
    layers: list[nn.Module] = []
    inputs, channels = data.channels, channels_per_width * width
    for _ in range(depth):
        for kernel, stride, padding in ((3, 2, 1), (1, 1, 0), (1, 1, 0)):
            layers += [nn.Conv2d(inputs, channels, kernel, stride, padding), nn.BatchNorm2d(channels), nn.ReLU()]
            inputs = channels
    layers += [nn.Conv2d(channels, data.classes, 1), nn.BatchNorm2d(data.classes), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def copied(model: Any, data: DataSet, quantizer: Any = None) -> ModuleNetwork:
    build = partial(nin, data, width=model.width, depth=model.depth, channels_per_width=model.channels_per_width)
    return ModuleNetwork(build, (data.channels, data.size, data.size), data.classes, quantizer=quantizer)


def use(monkeypatch: pytest.MonkeyPatch, network: Callable[[Any, DataSet], ModuleNetwork]) -> None:
    """Have the trainings of a NiN take this network."""
    monkeypatch.setitem(NETWORKS, "nin", network)


def stepped(trainings: list[Training], images: Images, form: Form, steps: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """The sum of each model's losses after each of so many steps in float64, and their states then."""
    cohort = Cohort(trainings, images, slots=len(trainings) + 1, form=form, device=CPU, dtype=torch.float64)
    losses = []
    for _ in range(steps):
        cohort.step()
        losses.append([float(cohort.state(member)["losses"].sum()) for member in cohort.left])
    return torch.tensor(losses, dtype=torch.float64), [cohort.state(member) for member in cohort.left]


METHODS: tuple[dict[str, Any], ...] = (
    {"method": "plain"},
    {"method": "sam", "rho": 0.1},
    {"method": "asam", "rho": 0.5},
    {"method": "saq1", "rho": 0.1},
    {"method": "saq2", "rho": 0.1},
    {"method": "saq3", "rho": 0.1},
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["method"])
def test_a_copy_of_nin_has_the_losses_of_the_built_in_one(
    few: Images, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]
) -> None:
    """20 steps in double precision: every optimizer at every width in bits, of other methods one optimizer a width."""
    trainings = on(few, mixture(depth=1, width=3, batch_size=16, **method))
    if method["method"] != "plain":
        trainings = [trainings[place] for place in (0, 5, 10, 3)][method["method"].startswith("saq") :]
    losses, states = stepped(trainings, few, Form.GATHER, 20)
    use(monkeypatch, copied)
    for form in FORMS if method["method"] == "plain" else (Form.VMAP,):
        found, ours = stepped(trainings, few, form, 20)
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-10)
        for one, other in zip(ours, states, strict=True):
            for row in ("parameters", "statistics"):
                length = min(one[row].numel(), other[row].numel())
                torch.testing.assert_close(one[row][:length], other[row][:length], rtol=0, atol=1e-9)


def test_the_activations_of_a_copy_are_rounded_as_those_of_the_built_in_one(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps in double precision, and what the kept model of the user's module says of images."""
    trainings = on(few, [training(bits=bits, activation_bits=4, depth=1, width=3, batch_size=16) for bits in (32, 4)])
    losses, states = stepped(trainings, few, Form.GATHER, 20)
    with monkeypatch.context() as patch:
        use(patch, copied)
        found, ours = stepped(trainings, few, Form.LOOP, 20)
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-10)
        assert not torch.equal(states[0]["parameters"][-32:], torch.ones(32, dtype=torch.float64)), "steps are learned"
        network = copied(trainings[1].model, trainings[1].data, trainings[1].activation_quantizer)
        rows = ours[1]["parameters"], ours[1]["statistics"]
        quantizer_of(trainings[1], network.layout, CPU, torch.float64).round_copies(rows[0][None])
        images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        tensors = network.layout.tensors(rows[0][None], rows[0][None], rows[1][None])
        wanted = network.evaluate(images, network.views(tensors))[0].mT
        torch.testing.assert_close(network.deployed(*rows)(images).detach(), wanted, rtol=0, atol=1e-9)


def test_the_measures_of_a_copy_are_those_of_the_built_in_one(few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm that alone reads a convolution is found, and folded as the built-in one's."""
    trainings = on(few, [training(bits=bits, depth=1, width=3, epochs=1, batch_size=32) for bits in (32, 4)])
    asked = (PacBayes(copies=2, iterations=3), Sharpness(copies=2, iterations=2, ascent_steps=2, perturb_folded="none"))

    def measured() -> list[dict[str, Any]]:
        cohort = Cohort(trainings, few, slots=2, form=Form.LOOP, device=CPU, dtype=torch.float64)
        models = [one.model for one in finish(cohort)]
        return [
            row for one in asked for row in measure_models(trainings, models, one, few, device=CPU, dtype=torch.float64)
        ]

    wanted = measured()
    use(monkeypatch, copied)
    for row, other in zip(measured(), wanted, strict=True):
        assert (row["radius"], row["reached"], row["folded"]) == (other["radius"], other["reached"], other["folded"])
        for name in ("omega", "weight_norm", "init_norm", "distance", "value_init", "value_orig"):
            assert math.isclose(row[name], other[name], rel_tol=1e-7), name
    assert {row["folded"] for row in wanted} == {True, False}


class Odd(nn.Module):
    """What modules may have: dropout, a block that is added to its input, one without batch norm's statistics, a buffer
    that training moves, a frozen weight drawn from the seed, numpy's random numbers, and a layer that is not always
    used."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, momentum=None)
        self.body = nn.Conv2d(4, 4, 1)
        self.body_norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(64, classes)
        self.extra = nn.Linear(classes, classes)
        self.frozen = nn.Linear(classes, classes)
        self.frozen.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(3))
        self.quantized = ("stem", "head.weight")

    def forward(self, images: Tensor) -> Tensor:
        signal = self.stem(images)
        signal = (self.norm(signal) + signal).relu()
        signal = self.body_norm(self.body(signal)).relu()
        logits = self.head(self.drop(nn.functional.avg_pool2d(signal, 2)).flatten(1))
        if self.training:
            self.seen += logits.detach().mean()
            logits = logits * float(np.random.uniform(0.9, 1.1))
            if random.random() < 0.3:
                logits = logits + self.extra(logits)
        return logits + 0.1 * self.frozen(logits)


def odd(model: Any, data: DataSet) -> ModuleNetwork:
    return ModuleNetwork(Odd, (1, 8, 8), data.classes)


def test_what_a_module_has_is_found(few: Images) -> None:
    network = odd(None, few.data)
    roles = {spec.name: spec.role for spec in network.layout.of_role(*Role)}
    weights = [spec.name for spec in network.layout.of_role(Role.WEIGHT)]
    assert weights == ["stem.weight", "head.weight"]
    assert [group.outer for group in network.layout.groups] == [True, True]
    assert roles["norm.weight"] is Role.SCALE
    assert roles["body_norm.running_var"] is Role.VARIANCE
    assert roles["body.weight"] is Role.BIAS
    state = {name for name, role in roles.items() if role is Role.STATE}
    assert state == {"seen", "frozen.weight", "frozen.bias", "norm.num_batches_tracked"}
    # The stem's output is read by its batch norm and added to what that makes: folding would change it.
    hidden = {spec.name: spec.kept for spec in network.layout.of_role(Role.HIDDEN_BIAS)}
    assert hidden == {"body.bias": True}
    drawn = [network.layout.initial_statistics(seed) for seed in (0, 1)]
    span = network.layout["frozen.weight"]
    assert not torch.equal(*(span.of(row[None]) for row in drawn))


def dropping(model: Any, data: DataSet) -> ModuleNetwork:
    """What is computed for all models at once: batch norm, poolings, and dropout of numbers and of whole channels."""
    return ModuleNetwork(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 12), nn.BatchNorm1d(12), nn.Dropout(0.3, inplace=True), nn.Linear(12, data.classes),
        ),
        (1, 8, 8),
        data.classes,
    )  # fmt: skip


def test_models_that_are_stacked_draw_and_compute_what_they_do_one_after_another(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, dropping)
    # Unrounded: of rounded weights and pixels the largest of a pool's numbers are equal but for their last bits.
    trainings = on(few, [training(bits=32, seed=seed, batch_size=32) for seed in (0, 1)])
    apart, states = stepped(trainings, few, Form.LOOP, 6)
    found, ours = stepped(trainings, few, Form.VMAP, 6)
    torch.testing.assert_close(found, apart, rtol=0, atol=1e-10)
    for one, other in zip(ours, states, strict=True):
        for row in ("parameters", "statistics"):
            torch.testing.assert_close(one[row], other[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("network", "form"), [(odd, Form.LOOP), (dropping, Form.VMAP)])
def test_neighbours_and_a_break_change_no_bit_whatever_a_module_draws(
    few: Images, monkeypatch: pytest.MonkeyPatch, network: Any, form: Form
) -> None:
    use(monkeypatch, network)
    trainings = on(few, [training(bits=bits, seed=seed, batch_size=64) for bits, seed in ((32, 0), (4, 1), (4, 2))])

    def states(members: list[Training], breaks: int = 0) -> list[dict[str, Any]]:
        cohort = Cohort(members, few, slots=4, form=form, device=CPU)
        for _ in range(breaks):
            cohort.step()
        if breaks:
            half = [cohort.state(member) for member in cohort.left]
            cohort = Cohort(members, few, slots=4, form=form, device=CPU)
            for member, state in enumerate(half):
                cohort.restore(member, state)
        while not cohort.finished:
            cohort.step()
        return [cohort.state(member) for member in range(len(members))]

    together = states(trainings)
    assert all(map(same_state, states(trainings[::-1])[::-1], together))
    assert same_state(states([trainings[1]])[0], together[1])
    assert all(map(same_state, states(trainings, breaks=7), together))
    if network is not odd:
        return
    counted = [odd(None, few.data).layout["norm.num_batches_tracked"].of(one["statistics"][None]) for one in together]
    assert [float(one) for one in counted] == [10.0] * 3  # five steps an epoch


@pytest.mark.parametrize(
    ("name", "outer"),
    [
        ("torchvision:shufflenet_v2_x0_5", ("conv1.0.weight", "fc.weight")),
        ("timm:convnext_atto", ("stem.0.weight", "head.fc.weight")),
    ],
)
def test_a_network_of_a_library_is_its_own_and_trains_as_promised(name: str, outer: tuple[str, str]) -> None:
    library, _, called = name.partition(":")
    package = pytest.importorskip({"torchvision": "torchvision.models"}.get(library, library), reason="not installed")
    settings = {
        "data": "cifar10", "model": name, "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "bits": 4,
        "epochs": 1, "batch_size": 4,
    }  # fmt: skip
    one = Training.from_settings(settings)
    assert isinstance(one.model, Module)
    network = network_of_module(one.model, one.data)
    make = package.get_model if library == "torchvision" else package.create_model
    theirs = make(called, num_classes=10)
    found = {spec.name: spec.shape for spec in network.layout.of_role(*Role)}  # and step sizes
    theirs = {name: tuple(one.shape) for name, one in theirs.state_dict().items() if one.is_floating_point()}
    assert theirs.items() <= found.items()
    quantized = [spec.name for spec in network.layout.of_role(Role.WEIGHT)]
    assert (quantized[0], quantized[-1]) == outer
    assert problem_of(one, CPU) is None, "the check that a launch does: twice, beside another, and with a break"


def test_what_can_not_be_used_is_said(few: Images) -> None:
    class Other(nn.Module):
        def __init__(self, quantized: tuple[str, ...] | None, leaves: int | None = None) -> None:
            super().__init__()
            self.head = nn.Linear(64, 7)
            if quantized is not None:
                self.quantized = quantized
            self.leaves = leaves

        def forward(self, images: Tensor) -> Tensor:
            if self.leaves is not None:
                raise SystemExit(self.leaves)
            return self.head(images.flatten(1))

    def network(build: Callable[[], Any], classes: int = 7) -> ModuleNetwork:
        return ModuleNetwork(build, (1, 8, 8), classes)

    with pytest.raises(InputError, match=r"it makes a tensor \(4, 7\); allowed: one row of 10 logits an image"):
        network(lambda: Other(None), 10)
    with pytest.raises(InputError, match="it has no weight 'tail'"):
        network(lambda: Other(("tail",)))
    with pytest.raises(InputError, match="no Conv2d and no Linear"):
        network(lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), 64)
    with pytest.raises(InputError, match="it returns a int"):
        network(lambda: 3)
    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        network(lambda: Other(None, 3))

    def changing() -> nn.Module:
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
        module.register_buffer("odd", torch.zeros(int(torch.randint(1, 1000, ()))))
        return module

    with pytest.raises(InputError, match="another module each time: odd differs"):
        network(changing)
