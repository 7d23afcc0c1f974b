"""What figures and the report call things."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from qsweep.sweeps.models import Model
from qsweep.sweeps.settings import settings_of

METRICS = {
    "generalization_gap": ("Generalization gap", "test − train loss (nats)", 1.0),
    "train_loss": ("Training loss", "cross-entropy (nats)", 1.0),
    "test_loss": ("Test loss", "cross-entropy (nats)", 1.0),
    "test_accuracy": ("Test accuracy", "accuracy (%)", 100.0),
}
"""What is drawn of the models: title, axis and scale."""
TRAINED = {
    "train_loss": ("Training loss", "cross-entropy (nats)", 1.0),
    "train_accuracy": ("Training accuracy", "accuracy (%)", 100.0),
}
"""What is drawn of their epochs."""
SAID = TRAINED | {
    "val_loss": ("Loss on the held-out images", "cross-entropy (nats)", 1.0),
    "val_accuracy": ("Accuracy on the held-out images", "accuracy (%)", 100.0),
}
"""What is drawn of the epochs of a single training."""
SEARCHES = {
    "pac": "PAC-Bayes",
    "pac_mag": "PAC-Bayes magn.",
    "sharp": "Sharpness",
    "sharp_mag": "Sharpness magn.",
}
"""Searches for a radius, by how the names of what they find begin …"""
FOUND = {"init": "Init", "orig": "Orig", "flatness": "1/radius²"}
"""… and how these end."""
MEASURE_TITLES = {
    "weight_norm": "‖w‖₂",
    "distance": "‖w − w₀‖₂",
    "train_loss": "Training loss",
    **{
        f"{prefix}_{column}": f"{title}, {word}" for prefix, title in SEARCHES.items() for column, word in FOUND.items()
    },
}
FEW = 5
"""Fewest models for which a box, and fewest pairs for which a sign-error, is drawn."""


def setting_label(name: str) -> str:
    """The head of a table's column of a setting: `Learning rate`."""
    return name.replace("_", " ").capitalize()


def short_layer(name: str) -> str:
    """A layer's name, short enough to stand many on an axis: `block1.conv2` is 1.2, `stage3.0.shortcut` 3.0.s."""
    short = re.sub(r"^(?:block|stage)(\d+)\.", r"\1.", name)
    return re.sub(r"\bconv(\d+)$", r"\1", re.sub(r"\bshortcut$", "s", short))


def layer_note(names: Iterable[str]) -> str:
    """What short names of layers mean; nothing where none was shortened."""
    known = set(names)
    if any(name.endswith(".query") for name in known):
        stages = any(name.startswith("stage") for name in known)
        return f"Layers as in {'1.0.query: stage 1, block 0' if stages else '0.query: block 0'}, its query matrix."
    if any(name.startswith("stage") for name in known):
        return "Layers as in 3.0.2: stage 3, block 0, convolution 2 (s: its shortcut)."
    return "Layers as in 1.2: block 1, convolution 2." if any(name.startswith("block") for name in known) else ""


def difference_label(metric: str) -> str:
    """The axis of a difference of that metric: accuracies, which are in percent, differ by points."""
    _, label, factor = METRICS[metric]
    return "difference (percentage points)" if factor != 1 else f"difference, {label}"


def tau_text(tau: float | None, models: int) -> str:
    """Kendall's τ with the number of models that it is over."""
    return f"n = {models}" if tau is None else f"τ = {signed_text(tau, 2)}, n = {models}"


def counts_text(title: str, counts: Mapping[str, int]) -> str:
    """How many models a figure shows, of which precisions."""
    total = sum(counts.values())
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    noun = "model" if total == 1 else "models"
    return f"{title}: {total:,} {noun}" + (f" ({parts})" if len(counts) > 1 else "")


def network_title(model: Model, usual: Mapping[str, int]) -> str:
    """What the tables call a network; with its width behind it where that is not the `usual` one of its family."""
    if model.name not in usual:
        return f"{model.title} ({model.shape})" if model.shape else model.title
    width = settings_of(model).get("width")
    return model.title if width == usual[model.name] else f"{model.title} (width {width})"


def few_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most that many round numbers on a logarithmic axis from `low` to `high`; few where the range is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{lead}e{power}") for power in powers for lead in leads]
        within = [tick for tick in ticks if low <= tick <= high]
        if len(within) <= most:
            return within
    return within[:: -(-len(within) // most)]


def signed_text(value: float, decimals: int) -> str:
    """A number with its sign, a real minus; zero has none."""
    plain = zeroed(value, decimals)
    return f"{plain:+.{decimals}f}".replace("-", "−") if plain else f"{plain:.{decimals}f}"


def zeroed(value: float, decimals: int) -> float:
    """The value, or plain 0 where it is shown as 0: nobody means "−0.00"."""
    return 0.0 if round(value, decimals) == 0 else value
