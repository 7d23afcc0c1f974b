"""VVTQ's quantizer of weights: its factor, its initialization and its penalty, against autograd and by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.measures import Sharpness
from qsweep.sweeps.quantizers import Lsq, Vvtq, VvtqActivations
from qsweep.sweeps.signals import Place, Signal
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, Part, source_of
from qsweep.workers.deployed import deployed
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.models import network_of
from qsweep.workers.models.layout import Layout, ModuleSpec, Role, TensorSpec
from qsweep.workers.quantizers.activations import SignalTensors, stacked
from qsweep.workers.quantizers.lsq import LsqWeights
from qsweep.workers.quantizers.vvtq import VvtqSignals, VvtqWeights, fixed_point, penalty_at
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.trainings import on, training

CPU = torch.device("cpu")


def layout_of(*counts: int) -> Layout:
    """Layers of so many weights."""
    return Layout([
        ModuleSpec(
            name=f"layer{number}",
            tensors=(
                TensorSpec(name=f"layer{number}.weight", shape=(count,), role=Role.WEIGHT, group=str(number)),
                TensorSpec(name=f"layer{number}.step", shape=(), role=Role.STEP_SIZE, group=str(number)),
            ),
            draw=dict,
        )
        for number, count in enumerate(counts)
    ])  # fmt: skip


def row_of(layout: Layout, weights: list[Tensor], steps: list[float]) -> Tensor:
    row = torch.zeros(1, layout.parameters_length, dtype=torch.float64)
    row[0, : layout.weights] = torch.cat(weights)
    layout.steps.of(row)[0] = torch.tensor(steps, dtype=torch.float64)
    return row


def gradients_of(kind: Any, quantizers: list[Any], layout: Layout, rows: Tensor, above: Tensor, epoch: int = 0) -> Any:
    """The gradients (M, P) of ∂v̂ in `above` (M, ω), in the epoch of four."""
    quantizer = kind(quantizers, layout, CPU, torch.float64)
    quantizer.open(epoch, 4)
    rounding = quantizer.quantize(rows, rows.clone())
    gradients = torch.zeros_like(rows)
    gradients[:, : layout.weights] = above
    quantizer.differentiate(rounding, gradients)
    return gradients


def test_the_factor_by_hand() -> None:
    layout, above = layout_of(4), torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=torch.float64)
    row = row_of(layout, [torch.tensor([1.0, -2.0, 3.0, 0.0])], [1.3])
    # u = 0.77, −1.54, 2.31 (clipped at 1) and 0: round(u) − u, and Qp where it is clipped
    shares = torch.tensor([1 - 1 / 1.3, -2 + 2 / 1.3, 1.0, 0.0], dtype=torch.float64)
    for step_gradient, square in (("module", 6.0), ("lsq", 4.0)):
        quantizer = Vvtq(bits=2, step_gradient=step_gradient)
        found = gradients_of(VvtqWeights, [quantizer], layout, row, above)
        assert float(layout.steps.of(found)[0]) == pytest.approx(float((shares * above).sum()) / square**0.5)
        torch.testing.assert_close(found[0, :4], above[0] * torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_with_lsqs_factor_and_no_penalty_it_is_lsq() -> None:
    layout, draw = layout_of(60, 40), torch.Generator().manual_seed(0)
    rows = torch.randn(2, layout.parameters_length, dtype=torch.float64, generator=draw)
    layout.steps.of(rows).abs_().add_(0.1)
    above = torch.randn(2, 100, dtype=torch.float64, generator=draw)
    vvtq = [Vvtq(bits=bits, step_gradient="lsq", bin_regularization=0.0) for bits in (2, 4)]
    lsq = [Lsq(bits=bits) for bits in (2, 4)]
    found = gradients_of(VvtqWeights, vvtq, layout, rows, above, epoch=3)
    torch.testing.assert_close(found, gradients_of(LsqWeights, lsq, layout, rows, above), rtol=1e-15, atol=0)


def penalty(weights: Tensor, step: Tensor, bits: int) -> Tensor:
    """R of one layer, as VVTQ's code has it, on integer codes."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    clipped = (weights / step).clamp(low, high)
    inside = (weights / step) == clipped
    value = torch.where(inside, weights, clipped.detach() * step)
    codes = clipped.detach().round()
    found = ((codes * step).detach() - value).square().mean()
    for code in range(low, high + 1):
        mine = value[codes == code]
        if len(mine) > 1:
            found = found + mine.var()
    return found


