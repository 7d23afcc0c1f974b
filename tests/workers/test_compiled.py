"""The compiled forms: the numbers of plain modules, the same bits beside any neighbour, one error without a compiler.

A shape takes a second or two to compile, so these trainings have few of them, and share them.
"""

from __future__ import annotations

import contextvars
import dataclasses
import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.db.home import Home
from qsweep.orchestrator.calibrating import Bench, choose
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.training import Training
from qsweep.workers import compiling
from qsweep.workers.cohort import Cohort
from qsweep.workers.compiling import Compiled, watch
from qsweep.workers.data import Images
from qsweep.workers.forms import Form, default_form, forms_of
from qsweep.workers.models import chains
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.models.stage import EPSILON
from qsweep.workers.optimizers import CohortOptimizer, CompiledOptimizer
from qsweep.workers.quantizers.compiled import CompiledDeployment
from qsweep.workers.quantizers.deployment import Deployment
from tests.workers.test_equivalence import assert_equal_to_plain_models
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.trainings import first, mixture, on, training

CPU = torch.device("cpu")
COMPILED = [form for form in Form if form.compiled]
WHOLE = 52
"""Images a batch that divide the few: one shape of each kind."""
SLOTS = 3
SMALL: dict[str, Any] = {"depth": 1, "width": 9, "channels_per_width": 2, "batch_size": WHOLE}
"""The last of three models' channels side by side fill no vector: another part of a kernel computes them."""


def two_precisions(**settings: Any) -> list[Training]:
    """Each optimizer with and without a quantizer: each group of equal members is a shape more."""
    return [one for one in mixture(depth=1, **settings) if one.bits in (32, 4)]


@pytest.mark.slow
def test_a_mixed_cohort_with_a_short_last_batch_equals_plain_models(few: Images) -> None:
    """Batches of 32, 32 and 8, and a milestone."""
    assert_equal_to_plain_models(first(few, 72, 30), [Form.COMPILED_LOOP], two_precisions(batch_size=32), steps=4)


@pytest.mark.slow
def test_a_mixed_cohort_of_one_convolution_for_all_equals_plain_models(few: Images) -> None:
    images = first(few, 2 * WHOLE, 30)
    assert_equal_to_plain_models(images, [Form.COMPILED_GROUPED], two_precisions(batch_size=WHOLE), steps=3)


def members(**settings: Any) -> list[Training]:
    """Two optimizers, with and without a quantizer, in two epochs of six batches."""
    chosen = (("sgd", 4), ("adam", 2), ("sgd", 32))
    return [training(optimizer=name, bits=bits, seed=bits, **SMALL, **settings) for name, bits in chosen]


def cohort_of(trainings: list[Training], images: Images, form: Form) -> Cohort:
    return Cohort(on(images, trainings), images, slots=SLOTS, form=form, device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("form", COMPILED)
def test_neighbours_slots_and_an_interruption_change_no_bit(few: Images, form: Form) -> None:
    trainings = members()
    together = finish(cohort_of(trainings, few, form))
    assert all(row["train_loss"] is not None for result in together for row in result.epochs)
    for member, one in enumerate(trainings):
        assert_same_bits(finish(cohort_of([one], few, form))[0], together[member])
    first = cohort_of(trainings[::-1], few, form)
    for _ in range(9):
        first.step()
    second = cohort_of(trainings, few, form)
    for member in range(len(trainings)):
        second.restore(member, first.state(len(trainings) - 1 - member))
    for one, other in zip(finish(second), together, strict=True):
        assert_same_bits(one, other)


def losses(few: Images, form: Form, precision: str = "fp32") -> Tensor:
    cohort = cohort_of(members(precision=precision, learning_rate=0.01), few, form)
    return torch.tensor([[row["train_loss"] for row in one.epochs] for one in finish(cohort)])


@pytest.mark.slow
@pytest.mark.parametrize("form", COMPILED)
def test_losses_of_a_whole_training_are_those_of_the_form_that_gathers(few: Images, form: Form) -> None:
    assert (losses(few, form) - losses(few, Form.GATHER)).abs().max() < 2e-3


@pytest.mark.slow
def test_activations_are_rounded_as_in_the_form_that_is_not_compiled(few: Images) -> None:
    """Step sizes that begin from the first batch, and their gradients: in double precision, compiled for real."""
    images = first(few, 2 * WHOLE, 30)
    some = [training(bits=bits, activation_bits=3, seed=bits, **SMALL) for bits in (4, 32)]
    loop, *others = (
        Cohort(on(images, some), images, slots=2, form=form, device=CPU, dtype=torch.float64)
        for form in (Form.LOOP, *COMPILED)
    )
    begun = loop.state(0)["parameters"]
    for cohort, _ in itertools.product((loop, *others), range(3)):
        cohort.step()
    steps = loop.layout.activation_steps
    assert bool((steps.of(loop.state(0)["parameters"][None]) != steps.of(begun[None])).any())
    for other, member in itertools.product(others, range(len(some))):
        for name in ("parameters", "statistics", "losses"):
            torch.testing.assert_close(other.state(member)[name], loop.state(member)[name], rtol=0, atol=1e-10)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("form", COMPILED)
def test_losses_in_bf16_follow_those_in_fp32(few: Images, form: Form) -> None:
    reduced, single = losses(few, form, "bf16"), losses(few, form)
    assert not torch.equal(reduced, single)
    assert (reduced - single).abs().max() < 0.02


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("relu", "ceiling"), [(False, None), (True, None), (True, 1.5)])
def test_a_chain_is_batch_norm_residual_and_relu_and_their_gradients(
    residual: bool, relu: bool, ceiling: float | None
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, added, slopes = (torch.randn(40, 7, dtype=torch.float64, generator=draw) for _ in range(3))
    gamma, beta = (torch.rand(7, dtype=torch.float64, generator=draw) + 0.5 for _ in range(2))
    leaves = [one.clone().requires_grad_() for one in (rows, gamma, beta, added)]
    output = torch.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:3], training=True, eps=EPSILON)
    output = output + leaves[3] if residual else output
    if relu:
        output = output.clamp(0, ceiling)
    wanted = torch.autograd.grad(output, leaves, slopes, allow_unused=True)

    given = added if residual else None
    found, mean, variance, inverse = chains.finish(rows, gamma, beta, given, relu, ceiling)
    torch.testing.assert_close(found, output.detach())
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(variance, rows.var(0, correction=0))
    gradients = chains.finish_backward(slopes, rows, gamma, beta, mean, inverse, given, relu, ceiling)
    for one, other in zip(gradients[:3], wanted[:3], strict=True):
        torch.testing.assert_close(one, other)
    if relu and residual:
        torch.testing.assert_close(gradients[3], wanted[3])
    else:
        assert gradients[3] is None


