"""LSQ's forward and backward pass against sums written out element by element."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.quantizers import Lsq
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.quantizers.lsq import SMALLEST_STEP, LsqWeights, initial_steps
from tests.workers.trainings import training

CPU = torch.device("cpu")


def layer(count: int) -> ConvLayer:
    return ConvLayer(name="one", inputs=count, outputs=1, kernel=1, stride=1, padding=0, side=1)


def oracle(v: list[float], s: float, bits: int, g: list[float]) -> tuple[list[float], list[float], float]:
    """v̂, ∂v and ∂s by the definition, one weight at a time."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    out, slopes, of_step = [], [], 0.0
    for weight, slope in zip(v, g, strict=True):
        u = weight / s
        if u < low:
            out.append(low * s)
            slopes.append(0.0)
            of_step += slope * low
        elif u > high:
            out.append(high * s)
            slopes.append(0.0)
            of_step += slope * high
        else:
            out.append(round(u) * s)  # Python rounds halves to even, as torch does
            slopes.append(slope)
            of_step += slope * (round(u) - u)
    return out, slopes, of_step / math.sqrt(len(v) * high)


def ours(
    weights: Tensor, steps: Tensor, quantizers: list[Lsq], counts: list[int], slopes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    lsq = LsqWeights(quantizers, [layer(count) for count in counts], CPU, weights.dtype)
    out, step_slopes, slopes = torch.empty_like(weights), torch.empty_like(steps), slopes.clone()
    lsq.differentiate(lsq.quantize(weights, steps, out), slopes, step_slopes)
    return out, slopes, step_slopes


@pytest.mark.parametrize(("ratio", "of_weight", "of_step"), [(1.3, 0.0, 1.0), (-2.3, 0.0, -2.0), (0.8, 1.0, 0.2)])
def test_clipping_is_decided_before_rounding(ratio: float, of_weight: float, of_step: float) -> None:
    """At 2 bits 1.3 rounds to 1, which is allowed, but it is clipped all the same."""
    step = 0.25
    weights, steps = (
        torch.tensor([[ratio * step]], dtype=torch.float64),
        torch.tensor([[step]], dtype=torch.float64),
    )
    _, slope, step_slope = ours(weights, steps, [Lsq(bits=2, outer_bits=2)], [1], torch.ones_like(weights))
    assert slope.item() == of_weight
    assert step_slope.item() == pytest.approx(of_step, abs=1e-12)


def test_models_of_different_widths_equal_the_definition_weight_by_weight() -> None:
    torch.manual_seed(0)
    counts, widths = [7, 40, 13], [(2, 8), (3, 3), (4, 8), (8, 2), (5, 7), (6, 4), (7, 6)]
    weights = torch.randn(len(widths), sum(counts), dtype=torch.float64)
    slopes = torch.randn_like(weights)
    steps = torch.rand(len(widths), 3, dtype=torch.float64) + 0.05
    quantizers = [Lsq(bits=inner, outer_bits=outer) for inner, outer in widths]
    out, slope, step_slope = ours(weights, steps, quantizers, counts, slopes)
    for model, (inner, outer) in enumerate(widths):
        start = 0
        for index, (count, bits) in enumerate(zip(counts, (outer, inner, outer), strict=True)):
            part = slice(start, start + count)
            wanted = oracle(
                weights[model, part].tolist(), float(steps[model, index]), bits, slopes[model, part].tolist()
            )
            assert out[model, part].tolist() == pytest.approx(wanted[0], abs=1e-12)
            assert slope[model, part].tolist() == pytest.approx(wanted[1], abs=1e-12)
            assert float(step_slope[model, index]) == pytest.approx(wanted[2], abs=1e-12)
            start += count


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_forward_equals_torchs_fake_quantizer_and_at_8_bits_backward_too(bits: int) -> None:
    """Backward they agree only where nothing is clipped: see the traps."""
    torch.manual_seed(bits)
    count, high = 999, 2 ** (bits - 1) - 1
    weights, slopes = torch.randn(1, count), torch.randn(1, count)
    steps = torch.tensor([[float(weights.abs().max()) / (high - 0.4)]]) if bits == 8 else torch.tensor([[0.37]])
    out, slope, step_slope = ours(weights, steps, [Lsq(bits=bits, outer_bits=bits)], [count], slopes)
    v, s = weights[0].clone().requires_grad_(), steps[0].clone().requires_grad_()
    wanted = torch._fake_quantize_learnable_per_tensor_affine(
        v, s, torch.zeros(1), -high - 1, high, 1 / math.sqrt(count * high)
    )
    torch.testing.assert_close(out[0], wanted.detach(), rtol=1e-6, atol=1e-6)
    if bits == 8:
        wanted.backward(slopes[0])
        assert v.grad is not None
        torch.testing.assert_close(slope[0], v.grad)
        torch.testing.assert_close(step_slope[0], s.grad, rtol=1e-4, atol=1e-6)


def test_steps_start_at_twice_the_mean_weight_over_the_root_of_the_highest_level() -> None:
    weights = torch.tensor([1.0, -3.0, 0.5, -0.5, 2.0])
    steps = initial_steps(Lsq(bits=4, outer_bits=8), [layer(2), layer(2), layer(1)], weights)
    assert steps.tolist() == pytest.approx([4 / math.sqrt(127), 1 / math.sqrt(7), 4 / math.sqrt(127)])


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
