"""The columns of every kind of result. Writer and readers share them.

The settings' columns follow from the table of components, so that a new one brings its columns along. A column is only
ever added: older files have nulls in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.types

from qsweep.sweeps import kinds
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.settings import names_of

VERSION = 1
"""Raised when a column changes its meaning, which the old files do not follow."""

KEY = (
    pa.field("job", pa.string(), nullable=False),
    pa.field("attempt", pa.int32(), nullable=False),
)

TYPES: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    tuple[int, ...]: pa.list_(pa.int64()),
}


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """One kind of result and its columns. Which jobs have it, `sweeps.kinds` says."""

    name: str
    columns: pa.Schema

    @property
    def of(self) -> kinds.Kind:
        """The kind of the jobs that have it."""
        return next(one for one in kinds.KINDS.values() if self.name in one.rows)

    @property
    def one_row_a_job(self) -> bool:
        """Whether each of those jobs has exactly one row of it."""
        return self.of.rows[0] == self.name

    @property
    def numbers(self) -> list[str]:
        """The columns of the numbers that a job ends with."""
        known = {*(field.name for field in (*KEY, *PROVENANCE, *own_settings(self.of))), *SETTINGS.names}
        found = [field for field in self.columns if field.name not in known]
        return [one.name for one in found if pa.types.is_floating(one.type) or one.name == "chosen_epoch"]

    @property
    def averaged(self) -> list[str]:
        """The columns that a table may average."""
        tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
        return [field.name for field in self.columns if any(one(field.type) for one in tests)]


def _settings() -> tuple[pa.Field, ...]:
    """One column for each setting that any training may have, part by part."""
    return tuple(pa.field(name, TYPES[kind]) for part in PARTS.values() for name, kind in part.columns().items())


def own_settings(*of: kinds.Kind) -> tuple[pa.Field, ...]:
    """One column for each setting that a job of one of these kinds may have beside those of the training above it; one
    that bears the name of a training's has its column."""
    found: dict[str, pa.DataType] = {}
    trained = {field.name for field in _settings()}
    for kind in of:
        found |= {kind.family: pa.string()} if kind.family else {}
        for component in kind.classes().values():
            found |= _columns_of(component)
    return tuple(pa.field(name, of_values) for name, of_values in found.items() if name not in trained)


def _columns_of(component: type[Any]) -> dict[str, pa.DataType]:
    hints = get_type_hints(component)
    return {name: TYPES[hints[name]] for name in names_of(component)}


PROVENANCE = (
    pa.field("code", pa.string()),
    pa.field("torch", pa.string()),
    pa.field("device", pa.string()),
    pa.field("host", pa.string()),
    pa.field("slots", pa.int32()),
    pa.field("form", pa.string()),
    pa.field("seconds", pa.float64()),
    pa.field("steps_per_second", pa.float64()),
    pa.field("finished_at", pa.timestamp("us", tz="UTC")),
)

RUN = (
    pa.field("train_loss", pa.float64()),
    pa.field("train_accuracy", pa.float64()),
    pa.field("test_loss", pa.float64()),
    pa.field("test_accuracy", pa.float64()),
    pa.field("val_loss", pa.float64()),
    pa.field("val_accuracy", pa.float64()),
    pa.field("generalization_gap", pa.float64()),
    pa.field("chosen_epoch", pa.int32()),
    pa.field("diverged", pa.bool_()),
    pa.field("last_train_loss", pa.float64()),
    pa.field("init_hash", pa.string()),
    pa.field("weights_hash", pa.string()),
    pa.field("teacher_hash", pa.string()),
    pa.field("weight_norm", pa.float64()),
    pa.field("distance", pa.float64()),
    pa.field("bops", pa.float64()),
    pa.field("changed_codes", pa.float64()),
)

OPTIONAL = ("bops", "changed_codes")
"""Numbers that some models have none of, by their settings: null is then no sign that one diverged."""

EPOCH = (
    pa.field("epoch", pa.int32()),
    pa.field("train_loss", pa.float64()),
    pa.field("train_accuracy", pa.float64()),
    pa.field("val_loss", pa.float64()),
    pa.field("val_accuracy", pa.float64()),
    pa.field("learning_rate", pa.float64()),
    pa.field("changed_codes", pa.float64()),
)

