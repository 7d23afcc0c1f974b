"""LSQ's forward and backward pass against sums written out element by element."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.measures import PacBayes
from qsweep.sweeps.quantizers import Lsq
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, Part, source_of
from qsweep.workers.deployed import deployed
from qsweep.workers.forms import Form
from qsweep.workers.measures import measure_models
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.quantizers import QUANTIZATIONS
from qsweep.workers.quantizers.lsq import SMALLEST_STEP, LsqWeights, Rounding
from tests.workers.test_independence import finish
from tests.workers.trainings import on, training

CPU = torch.device("cpu")


def layout_of(counts: list[int]) -> ConvLayout:
    """Layers of so many weights each."""
    return ConvLayout(
        [
            ConvLayer(
                name=str(number),
                inputs=count,
                outputs=1,
                kernel=1,
                stride=1,
                padding=0,
                side=1,
                bias=False,
                norm=False,
                outer=number in (0, len(counts) - 1),
            )
            for number, count in enumerate(counts)
        ]
    )


def row_of(layout: ConvLayout, weights: Tensor, steps: Tensor) -> Tensor:
    """Rows (M, P) that hold these weights and step sizes."""
    rows = weights.new_zeros(len(weights), layout.parameters_length)
    rows[:, : layout.weights] = weights
    layout.steps.of(rows).copy_(steps)
    return rows


def oracle(v: list[float], s: float, bits: int, g: list[float]) -> tuple[list[float], list[float], float]:
    """v̂, ∂v and ∂s by the definition, one weight at a time."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    out, gradients, of_step = [], [], 0.0
    for weight, gradient in zip(v, g, strict=True):
        u = weight / s
        if u < low:
            out.append(low * s)
            gradients.append(0.0)
            of_step += gradient * low
        elif u > high:
            out.append(high * s)
            gradients.append(0.0)
            of_step += gradient * high
        else:
            out.append(round(u) * s)  # Python rounds halves to even, as torch does
            gradients.append(gradient)
            of_step += gradient * (round(u) - u)
    return out, gradients, of_step / math.sqrt(len(v) * high)


