"""What a training method steps with: the parts of one training step of M models, each of which may be taken again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.compiling import watch
from qsweep.workers.data.source import epoch_generator
from qsweep.workers.data.targets import Targets
from qsweep.workers.device import sent
from qsweep.workers.evaluation import cross_entropy, soft_cross_entropy
from qsweep.workers.forms import SAVED, Form
from qsweep.workers.models.calls import Calls
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.layout import TRAINED
from qsweep.workers.models.module import ModuleNetwork
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
        self._calls: Calls | None = None
        if isinstance(network, ModuleNetwork):
            seeds, stacked = [one.recipe.seed for one in trainings], form is Form.VMAP and not self.layout.signals
            self._calls = Calls(seeds, stacked=stacked, reduced=precision == "bf16")
        self._arithmetic = self._calls or arithmetic_of(form, precision, dtype, device, slots=slots)
        self._optimizer: CohortOptimizer
        self._deployment: Deployment | CompiledDeployment
        if form.compiled:
            watch(tick)
            self._optimizer = CompiledOptimizer(trainings, slots, self.layout, device, dtype)
            self._deployment = compiled_deployment(trainings, slots, self.layout, device, dtype)
        else:
            self._optimizer = CohortOptimizer(trainings, self.layout, device, dtype)
            self._deployment = Deployment(trainings, self.layout, device, dtype)
        self._statistics = network.statistics(rows["statistics"])
        batch = trainings[0].recipe.batch_size
        self._draws = torch.zeros(network.draws, batch, dtype=torch.float32, device=device)
        self._part = batch
        if network.saved is not None:
            self._part = max(1, SAVED // (network.saved * slots * self.parameters.element_size()))
        self._data_seed = trainings[0].recipe.data_seed
        self._gradients = torch.zeros_like(self.parameters)
        self._gradient_views = [span.of(self._gradients) for span in self.layout.spans_of(*TRAINED)]
        self._trained = [spec.name for spec in self.layout.of_role(*TRAINED)]

    @property
    def records(self) -> bool:
        """Whether a step does the same whatever the values are, as a CUDA graph wants it: nobody knows of a user's
        module."""
        return self._calls is None

    def open(self, epoch: int) -> None:
        """Set what an epoch (from 0) has of its own: learning rates, and what a quantizer penalizes."""
        self._optimizer.open(epoch)
        self._deployment.open(epoch)

    def begin(self, epoch: int, number: int, images: int) -> None:
        """Draw what is random in a step of an epoch (both from 0) with so many images, on the CPU by its counter."""
        if len(self._draws):
            generator = epoch_generator(self._data_seed, epoch, f"draws/{number}")
            drawn = torch.rand(len(self._draws), images, generator=generator)
            self._draws[:, :images].copy_(sent(drawn, self._draws.device))
        if self._calls is not None:
            self._calls.begin(epoch, number)

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
        self, deployed: Deployed, images: Tensor, targets: Targets, *, update_statistics: bool | Tensor
    ) -> Pass:
        """One pass of a batch in training mode, down the sum of the models' own mean losses.

        `update_statistics` says whether the batch moves the running statistics, of all models or of those that are
        true in (M, 1); batch norm uses the batch's own.
        """
        if len(targets) > self._part:
            return self._in_parts(deployed, images, targets)
        logits, moments = self._train(deployed, images, slice(0, len(targets)))
        losses = self._losses(logits, targets).mean(1)
        # A module may leave parameters out of a pass, and vacant rows are left out of all: their gradient is 0.
        leaves = [deployed.leaves[name] for name in self._trained]
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            if update_statistics is not False:
                self._update_statistics(update_statistics, deployed.parameters, moments, len(targets))
            torch._foreach_copy_(self._gradient_views, found)
            self._gradients[:, self.layout.hidden_biases] = 0.0
            hits = (logits.argmax(1) == targets.labels).sum(1)
        return Pass(losses=losses.detach(), hits=hits, gradients=self._gradients)

    def _losses(self, logits: Tensor, targets: Targets) -> Tensor:
        """Each model's loss of each image (M, B)."""
        if targets.shares is None:
            return cross_entropy(logits, targets.labels, self._smoothing)
        return soft_cross_entropy(logits, targets.shares)

    def _train(self, deployed: Deployed, images: Tensor, places: slice) -> tuple[Tensor, Any]:
        """The training pass of the images that stand at these places of the batch."""
        if self._calls is not None:
            self._calls.next_pass()
        draws = (self._draws[:, places],) if len(self._draws) else ()
        return self._network.train(images, deployed.views, self._arithmetic, *draws)

    def _in_parts(self, deployed: Deployed, images: Tensor, targets: Targets) -> Pass:
        """A pass of a network that has no batch norm, with sums over parts of the batch that its memory allows."""
        leaves = [deployed.leaves[name] for name in self._trained]
        losses = self.parameters.new_zeros(len(self.parameters))
        hits = torch.zeros(len(self.parameters), dtype=torch.int64, device=images.device)
        for view in self._gradient_views:
            view.zero_()
        for start in range(0, len(targets), self._part):
            places = slice(start, start + self._part)
            logits, _ = self._train(deployed, images[places], places)
            shares = self._losses(logits, targets[places]).sum(1) / len(targets)
            found = torch.autograd.grad(shares.sum(), leaves)
            with torch.no_grad():
                torch._foreach_add_(self._gradient_views, found)
                losses += shares
                hits += (logits.argmax(1) == targets.labels[places]).sum(1)
        return Pass(losses=losses, hits=hits, gradients=self._gradients)

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
        if self.layout.activations is not None:
            self.layout.activations.restrain(self.layout, parameters)

    @torch.no_grad()
    def start_activations(self, images: Tensor) -> None:
        """Let the step sizes of activations begin as a first batch (B, channels, side, side) has it, in the order of a
        training pass: each signal is quantized before the next one is looked at. Nothing else changes."""
        kind = self.layout.activations
        if kind is None:
            return
        deployed = self.place(self.parameters)
        self.deploy(deployed)
        tensors = self.layout.tensors(self.parameters, deployed.weights, self._rows["statistics"])
        views = self._network.views(tensors)
        for signal in self._network.signals(views):
            signal.observer = kind.start
        self._network.train(images, views, self._arithmetic)

    @torch.no_grad()
    def evaluated(self, parameters: Tensor, statistics: Tensor) -> Any:
        """The network's views of these rows as they are deployed, for evaluation."""
        weights = self._deployment.buffer(parameters)
        self._deployment.deploy(parameters, weights)
        views = self._network.views(self.layout.tensors(parameters, weights, statistics))
        if self._calls is not None:
            views.models = self._calls.members
        return views