LAYER = (
    pa.field("layer", pa.string()),
    pa.field("index", pa.int32()),
    pa.field("bits", pa.int32()),
    pa.field("step_size", pa.float64()),
    pa.field("step_size_init", pa.float64()),
    pa.field("activation_bits", pa.int32()),
    pa.field("activation_step", pa.float64()),
    pa.field("weights", pa.int64()),
    pa.field("weight_norm", pa.float64()),
    pa.field("init_norm", pa.float64()),
    pa.field("distance", pa.float64()),
)

CANDIDATE = pa.struct(
    [
        pa.field("radius", pa.float64()),
        pa.field("accuracies", pa.list_(pa.float64())),
        pa.field("accuracy", pa.float64()),
        pa.field("displacement", pa.float64()),
        pa.field("clamped_steps", pa.int64()),
    ]
)
"""One candidate of a search: σ or α, the copies' accuracies, the mean or the worst of them, how far that is
from the clean accuracy, and how many perturbed step sizes had to be kept above zero."""

MEASURE = (
    pa.field("parent", pa.string()),
    pa.field("parent_attempt", pa.int32()),
    pa.field("model_hash", pa.string()),
    pa.field("init_hash", pa.string()),
    pa.field("diverged", pa.bool_()),
    pa.field("radius", pa.float64()),
    pa.field("flatness", pa.float64()),
    pa.field("value_init", pa.float64()),
    pa.field("value_orig", pa.float64()),
    pa.field("candidates", pa.int32()),
    pa.field("reached", pa.float64()),
    pa.field("converged", pa.bool_()),
    pa.field("saturated", pa.bool_()),
    pa.field("saturated_end", pa.string()),
    pa.field("clean_accuracy", pa.float64()),
    pa.field("samples", pa.int64()),
    pa.field("m", pa.int64()),
    pa.field("omega", pa.int64()),
    pa.field("folded", pa.bool_()),
    pa.field("weight_norm", pa.float64()),
    pa.field("init_norm", pa.float64()),
    pa.field("distance", pa.float64()),
    pa.field("trace", pa.list_(CANDIDATE)),
)

DISTORTION = (
    pa.field("parent", pa.string()),
    pa.field("parent_attempt", pa.int32()),
    pa.field("model_hash", pa.string()),
    pa.field("diverged", pa.bool_()),
    pa.field("corrupted_loss", pa.float64()),
    pa.field("corrupted_accuracy", pa.float64()),
    pa.field("train_loss", pa.float64()),
    pa.field("train_accuracy", pa.float64()),
    pa.field("clean_loss", pa.float64()),
    pa.field("clean_accuracy", pa.float64()),
    pa.field("generalization_gap", pa.float64()),
    pa.field("samples", pa.int64()),
    pa.field("source", pa.string()),
    pa.field("frost", pa.string()),
    pa.field("fingerprint", pa.string()),
)

CALLED = (
    pa.field("run", pa.string()),
    pa.field("command", pa.string()),
    pa.field("run_code", pa.string()),
    pa.field("command_code", pa.string()),
    pa.field("settings", pa.string()),
    pa.field("returned", pa.string()),
    pa.field("diverged", pa.bool_()),
)
"""Of a call: what was called, and its settings and what it returned, each a text of JSON. Who reads the rows of one
sweep makes columns of these (`reports.widening`)."""

LOGGED = (
    pa.field("step", pa.int64()),
    pa.field("name", pa.string()),
    pa.field("value", pa.float64()),
)

SYNTHESIS = (
    pa.field("parent", pa.string()),
    pa.field("parent_attempt", pa.int32()),
    pa.field("model_hash", pa.string()),
    pa.field("diverged", pa.bool_()),
    pa.field("image_loss", pa.float64()),
    pa.field("statistics_loss", pa.float64()),
    pa.field("loss", pa.float64()),
    pa.field("matching_loss", pa.float64()),
    pa.field("diversity_loss", pa.float64()),
    pa.field("statistics_distance", pa.float64()),
    pa.field("confidence", pa.float64()),
    pa.field("class_counts", pa.list_(pa.int64())),
    pa.field("classes_seen", pa.int32()),
    pa.field("embedding_rate", pa.float64()),
    pa.field("generator_rate", pa.float64()),
    pa.field("images_hash", pa.string()),
)