def test_the_penalty_by_hand() -> None:
    weights = torch.tensor([-1.9, -1.2, 0.1, 0.3, 0.8, 1.6], dtype=torch.float64)
    assert float(penalty(weights, torch.ones((), dtype=torch.float64), 2)) == pytest.approx(0.071667, abs=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_penaltys_gradient_is_that_of_autograd(bits: int) -> None:
    layout, draw = layout_of(70, 50), torch.Generator().manual_seed(bits)
    parts = [torch.randn(count, dtype=torch.float64, generator=draw) for count in (70, 50)]
    steps = [3.0 / 2**bits, 0.8 / 2**bits]
    row = row_of(layout, parts, steps)
    quantizers = [Vvtq(bits=bits, bin_regularization=0.5)]
    zero = torch.zeros(1, 120, dtype=torch.float64)
    found = gradients_of(VvtqWeights, quantizers, layout, row, zero, epoch=3)[0]
    share, start = penalty_at(3, 4, 0.5), 0
    for number, (part, step) in enumerate(zip(parts, steps, strict=True)):
        weights, size = part.clone().requires_grad_(), torch.tensor(step, dtype=torch.float64, requires_grad=True)
        of_weights, of_step = torch.autograd.grad(penalty(weights, size, bits), [weights, size])
        wanted = share * of_weights
        torch.testing.assert_close(found[start : start + len(part)], wanted, rtol=1e-10, atol=1e-15)
        factor = (float(part.abs().sum()) * (2 ** (bits - 1) - 1)) ** -0.5
        start += len(part)
        assert float(layout.steps.of(found[None])[0, number]) == pytest.approx(share * float(of_step) * factor)
    before = gradients_of(VvtqWeights, quantizers, layout, row, zero, epoch=0)
    assert not before.any()


def test_the_penalty_rises_in_the_last_three_quarters() -> None:
    values = [penalty_at(epoch, 100, 0.01) for epoch in (0, 24, 25, 100)]
    assert values == pytest.approx([0, 0, 0, 0.01])
    assert penalty_at(100, 160, 0.01) == pytest.approx(0.005)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scales_begin_at_a_fixed_point(bits: int) -> None:
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(bits)).double()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def codes(scale: float) -> Tensor:
        return (weights / scale).clamp(low, high).round()

    scale = fixed_point(weights, bits)
    found = codes(scale)
    assert float((weights * found).sum() / found.square().sum()) == pytest.approx(scale, rel=2e-5)
    widest = float(weights.abs().max()) / high
    errors = [float((one * codes(one) - weights).square().sum()) for one in (scale, widest)]
    assert errors[0] <= errors[1]
    assert fixed_point(torch.zeros(3), bits) == 0.0


def test_it_is_trained_beside_lsq_and_measured(few: Images) -> None:
    shared: dict[str, Any] = {"model": "vit", "batch_size": 97, "epochs": 4, "milestones": [], "learning_rate": 0.01}
    trainings = on(few, [
        training(**shared, bits=2, quantizer="vvtq"),
        training(**shared, bits=4),
        training(**shared, bits=4, quantizer="vvtq", step_gradient="lsq", bin_regularization=0.0, seed=1),
        training(**shared, bits=32),
    ])  # fmt: skip
    assert len({one.canonical()["quantizer"]["name"] for one in trainings if one.quantizer}) == 2

    def cohort(some: list[Any]) -> Cohort:
        return Cohort(some, few, slots=4, form=Form.GROUPED, device=CPU)

    together = finish(cohort(trainings))
    for member, result in enumerate(finish(cohort(trainings[:1] + trainings[2:3]))):
        assert_same_bits(result, together[2 * member])
    measure = Sharpness(iterations=1, copies=2, ascent_steps=1, ascent_batch=30)
    (row,) = measure_models(trainings[:1], [together[0].model], measure, few, device=CPU)
    assert row["clean_accuracy"] == pytest.approx(together[0].run["train_accuracy"])


