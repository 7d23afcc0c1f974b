"""Each form alone: its products against a plain convolution, its precisions, and what it asks of the host."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.device import precisions, set_precision
from qsweep.workers.forms import Form, default_form, forms_of
from qsweep.workers.models import blocks
from qsweep.workers.models.convolved import Convolved
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.network import leaf_tensors, stage_tensors, trained
from qsweep.workers.models.products import Columns, Depthwise, Pointwise, Winograd, products_of
from tests.workers.trainings import mixture, on, training

CPU = torch.device("cpu")
GEOMETRIES = [
    # kernel, stride, padding, side, inputs, outputs, and how it is to be computed
    (1, 1, 0, 8, 5, 6, Pointwise),
    (3, 2, 1, 16, 40, 36, Winograd),
    (3, 1, 1, 8, 40, 36, Winograd),
    (3, 2, 1, 16, 3, 40, Columns),
    (3, 2, 1, 9, 40, 40, Columns),
    (3, 1, 1, 5, 4, 6, Columns),
    (5, 1, 2, 8, 4, 6, Columns),
    (3, 2, 1, 1, 4, 6, Columns),
    *((3, stride, 1, side, 5, 5, Depthwise) for stride in (1, 2) for side in (1, 2, 3, 4, 7, 8)),
    (5, 2, 2, 6, 17, 17, Depthwise),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kernel", "stride", "padding", "side", "inputs", "outputs", "kind"), GEOMETRIES)
def test_ways_are_the_convolution_and_its_adjoints(
    kernel: int, stride: int, padding: int, side: int, inputs: int, outputs: int, kind: type, dtype: torch.dtype
) -> None:
    result = (side + 2 * padding - kernel) // stride + 1
    layer = ConvLayer(
        name="", inputs=inputs, outputs=outputs, kernel=kernel, stride=stride, padding=padding, side=result,
        depthwise=kind is Depthwise,
    )  # fmt: skip
    way = products_of(layer, side, dtype)
    assert isinstance(way, kind)
    draw = torch.Generator().manual_seed(kernel + side)
    images = torch.randn(3, side, side, inputs, dtype=dtype, generator=draw)
    weight = torch.randn(outputs, layer.reads, kernel, kernel, dtype=dtype, generator=draw)
    slopes = torch.randn(3, result, result, outputs, dtype=dtype, generator=draw)
    padded = torch.nn.functional.pad(images, (0, 0, *way.margin, *way.margin))

    operands, matrices, spread = way.load(padded), way.matrices(weight), way.spread(slopes)
    found, below = torch.empty_like(slopes), torch.full_like(images, torch.nan)
    way.multiply(operands, matrices, found)
    way.collect_slopes(spread, matrices, below)
    total = torch.ones_like(matrices)
    way.add_slopes(operands, spread, total)
    assert kind is Depthwise or operands.shape[1] == 3 * way.rows

    images.requires_grad_()
    weight.requires_grad_()
    groups = inputs if kind is Depthwise else 1
    planes = images.permute(0, 3, 1, 2)
    wanted = torch.nn.functional.conv2d(planes, weight, stride=stride, padding=padding, groups=groups)
    wanted = wanted.permute(0, 2, 3, 1)
    gradients = torch.autograd.grad(wanted, (images, weight), slopes)
    for one, other in zip((found, below, way.weight(total - 1)), (wanted, *gradients), strict=True):
        torch.testing.assert_close(one, other.to(dtype), rtol=0, atol=1e-11 if dtype == torch.float64 else 1e-4)


def test_winograd_in_single_precision_is_as_exact_as_a_plain_convolution() -> None:
    draw = torch.Generator().manual_seed(1)
    layer = ConvLayer(name="", inputs=200, outputs=200, kernel=3, stride=2, padding=1, side=8)
    images = torch.randn(4, 200, 16, 16, generator=draw).relu()
    weight = torch.randn(200, 200, 3, 3, generator=draw) / 1800**0.5
    exact = torch.nn.functional.conv2d(images.double(), weight.double(), stride=2, padding=1)
    plain = torch.nn.functional.conv2d(images, weight, stride=2, padding=1)
    way = products_of(layer, 16, torch.float32)
    assert isinstance(way, Winograd)
    padded = torch.nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, *way.margin, *way.margin))
    found = torch.empty(4, 8, 8, 200)
    way.multiply(way.load(padded), way.matrices(weight), found)
    errors = [float((one - exact).norm() / exact.norm()) for one in (found.permute(0, 3, 1, 2), plain)]
    assert errors[0] < 1e-6
    assert errors[0] < 4 * errors[1]


@pytest.mark.parametrize("rows", [64, 100_000])
def test_the_size_of_a_block_changes_only_the_last_bits(
    digits: Images, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parameters() -> Tensor:
        one = training(depth=2, width=20, bits=4)
        cohort = Cohort([one], digits, slots=1, form=Form.BLOCKS, device=CPU, dtype=torch.float64)
        epoch_of(cohort, 3)
        return cohort.state(0)["parameters"]

    usual = parameters()
    monkeypatch.setattr(blocks, "ROWS", rows)
    monkeypatch.setattr(blocks, "TRANSFORMED_ROWS", rows)
    torch.testing.assert_close(parameters(), usual, rtol=0, atol=1e-11)


def logits_and_slopes(one: Training, images: Tensor, arithmetic: Any) -> tuple[Tensor, list[Tensor]]:
    network = ConvNetwork(one.model, one.data)
    layout = network.layout
    rows = torch.stack([layout.initial_parameters(seed) for seed in (1, 2)]).double()
    statistics = torch.zeros(2, layout.statistics_length, dtype=torch.float64)
    stages = leaf_tensors(stage_tensors(layout, rows, rows, statistics))
    logits, *_ = network.train(images, stages, arithmetic)
    labels = torch.arange(len(images)) % 10
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2).flatten(0, 1), labels.repeat(2))
    return logits, list(torch.autograd.grad(loss, trained(stages)))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("model", ["nin", "resnet", "mobilenet"])
def test_channels_filled_up_to_a_multiple_change_nothing(digits: Images, grouped: bool, model: str) -> None:
    one = training(model=model, **({"width": 5, "depth": 2} if model == "nin" else {"width": 3}))
    images = digits.train_images[:20].double() / 16
    bare = logits_and_slopes(one, images, Convolved(grouped=grouped, dtype=torch.float64))
    filled = logits_and_slopes(one, images, Convolved(grouped=grouped, dtype=torch.float64, multiple=8))
    torch.testing.assert_close(filled[0], bare[0], rtol=0, atol=1e-12)
    for found, wanted in zip(filled[1], bare[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def trained_losses(few: Images, form: Form, **settings: Any) -> list[float]:
    usual = {"depth": 2, "learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 32}
    one = training(epochs=4, milestones=[3], **usual, **settings)
    cohort = Cohort(on(few, [one]), few, slots=2, form=form, device=CPU)
    while not cohort.finished:
        cohort.step()
    state = cohort.state(0)
    assert {value.dtype for name, value in state.items() if name in ("parameters", "statistics", "first")} == {
        torch.float32
    }
    return [float(row["train_loss"]) for row in cohort.results()[0].epochs]


@pytest.mark.parametrize("form", forms_of("bf16", "cpu"))
def test_a_training_in_bf16_follows_the_one_in_fp32_on_single_precision_weights(few: Images, form: Form) -> None:
    reduced, single = (trained_losses(few, form, precision=one) for one in ("bf16", "fp32"))
    assert reduced != single
    assert max(abs(one - other) for one, other in zip(reduced, single, strict=True)) < 0.02
    assert single[-1] < 0.7 * single[0]


@pytest.mark.parametrize("form", [Form.BLOCKS, Form.LOOP, Form.GROUPED])
def test_forms_agree_on_the_losses_of_a_whole_training(few: Images, form: Form) -> None:
    found, wanted = trained_losses(few, form), trained_losses(few, Form.GATHER)
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) < 2e-3


def test_a_form_without_a_precision_refuses_it() -> None:
    for form in set(Form) - set(forms_of("bf16", "cuda")):
        with pytest.raises(ValueError, match=form.value):
            arithmetic_of(form, "bf16", torch.float32, CPU, slots=2)
    for device in ("cpu x86_64 AVX2", "cuda NVIDIA H200"):
        for precision in ("fp32", "tf32", "bf16"):
            for name in ("digits", "cifar10"):
                chosen = default_form(training(data=name, precision=precision), device)[1]
                assert chosen in forms_of(precision, device)


def test_a_processor_offers_bf16_only_with_instructions_for_it() -> None:
    offered = precisions(CPU)
    assert offered[0] == "fp32"
    assert "tf32" not in offered
    with open("/proc/cpuinfo") as lines:
        flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
    assert ("bf16" in offered) == bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def test_single_precision_forbids_tf32_which_pytorch_allows_in_convolutions() -> None:
    set_precision("tf32")
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    set_precision("fp32")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
"""Operations whose result, or its shape, the host must wait for."""


class Reads(TorchDispatchMode):
    """Counts what makes the host wait: such operations, and copies from the device to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(name)
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in (args[0] if args else None, result) if isinstance(one, Tensor)]
        if len(tensors) == 2 and name in ("_to_copy", "copy_") and tensors[1].device.type == "cpu":
            origin = args[1] if name == "copy_" else args[0]
            if isinstance(origin, Tensor) and origin.device.type != "cpu":
                self.found.append(name)
        return result


