"""The formats that answers are written in."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What a table of the paper can be written as."""

    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"


class RowFormat(StrEnum):
    """What the rows of an answer can be written as."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class Tracker(StrEnum):
    """Where finished jobs may be exported to."""

    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb-offline"