def test_other_factors_are_refused() -> None:
    with pytest.raises(InputError, match="step_gradient"):
        training(bits=4, quantizer="vvtq", step_gradient="head")


def signal_of(*, signed: bool = True, after_gelu: bool = False) -> Signal:
    return Signal(layer="some", features=4, signed=signed, linear=True, place=Place.INNER, after_gelu=after_gelu)


def tensors_of(signal: Signal, bits: int, step: float, *, module: bool = True, offset: float = 0.0) -> SignalTensors:
    """One model's tensors of a signal, as `VvtqSignals` declares them."""
    layout = Layout([], [signal], VvtqSignals)
    chosen = VvtqActivations(activation_bits=bits, activation_gradient="module" if module else "lsq")
    statistics = torch.zeros(layout.statistics_length, dtype=torch.float64)
    VvtqSignals.levels(chosen, layout, statistics)
    names = [spec.name for spec in VvtqSignals.tensors(signal)]
    found = {
        name: layout[f"some.activation.{name}"].of(statistics[None]) for name in names if name not in ("step", "offset")
    }
    found["step"] = torch.tensor([step], dtype=torch.float64, requires_grad=True)
    if "offset" in names:
        found["offset"] = torch.tensor([offset], dtype=torch.float64, requires_grad=True)
    return SignalTensors(signal=signal, quantizer=VvtqSignals, tensors=found)


