"""What trained models are called by, beside their network: how they were quantized, and by which method trained.

Rows of tables, series of figures and columns of matched configurations are keyed by it. Two models with the same
`Quantization` have the same components in every part that names rows (`sweeps.components`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qsweep.sweeps.components import PARTS, naming_settings
from qsweep.sweeps.kinds import QUANTIZATION, SYNTHESIS
from qsweep.sweeps.parts import Choice, Part, QuantizerChoice
from qsweep.sweeps.quantizers import FULL_PRECISION
from qsweep.sweeps.settings import old_value

SLOTS = (FULL_PRECISION, 8, 4, 2, 3, 5, 6, 7)
"""The bit widths, in the order in which they take colours."""
COLOURS = ("#2b2b2b", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#8a6d00", "#3d9bd1", "#7a4fb5")
"""Okabe and Ito's palette, which people with any colour vision tell apart."""
MARKERS = ("o", "s", "^", "D", "P", "v", "X", "<")
NAMING = tuple(part for part in PARTS.values() if part.names_rows and isinstance(part, Choice))
"""The parts that models are called by."""

NAMED_BY = tuple(name for part in NAMING for name in part.own)
"""The columns of a row of results that `quantization_of` reads."""


@functools.total_ordering
@dataclass(frozen=True, kw_only=True)
class Quantization:
    """`FP32`, `Int4`, `W4A4 · SAQ`: bits of the weights and the activations, and whatever else tells models apart.

    In order, full precision comes first, and fewer bits come later; each variant (all but the bits of the weights)
    comes by itself. `slot` numbers the series that are shown together: colour and marker follow from it.
    """

    bits: int = FULL_PRECISION
    activation_bits: int = FULL_PRECISION
    details: tuple[str, ...] = ()
    slot: int = field(default=0, compare=False)

    @property
    def variant(self) -> tuple[tuple[str, ...], int]:
        """All but the bits of the weights; the paper's own is the first of all."""
        return self.details, -self.activation_bits

    @property
    def is_full(self) -> bool:
        """Whether neither weights nor activations are quantized."""
        return self.bits == self.activation_bits == FULL_PRECISION

    @property
    def colour(self) -> str:
        """The same for models with the same bits of their weights."""
        return colour_of(self.slot)

    @property
    def marker(self) -> str:
        """Another for each that has this colour."""
        return marker_of(self.slot)

    def __str__(self) -> str:
        if self.activation_bits != FULL_PRECISION:
            precision = f"W{self.bits}A{self.activation_bits}"
        else:
            precision = "FP32" if self.is_full else f"Int{self.bits}"
        return " · ".join((precision, *self.details))

    def __lt__(self, other: Quantization) -> bool:
        return (*self.variant, -self.bits) < (*other.variant, -other.bits)


FULL = Quantization()
"""A model in full precision, trained by the plain method."""


def quantization_of(settings: Mapping[str, Any]) -> Quantization:
    """What a model with these settings is called, whatever else is shown: settings of a job, or a row of results."""
    if _known(settings, QUANTIZATION.family) is not None:
        return _on_images(settings)
    quantizers = [part for part in NAMING if isinstance(part, QuantizerChoice)]
    widths = {part.width: int(width) for part in quantizers if (width := _known(settings, part.width)) is not None}
    used = [part for part in quantizers if widths.get(part.width, part.full) != part.full]
    others = [label for part in NAMING if part not in quantizers and (label := _label(part, settings))]
    return _placed([Quantization(**widths, details=(*_of_quantizers(used, settings), *others))])[0]


def _of_quantizers(used: Sequence[QuantizerChoice], settings: Mapping[str, Any]) -> list[str]:
    """The quantizers but for the usual ones: one name where all have the same, else with what each quantizes."""
    labels = [_label(part, settings) for part in used]
    if len(set(labels)) == 1:
        return [label for label in labels[:1] if label]
    return [f"{label} {part.what}" for part, label in zip(used, labels, strict=True) if label]


def _label(part: Choice, settings: Mapping[str, Any]) -> str:
    """What the chosen component adds to a model's name: nothing if it is the usual one."""
    component = part.components.get(_known(settings, part.name))
    if component is None or component.name == part.default:
        return ""
    return component.name if component.label is None else component.label