def ours(
    weights: Tensor, steps: Tensor, quantizers: list[Lsq], counts: list[int], gradients: Tensor, **more: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """v̂, ∂v and ∂s."""
    layout = layout_of(counts)
    quantized = LsqWeights(quantizers, layout, CPU, weights.dtype, **more)
    rows, found = row_of(layout, weights, steps), row_of(layout, gradients, torch.zeros_like(steps))
    out = torch.zeros_like(rows)
    quantized.differentiate(quantized.quantize(rows, out), found)
    return out[:, : layout.weights], found[:, : layout.weights], layout.steps.of(found)


@pytest.mark.parametrize(("ratio", "of_weight", "of_step"), [(1.3, 0.0, 1.0), (-2.3, 0.0, -2.0), (0.8, 1.0, 0.2)])
def test_clipping_is_decided_before_rounding(ratio: float, of_weight: float, of_step: float) -> None:
    """At 2 bits 1.3 rounds to 1, which is allowed, but it is clipped all the same."""
    step = 0.25
    weights, steps = (
        torch.tensor([[ratio * step]], dtype=torch.float64),
        torch.tensor([[step]], dtype=torch.float64),
    )
    _, gradient, step_gradient = ours(weights, steps, [Lsq(bits=2, outer_bits=2)], [1], torch.ones_like(weights))
    assert gradient.item() == of_weight
    assert step_gradient.item() == pytest.approx(of_step, abs=1e-12)


def test_models_of_different_widths_equal_the_definition_weight_by_weight() -> None:
    torch.manual_seed(0)
    counts, widths = [7, 40, 13], [(2, 8), (3, 3), (4, 8), (8, 2), (5, 7), (6, 4), (7, 6)]
    weights = torch.randn(len(widths), sum(counts), dtype=torch.float64)
    gradients = torch.randn_like(weights)
    steps = torch.rand(len(widths), 3, dtype=torch.float64) + 0.05
    quantizers = [Lsq(bits=inner, outer_bits=outer) for inner, outer in widths]
    out, gradient, step_gradient = ours(weights, steps, quantizers, counts, gradients)
    for model, (inner, outer) in enumerate(widths):
        start = 0
        for index, (count, bits) in enumerate(zip(counts, (outer, inner, outer), strict=True)):
            part = slice(start, start + count)
            wanted = oracle(
                weights[model, part].tolist(), float(steps[model, index]), bits, gradients[model, part].tolist()
            )
            assert out[model, part].tolist() == pytest.approx(wanted[0], abs=1e-12)
            assert gradient[model, part].tolist() == pytest.approx(wanted[1], abs=1e-12)
            assert float(step_gradient[model, index]) == pytest.approx(wanted[2], abs=1e-12)
            start += count


def test_copies_of_one_model_round_by_one_quantizer() -> None:
    """As measures do it: one row of settings, many rows of weights, folded ones among them."""
    torch.manual_seed(0)
    counts = [7, 4, 5]
    layout, quantizer = layout_of(counts), Lsq(bits=3, outer_bits=5)
    weights = torch.randn(7, sum(counts), dtype=torch.float64)
    steps, factor = torch.rand(7, 3, dtype=torch.float64) + 0.05, torch.rand(sum(counts), dtype=torch.float64) + 0.5
    rows = row_of(layout, weights * factor, steps)
    LsqWeights([quantizer], layout, CPU, torch.float64).round_copies(rows, factor=factor)
    wanted, _, _ = ours(weights, steps, [quantizer] * 7, counts, torch.ones_like(weights))
    torch.testing.assert_close(rows[:, : layout.weights], wanted * factor, rtol=1e-12, atol=1e-12)


def test_gradients_of_folded_weights_are_autograds_through_the_straight_through_estimator() -> None:
    torch.manual_seed(0)
    counts, quantizer = [9, 6], Lsq(bits=2, outer_bits=3)
    layout = layout_of(counts)
    weights, steps = torch.randn(1, 15, dtype=torch.float64), torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    factor, gradients = torch.rand(15, dtype=torch.float64) + 0.5, torch.randn(1, 15, dtype=torch.float64)
    quantized = LsqWeights([quantizer], layout, CPU, torch.float64, divides=True)
    rows, found = row_of(layout, weights * factor, steps), row_of(layout, gradients, torch.zeros_like(steps))
    quantized.differentiate(quantized.quantize(rows, rows.clone(), factor=factor), found, factor=factor)
    for part, step, start in zip(weights[0].split(counts), steps[0], (0, 9), strict=True):
        place = slice(start, start + len(part))
        wanted = oracle(part.tolist(), float(step), 3, (gradients[0] * factor)[place].tolist())
        # The folded weight is factor·v, so its own gradient is ∂v/factor.
        assert (found[0, place] * factor[place]).tolist() == pytest.approx(wanted[1], abs=1e-12)
        assert float(layout.steps.of(found)[0, int(start > 0)]) == pytest.approx(wanted[2], abs=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_forward_equals_torchs_fake_quantizer_and_at_8_bits_backward_too(bits: int) -> None:
    """Backward they agree only where nothing is clipped: see the traps."""
    torch.manual_seed(bits)
    count, high = 999, 2 ** (bits - 1) - 1
    weights, gradients = torch.randn(1, count), torch.randn(1, count)
    steps = torch.tensor([[float(weights.abs().max()) / (high - 0.4)]]) if bits == 8 else torch.tensor([[0.37]])
    out, gradient, step_gradient = ours(weights, steps, [Lsq(bits=bits, outer_bits=bits)], [count], gradients)
    v, s = weights[0].clone().requires_grad_(), steps[0].clone().requires_grad_()
    wanted = torch._fake_quantize_learnable_per_tensor_affine(
        v, s, torch.zeros(1), -high - 1, high, 1 / math.sqrt(count * high)
    )
    torch.testing.assert_close(out[0], wanted.detach(), rtol=1e-6, atol=1e-6)
    if bits == 8:
        wanted.backward(gradients[0])
        assert v.grad is not None
        torch.testing.assert_close(gradient[0], v.grad)
        torch.testing.assert_close(step_gradient[0], s.grad, rtol=1e-4, atol=1e-6)


def test_steps_start_at_twice_the_mean_weight_over_the_root_of_the_highest_level() -> None:
    weights = torch.tensor([1.0, -3.0, 0.5, -0.5, 2.0])
    layout = layout_of([2, 2, 1])
    row = row_of(layout, weights[None], torch.ones(1, 3))
    LsqWeights.initialize(Lsq(bits=4, outer_bits=8), layout, row[0])
    assert layout.steps.of(row)[0].tolist() == pytest.approx([4 / math.sqrt(127), 1 / math.sqrt(7), 4 / math.sqrt(127)])


def test_steps_stay_positive_and_decay_only_if_asked(digits: Images) -> None:
    """Decay so strong that it turns every decayed step negative in one update."""
    both = [
        training(
            bits=2,
            weight_decay=1.0,
            learning_rate=30.0,
            momentum=0.0,
            decay_step=decay,
            epochs=1,
            milestones=[],
        )
        for decay in (False, True)
    ]
    cohort = Cohort(both, digits, slots=2, form=Form.GATHER, device=CPU)
    before = [cohort.layout.steps.of(cohort.state(member)["parameters"][None])[0] for member in range(2)]
    cohort.step()
    kept, decayed = (cohort.layout.steps.of(cohort.state(member)["parameters"][None])[0] for member in range(2))
    assert (decayed == SMALLEST_STEP).all()
    assert not (kept == SMALLEST_STEP).all()
    assert (kept > 0).all()
    assert torch.equal(before[0], before[1])


class Coarse(LsqWeights):
    """Of every model: all weights of a layer become its step size."""

    def quantize(self, parameters: Tensor, out: Tensor, *, factor: Tensor | None = None) -> Rounding:
        steps = self._steps.of(parameters)[:, self._layer_of]
        rounding = super().quantize(parameters, out, factor=factor)
        out[:, self._weights] = steps if factor is None else steps * factor
        return rounding

    def round_copies(self, rows: Tensor, *, factor: Tensor | None = None) -> None:
        self.quantize(rows, rows, factor=factor)


def test_the_quantizer_of_its_name_is_the_one_that_trains_evaluates_measures_and_deploys(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUANTIZATIONS, "lsq", Coarse)
    (one,) = on(few, [training(bits=4, epochs=1, milestones=[], batch_size=104)])
    (result,) = finish(Cohort([one], few, slots=1, form=Form.GATHER, device=CPU))
    (row,) = measure_models([one], [result.model], PacBayes(iterations=1, copies=1), few, device=CPU)
    network = deployed(one, result.model)
    weights = [network.layers[number].conv.weight for number in range(len(result.layers))]
    assert [weight.unique().tolist() for weight in weights] == [[layer["step_size"]] for layer in result.layers]
    images, labels = next(source_of(few, one.recipe, CPU, torch.float32).passes(Part.TRAIN, len(few.train_labels)))
    with torch.no_grad():
        accuracy = float((network(images).argmax(1) == labels).double().mean())
    assert (row["clean_accuracy"], result.run["train_accuracy"]) == (pytest.approx(accuracy), pytest.approx(accuracy))