def straight_through(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()


@pytest.mark.parametrize("signal", [signal_of(), signal_of(signed=False), signal_of(after_gelu=True)])
def test_activations_have_the_gradients_of_rounding_straight_through(signal: Signal) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(1, 8, 5, dtype=torch.float64, generator=draw).requires_grad_()
    above = torch.randn(1, 8, 5, dtype=torch.float64, generator=draw)
    mine = tensors_of(signal, 3, 0.3, offset=-0.17)
    low, high = (-4, 3) if signal.signed and not signal.after_gelu else (0, 7)
    assert (float(mine.low), float(mine.high)) == (low, high)
    learned = [one for name, one in mine.tensors.items() if name in ("step", "offset")]
    found = torch.autograd.grad((stacked(values, mine) * above).sum(), [values, *learned])
    step, offset = (torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (0.3, -0.17))
    begin = offset if signal.after_gelu else torch.zeros((), dtype=torch.float64)
    ratio = (values - begin) / step
    rounded = straight_through(ratio.clamp(low, high)) * step + begin
    wanted = torch.autograd.grad((rounded * above).sum(), [values, step, offset], allow_unused=True)
    torch.testing.assert_close(stacked(values, mine), rounded, rtol=0, atol=1e-15)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(found[1], wanted[1][None] / (high * 40**0.5), rtol=1e-12, atol=0)
    if signal.after_gelu:
        inside = (ratio >= low) & (ratio <= high)
        assert float(found[2]) == pytest.approx(float((above * ~inside).sum()))
        torch.testing.assert_close(found[2], wanted[2][None], rtol=1e-12, atol=1e-15)


def test_the_factor_of_activations_by_hand() -> None:
    values = torch.full((1, 8), 3.0, dtype=torch.float64)
    for module, factor in ((True, 1 / (15 * 8**0.5)), (False, 1 / (15 * 4) ** 0.5)):
        mine = tensors_of(signal_of(signed=False), 4, 0.1, module=module)
        (found,) = torch.autograd.grad(stacked(values, mine).sum(), [mine.tensors["step"]])
        assert float(found) == pytest.approx(8 * 15 * factor)


def test_scales_of_activations_begin_as_vvtqs_and_wide_ones_leave_the_offset() -> None:
    values = torch.randn(1, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for signal in (signal_of(), signal_of(signed=False), signal_of(after_gelu=True)):
        mine = tensors_of(signal, 3, 1.0, offset=2.0)
        with torch.no_grad():
            VvtqSignals.start(mine, [values])
        assert mine.step.item() == pytest.approx(float(2 * values.abs().mean()) / 3**0.5)
    assert mine.tensors["offset"].item() == 0.0
    wide = tensors_of(signal_of(after_gelu=True), 3, 1e9, offset=0.25)
    assert stacked(values, wide).unique().tolist() == [0.25]


def test_what_is_learned_of_activations_stays_in_its_range_but_for_offsets() -> None:
    signals = [dataclasses.replace(signal_of(after_gelu=number == 1), layer=f"layer{number}") for number in range(3)]
    layout = Layout([], signals, VvtqSignals)
    rows = torch.zeros(2, layout.parameters_length)
    layout["layer1.activation.offset"].of(rows).fill_(-0.2)
    layout["layer2.activation.step"].of(rows).fill_(0.5)
    assert VvtqSignals.restrain(layout, rows).tolist() == [2, 2]
    assert layout["layer1.activation.offset"].of(rows).tolist() == pytest.approx([-0.2, -0.2])
    assert layout["layer0.activation.step"].of(rows).tolist() == pytest.approx([1e-4, 1e-4])
    assert layout["layer2.activation.step"].of(rows).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_quantized_activations_keep_models_apart(name: str, few: Images) -> None:
    shared: dict[str, Any] = {
        "model": name, "batch_size": 104, "epochs": 1, "milestones": [], "optimizer": "adamw", "learning_rate": 0.01,
        "quantizer": "vvtq", "activation_quantizer": "vvtq", "weight_decay": 0.01,
    }  # fmt: skip
    trainings = on(few, [
        training(**shared, bits=bits, activation_bits=bits, seed=bits, activation_gradient=gradient)
        for bits, gradient in ((2, "module"), (4, "lsq"), (8, "module"))
    ])  # fmt: skip

    def cohort(some: list[Any]) -> Cohort:
        return Cohort(some, few, slots=3, form=Form.GROUPED, device=CPU)

    together = finish(cohort(trainings))
    for member, result in enumerate(finish(cohort(trainings[::-1]))[::-1]):
        assert_same_bits(result, together[member])
    assert_same_bits(finish(cohort(trainings[:1]))[0], together[0])
    network = deployed(trainings[0], together[0].model)
    source = source_of(few, trainings[0].recipe, CPU, torch.float32)
    with torch.no_grad():
        hits = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in source.passes(Part.TEST, 90))
    assert hits / 90 == pytest.approx(together[0].run["test_accuracy"], abs=0.012)
    outputs = network_of(trainings[0]).layout
    assert ("patch.activation.step" in dict(together[0].model)) is (name == "vit")
    assert len([one for one in outputs.signals if one.after_gelu]) == (2 if name == "vit" else 3)


def test_32_bits_everywhere_are_the_float_network() -> None:
    """Nothing is left to round: the same job, whatever quantizers are named beside them."""
    named = training(model="vit", quantizer="vvtq", activation_quantizer="vvtq", activation_bits=32)
    assert Job(training=named).identity == Job(training=training(model="vit")).identity


@pytest.mark.slow
def test_a_toy_vit_keeps_its_accuracy_at_four_bits_and_not_at_two(digits: Images) -> None:
    """The ViT of `digits-transformers` by its own recipe, seeds 0 and 1: means over the seeds."""
    jobs = [job.training for job in read_sweep("digits-transformers", ["model=vit", "bits=[32, 4, 2]"]).trainings()]
    found: dict[int, list[float]] = {}
    for float_ones in (True, False):
        some = [one for one in jobs if (one.bits == 32) is float_ones and one.recipe.seed < 2]
        for one, result in zip(
            some, finish(Cohort(some, digits, slots=len(some), form=Form.GROUPED, device=CPU)), strict=True
        ):
            found.setdefault(one.bits, []).append(result.run["test_accuracy"])
    full, four, two = (sum(found[bits]) / 2 for bits in (32, 4, 2))
    assert [len(one) for one in found.values()] == [2, 2, 2]
    assert full > 0.93
    assert four >= 0.95 * full
    assert two < four - 0.005
