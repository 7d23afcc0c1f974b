"""What figures and the report call things."""

from __future__ import annotations

import re

METRICS = {
    "generalization_gap": ("Generalization gap", "test − train loss (nats)", 1.0),
    "train_loss": ("Training loss", "cross-entropy (nats)", 1.0),
    "test_loss": ("Test loss", "cross-entropy (nats)", 1.0),
    "test_accuracy": ("Test accuracy", "images (%)", 100.0),
}
"""What is drawn of the models: title, axis and scale."""
MEASURE_TITLES = {
    "weight_norm": "‖w‖₂",
    "distance": "‖w − w₀‖₂",
    "train_loss": "Training loss",
    **{
        f"{prefix}_{column}": f"{title}, {word}"
        for prefix, title in {
            "pac": "PAC-Bayes",
            "pac_mag": "PAC-Bayes magn.",
            "sharp": "Sharpness",
            "sharp_mag": "Sharpness magn.",
        }.items()
        for column, word in {"init": "Init", "orig": "Orig", "flatness": "1/radius²"}.items()
    },
}
FEW = 5
"""Fewest models for which a box, and fewest pairs for which a sign-error, is drawn."""


def short_layer(name: str) -> str:
    """A layer's name, short enough to stand many on an axis: `block1.conv2` is 1.2."""
    return re.sub(r"^block(\d+)\.conv(\d+)$", r"\1.\2", name)


def zeroed(value: float, decimals: int) -> float:
    """The value, or plain 0 where it is shown as 0: nobody means "−0.00"."""
    return 0.0 if round(value, decimals) == 0 else value