FOR_GPUS = forms_of("fp32", "cuda")


def epoch_of(cohort: Cohort, steps: int) -> None:
    for _ in range(steps):
        cohort.step()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("form", "select_by"), [(Form.GATHER, "evaluated"), *((form, "running") for form in FOR_GPUS)])
def test_two_epochs_never_read_anything_back(few: Images, form: Form, select_by: str) -> None:
    # Tensors on the meta device have no values: whatever reads one, or copies it to the CPU, raises.
    chosen = zip(("sgd", "adam", "rmsprop"), (32, 8, 2), strict=True)
    trainings = [training(depth=1, select_by=select_by, optimizer=name, bits=bits) for name, bits in chosen]
    meta = Cohort(on(few, trainings), few, slots=4, form=form, device=torch.device("meta"))
    with Reads() as reads:
        epoch_of(meta, meta.steps)
    assert meta.finished
    assert not reads.found
    with pytest.raises(NotImplementedError):
        meta.state(0)


def test_the_count_of_reads_sees_them() -> None:
    with Reads() as reads:
        float(torch.ones(2).sum())
        torch.ones(3).nonzero()
    assert reads.found == ["_local_scalar_dense", "nonzero"]


def needs_gpu() -> None:
    if torch.cuda.is_available():
        return
    if "gpu" in os.environ.get("QSWEEP_REQUIRE", "").split():
        pytest.fail("QSWEEP_REQUIRE names gpu, and there is none")
    pytest.skip("no GPU")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("form", FOR_GPUS)
def test_an_epoch_on_a_gpu_never_waits_for_it(digits: Images, form: Form, precision: str) -> None:
    needs_gpu()
    if form not in forms_of(precision, "cuda"):
        pytest.skip(f"{form.value} has no {precision}")
    trainings = mixture(depth=2, precision=precision)
    cohort = Cohort(trainings, digits, slots=13, form=form, device=torch.device("cuda"))
    per_epoch = trainings[0].steps_per_epoch
    epoch_of(cohort, per_epoch + 1)  # records the graphs of both sizes of batch, and opens the second epoch
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch_of(cohort, per_epoch - 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert cohort.finished


@pytest.mark.parametrize("form", FOR_GPUS)
def test_recorded_steps_on_a_gpu_equal_the_cpu_in_double_precision(digits: Images, form: Form) -> None:
    needs_gpu()
    trainings = mixture(depth=2)
    states = []
    for device in ("cuda", "cpu"):
        cohort = Cohort(trainings, digits, slots=13, form=form, device=torch.device(device), dtype=torch.float64)
        epoch_of(cohort, cohort.steps)
        states.append([cohort.state(member)["parameters"] for member in range(len(trainings))])
    for found, wanted in zip(*states, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
