"""A module of the user is trained and measured as the built-in networks are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.sweeps.models import Model
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.layout import Role
from qsweep.workers.models.module import ModuleNetwork
from qsweep.workers.selfcheck import same_state
from tests.workers.test_independence import finish
from tests.workers.trainings import mixture, on, training

CPU = torch.device("cpu")
FORMS = (Form.LOOP, Form.STACKED)


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


def copied(model: Any, data: DataSet) -> ModuleNetwork:
    build = partial(nin, data, width=model.width, depth=model.depth, channels_per_width=model.channels_per_width)
    return ModuleNetwork(build, (data.channels, data.size, data.size), data.classes)


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
    """20 steps in double precision: every optimizer at every width in bits, of each other method one optimizer a width."""
    trainings = on(few, mixture(depth=1, width=3, batch_size=16, **method))
    if method["method"] != "plain":
        trainings = [trainings[place] for place in (0, 5, 10, 3)][method["method"].startswith("saq") :]
    losses, states = stepped(trainings, few, Form.GATHER, 20)
    use(monkeypatch, copied)
    for form in FORMS:
        found, ours = stepped(trainings, few, form, 20)
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-10)
        for one, other in zip(ours, states, strict=True):
            for row in ("parameters", "statistics"):
                length = min(one[row].numel(), other[row].numel())
                torch.testing.assert_close(one[row][:length], other[row][:length], rtol=0, atol=1e-9)
