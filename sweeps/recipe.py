"""The recipe of a training: what holds whatever the model, the optimizer and the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qsweep.sweeps.settings import Rule, canonical, setting

SEED = Rule(low=0, high=2**31 - 1)
EPOCH = Rule(low=1, high=100_000)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever the model and the optimizer.

    The learning rate is multiplied by `lr_factor` after each of the `milestones` (in epochs), or with
    `schedule = "cosine"` it falls from epoch to epoch along half a cosine wave to 0. In the first `warmup_epochs` it
    rises evenly from `warmup_factor` of its value. `label_smoothing` is that of `torch.nn.CrossEntropyLoss`, in the
    training pass alone: evaluation is never smoothed. The model kept
    is that of the epoch with the lowest training loss: with `select_by = "running"` the mean over the
    epoch's steps, with `"evaluated"` a full eval-mode pass after each epoch. `seed` draws the
    initialization, `data_seed` the order and the augmentation of the data. `precision` is that of the
    training pass: `"tf32"` rounds the factors of its products to 10 bits, `"bf16"` its weights and activations
    to 7; parameters, optimizer, batch norm's statistics and evaluation stay in single precision.
    `val_fraction` of the training images, of each class alike and drawn by `data_seed`, are held out: the
    model is not trained on them, but evaluated after each epoch. `augment` is a crop after padding by 4 pixels and a
    flip, or a crop of random place, size and shape (Szegedy et al. 2015) and a flip, for sets that are read from
    their files. Each image is cut `crops` times in a row, so that a batch holds `batch_size` / `crops` images, and an
    epoch all of them as often. `corrupt = "skip"` leaves images out that can't be decoded (`workers.data.stream`);
    otherwise they end the training.
    """

    semantics: ClassVar[int] = 1

    epochs: int = setting(Rule(low=0, high=100_000))
    batch_size: int = setting(Rule(low=2, high=65_536))
    milestones: tuple[int, ...] = setting(EPOCH, default=())
    lr_factor: float = setting(Rule(above=0, high=1), default=0.1)
    augment: str = setting(Rule(choices=("none", "crop-flip", "resized-crop")), default="none")
    select_by: str = setting(Rule(choices=("running", "evaluated")), default="running")
    seed: int = setting(SEED, default=0)
    data_seed: int = setting(SEED, default=0)
    precision: str = setting(Rule(choices=("fp32", "tf32", "bf16")), default="fp32")
    val_fraction: float = setting(Rule(low=0, high=0.9), default=0.0, added_later=True)
    corrupt: str = setting(Rule(choices=("refuse", "skip")), default="refuse", added_later=True)
    schedule: str = setting(Rule(choices=("steps", "cosine")), default="steps", added_later=True)
    warmup_epochs: int = setting(Rule(low=0, high=100_000), default=0, added_later=True)
    warmup_factor: float = setting(Rule(above=0, high=1), default=0.01, added_later=True)
    crops: int = setting(Rule(low=1, high=64), default=1, added_later=True)
    label_smoothing: float = setting(Rule(low=0, below=1), default=0.0, added_later=True)


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """The canonical content of a recipe: what has no effect is no part of it."""
    content: dict[str, Any] = canonical(recipe)
    steps = recipe.schedule == "steps"
    content["milestones"] = tuple(one for one in recipe.milestones if steps and one < recipe.epochs)
    if not content["milestones"]:
        del content["lr_factor"]
    if not recipe.warmup_epochs:
        content.pop("warmup_factor", None)
    if not recipe.epochs:
        content.pop("crops", None)
    return content
