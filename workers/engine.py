"""What a training method steps with: the parts of one training step of M models, each of which may be taken again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.compiling import watch
from qsweep.workers.evaluation import cross_entropy
from qsweep.workers.forms import Form
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.layout import TRAINED
from qsweep.workers.models.network import Network
from qsweep.workers.optimizers import CohortOptimizer, CompiledOptimizer
from qsweep.workers.quantizers.compiled import CompiledDeployment, compiled_deployment
from qsweep.workers.quantizers.deployment import Deployment


@dataclass(kw_only=True)
class Deployed:
    """Parameters (M, P), and what the network computes with in their place. The tensors keep their memory, as a CUDA
    graph wants it; `Engine.deploy` fills them from the parameters."""

    parameters: Tensor
    weights: Tensor
    """Deployed weights in the first columns (M, P); the parameters themselves if no model is quantized."""
    leaves: Mapping[str, Tensor]
    views: Any
    """The network's views of the leaves."""
    roundings: list[Any] = field(default_factory=list)
    """What the quantizers need to pull a gradient back."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one forward and backward pass found: each model's mean loss (M) and hits (M), and the gradient in what was
    deployed (M, P), 0 where there is none. The next pass overwrites the gradients."""

    losses: Tensor
    hits: Tensor
    gradients: Tensor


class Engine:
    """The network, quantizers, optimizers and running statistics of a cohort's models, over the rows of its slots.

    A method takes its step from four verbs: `deploy` puts parameters into what the network computes with, `gradients`
    is one pass of a batch there, `pull_back` turns the gradient in what was deployed into that in the parameters, and
    `apply` is the optimizer's step. Everything works on rows apart and reads nothing back from the device, so any
    sequence of them is one CUDA graph. `parameters` are the trained ones.
    """

    def __init__(
        self,
        network: Network,
        trainings: Sequence[Training],
        rows: Mapping[str, Tensor],
        form: Form,
        *,
        tick: Callable[[], None],
    ) -> None:
        self.parameters = rows["parameters"]
        slots, device, dtype = len(self.parameters), self.parameters.device, self.parameters.dtype
        precision, self._smoothing = trainings[0].recipe.precision, trainings[0].recipe.label_smoothing
        self.number = torch.zeros((), dtype=torch.float64, device=device)
        """The step's number, from 1."""
        self.layout = network.layout
        """Where the network's tensors lie in a row."""
        self._network, self._rows = network, rows
        self._arithmetic = arithmetic_of(form, precision, dtype, device, slots=slots)
        self._optimizer: CohortOptimizer
        self._deployment: Deployment | CompiledDeployment
        if form.compiled:
            watch(tick)
            self._optimizer = CompiledOptimizer(trainings, slots, self.layout.steps.start, device, dtype)
            self._deployment = compiled_deployment(trainings, slots, self.layout, device, dtype)
        else:
            self._optimizer = CohortOptimizer(trainings, self.layout.steps.start, device, dtype)
            self._deployment = Deployment(trainings, self.layout, device, dtype)
        self._statistics = network.statistics(rows["statistics"])
        self._gradients = torch.zeros_like(self.parameters)
        self._gradient_views = [span.of(self._gradients) for span in self.layout.spans_of(*TRAINED)]
        self._trained = [spec.name for spec in self.layout.of_role(*TRAINED)]

    def open(self, epoch: int) -> None:
        """Set the learning rates of an epoch (from 0)."""
        self._optimizer.open(epoch)

    def place(self, parameters: Tensor) -> Deployed:
        """Room to deploy these rows (M, P), which follows them when they are changed in place."""
        weights = self._deployment.buffer(parameters)
        tensors = self.layout.tensors(parameters, weights, self._rows["statistics"])
        leaves = self.layout.leaves(tensors)
        return Deployed(parameters=parameters, weights=weights, leaves=leaves, views=self._network.views(leaves))

    @torch.no_grad()
    def deploy(self, deployed: Deployed) -> None:
        """Quantize the weights of its parameters."""
        deployed.roundings = self._deployment.deploy(deployed.parameters, deployed.weights)

    def gradients(
        self, deployed: Deployed, images: Tensor, labels: Tensor, *, update_statistics: bool | Tensor
    ) -> Pass:
        """One pass of a batch in training mode, down the sum of the models' own mean losses.

        `update_statistics` says whether the batch moves the running statistics, of all models or of those that are
        true in (M, 1); batch norm uses the batch's own.
        """
        logits, moments = self._network.train(images, deployed.views, self._arithmetic)
        losses = cross_entropy(logits, labels, self._smoothing).mean(1)
        found = torch.autograd.grad(losses.sum(), [deployed.leaves[name] for name in self._trained])
        with torch.no_grad():
            if update_statistics is not False:
                self._update_statistics(update_statistics, deployed.parameters, moments, len(labels))
            torch._foreach_copy_(self._gradient_views, found)
            self._gradients[:, self.layout.hidden_biases] = 0.0
            hits = (logits.argmax(1) == labels).sum(1)
        return Pass(losses=losses.detach(), hits=hits, gradients=self._gradients)

    def _update_statistics(self, which: bool | Tensor, parameters: Tensor, moments: Any, images: int) -> None:
        statistics = self._rows["statistics"]
        before = statistics.clone() if isinstance(which, Tensor) else statistics
        self._statistics.update(statistics, parameters, moments, images)
        if isinstance(which, Tensor):
            statistics.copy_(torch.where(which, statistics, before))

    @torch.no_grad()
    def pull_back(self, deployed: Deployed, gradients: Tensor) -> None:
        """Turn the gradient of the deployed weights (M, P) into that of weights and step sizes, in place, by the
        rounding of `deployed`."""
        self._deployment.differentiate(deployed.parameters, deployed.roundings, gradients)

    @torch.no_grad()
    def apply(self, gradients: Tensor) -> None:
        """One step of every model's optimizer; `gradients` (M, P) are used up."""
        self._optimizer.step(self.parameters, gradients, self._rows["first"], self._rows["second"], self.number)
        self.restrain(self.parameters)

    @torch.no_grad()
    def restrain(self, parameters: Tensor) -> None:
        """Keep the step sizes of rows (M, P) in their range, in place."""
        self._deployment.restrain(parameters)

    @torch.no_grad()
    def evaluated(self, parameters: Tensor, statistics: Tensor) -> Any:
        """The network's views of these rows as they are deployed, for evaluation."""
        weights = self._deployment.buffer(parameters)
        self._deployment.deploy(parameters, weights)
        return self._network.views(self.layout.tensors(parameters, weights, statistics))
