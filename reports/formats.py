"""The formats that answers are written in."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What a table of the paper can be written as."""

    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"
    JSON = "json"


class RowFormat(StrEnum):
    """What the rows of an answer can be written as."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class Picture(StrEnum):
    """The figures there are."""

    STEP_SIZES = "step-sizes"
    DISTRIBUTIONS = "distributions"
    PAIRED = "paired"
    EFFECTS = "effects"
    CURVES = "curves"
    MEASURES = "measures"
    DISTORTION = "distortion"
    SYNTHESIS = "synthesis"
    PROGRESS = "progress"


class FileFormat(StrEnum):
    """What a figure can be written as."""

    PDF = "pdf"
    PNG = "png"
    SVG = "svg"


class Tracker(StrEnum):
    """Where finished jobs may be exported to."""

    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb-offline"
