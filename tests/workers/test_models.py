"""The geometry in `sweeps` is that of real modules, and every name has its implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reports.inversion import paper_rows
from sweeps.datasets import DATASETS
from sweeps.layers import ConvLayer, Pool
from sweeps.models import MODELS, Model, NiN, ResNet
from sweeps.optimizers import OPTIMIZERS
from sweeps.quantizers import QUANTIZERS
from tests.workers.plain import PLAIN, ConvNorm, PlainNin, PlainResNet, named
from tests.workers.trainings import training
from workers.models import NETWORKS
from workers.models.arithmetic import pooled
from workers.models.graph import pooled_side
from workers.models.layout import Layout
from workers.models.window import Window
from workers.optimizers import STEPPERS
from workers.quantizers import QUANTIZATIONS


def test_every_name_of_sweeps_has_its_implementation() -> None:
    assert sorted(NETWORKS) == sorted(MODELS)
    assert sorted(STEPPERS) == sorted(OPTIMIZERS)
    assert sorted(QUANTIZATIONS) == sorted(QUANTIZERS)


def test_weights_of_nin_4x10_on_cifar10_are_the_papers_omega() -> None:
    """ω of `paper` Table 3, by inversion: 2,196,750. Counted in real modules and in the layout."""
    plain = PlainNin(training(data="cifar10", depth=4, width=10, channels_per_width=25, augment="crop-flip"))
    layout = Layout(NiN(width=10, depth=4).layers(DATASETS["cifar10"]))
    assert sum(conv.weight.numel() for conv in plain.convs()) == 2_196_750
    assert layout.weights == 2_196_750


@pytest.mark.parametrize(
    ("depth", "data", "omega"),
    [
        (18, "cifar10", 688_304),
        (18, "cifar100", 699_824),
        (50, "cifar10", 1_297_840),
        (50, "cifar100", 1_343_920),
    ],
)
def test_weights_of_the_cifar_resnets_without_shortcuts_are_the_papers_omega(depth: int, data: str, omega: int) -> None:
    one = training(model="resnet", data=data, depth=depth, width=16)
    net = PlainResNet(one)
    shortcuts = {id(block.shortcut.conv) for block in net.body if isinstance(block.shortcut, ConvNorm)}
    assert sum(conv.weight.numel() for conv in net.convs() if id(conv) not in shortcuts) == omega
    layout = Layout(one.model.layers(one.data))
    assert layout.omega == omega
    assert layout.weights == sum(conv.weight.numel() for conv in net.convs())


@pytest.mark.parametrize(
    ("depth", "data", "title"),
    [(18, "cifar10", "CIFAR-10"), (18, "cifar100", "CIFAR-100"), (50, "cifar10", "CIFAR-10")],
)
def test_a_resnets_initial_norm_is_what_the_papers_tables_imply(depth: int, data: str, title: str) -> None:
    """Structure, initialization and the shortcuts left out, all at once. (With them it would be a tenth more.)
    CIFAR-100's ResNet-50 is missing: its norms in Table 2 don't belong to its rows in Table 3."""
    layout = Layout(ResNet(depth=depth, width=16).layers(DATASETS[data]))
    norm = float(layout.counted(layout.initial_parameters(0)).norm())
    implied = [one.initial for keys, _, one in paper_rows() if keys[:2] == (title, f"ResNet-{depth}")]
    assert implied == [pytest.approx(norm, rel=0.01)] * 4


@pytest.mark.parametrize(
    "settings",
    [{"depth": 2}, {"model": "resnet"}, {"model": "resnet", "depth": 34}, {"model": "resnet", "depth": 50}],
)
def test_initialization_is_that_of_plain_modules_under_the_seed(settings: dict[str, Any]) -> None:
    one = training(seed=7, **settings)
    layout = Layout(one.model.layers(one.data))
    row, moments = layout.initial_parameters(7), layout.initial_statistics()
    found = {name: tensor for name, tensor in layout.named(row, moments) if not name.endswith(".step")}
    wanted = named(PLAIN[one.model.name](one), one)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize(("side", "kernel", "stride", "padding"), [(8, 2, 2, 0), (7, 3, 2, 1), (4, 4, 4, 0)])
def test_pooling_is_that_of_torch(kind: str, side: int, kernel: int, stride: int, padding: int) -> None:
    pool = Pool(kind=kind, kernel=kernel, stride=stride, padding=padding)
    images = torch.randn(2, 3, side, side, 5, dtype=torch.float64)
    reference = {"max": torch.nn.MaxPool2d, "mean": torch.nn.AvgPool2d}[kind](kernel, stride, padding)
    found = pooled(images, pool)
    assert found.shape[2] == pooled_side(side, pool)
    for model in range(2):
        wanted = reference(images[model].permute(3, 0, 1, 2))
        torch.testing.assert_close(found[model].permute(3, 0, 1, 2), wanted)


def test_initialization_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    Layout(NiN(width=2, depth=1).layers(DATASETS["digits"])).initial_parameters(0)
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("model", [NiN(width=2, depth=2), ResNet(width=2, depth=50)])
def test_a_model_kept_as_tensors_is_packed_into_the_same_rows(model: Model) -> None:
    layout = Layout(model.layers(DATASETS["digits"]))
    parameters, statistics = layout.initial_parameters(1), layout.initial_statistics()
    again = layout.packed(dict(layout.named(parameters, statistics)))
    assert torch.equal(again[0], parameters)
    assert torch.equal(again[1], statistics)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (1, 1, 0), (3, 1, 1), (5, 2, 2), (1, 2, 0)])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
def test_gathered_product_equals_convolution_and_its_gradients(
    kernel: int, stride: int, padding: int, side: int
) -> None:
    outputs = (side + 2 * padding - kernel) // stride + 1
    layer = ConvLayer(name="one", inputs=3, outputs=4, kernel=kernel, stride=stride, padding=padding, side=outputs)
    window = Window(layer, side)
    torch.manual_seed(0)
    images = torch.randn(2, 3, side, side, 5, dtype=torch.float64)
    weights = torch.randn(2, 4, 3, kernel, kernel, dtype=torch.float64)
    slopes = torch.randn(2, 4, outputs, outputs, 5, dtype=torch.float64)
    columns, matrix = window.gather(images), window.kernel(weights)
    found = window.outputs(matrix @ columns)
    flat = slopes.flatten(2)
    for model in range(2):
        x = images[model].permute(3, 0, 1, 2).clone().requires_grad_()
        w = weights[model].clone().requires_grad_()
        y = torch.nn.functional.conv2d(x, w, stride=stride, padding=padding)
        y.backward(slopes[model].permute(3, 0, 1, 2))
        torch.testing.assert_close(found[model].permute(3, 0, 1, 2), y.detach())
        torch.testing.assert_close(window.scatter(matrix.mT @ flat)[model].permute(3, 0, 1, 2), x.grad)
        torch.testing.assert_close(window.spread(flat @ columns.mT)[model], w.grad)
