"""SADAG's second stage: images whose gradient stays what it is where their embeddings move, and that differ in it.

The gradient is that of ½‖z^Q − z‖² in the last layer's weight, z^Q and z the logits of the quantized and of the float
model: g = a ⊗ f with a = z^Q − z and f what that layer reads. It is never formed: cos(g, g') = cos(a, a')·cos(f, f').
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Sadag
from qsweep.workers.device import sent
from qsweep.workers.measures.draws import generator as draws_of
from qsweep.workers.zero_shot.generator import Generator
from qsweep.workers.zero_shot.student import CALIBRATED_ON, Student
from qsweep.workers.zero_shot.swing import Shift
from qsweep.workers.zero_shot.teacher import Seen, Teacher

SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class LastGradient:
    """The gradient a ⊗ f of each image, as unit vectors a (B, classes) and f (B, F)."""

    errors: Tensor
    features: Tensor

    @classmethod
    def of(cls, errors: Tensor, features: Tensor) -> LastGradient:
        return cls(errors=F.normalize(errors, eps=SMALLEST), features=F.normalize(features, eps=SMALLEST))

    def detach(self) -> LastGradient:
        return LastGradient(errors=self.errors.detach(), features=self.features.detach())


def mismatch(one: LastGradient, other: LastGradient) -> Tensor:
    """1 − cos(g, g') of each image (B)."""
    return 1 - (one.errors * other.errors).sum(1) * (one.features * other.features).sum(1)


def diversity(one: LastGradient, threshold: float, scale: str) -> Tensor:
    """Σ_{i≠j} max(|cos(g_i, g_j)| − threshold, 0): its `sum`, or the `mean` over the pairs."""
    cosines = (one.errors @ one.errors.T) * (one.features @ one.features.T)
    above = (cosines.abs() - threshold).clamp(min=0)
    count = len(above)
    total = above.sum() - above.diagonal().sum()
    return total if scale == "sum" else total / (count * (count - 1))


def worst_move(
    here: LastGradient, gradient_at: Callable[[Tensor], LastGradient], start: Tensor, radius: float, norm: str
) -> Tensor:
    """δ* = radius·∇ℓ/‖∇ℓ‖ with ℓ(δ) = Σ 1 − cos(g, g(δ)), g constant, the gradient taken at `start` (B, E).

    At δ = 0 it is zero. The norm is that of each `sample`'s row, or of the whole `batch`.
    """
    move = start.detach().requires_grad_()
    (slope,) = torch.autograd.grad(mismatch(here.detach(), gradient_at(move)).sum(), move)
    length = slope.norm() if norm == "batch" else slope.norm(dim=1, keepdim=True)
    found: Tensor = radius * slope / length.clamp(min=torch.finfo(slope.dtype).tiny)
    return found


class SecondStage:
    """The second stage of one synthesis. `warm_up` has the images that it began with, of the batches so far (CPU)."""

    def __init__(
        self,
        training: Training,
        model: Mapping[str, Tensor],
        asked: Sadag,
        teacher: Teacher,
        generator: Generator,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._asked, self._teacher, self._generator = asked, teacher, generator
        self._device, self._dtype = device, dtype
        self._student = Student(
            training,
            model,
            weight_bits=asked.weight_bits,
            activation_bits=asked.activation_bits,
            device=device,
            dtype=dtype,
        )
        self.warm_up: list[Tensor] = []

    def begin(self, images: Tensor) -> None:
        """Begin with these images of a batch, on the first of which the scales of the activations are found."""
        self.warm_up.append(images.detach().cpu())
        self._student.calibrate(images.detach()[:CALIBRATED_ON])

    def losses(
        self,
        learned: Sequence[Tensor],
        images: Tensor,
        seen: Seen,
        shifts: Sequence[Shift] | None,
        *,
        batch: int,
        iteration: int,
    ) -> Tensor:
        """Matching, the mean over the images, and diversity (2). `learned`: the generator's row and the embeddings'."""
        asked = self._asked
        embeddings = learned[1].view(asked.image_batch, -1)
        draws = draws_of(asked.image_seed, "delta", batch, iteration)
        start = asked.delta_start * torch.randn(embeddings.shape, generator=draws)
        here = self._gradient(images, seen, shifts)

        def moved(move: Tensor, row: Tensor, place: Tensor) -> LastGradient:
            there = self._generator(row, place + move)
            return self._gradient(there, self._teacher.see(there, shifts), shifts)

        move = worst_move(
            here,
            lambda one: moved(one, learned[0].detach(), embeddings.detach()),
            sent(start.to(self._dtype), self._device),
            asked.sharp_radius,
            asked.delta_norm,
        )
        matching = mismatch(here, moved(move, learned[0], embeddings)).mean()
        return torch.stack([matching, diversity(here, asked.diversity_threshold, asked.diversity_scale)])

    def weighted(self, losses: Tensor) -> Tensor:
        """What they add to the loss."""
        return self._asked.matching_factor * losses[0] + self._asked.diversity_factor * losses[1]

    def _gradient(self, images: Tensor, seen: Seen, shifts: Sequence[Shift] | None) -> LastGradient:
        logits, features = self._student.see(images, shifts)
        return LastGradient.of(logits - seen.logits, features if self._asked.features == "quantized" else seen.features)

    def state(self) -> dict[str, Any]:
        """What a synthesis goes on from."""
        return {"warm_up": torch.cat(self.warm_up) if self.warm_up else None, "scales": self._student.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        kept = state["warm_up"]
        self.warm_up = [] if kept is None else list(kept.split(self._asked.image_batch))
        self._student.restore(state["scales"], self._device)
