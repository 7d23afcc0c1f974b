"""The synthesis of images from a trained model (Genie: Jeon et al. 2023, arXiv 2212.04780), one batch after another.

Every draw comes from counters, and the state between two steps is a few tensors: a synthesis that goes on from it
gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Genie, Sadag, Synthesis
from qsweep.workers.zero_shot.generator import Generator, initial_embeddings
from qsweep.workers.zero_shot.plateau import Plateau
from qsweep.workers.zero_shot.sharpness import SecondStage
from qsweep.workers.zero_shot.swing import Shift, draw_shifts
from qsweep.workers.zero_shot.teacher import Teacher

GENERATOR_DECAY, DECAY_EVERY = 0.95, 100
"""What the generator's learning rate is multiplied by, and after how many iterations each time: Genie's."""
LOOKED_AT = 128
"""Images that the model looks at in one batch where they did not come about in batches."""
PICTURED = 16
"""Images whose pixels stand in the results too, for figures."""
TERMS = ("image_loss", "statistics_loss")
"""The losses of an iteration."""
COLUMNS = (*TERMS, "embedding_rate")
"""What is kept of an iteration."""
SHARP_COLUMNS = ("matching_loss", "diversity_loss")
"""What is kept besides where there is a second stage, in its iterations."""


class Synthesizer:
    """All batches of one synthesis. `model` is the kept model of the training, as `images` are wanted in `dtype`."""

    def __init__(
        self,
        training: Training,
        model: Mapping[str, Tensor],
        asked: Genie,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._asked, self._device, self._dtype = asked, device, dtype
        self._teacher = Teacher(training, model, device, dtype)
        self._generator = Generator(asked.embedding_size, training.data.channels, training.data.size)
        self._generator_rates = generator_rates(asked).to(device)
        self._second = None
        if isinstance(asked, Sadag):
            self._second = SecondStage(
                training, model, asked, self._teacher, self._generator, device=device, dtype=dtype
            )
        columns = len(COLUMNS) + (0 if self._second is None else len(SHARP_COLUMNS))
        self._losses = torch.full((asked.steps, columns), torch.nan, dtype=torch.float64, device=device)
        self._made: list[Tensor] = []
        self.position = 0
        """Steps done, of all batches together."""
        self._begin()

    @property
    def steps(self) -> int:
        """Steps of all batches together."""
        return self._asked.steps

    @property
    def finished(self) -> bool:
        return self.position == self.steps

    @property
    def diverged(self) -> bool:
        """Whether the loss of a batch that is done was not finite at its end."""
        ends = self._losses[: self.position].view(-1, self._losses.shape[1])[
            self._asked.iterations_of_batch - 1 :: self._asked.iterations_of_batch
        ]
        return not bool(ends.isfinite().all())

    def step(self) -> None:
        """One iteration of the batch at hand. The images of its last one are kept as they were before the update."""
        asked, (batch, iteration) = self._asked, divmod(self.position, self._asked.iterations_of_batch)
        learned = self._learned
        images = self._generator(learned[0], learned[1].view(asked.image_batch, -1))
        shifts = self._shifts(batch, iteration)
        seen = self._teacher.see(images, shifts)
        loss = total = seen.image_loss + seen.statistics_loss
        sharp = None
        if self._second is not None and iteration >= asked.image_iterations:
            sharp = self._second.losses(learned, images, seen, shifts, batch=batch, iteration=iteration)
            total = loss + self._second.weighted(sharp)
        gradients = torch.autograd.grad(total, learned)
        with torch.no_grad():
            terms = torch.stack([seen.image_loss, seen.statistics_loss]).double()
            self._losses[self.position, : len(COLUMNS)] = torch.cat([terms, self._plateau.state[:1]])
            if sharp is not None:
                self._losses[self.position, len(COLUMNS) :] = sharp.double().clamp(
                    min=0
                )  # a cosine may be rounded to above 1
            self._update(gradients, (self._generator_rates[iteration], self._plateau.rate))
            self._plateau.step(loss)
        self.position += 1
        if self._second is not None and iteration + 1 == asked.image_iterations:
            self._second.begin(images)
        if iteration + 1 == asked.iterations_of_batch:
            self._made.append(images.detach().cpu())
            if not self.finished:
                self._begin()

    def _begin(self) -> None:
        """Draw the generator and the embeddings of the next batch."""
        asked, batch = self._asked, self.position // self._asked.iterations_of_batch
        embeddings = initial_embeddings(asked.image_seed, batch, asked.image_batch, asked.embedding_size)
        drawn = (self._generator.initial(asked.image_seed, batch), embeddings.view(1, -1))
        self._learn([one.to(self._device, self._dtype) for one in drawn])
        self._plateau = Plateau(asked.embedding_rate, self._device)

    def _learn(self, begun: Sequence[Tensor]) -> None:
        """Have Adam move these: the generator's row and the embeddings'."""
        self._learned = [one.requires_grad_() for one in begun]
        self._adam = torch.optim.Adam([{"params": [one]} for one in self._learned], fused=True)

    def _update(self, gradients: Sequence[Tensor], rates: Sequence[Tensor]) -> None:
        """A step of Adam at these rates."""
        for one, gradient, rate, group in zip(self._learned, gradients, rates, self._adam.param_groups, strict=True):
            one.grad, group["lr"] = gradient, rate.to(self._dtype)
        self._adam.step()

    def _shifts(self, batch: int, iteration: int) -> Sequence[Shift] | None:
        if not self._asked.swing:
            return None
        return draw_shifts(self._asked.image_seed, batch, iteration, self._teacher.strided)

    def state(self) -> dict[str, Any]:
        """What a synthesis goes on from after `position` steps, on the CPU."""
        tensors = {
            "generator": self._learned[0],
            "embeddings": self._learned[1],
            "plateau": self._plateau.state,
            "losses": self._losses[: self.position],
        }
        found: dict[str, Any] = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        found |= {"position": self.position, "images": self.images(), "adam": copy.deepcopy(self._adam.state_dict())}
        return found if self._second is None else found | {"second": self._second.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.position = state["position"]
        self._learn([state[name].to(self._device, copy=True) for name in ("generator", "embeddings")])
        self._adam.load_state_dict(state["adam"])
        self._plateau.state = state["plateau"].to(self._device)
        self._losses[: self.position] = state["losses"].to(self._device)
        if self._second is not None:
            self._second.restore(state["second"])
        self._made = list(state["images"].split(self._asked.image_batch)) if len(state["images"]) else []

    def images(self) -> Tensor:
        """The images (N, channels, side, side) of the batches that are done, standardized as in training (CPU)."""
        return torch.cat(self._made) if self._made else torch.empty(0, dtype=self._dtype)

    def found(self) -> Found:
        """What came about, once all steps are done."""
        found = look_at(self._teacher, self._asked, self.images(), self._device)
        warm_up = None if self._second is None else torch.cat(self._second.warm_up)
        return replace(found, warm_up=warm_up, losses=self._losses.cpu())


def look_at(teacher: Teacher, asked: Synthesis, images: Tensor, device: torch.device) -> Found:
    """What the model sees in images (N, channels, side, side), batch by batch."""
    size = asked.image_batch if isinstance(asked, Genie) else LOOKED_AT
    with torch.no_grad():
        seen = [teacher.see(one.to(device)) for one in torch.split(images, size)]
    shares = torch.cat([one.logits for one in seen]).double().softmax(1).cpu()
    distances = torch.stack([one.statistics_loss for one in seen]).double().cpu()
    return Found(
        asked=asked,
        images=images,
        warm_up=None,
        losses=torch.empty(0, len(COLUMNS), dtype=torch.float64),
        distance=float(distances.mean()),
        confidences=shares.max(1).values,
        classes=shares.argmax(1),
        counts=torch.bincount(shares.argmax(1), minlength=shares.shape[1]),
    )


def generator_rates(asked: Genie) -> Tensor:
    """The generator's learning rate in each iteration of a batch (float64)."""
    iterations = torch.arange(asked.iterations_of_batch, dtype=torch.float64)
    return asked.generator_rate * GENERATOR_DECAY ** (iterations // DECAY_EVERY)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A synthesis that is done: its images, what became of the losses, and what the model sees in the images."""

    asked: Synthesis
    images: Tensor
    warm_up: Tensor | None
    """The images that the second stage began with, if there is one."""
    losses: Tensor
    """Of each step (float64): `COLUMNS`, and `SHARP_COLUMNS` if there is a second stage, before it NaN."""
    distance: float
    """The statistics' loss of the images without swing, the mean over the batches."""
    confidences: Tensor
    """The largest probability of each image (N)."""
    classes: Tensor
    """The class that it is of (N)."""
    counts: Tensor
    """Images of each class (classes)."""

    def row(self) -> dict[str, Any]:
        """The columns of `syntheses`. Losses are those of the last iteration, the mean over the batches."""
        return {
            "diverged": False,
            **self._ends(),
            "statistics_distance": self.distance,
            "confidence": float(self.confidences.mean()),
            "class_counts": self.counts.tolist(),
            "classes_seen": int((self.counts > 0).sum()),
            "images_hash": hashlib.sha256(self.images.contiguous().numpy().tobytes()).hexdigest(),
        }

    def _ends(self) -> dict[str, Any]:
        """What images have that were learned."""
        if not isinstance(self.asked, Genie):
            return {}
        ends = self.losses[self.asked.iterations_of_batch - 1 :: self.asked.iterations_of_batch].mean(0).tolist()
        return {
            **dict(zip(TERMS, ends, strict=False)),
            **dict(zip(SHARP_COLUMNS, ends[len(COLUMNS) :], strict=False)),
            "loss": sum(ends[: len(TERMS)]),
            "embedding_rate": self.asked.embedding_rate,
            "generator_rate": self.asked.generator_rate,
        }

    def loss_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `synthesis_losses`: one an iteration of a batch, numbers that are not finite left empty."""
        if not isinstance(self.asked, Genie):
            return
        for place, row in enumerate(self.losses.tolist()):
            batch, iteration = divmod(place, self.asked.iterations_of_batch)
            numbers = [one if math.isfinite(one) else None for one in row]
            named = dict(zip((*COLUMNS, *SHARP_COLUMNS), numbers, strict=False))
            yield {"batch": batch, "iteration": iteration, **named}

    def image_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `synthetic_images`: one an image, the first ones with their pixels."""
        told = zip(self.classes.tolist(), self.confidences.tolist(), strict=True)
        for place, (label, confidence) in enumerate(told):
            named = {"image": place, "class": label, "confidence": confidence}
            yield named | {"pixels": _pixels(self.images, place), "warm_up": _pixels(self.warm_up, place)}


def _pixels(images: Tensor | None, place: int) -> list[float] | None:
    """Those of one of the first images."""
    return None if images is None or place >= PICTURED else images[place].flatten().tolist()
