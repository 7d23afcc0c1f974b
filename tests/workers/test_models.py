"""The geometry in `sweeps` is that of real modules, and every name has its implementation."""

from __future__ import annotations

import pytest
import torch

from sweeps.datasets import DATASETS
from sweeps.layers import ConvLayer
from sweeps.models import MODELS, NiN
from sweeps.optimizers import OPTIMIZERS
from sweeps.quantizers import QUANTIZERS
from tests.workers.plain import PlainNin
from tests.workers.trainings import training
from workers.models import NETWORKS
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


def test_initialization_is_that_of_plain_modules_under_the_seed() -> None:
    one = training(depth=2, seed=7)
    layout = Layout(one.model.layers(one.data))
    row, moments = layout.initial_parameters(7), layout.initial_statistics()
    found = dict(layout.named(row, moments))
    for layer, conv in zip(layout.layers, PlainNin(one).convs(), strict=True):
        assert torch.equal(found[f"{layer.name}.weight"], conv.weight)
        assert torch.equal(found[f"{layer.name}.bias"], conv.bias)


def test_initialization_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    Layout(NiN(width=2, depth=1).layers(DATASETS["digits"])).initial_parameters(0)
    assert torch.equal(torch.rand(2), wanted)


def test_a_model_kept_as_tensors_is_packed_into_the_same_rows() -> None:
    layout = Layout(NiN(width=2, depth=2).layers(DATASETS["digits"]))
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
