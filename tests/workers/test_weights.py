"""Weights from files: torchvision's networks compute the same on the engine, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.datasets import DATASETS, DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.models import MobileNetV2, Model, ResNet, published_name
from qsweep.sweeps.training import Training
from qsweep.workers import weights
from qsweep.workers.forms import Form
from qsweep.workers.models.convolved import in_turn
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.layout import TRAINED
from qsweep.workers.quantizers.lsq import layer_bits
from qsweep.workers.results import starting_rows
from tests.late import Late
from tests.workers.trainings import CONVOLUTIONAL

torchvision = Late("torchvision")

CPU = torch.device("cpu")
RESNET_18, RESNET_50 = (ResNet(depth=depth, width=64, stem="large") for depth in (18, 50))
SMALL_ONES = [
    (
        ResNet(depth=18, width=8, stem="large"),
        lambda: narrow_resnet(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2]),
    ),
    (
        ResNet(depth=50, width=8, stem="large"),
        lambda: narrow_resnet(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3]),
    ),
    (MobileNetV2(width=8), lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=10, dropout=0.0)),
]


def narrow_resnet(block: Any, layers: list[int]) -> torch.nn.Module:
    """torchvision's ResNet with an eighth of its channels."""

    class Narrow(torchvision.models.resnet.ResNet):
        def _make_layer(self, block: Any, planes: int, *more: Any, **options: Any) -> torch.nn.Sequential:
            if planes == 64:
                self.inplanes = 8
                self.conv1 = torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False)
                self.bn1 = torch.nn.BatchNorm2d(8)
            return super()._make_layer(block, planes // 8, *more, **options)

    net = Narrow(block, layers, num_classes=10)
    net.fc = torch.nn.Linear(net.fc.in_features // 8, 10)
    return net


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """Every tensor drawn anew, batch norm's statistics too, so that no two could be exchanged unseen."""
    draw = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=draw)
            torch.nn.init.normal_(module.bias, 0, 0.1, generator=draw)
    return net


def images_of(size: int, classes: int) -> DataSet:
    return dataclasses.replace(DATASETS["imagenet"], size=size, classes=classes)


def saved(net: torch.nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def rows_of(model: Model, data: DataSet, path: Path) -> tuple[ConvNetwork, Tensor, Tensor]:
    network = ConvNetwork(model, data)
    content = torch.load(path, weights_only=True)
    assert weights.misfit(content, model, network.layout) is None
    parameters, statistics = weights.packed(content, model, network.layout)
    return network, parameters[None].double(), statistics[None].double()


@pytest.mark.parametrize(
    "model", [RESNET_18, pytest.param(RESNET_50, marks=pytest.mark.slow), MobileNetV2()], ids=lambda model: model.label
)
def test_the_engine_evaluates_as_torchvisions_own_network_does(model: Model, tmp_path: Path) -> None:
    name = published_name(model)
    assert name is not None
    net = shaken(getattr(torchvision.models, name)())
    network, parameters, statistics = rows_of(model, images_of(64, 1000), saved(net, tmp_path / "weights.pth"))
    pictures = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = net.double().eval()(pictures).detach()
    stages = network.views(network.layout.tensors(parameters, parameters, statistics))
    for found in (
        in_turn(network, stages)(pictures)[0].t(),
        network.evaluate(pictures, stages)[0].t(),
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8 * float(wanted.abs().max()))


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("form", CONVOLUTIONAL)
@pytest.mark.parametrize(("model", "made"), SMALL_ONES, ids=lambda one: getattr(one, "label", ""))
def test_a_training_pass_has_torchvisions_loss_and_gradients_in_every_form(
    model: Model, made: Callable[[], torch.nn.Module], form: Form, tmp_path: Path
) -> None:
    net = shaken(made())
    data = images_of(64, 10)
    network, parameters, statistics = rows_of(model, data, saved(net, tmp_path / "weights.pth"))
    draw = torch.Generator().manual_seed(0)
    pictures, labels = torch.randn(6, 3, 64, 64, dtype=torch.float64, generator=draw), torch.arange(6)
    layout = network.layout
    leaves = layout.leaves(layout.tensors(parameters, parameters, statistics))
    logits, _ = network.train(pictures, network.views(leaves), arithmetic_of(form, "fp32", torch.float64, CPU, slots=1))
    loss = torch.nn.functional.cross_entropy(logits[0].t(), labels)
    names_of_trained = [spec.name for spec in layout.of_role(*TRAINED)]
    gradients = torch.autograd.grad(loss, [leaves[name] for name in names_of_trained])
    net.double().train()
    wanted = torch.nn.functional.cross_entropy(net(pictures), labels)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    rows = torch.zeros_like(parameters)
    for name, gradient in zip(names_of_trained, gradients, strict=True):
        layout[name].of(rows).copy_(gradient)
    names = weights.tensor_names(net.state_dict(), model, network.layout)
    found = dict(network.layout.named(rows[0], statistics[0]))
    ours = {names[name]: tensor for name, tensor in found.items() if not name.endswith(".step")}
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(ours[name].reshape(parameter.shape), parameter.grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("model", [RESNET_18, MobileNetV2()], ids=lambda model: model.label)
def test_the_networks_for_large_images_are_initialized_as_torchvision_does(model: Model) -> None:
    layout = ConvNetwork(model, images_of(224, 1000)).layout
    row = layout.initial_parameters(0)[None]
    name = published_name(model)
    assert name is not None
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)()
    names = weights.tensor_names(net.state_dict(), model, layout)
    for layer, spans in zip(layout.layers, layout.spans, strict=True):
        wanted = net.state_dict()[names[f"{layer.name}.weight"]]
        found = spans.weight.of(row)[0]
        assert float(found.std()) == pytest.approx(float(wanted.std()), rel=0.15), layer.name
        assert float(found.abs().max() / found.std()) == pytest.approx(
            float(wanted.abs().max() / wanted.std()), rel=0.5
        )
    assert float(row[:, layout.hidden_biases].abs().max()) == 0


def asked(**settings: Any) -> Training:
    base = {
        "data": "imagefolder", "data_folder": "some", "image_size": 16, "data_classes": 10, "data_train": 40,
        "data_test": 20, "data_fingerprint": "0" * 32, "model": "resnet", "depth": 18, "width": 8, "stem": "large",
        "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "bits": 4, "epochs": 1, "batch_size": 8,
        "weights": "mine",
    }  # fmt: skip
    return Training.from_settings(base | settings)


def test_step_sizes_begin_from_the_weights(tmp_path: Path) -> None:
    one = asked()
    path = tmp_path / one.weights_file
    path.parent.mkdir()
    saved(shaken(SMALL_ONES[0][1]()), path)
    start = weights.start_of(one, tmp_path)
    assert start is not None
    layout = ConvNetwork(one.model, one.data).layout
    parameters, statistics = starting_rows(one, layout, start)
    assert one.quantizer is not None
    wanted = [
        2 * float(spans.weight.of(start.parameters[None]).abs().mean()) / (2 ** (bits - 1) - 1) ** 0.5
        for spans, bits in zip(layout.spans, layer_bits(one.quantizer, layout), strict=True)
    ]
    assert layout.steps.of(parameters[None])[0].tolist() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(statistics, start.statistics)
    assert not torch.equal(statistics, layout.initial_statistics())


def test_a_kept_model_of_ours_is_taken_by_its_own_names(tmp_path: Path) -> None:
    one = asked()
    layout = ConvNetwork(one.model, one.data).layout
    content: dict[str, Any] = dict(layout.named(layout.initial_parameters(5), layout.initial_statistics()))
    torch.save({**content, "init_hash": "0" * 32, "passes": {"test_loss": 1.0}}, tmp_path / "kept.pt")
    start = weights.read_start(one, tmp_path / "kept.pt")
    assert torch.equal(start.parameters[: layout.weights], layout.initial_parameters(5)[: layout.weights])


def test_weights_are_found_by_content_among_the_files_given_and_beside_the_data(tmp_path: Path) -> None:
    one = asked()
    given, data, kept = tmp_path / "given", tmp_path / "data", tmp_path / "home"
    for folder in (given, data / "weights", kept):
        folder.mkdir(parents=True)
    saved(SMALL_ONES[1][1](), given / "a.pth")
    found = saved(shaken(SMALL_ONES[0][1]()), given / "b.pth")
    options: dict[str, Any] = {"kept": kept, "data": data, "download": False}
    assert weights.find_weights(one, given=[given], **options).source == found
    with pytest.raises(
        InputError, match=r"weights 'mine' are missing for resnet-18x8-large.*--weights FILE.*folder weights"
    ):
        weights.find_weights(one, given=[], **options)
    beside = saved(shaken(SMALL_ONES[0][1]()), data / "weights" / "any.pth")
    assert weights.find_weights(one, given=[], **options).source == beside
    target = kept / one.weights_file
    target.parent.mkdir()
    target.write_bytes(found.read_bytes())
    assert weights.find_weights(one, given=[found], **options).source == target
    other = saved(SMALL_ONES[0][1](), tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds other weights than this home keeps as 'mine'"):
        weights.find_weights(one, given=[other], **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("layer3.0.conv2.weight"), "it has no layer3.0.conv2.weight"),
        (
            lambda state: state.update({"fc.weight": torch.zeros(7, 64)}),
            r"fc.weight is of shape \(7, 64\), not \(10, 64",
        ),
        (lambda state: state.update({"fc2.weight": torch.zeros(1)}), "the network has no fc2.weight"),
    ],
)
def test_a_file_that_is_not_this_networks_is_refused_by_what_is_wrong(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path
) -> None:
    state = SMALL_ONES[0][1]().state_dict()
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=said):
        weights.read_start(asked(), tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=said):
        weights.check_given([asked()], [tmp_path / "wrong.pth"])


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02K\x01."])
def test_a_damaged_file_of_weights_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.pth"):
        weights.read_start(asked(), path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": "imagenet"}, "torchvision has no such weights of resnet-18x8-large"),
        ({"weights": "imagenet", "width": 64}, "torchvision's weights have 1,000 classes, some has 10"),
        ({"weights": "Not A Name"}, "is not allowed"),
        ({"augment": "crop-flip"}, "allowed: none, resized-crop"),
        ({"data_fingerprint": "x"}, "no fingerprint"),
        ({"data_folder": "../elsewhere"}, "is not allowed"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        asked(**settings)


def test_missing_weights_are_said_before_a_training_begins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the weights 'mine' of resnet-18x8-large are not here.*--weights FILE"):
        weights.start_of(asked(), tmp_path)


def test_weights_by_name_are_part_of_a_jobs_identity() -> None:
    assert asked().canonical() != asked(weights="other").canonical()
    assert "weights" not in asked(weights="none").canonical()["recipe"]
    assert asked(image_size=32).canonical() != asked().canonical()
