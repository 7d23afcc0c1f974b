"""The sharpness-aware methods: SAM, ASAM and SAQ's cases, side by side in one step of two passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qsweep.sweeps.methods import Saq1, Saq3, SharpnessAware
from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets
from qsweep.workers.engine import Engine, Pass
from qsweep.workers.methods.codes import Codes
from qsweep.workers.methods.perturbation import Perturbation


class TwoPasses:
    """θ ← θ − optimizer(the gradient at the perturbed point), each model by its own method of `sweeps.methods`.

    SAM and ASAM move the latent weights and quantize them anew. SAQ's cases 1 and 3 add ε to the quantized weights, and
    pull the second gradient back through the rounding of those. What is not a weight is moved by all of them. The moved
    point has rows of its own, so nothing has to be restored.

    Losses and hits are those of the first pass. Where that takes unquantized weights (`case1_gradient = "float"`), it
    is a pass of another network: then losses, hits and running statistics are those of the second.

    With `ascent_images` all of that is done for one part of the batch after another, from the same parameters, and the
    optimizer steps down the mean of the parts' gradients. The first part alone moves running statistics.

    A step also says which share of the weights have another code in Q(w + ε) than in Q(w): those that SAM sees moved,
    and that SAQ's cases 1 and 3 would, which don't round there.
    """

    def __init__(self, trainings: Sequence[Training], engine: Engine) -> None:
        self._engine = engine
        self._weights = slice(0, engine.layout.weights)
        self._here = engine.place(engine.parameters)
        self._there = engine.place(torch.zeros_like(engine.parameters))
        methods = [one.method for one in trainings if isinstance(one.method, SharpnessAware)]
        self._perturbation = Perturbation(methods, engine.layout, engine.parameters)
        steps_move = any(one.ball_steps for one in methods)
        self._codes = Codes(trainings, engine.layout, engine.parameters, steps_move=steps_move)
        self._from_float = self._rows(methods, _climbs_from_float)
        self._unmasked = self._rows(methods, lambda one: _climbs_from_float(one) or isinstance(one, Saq3))
        self._after_rounding = self._rows(methods, lambda one: isinstance(one, Saq1 | Saq3))
        second = self._rows(methods, lambda one: _climbs_from_float(one) or one.bn_second_pass)
        self._first_statistics = True if self._from_float is None else ~self._from_float
        self._second_statistics = False if second is None else second
        self._moves_steps = bool(engine.layout.signals) or steps_move
        self._part = methods[0].ascent_images
        self._sum = torch.zeros_like(engine.parameters) if self._part else None

    def step(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        engine, here = self._engine, self._here
        engine.deploy(here)
        self._codes.keep(here)
        _put(here.weights[:, self._weights], self._from_float, engine.parameters[:, self._weights])
        if self._sum is None or len(targets) <= self._part:
            found, changed = self._passes(images, targets, update_statistics=True)
            engine.apply(found.gradients)
            return found.losses.double(), found.hits, changed
        self._sum.zero_()
        losses, hits, shares = [], [], []
        parts = zip(torch.split(images, self._part), targets.split(self._part), strict=True)
        for number, (some, wanted) in enumerate(parts):
            share = len(wanted) / len(targets)
            found, changed = self._passes(some, wanted, update_statistics=not number)
            self._sum.add_(found.gradients, alpha=share)
            losses.append(found.losses.double() * share)
            hits.append(found.hits)
            shares.append(changed * share)
        engine.apply(self._sum)
        return torch.stack(losses).sum(0), torch.stack(hits).sum(0), torch.stack(shares).sum(0)

    def _passes(self, images: Tensor, targets: Targets, *, update_statistics: bool) -> tuple[Pass, Tensor]:
        """Both passes of some images: their losses and hits, and the gradient at the perturbed point; and the share of
        the codes that are others there (M, float64)."""
        engine, here, there = self._engine, self._here, self._there
        which = (self._first_statistics, self._second_statistics) if update_statistics else (False, False)
        first = engine.gradients(here, images, targets, update_statistics=which[0])
        changed = self._move(first.gradients)
        second = engine.gradients(there, images, targets, update_statistics=which[1])
        engine.pull_back(there, second.gradients)
        if self._from_float is not None:
            _put(first.losses, self._from_float[:, 0], second.losses)
            _put(first.hits, self._from_float[:, 0], second.hits)
        return Pass(losses=first.losses, hits=first.hits, gradients=second.gradients), changed

    @torch.no_grad()
    def _move(self, gradients: Tensor) -> Tensor:
        """Deploy the perturbed point, up these gradients of the first pass, which are used up; the share of the codes
        that are others there (M, float64)."""
        engine, there, weights = self._engine, self._there, self._weights
        of_deployed = gradients[:, weights].clone()
        engine.pull_back(self._here, gradients)
        _put(gradients[:, weights], self._unmasked, of_deployed)
        away = self._perturbation.of(engine.parameters, gradients)
        torch.add(engine.parameters, away, out=there.parameters)
        if self._moves_steps:
            engine.restrain(there.parameters)
        engine.deploy(there)
        changed = self._codes.changed(there)
        if self._after_rounding is not None:
            _put(there.parameters[:, weights], self._after_rounding, engine.parameters[:, weights])
            engine.deploy(there)
            _put(there.weights[:, weights], self._after_rounding, there.weights[:, weights] + away[:, weights])
        return changed

    def _rows(self, methods: Sequence[SharpnessAware], which: Callable[[SharpnessAware], bool]) -> Tensor | None:
        """The models for which this is so, of all slots (M, 1); None if there are none."""
        parameters = self._engine.parameters
        found = torch.zeros(len(parameters), 1, dtype=torch.bool)
        found[: len(methods), 0] = torch.tensor([which(one) for one in methods])
        return found.to(parameters.device) if bool(found.any()) else None


@torch.no_grad()
def _put(rows: Tensor, which: Tensor | None, values: Tensor) -> None:
    """Replace those `rows` that are in `which` (None: none) by `values`, in place."""
    if which is not None:
        rows.copy_(torch.where(which, values, rows))


def _climbs_from_float(method: SharpnessAware) -> bool:
    return isinstance(method, Saq1) and method.case1_gradient == "float"
