"""How one setting of a training is declared: a dataclass field with its allowed values.

A component (model, optimizer, quantizer, the training itself) is a frozen keyword-only dataclass. Each of
its fields is one setting of a sweep file, checked by the rule that stands in the field's metadata.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast, get_type_hints

from qsweep.sweeps.errors import InputError

Scalar: TypeAlias = str | int | float | bool
Setting: TypeAlias = Scalar | tuple[int, ...]
Component = TypeVar("Component")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a setting may be: one of `choices`, or a number between `low` and `high`."""

    choices: tuple[Scalar, ...] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def allowed(self) -> str:
        """The rule in words, for an error message."""
        if self.choices is not None:
            return "allowed: " + ", ".join(str(choice) for choice in self.choices)
        lower = f"above {self.above}" if self.above is not None else f"{self.low} or more"
        upper = f", up to {self.high}" if self.high is not None else ""
        upper = f", below {self.below}" if self.below is not None else upper
        bounded = self.above is not None or self.low is not None
        return f"allowed: {lower}{upper}" if bounded else "allowed: any"

    def admits(self, value: Scalar) -> bool:
        if self.choices is not None:
            return value in self.choices
        if not isinstance(value, int | float):
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if (self.above is not None and value <= self.above) or (self.below is not None and value >= self.below):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def setting(rule: Rule | None = None, *, added_later: bool = False, old: Setting | None = None, **options: Any) -> Any:
    """A dataclass field that a sweep file may set, checked by `rule`.

    A field that came after the first release is `added_later`: its default is the old behaviour (or `old` is, where
    the default is another), and at that value it is left out of a job's identity.
    """
    metadata = {"rule": rule or Rule(), "added_later": added_later}
    return dataclasses.field(metadata=metadata if old is None else metadata | {"old": old}, **options)


def build(component: type[Component], given: Mapping[str, Any], *, place: str | None = None) -> Component:
    """One `component` from the settings of that name in `given`; the others are left alone.

    Raises InputError, with the place, the value and what is allowed, for a wrong type, a value out of
    range or a missing setting.
    """
    names = _names(cast("Hashable", component))
    if not names:
        return component()
    given = {name: given[name] for name in names if name in given}
    try:
        key = tuple((name, _types(value), value) for name, value in given.items())
        return cast("Component", _built(cast("Hashable", component), key))
    except (InputError, TypeError):  # TypeError: a list can't be looked up
        return _build(component, given, place)


# The components of a grid's jobs are few. By their types too: to a dictionary, True and 1.0 are 1.
@functools.lru_cache(maxsize=4096)
def _built(component: Any, given: tuple[tuple[str, tuple[type[Any], ...], Any], ...]) -> Any:
    return _build(component, {name: value for name, _, value in given}, None)


def _types(value: Any) -> tuple[type[Any], ...]:
    """The type of a value, and those of the members of a list."""
    return (tuple, *map(type, value)) if isinstance(value, tuple) else (type(value),)


def _build(component: type[Component], given: Mapping[str, Any], place: str | None) -> Component:
    values: dict[str, Setting] = {}
    for name, hint, rule, has_default in _declared(cast("Hashable", component)):
        if name in given:
            values[name] = _checked(given[name], hint, rule, f"{place}: {name}" if place else name)
        elif not has_default:
            raise InputError(f"{name} is missing", place=place, allowed=rule.allowed())
    return component(**values)


def settings_of(component: Any) -> dict[str, Setting]:
    """The settings of a component, by name, in the order of declaration."""
    names, values = _read(cast("Hashable", type(component)))
    return dict(zip(names, values(component), strict=True))


def canonical(component: Any) -> dict[str, Setting]:
    """The settings that make up a component's identity: without later additions at their old behaviour."""
    kind = type(component)
    kept = settings_of(component)
    for name, old in _later(cast("Hashable", kind)):
        if kept[name] == old:
            del kept[name]
    semantics = getattr(component, "semantics", 1)
    return kept if semantics == 1 else {**kept, "semantics": semantics}


def rule_of(component: type[Any] | None, name: str) -> Rule:
    """What one setting of a component class may be."""
    return _rules(cast("Hashable", component))[name]


def names_of(component: type[Any]) -> tuple[str, ...]:
    """The names of the settings that a component class declares."""
    return _names(cast("Hashable", component))


# Asked several times for each of up to a million jobs.
@functools.cache
def _names(component: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(component) if "rule" in field.metadata)


@functools.cache
def _read(component: Any) -> tuple[tuple[str, ...], Callable[[Any], Sequence[Setting]]]:
    """The names of a component class's settings, and what reads their values off one."""
    names = _names(component)
    if len(names) > 1:
        return names, operator.attrgetter(*names)
    return names, lambda one: [getattr(one, name) for name in names]


@functools.cache
def _later(component: Any) -> tuple[tuple[str, Any], ...]:
    """The settings that were added later, with the value that is the old behaviour."""
    fields = dataclasses.fields(component)
    return tuple(
        (field.name, field.metadata.get("old", field.default)) for field in fields if field.metadata.get("added_later")
    )


@functools.cache
def _rules(component: Any) -> dict[str, Rule]:
    return {name: rule for name, _, rule, _ in _declared(component)}


def old_value(component: type[Any] | None, name: str) -> Any:
    """What a setting that was added later is where there was none; None for any other."""
    return dict(_later(cast("Hashable", component))).get(name)


@functools.cache
def _declared(component: Any) -> tuple[tuple[str, Any, Rule, bool], ...]:
    """Each setting that a component class declares: its name, type and rule, and whether it has a default."""
    hints, missing = get_type_hints(component), dataclasses.MISSING
    return tuple(
        (
            field.name,
            hints[field.name],
            field.metadata["rule"],
            field.default is not missing or field.default_factory is not missing,
        )
        for field in dataclasses.fields(component)
        if "rule" in field.metadata
    )


def _checked(value: Any, hint: Any, rule: Rule, where: str) -> Setting:
    if hint == tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise InputError(f"{value!r} is not a list of whole numbers", place=where)
        return tuple(int(_checked(one, int, rule, where)) for one in value)  # type: ignore[arg-type]
    if hint is bool:
        if not isinstance(value, bool):
            raise InputError(f"{value!r} is not true or false", place=where)
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{value!r} is not a whole number", place=where, allowed=rule.allowed())
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{value!r} is not a number", place=where, allowed=rule.allowed())
        try:
            value = float(value) + 0.0  # and −0.0 is 0.0
        except OverflowError:
            raise InputError("the number is too large", place=where, allowed=rule.allowed()) from None
    elif not isinstance(value, str):
        raise InputError(f"{value!r} is not a text", place=where, allowed=rule.allowed())
    if not rule.admits(value):
        raise InputError(f"{value!r} is not allowed", place=where, allowed=rule.allowed())
    checked: Setting = value
    return checked


def varying(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which those jobs differ that have them."""
    names = dict.fromkeys(name for settings in jobs for name in settings)
    return [name for name in names if len({str(one[name]) for one in jobs if name in one}) > 1]
