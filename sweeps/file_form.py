"""The form of a sweep file, before its settings are checked against what they configure; checked by pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.text import shortened

Value = StrictBool | StrictInt | StrictFloat | StrictStr | list[StrictBool | StrictInt | StrictFloat | StrictStr]
Values = StrictBool | StrictInt | StrictFloat | StrictStr | list[StrictBool | StrictInt | StrictFloat | StrictStr]


class _BoundAxis(BaseModel):
    """`[axes.learning_rate]`: the values for each value of the setting `by`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Value]]
    by: StrictStr


class _SweepFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: StrictStr = ""
    run: StrictStr | None = None
    command: StrictStr | None = None
    tables: list[StrictStr | dict[str, Any]] = Field(default_factory=list)
    keep: Literal["all", "children", "none"] = "all"
    measures: list[dict[str, Values]] = Field(default_factory=list)
    measures_of: list[StrictStr] = Field(default_factory=lambda: ["trainings"])
    zero_shot: list[dict[str, Values]] = Field(default_factory=list)
    compare_with: StrictStr | None = None
    memory: StrictStr | None = None
    fixed: dict[str, Value] = Field(default_factory=dict)
    axes: dict[str, Annotated[list[Value] | _BoundAxis, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict
    )


def check_form(content: Mapping[str, Any], place: str) -> None:
    """Raise InputError for a key that there is not, or a value of another type. Nothing is converted."""
    try:
        _SweepFile.model_validate(content)
    except ValidationError as error:
        raise _explain(error, place) from None


def _explain(error: ValidationError, place: str) -> InputError:
    first = error.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "dict[", "_BoundAxis"))]
    if first["type"] == "extra_forbidden":
        return InputError(f"unknown key {keys[-1]!r}", place=place, allowed=nearest(keys[-1], _SweepFile.model_fields))
    at = ".".join(key for key in keys if key not in ("bool", "int", "float", "str"))
    wanted = "a list" if first["type"] == "list_type" else "a number, a text, true, false or a list of them"
    shown = shortened(repr(first["input"]))
    return InputError(f"{shown} is not allowed", place=f"{place}: {at}", allowed=f"allowed: {wanted}")
