"""Each form alone: its precisions, and what it asks of the host."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.device import precisions, set_precision
from qsweep.workers.forms import Form, default_form, forms_of, is_known, known_form
from qsweep.workers.models.convolved import Convolved
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.layout import TRAINED
from tests.workers.trainings import mixture, on, training

CPU = torch.device("cpu")


def logits_and_gradients(one: Training, images: Tensor, arithmetic: Any) -> tuple[Tensor, list[Tensor]]:
    network = ConvNetwork(one.model, one.data)
    layout = network.layout
    rows = torch.stack([layout.initial_parameters(seed) for seed in (1, 2)]).double()
    statistics = torch.zeros(2, layout.statistics_length, dtype=torch.float64)
    leaves = layout.leaves(layout.tensors(rows, rows, statistics))
    logits, _ = network.train(images, network.views(leaves), arithmetic)
    labels = torch.arange(len(images)) % 10
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2).flatten(0, 1), labels.repeat(2))
    return logits, list(torch.autograd.grad(loss, [leaves[spec.name] for spec in layout.of_role(*TRAINED)]))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("model", ["nin", "resnet", "mobilenet"])
def test_channels_filled_up_to_a_multiple_change_nothing(digits: Images, grouped: bool, model: str) -> None:
    one = training(model=model, **({"width": 5, "depth": 2} if model == "nin" else {"width": 3}))
    images = digits.train_images[:20].double() / 16
    bare = logits_and_gradients(one, images, Convolved(grouped=grouped, dtype=torch.float64))
    filled = logits_and_gradients(one, images, Convolved(grouped=grouped, dtype=torch.float64, multiple=8))
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


@pytest.mark.slow
@pytest.mark.parametrize("form", forms_of("bf16", "cpu"))
def test_a_training_in_bf16_follows_the_one_in_fp32_on_single_precision_weights(few: Images, form: Form) -> None:
    reduced, single = (trained_losses(few, form, precision=one) for one in ("bf16", "fp32"))
    assert reduced != single
    # How far depends on what the processor multiplies with: AMX tiles sum in another order than AVX-512 or plain code.
    assert max(abs(one - other) for one, other in zip(reduced, single, strict=True)) < 0.02 * single[0]
    assert single[-1] < 0.7 * single[0]


@pytest.mark.parametrize("form", [Form.LOOP, Form.GROUPED])
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


def test_what_was_computed_in_a_form_of_an_earlier_version_counts_and_its_calibration_is_not_used() -> None:
    assert is_known(1, "blocks")
    assert known_form(1, "blocks") is None
    assert not is_known(1, "magic")
    assert not is_known(0, "loop")
    assert known_form(4, "loop") is Form.LOOP
    assert known_form(4, "vmap") is None
    assert known_form(4, "vmap", modules=True) is Form.VMAP


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


FOR_GPUS = forms_of("fp32", "cuda")


def epoch_of(cohort: Cohort, steps: int) -> None:
    for _ in range(steps):
        cohort.step()


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