@pytest.mark.slow
def test_a_compiled_chain_of_bf16_with_everything_is_the_plain_one() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, added, slopes = (torch.randn(400, 21, generator=draw).bfloat16() for _ in range(3))
    gamma, beta = (torch.rand(21, generator=draw) + 0.5 for _ in range(2))
    plain = chains.finish(rows, gamma, beta, added, True, 1.5)
    found = Compiled(chains.finish)(rows, gamma, beta, added, True, 1.5)
    given = (slopes, rows, gamma, beta, plain[1], plain[3], added, True, 1.5)
    found += Compiled(chains.finish_backward)(*given)
    for one, other in zip(found, plain + chains.finish_backward(*given), strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(
            one.double(), other.double(), rtol=0.01 if one.dtype == torch.bfloat16 else 1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_quantizers_and_optimizers_are_the_plain_ones(few: Images) -> None:
    """Quantized weights bit for bit: what is evaluated and measured elsewhere is what was trained."""
    trainings = members()
    trainings = [trainings[0], trainings[2], trainings[1]]
    layout = ConvNetwork(trainings[0].model, trainings[0].data).layout
    draw = torch.Generator().manual_seed(0)
    rows = [torch.rand(SLOTS, layout.parameters_length, generator=draw) - 0.3 for _ in range(4)]
    layout.steps.of(rows[0]).copy_(0.1)
    given = (layout, CPU, torch.float32)
    plain = (Deployment(trainings, layout, *given[1:]), CohortOptimizer(trainings, *given))
    ours = (CompiledDeployment(trainings, SLOTS, layout, *given[1:]), CompiledOptimizer(trainings, SLOTS, *given))
    found = []
    for deployment, optimizer in (plain, ours):
        parameters, slopes, first, second = (one.clone() for one in rows)
        second.abs_()
        deployed = deployment.buffer(parameters)
        roundings = deployment.deploy(parameters, deployed)
        gradients = slopes.clone()
        deployment.differentiate(parameters, roundings, gradients)
        optimizer.open(0)
        optimizer.step(parameters, slopes, first, second, torch.tensor(3.0, dtype=torch.float64))
        deployment.restrain(parameters)
        found.append((deployed[:, : layout.weights], gradients, parameters, first, second))
        assert not any(
            torch.equal(one, other) for one, other in zip(found[-1][1:4], (slopes, *rows[:1], rows[2]), strict=True)
        )
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def doubled(one: Tensor) -> Tensor:
    return 2 * one


def branching(one: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return one


@pytest.mark.slow
def test_shapes_have_kernels_of_their_own_without_a_limit_and_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    ticks: list[int] = []
    monkeypatch.setattr(compiling, "_watchers", [])
    watch(lambda: ticks.append(1))
    compiled, found = Compiled(doubled), []

    def run() -> None:
        """The gradients of a GPU are computed in a thread of their own."""
        found.extend(compiled(torch.ones(count)) for count in (3, 4, 3))

    with torch._dynamo.config.patch(recompile_limit=1):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))  # a limit is a context's
        thread.start()
        thread.join()
    assert [one.tolist() for one in found] == [[2.0] * 3, [2.0] * 4, [2.0] * 3]
    assert len(ticks) == 2
    with pytest.raises(QsweepError, match="compiles parts of the training step"):
        Compiled(branching)(torch.ones(3))


@pytest.mark.slow
def test_without_a_compiler_a_calibration_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    job = read_sweep("digits-grid").jobs()[0]
    bench = Bench(home=Home.at(tmp_path / "home"), agents=1, gpus=0, seconds=0.1, room=0)
    found = bench.measure("one", [job], Form.COMPILED_LOOP, 1)
    assert "C++ compiler" in found.problem
    assert not found.rate
    other = dataclasses.replace(found, form=Form.LOOP, rate=1.0, problem="")
    assert choose([found, other]) == other
    with pytest.raises(QsweepError, match=r"C\+\+ compiler"):
        choose([found])


def test_only_a_calibration_on_a_gpu_chooses_a_compiled_form() -> None:
    for device in ("cpu x86_64 AVX2", "cuda NVIDIA H200"):
        for precision in ("fp32", "tf32", "bf16"):
            assert set(COMPILED) <= set(forms_of(precision, device)) or device.startswith("cpu")
            assert not default_form(training(precision=precision), device)[1].compiled
    assert not set(COMPILED) & set(forms_of("fp32", "cpu x86_64 AVX2"))


@pytest.mark.slow
def test_an_agent_that_compiles_nothing_does_not_load_the_compiler() -> None:
    code = "import sys, qsweep.workers.cohort; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