def _on_images(settings: Mapping[str, Any]) -> Quantization:
    """What a model is called that was quantized on images: by these, and by how it was rounded."""
    details = tuple(str(settings[kind.family]) for kind in (SYNTHESIS, QUANTIZATION))
    widths = {"bits": int(settings["weight_bits"]), "activation_bits": int(settings["activation_bits"])}
    return _placed([Quantization(**widths, details=details)])[0]


def quantizations(rows: Sequence[Mapping[str, Any]]) -> list[Quantization]:
    """What models with these settings are called beside each other: with the settings in which those that would share
    a name differ."""
    first = [quantization_of(row) for row in rows]
    told = {one: differing([row for row, mine in zip(rows, first, strict=True) if mine == one]) for one in set(first)}
    return _placed(
        [
            replace(one, details=(*one.details, *(f"{name} {setting_text(filled(row, name))}" for name in told[one])))
            for one, row in zip(first, rows, strict=True)
        ]
    )


def differing(rows: Collection[Mapping[str, Any]], given: Collection[str] = ()) -> list[str]:
    """The settings of the parts that name rows, in which models of one name differ, but for the `given` ones."""
    own = {name for part in NAMING for name in part.own}
    others = sorted(naming_settings() - own - set(given))
    return [name for name in others if len({setting_text(filled(row, name)) for row in rows}) > 1]


def colour_of(series: int) -> str:
    """The colour of a series, by its number."""
    return COLOURS[series % len(COLOURS)]


def marker_of(series: int) -> str:
    """The marker of a series, by its number: another for each of one colour."""
    return MARKERS[(series + series // len(COLOURS)) % len(MARKERS)]


def series_names(shown: Iterable[Quantization]) -> list[str]:
    """What the series of a chart are called, by their slots."""
    names = {slot: str(Quantization(bits=bits)) for slot, bits in enumerate(SLOTS)}
    names |= {one.slot: str(one) for one in shown}
    return [names.get(slot, "") for slot in range(max(names) + 1)]


def _placed(found: Sequence[Quantization]) -> list[Quantization]:
    """The same with a slot each: of the paper's own always the same one, of any other the next with the colour."""
    slots: dict[Quantization, int] = {}
    for one in sorted(set(found)):
        colour = SLOTS.index(one.bits) if one.bits in SLOTS else one.bits % len(SLOTS)
        free = (slot for slot in itertools.count(colour, len(SLOTS)) if slot not in slots.values())
        own = one.variant == FULL.variant and one.bits in SLOTS
        slots[one] = colour if own else next(slot for slot in free if slot >= len(SLOTS))
    return [replace(one, slot=slots[one]) for one in found]


def _known(row: Mapping[str, Any], name: str) -> Any:
    """A value of a row; None where it is missing: a frame has NaN or NA there."""
    value = row.get(name)
    try:
        return None if value is None or bool(value != value) else value
    except TypeError:  # pandas' NA is neither equal to anything nor not
        return None


def filled(row: Mapping[str, Any], name: str) -> Any:
    """A setting of a row, what it was before it was one where the row is older than it; None if it has none."""
    value = _known(row, name)
    if value is None:
        return _default(row, name)
    return int(value) if _is_whole(name) else value  # in a frame with gaps it is a float


@functools.lru_cache
def _is_whole(name: str) -> bool:
    """Whether a setting is a whole number."""
    return any(part.columns().get(name) is int for part in PARTS.values())


@functools.lru_cache
def parts_of(name: str) -> tuple[Part, ...]:
    """The parts that have a component with this setting."""
    return tuple(part for part in PARTS.values() if any(name in one.names for one in part.components.values()))


def _default(row: Mapping[str, Any], name: str) -> Any:
    for part in parts_of(name):
        component = part.components.get(_known(row, part.name) or part.name)
        if component is not None and name in component.names:
            return old_value(component.settings, name)
    return None


def setting_text(value: Any) -> str:
    """A setting as a sweep file has it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value).lower() if str(value) in ("True", "False") else str(value)