SYNTHESIS_LOSS = (
    pa.field("batch", pa.int32()),
    pa.field("iteration", pa.int32()),
    pa.field("image_loss", pa.float64()),
    pa.field("statistics_loss", pa.float64()),
    pa.field("embedding_rate", pa.float64()),
    pa.field("matching_loss", pa.float64()),
    pa.field("diversity_loss", pa.float64()),
)

SYNTHETIC_IMAGE = (
    pa.field("image", pa.int32()),
    pa.field("class", pa.int32()),
    pa.field("confidence", pa.float64()),
    pa.field("pixels", pa.list_(pa.float64())),
    pa.field("warm_up", pa.list_(pa.float64())),
)
"""What the model sees in one image. `pixels` (channels, side, side), standardized as in training, of the first ones;
`warm_up` those that they had before the second stage of sadag."""

QUANTIZATION = (
    pa.field("parent", pa.string()),
    pa.field("parent_attempt", pa.int32()),
    pa.field("model_hash", pa.string()),
    pa.field("images_hash", pa.string()),
    pa.field("diverged", pa.bool_()),
    pa.field("train_loss", pa.float64()),
    pa.field("train_accuracy", pa.float64()),
    pa.field("test_loss", pa.float64()),
    pa.field("test_accuracy", pa.float64()),
    pa.field("generalization_gap", pa.float64()),
    pa.field("float_test_loss", pa.float64()),
    pa.field("float_test_accuracy", pa.float64()),
    pa.field("accuracy_drop", pa.float64()),
    pa.field("weights_hash", pa.string()),
)

UNIT = (
    pa.field("unit", pa.string()),
    pa.field("index", pa.int32()),
    pa.field("weights", pa.int64()),
    pa.field("error_nearest", pa.float64()),
    pa.field("error", pa.float64()),
    pa.field("changed_share", pa.float64()),
)
"""One block that was reconstructed: its error in the mean over images and pixels of the sum over channels of squares,
by nearest rounding on what the blocks before it put out, and at the end; and the share of its weights that are not
rounded to nearest."""

ABOVE = own_settings(kinds.SYNTHESIS, kinds.QUANTIZATION)
"""The settings of a quantization on images, beside those of what is measured of its model."""

SETTINGS = pa.schema(
    {field.name: field for field in (*_settings(), *own_settings(*kinds.KINDS.values()))}.values(),
)
"""One column for each setting that any job may have."""

ROW_KINDS: dict[str, RowKind] = {
    one.name: one
    for one in (
        RowKind(name="runs", columns=pa.schema([*KEY, *PROVENANCE, *_settings(), *RUN])),
        RowKind(name="epochs", columns=pa.schema([*KEY, *EPOCH])),
        RowKind(name="layers", columns=pa.schema([*KEY, *LAYER])),
        RowKind(
            name="measures",
            columns=pa.schema([*KEY, *PROVENANCE, *_settings(), *own_settings(kinds.FLATNESS), *MEASURE, *ABOVE]),
        ),
        RowKind(
            name="distortions",
            columns=pa.schema([*KEY, *PROVENANCE, *_settings(), *own_settings(kinds.DISTORTION), *DISTORTION, *ABOVE]),
        ),
        RowKind(name="returned", columns=pa.schema([*KEY, *PROVENANCE, *CALLED])),
        RowKind(name="logged", columns=pa.schema([*KEY, *LOGGED])),
        RowKind(
            name="syntheses",
            columns=pa.schema([*KEY, *PROVENANCE, *_settings(), *own_settings(kinds.SYNTHESIS), *SYNTHESIS]),
        ),
        RowKind(name="synthesis_losses", columns=pa.schema([*KEY, *SYNTHESIS_LOSS])),
        RowKind(name="synthetic_images", columns=pa.schema([*KEY, *SYNTHETIC_IMAGE])),
        RowKind(
            name="quantizations",
            columns=pa.schema(
                [
                    *KEY,
                    *PROVENANCE,
                    *_settings(),
                    *own_settings(kinds.SYNTHESIS, kinds.QUANTIZATION),
                    *QUANTIZATION,
                ]
            ),
        ),
        RowKind(name="units", columns=pa.schema([*KEY, *UNIT])),
    )
}
