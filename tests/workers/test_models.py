"""The geometry in `sweeps` is that of real modules, and every name has its implementation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from qsweep.reports.inversion import paper_rows
from qsweep.sweeps.components import PARTS, Implementations
from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.layers import ConvLayer, Pool
from qsweep.sweeps.models import CifarResNet, MobileNet, MobileNetV2, Model, NiN, ResNet, Vgg
from qsweep.sweeps.training import Training
from qsweep.workers.models.arithmetic import pooled
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.graph import pooled_side
from qsweep.workers.models.window import Window
from tests.late import Late
from tests.workers.plain import (
    PLAIN,
    ConvNorm,
    PlainCifarResNet,
    PlainMobileNet,
    PlainNin,
    PlainResNet,
    PlainSmallMobileNetV2,
    named,
)
from tests.workers.trainings import training

torchvision = Late("torchvision")


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part in PARTS for name in PARTS[part].components if part not in ("recipe", "targets")],
)
def test_every_component_of_the_table_has_its_implementation(part: str, name: str) -> None:
    assert callable(Implementations(part)[name])


def test_weights_of_nin_4x10_on_cifar10_are_the_papers_omega() -> None:
    """ω of `paper` Table 3, by inversion: 2,196,750. Counted in real modules and in the layout."""
    plain = PlainNin(training(data="cifar10", depth=4, width=10, channels_per_width=25, augment="crop-flip"))
    layout = ConvLayout(NiN(width=10, depth=4).layers(DATASETS["cifar10"]))
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
    layout = ConvLayout(one.model.layers(one.data))
    assert layout.omega == omega
    assert layout.weights == sum(conv.weight.numel() for conv in net.convs())


@pytest.mark.parametrize(
    ("depth", "data", "title"),
    [(18, "cifar10", "CIFAR-10"), (18, "cifar100", "CIFAR-100"), (50, "cifar10", "CIFAR-10")],
)
def test_a_resnets_initial_norm_is_what_the_papers_tables_imply(depth: int, data: str, title: str) -> None:
    """Structure, initialization and the shortcuts left out, all at once. (With them it would be a tenth more.)
    CIFAR-100's ResNet-50 is missing: its norms in Table 2 don't belong to its rows in Table 3."""
    layout = ConvLayout(ResNet(depth=depth, width=16).layers(DATASETS[data]))
    norm = float(layout.counted(layout.initial_parameters(0)).norm())
    implied = [one.initial for keys, _, one in paper_rows() if keys[:2] == (title, f"ResNet-{depth}")]
    assert implied == [pytest.approx(norm, rel=0.01)] * 4


def resnet18_for_cifar() -> torch.nn.Module:
    net = torchvision.models.resnet18(num_classes=100)
    net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return net


def vgg_with_one_head(depth: int) -> torch.nn.Module:
    net = getattr(torchvision.models, f"vgg{depth}_bn")()
    return torch.nn.Sequential(net.features, torch.nn.Linear(512, 100))


def on_cifar(model: str, **settings: Any) -> Training:
    width = 32 if model == "mobilenet-v2" else 16
    return training(model=model, data="cifar100", width=width, **settings)


def cifar_resnet(depth: int, preact: bool) -> torch.nn.Module:
    return PlainCifarResNet(on_cifar("cifar-resnet", depth=depth, preact=preact))


USUAL = [
    (ResNet(depth=18, width=64), resnet18_for_cifar, 11_220_132),
    (MobileNet(), lambda: PlainMobileNet(training(model="mobilenet", data="cifar100", width=32)), 3_309_476),
    (Vgg(depth=19), lambda: vgg_with_one_head(19), 20_086_692),
    *((Vgg(depth=depth), partial(vgg_with_one_head, depth), None) for depth in (11, 13, 16)),
    (MobileNetV2(stem="small"), lambda: PlainSmallMobileNetV2(on_cifar("mobilenet-v2", stem="small")), 2_412_212),
    *(
        (CifarResNet(depth=depth, preact=preact), partial(cifar_resnet, depth, preact), known)
        for depth, preact, known in (
            (20, True, 278_132),
            (20, False, 278_324),
            (32, False, None),
            (44, True, None),
            (56, False, None),
            (110, True, None),
        )
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "made", "known"), USUAL)
def test_usual_widths_have_the_parameters_of_the_usual_networks(
    model: Model, made: Callable[[], torch.nn.Module], known: int | None
) -> None:
    layers = model.layers(DATASETS["cifar100"])
    net = made()
    count = sum(one.weights + one.outputs * (one.bias + 2 * one.norm) for one in layers)
    assert count == sum(parameter.numel() for parameter in net.parameters())
    assert known in (count, None)
    weights = sum(one.numel() for name, one in net.named_parameters() if name.endswith("weight") and one.dim() > 1)
    shortcuts = sum(one.weights for one in layers if not one.counted)
    assert ConvLayout(layers).omega == weights - shortcuts
    assert (shortcuts > 0) == isinstance(model, ResNet)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "resnet", "width": 64},
        {"model": "mobilenet", "width": 32},
        {"model": "vgg", "depth": 19, "width": 64},
        {"model": "cifar-resnet", "preact": True},
        {"model": "cifar-resnet", "depth": 32},
        {"model": "mobilenet-v2", "stem": "small"},
    ],
)
def test_layers_have_the_shapes_of_the_plain_modules_on_cifar(settings: dict[str, Any]) -> None:
    one = training(data="cifar100", **settings)
    net = PLAIN[one.model.name](one).eval()
    shapes: list[tuple[int, ...]] = []
    for conv in net.convs():
        conv.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert net(torch.randn(1, 3, 32, 32)).shape == (1, 100)
    layers = [layer for layer in one.model.layers(one.data) if layer.weights]
    outputs = sorted((layer.outputs, layer.side, layer.side) for layer in layers)
    assert sorted(shapes) == outputs
    for layer, conv in zip(layers, net.convs(), strict=True):
        assert layer.weights == conv.weight.numel(), layer.name
        assert layer.operations == 2 * conv.weight.numel() * layer.side**2
    assert len({layer.name for layer in layers}) == len(layers)


def test_a_mobilenets_operations_are_those_of_its_paper_at_224_pixels() -> None:
    """569 million multiply-adds, of which our stem, with stride 1, changes only its resolution: a quarter of them."""
    halved = dataclasses.replace(DATASETS["cifar100"], size=112, classes=1000)
    layers = MobileNet().layers(halved)
    stem, *others = layers
    behind_stem = sum(one.operations for one in others) / 2
    assert stem.side == 112
    assert behind_stem + 32 * 27 * 112**2 == pytest.approx(569e6, rel=0.001)


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 2},
        {"model": "resnet"},
        {"model": "resnet", "depth": 34},
        {"model": "resnet", "depth": 50},
        {"model": "mobilenet"},
        {"model": "vgg"},
        {"model": "vgg", "depth": 19},
        {"model": "cifar-resnet"},
        {"model": "cifar-resnet", "preact": True},
        {"model": "mobilenet-v2", "stem": "small"},
    ],
)
def test_initialization_is_that_of_plain_modules_under_the_seed(settings: dict[str, Any]) -> None:
    one = training(seed=7, **settings)
    layout = ConvLayout(one.model.layers(one.data))
    row, moments = layout.initial_parameters(7), layout.initial_statistics()
    found = {name: tensor for name, tensor in layout.named(row, moments) if not name.endswith(".step")}
    wanted = named(PLAIN[one.model.name](one), one)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("model", ["mobilenet", "vgg"])
def test_layers_are_named_by_their_place(model: str) -> None:
    names = [layer.name for layer in training(model=model).model.layers(DATASETS["cifar100"])]
    wanted = {
        "mobilenet": ["stem", "pair0.depthwise", "pair0.pointwise", "pair12.pointwise", "head"],
        "vgg": ["stage1.conv1", "stage2.conv1", "stage3.conv1", "stage3.conv2", "stage5.conv2", "head"],
    }[model]
    assert [name for name in names if name in wanted] == wanted


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
    ConvLayout(NiN(width=2, depth=1).layers(DATASETS["digits"])).initial_parameters(0)
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize(
    "model", [NiN(width=2, depth=2), ResNet(width=2, depth=50), CifarResNet(depth=20, width=2, preact=True)]
)
def test_a_model_kept_as_tensors_is_packed_into_the_same_rows(model: Model) -> None:
    layout = ConvLayout(model.layers(DATASETS["digits"]))
    parameters, statistics = layout.initial_parameters(1), layout.initial_statistics()
    again = layout.packed(dict(layout.named(parameters, statistics)))
    assert torch.equal(again[0], parameters)
    assert torch.equal(again[1], statistics)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (1, 1, 0), (3, 1, 1), (5, 2, 2), (1, 2, 0)])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("depthwise", [False, True])
def test_gathered_product_equals_convolution_and_its_gradients(
    kernel: int, stride: int, padding: int, side: int, depthwise: bool
) -> None:
    outputs = (side + 2 * padding - kernel) // stride + 1
    channels = 3 if depthwise else 4
    layer = ConvLayer(
        name="one", inputs=3, outputs=channels, kernel=kernel, stride=stride, padding=padding, side=outputs,
        depthwise=depthwise,
    )  # fmt: skip
    window = Window(layer, side)
    torch.manual_seed(0)
    images = torch.randn(2, 3, side, side, 5, dtype=torch.float64)
    weights = torch.randn(2, channels, layer.reads, kernel, kernel, dtype=torch.float64)
    gradients = torch.randn(2, channels, outputs, outputs, 5, dtype=torch.float64)
    columns, matrix = window.gather(images), window.kernel(weights)
    found = window.outputs(window.product(matrix, columns))
    flat = gradients.flatten(2)
    for model in range(2):
        x = images[model].permute(3, 0, 1, 2).clone().requires_grad_()
        w = weights[model].clone().requires_grad_()
        groups = 3 if depthwise else 1
        y = torch.nn.functional.conv2d(x, w, stride=stride, padding=padding, groups=groups)
        y.backward(gradients[model].permute(3, 0, 1, 2))
        torch.testing.assert_close(found[model].permute(3, 0, 1, 2), y.detach())
        torch.testing.assert_close(
            window.scatter(window.columns_gradient(matrix, flat))[model].permute(3, 0, 1, 2), x.grad
        )
        torch.testing.assert_close(window.spread(window.kernel_gradient(flat, columns))[model], w.grad)
