"""Sweep files: TOML, built in or the user's own; and `--set`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_origin

from qsweep.sweeps.calls import COMMAND, FORMS, SEED, check_command, check_function, is_call, script_of
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.datasets import is_arrays
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.kinds import FLATNESS, KINDS, TRAIN
from qsweep.sweeps.measures import MEASURES, known_measure_settings
from qsweep.sweeps.memory import parse_memory
from qsweep.sweeps.modules import check_signature
from qsweep.sweeps.questions import DescribeArrays
from qsweep.sweeps.service import Service
from qsweep.sweeps.settings import Setting, names_of
from qsweep.sweeps.spec import Axis, Entry, Spec
from qsweep.sweeps.targets import PREFIX
from qsweep.sweeps.text import shortened
from qsweep.sweeps.toml import parse_toml, read_toml, read_user_text
from qsweep.sweeps.training import Training
from qsweep.sweeps.user_code import Signature, UserCode, read_user_code, reference_of, referenced
from qsweep.sweeps.zero_shot import known_zero_shot_settings, settings_of_entry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_ALLOWED = "allowed: letters, digits, '.', '_' and '-', a letter or a digit first"
LISTS = frozenset(
    prefix + name
    for part in PARTS.values()
    for component in part.components.values()
    for name, kind in component.columns().items()
    if get_origin(kind) is tuple
    for prefix in ("", PREFIX)
)
"""The settings whose one value is a list; those of a teacher's network too."""


def builtin_names() -> list[str]:
    """The names of the sweeps that come with qsweep."""
    folder = resources.files("qsweep.sweeps").joinpath("builtin")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_sweep(name: str, changes: Sequence[str] = ()) -> Spec:
    """The built-in sweep or the sweep file called `name`, with the `--set` changes made.

    Raises InputError: no such sweep (with the nearest names), TOML or settings that don't hold.
    """
    text, stem, builtin = _source(name)
    content = parse_toml(text, name)
    if not builtin:  # a test checks the others once and for all
        from qsweep.sweeps.file_form import check_form  # here: to import pydantic takes as long as a short command

        check_form(content, name)
    spec = _parse(content, stem, place=name)
    for change in changes:
        spec = _change(spec, change)
    spec = describe_arrays(read_code(spec, Path(name).parent), Path(name).parent)
    for axis in spec.axes:
        _check_axis(axis, spec)
    return spec


def read_code(spec: Spec, folder: Path) -> Spec:
    """The spec with the user's code that its values name, by paths from the folder. Raises InputError."""
    values = [value for name, value in spec.fixed if spec.calls or name != "data"]
    for axis in spec.axes:
        values += _values_of(axis) if spec.calls or axis.name != "data" else []
    found: dict[str, UserCode] = {}
    for command in _commands(spec):
        check_command(command, _names(spec), spec.place)
        if (script := script_of(command, folder)) is not None:
            found[command] = read_user_code(script, folder, place=f"{spec.place}: {script}")
    named = referenced(values)
    if not named and not found:
        return spec
    models = _values_called(spec, "model")
    signatures: dict[str, str] = {}
    for text in named:
        reference, place = reference_of(text, place=spec.place), f"{spec.place}: {text}"
        code = read_user_code(reference.path, folder, place=place)
        signature = code.signature(reference.name, place=place)
        found[text] = code
        if spec.calls:
            spec = _settled(spec, signature)
        elif text in models:
            check_signature(signature, taken_names(), place=place)
            signatures[text] = json.dumps(signature.content(), sort_keys=True)
    digests = tuple(sorted((text, code.digest) for text, code in found.items()))
    return dataclasses.replace(
        spec,
        user_code=digests,
        signatures=tuple(sorted(signatures.items())),
        sources=tuple(found[text] for text, _ in digests),
    )


def describe_arrays(spec: Spec, folder: Path) -> Spec:
    """The spec with what the arrays of users hold that it names, by paths from the folder: asked of a process that
    reads them. Raises InputError."""
    named = sorted({value for value in _values_called(spec, "data") if isinstance(value, str) and is_arrays(value)})
    if not named or spec.calls:
        return spec
    place = str(folder.absolute())
    with Service({**os.environ, "PYTHONSAFEPATH": "1"}, failing=f"reading {', '.join(named)}") as service:
        found = {
            one: service.ask(DescribeArrays(source=one, folder=place, data=os.environ.get("QSWEEP_DATA", place)))
            for one in named
        }
    described = tuple((name, json.dumps(one, sort_keys=True)) for name, one in found.items())
    return dataclasses.replace(spec, arrays=described, folder=place)


def _values_called(spec: Spec, name: str) -> list[Setting]:
    """Every value of a setting."""
    values = [value for one, value in spec.fixed if one == name]
    return values + [value for axis in spec.axes if axis.name == name for value in _values_of(axis)]


def _values_of(axis: Axis) -> list[Setting]:
    """Every value of an axis."""
    return [*axis.values, *(value for _, branch in axis.branches for value in branch)]


def taken_names() -> frozenset[str]:
    """The names that no argument of a module may have: other settings of a sweep."""
    own = {name for one in PARTS["model"].components.values() for name in one.names}
    return (Training.known() | known_measure_settings()) - own


def _settled(spec: Spec, signature: Signature) -> Spec:
    """The spec with the values that its function takes: those that are missing by their defaults, all of the type that
    is asked for. Raises InputError for what the function does not take."""
    check_function(signature, spec.place)
    if not signature.parameters:
        return spec
    known = {one.name: one for one in signature.parameters}
    given = _names(spec) - ({SEED} - known.keys())
    if not signature.open and (unknown := sorted(given - known.keys())):
        allowed = nearest(unknown[0], known)
        raise InputError(f"{unknown[0]!r} is not an argument of the function", place=spec.place, allowed=allowed)
    if missing := [name for name, one in known.items() if one.required and name not in given]:
        raise InputError(f"{missing[0]} is missing", place=spec.place, allowed="the function has no default for it")

    def checked(name: str, value: Setting, place: str) -> Setting:
        return known[name].checked(value, place=f"{spec.place}: {place}.{name}") if name in known else value

    fixed = {name: checked(name, value, "fixed") for name, value in spec.fixed}
    fixed |= {name: one.default for name, one in known.items() if name not in given and one.default is not None}
    axes = [
        dataclasses.replace(
            axis,
            values=tuple(checked(axis.name, value, "axes") for value in axis.values),
            branches=tuple(
                (key, tuple(checked(axis.name, value, "axes") for value in values)) for key, values in axis.branches
            ),
        )
        for axis in spec.axes
    ]
    return dataclasses.replace(spec, fixed=tuple(fixed.items()), axes=tuple(axes))


def _names(spec: Spec) -> set[str]:
    """The settings of the user's own that the sweep gives."""
    return {name for name in (*dict(spec.fixed), *(axis.name for axis in spec.axes)) if name not in FORMS}


def _commands(spec: Spec) -> list[str]:
    """The command lines among its settings."""
    values = [value for name, value in spec.fixed if name == COMMAND]
    values += [value for axis in spec.axes if axis.name == COMMAND for value in axis.values]
    return [value for value in values if isinstance(value, str)]


def make_sweep(content: Mapping[str, Any], name: str, folder: Path) -> Spec:
    """The sweep of that name with the content of a sweep file, whose paths start from the folder.

    Raises InputError as `read_sweep` does.
    """
    from qsweep.sweeps.file_form import check_form

    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} can't name a sweep", place="name", allowed=NAME_ALLOWED)
    check_form(content, name)
    spec = read_code(_parse(content, name, place=str(folder / f"{name}.toml")), folder)
    spec = describe_arrays(spec, folder)
    for axis in spec.axes:
        _check_axis(axis, spec)
    return dataclasses.replace(spec, place=name)


def source_text(name: str) -> str:
    """The text of a built-in sweep or a sweep file."""
    return _source(name)[0]


def _source(name: str) -> tuple[str, str, bool]:
    """Text and name of a sweep, and whether it is a built-in one."""
    path = Path(name)
    if name.endswith(".toml") or path.is_file():
        if not path.is_file():
            raise InputError("there is no such sweep file", place=name)
        if not NAME.fullmatch(path.stem):
            raise InputError(f"{path.stem!r} can't name a sweep", place=name, allowed=NAME_ALLOWED)
        try:
            return read_user_text(path), path.stem, False
        except (OSError, ValueError) as error:
            raise InputError(
                f"this file can't be read: {error}", place=name, allowed="allowed: TOML in UTF-8"
            ) from None
    known = builtin_names()
    if name not in known:
        raise InputError(f"there is no sweep {name!r}", allowed=f"{nearest(name, known)} (or the path of a .toml file)")
    return resources.files("qsweep.sweeps").joinpath("builtin", f"{name}.toml").read_text(encoding="utf-8"), name, True


def _parse(content: Mapping[str, Any], name: str, *, place: str) -> Spec:
    """The sweep from the content of its file, whose form has been checked."""
    fixed, axes, tables = dict(content.get("fixed", {})), content.get("axes", {}), content.get("tables", [])
    for form in FORMS:
        if form in content:
            if form in fixed or form in axes:
                raise InputError(f"{form} stands twice", place=place)
            fixed[form] = content[form]
    if twice := sorted(fixed.keys() & axes.keys()):
        raise InputError(f"{twice[0]!r} stands under [fixed] and under [axes]", place=place)
    _check_branches(fixed, axes, place)
    return Spec(
        name=name,
        title=content.get("title") or name,
        fixed=tuple((key, _frozen(value)) for key, value in fixed.items()),
        axes=tuple(_axis(key, values) for key, values in axes.items()),
        tables=tuple(_table_name(one, number) for number, one in enumerate(tables, 1)),
        declarations=_declarations(tables, place),
        keep=content.get("keep", "all"),
        measures=_entries(content, "measures", place),
        zero_shot=_entries(content, "zero_shot", place),
        measures_of=_measured(content, place),
        compare_with=content.get("compare_with"),
        memory=_memory(content, [*fixed, *axes], place),
        place=place,
    )


def _measured(content: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Whose models are measured. Raises InputError for what leaves none."""
    given = tuple(content.get("measures_of", (TRAIN.plural,)))
    allowed = [KINDS[name].plural for name in FLATNESS.parents]
    if unknown := [one for one in given if one not in allowed]:
        raise InputError(
            f"{unknown[0]!r} is not allowed", place=f"{place}: measures_of", allowed=nearest(unknown[0], allowed)
        )
    if not given or len(set(given)) < len(given):
        problem = "something stands twice" if given else "nothing is named"
        raise InputError(problem, place=f"{place}: measures_of", allowed=f"allowed: {', '.join(allowed)}")
    return given


def _memory(content: Mapping[str, Any], names: Sequence[str], place: str) -> int:
    """The bytes that a run may take. Raises InputError where the jobs are no calls of the user's code."""
    if content.get("memory") is None:
        return 0
    if not is_call(names):
        raise InputError("this bounds runs of functions and commands, not trainings", place=f"{place}: memory")
    return int(parse_memory(content["memory"], place=f"{place}: memory"))


def _table_name(table: str | Mapping[str, Any], number: int) -> str:
    """What a table is called: one that stands in the sweep file by its place, `own1`, unless it has a name."""
    return table if isinstance(table, str) else str(table.get("name") or f"own{number}")


def _declarations(tables: Sequence[str | Mapping[str, Any]], place: str) -> tuple[tuple[str, str], ...]:
    """The tables of its own, with their content: of the sweep file, `[[tables]]`, or files beside it, `NAME.toml`."""
    found: list[tuple[str, str]] = []
    for number, one in enumerate(tables, 1):
        name = _table_name(one, number)
        if isinstance(one, str) and not one.endswith(".toml"):
            continue
        if name in dict(found):
            raise InputError(f"two tables are called {name!r}", place=f"{place}: tables")
        try:
            content = read_toml(Path(place).parent / name, f"{place}: tables: {name}") if isinstance(one, str) else one
            own = {key: value for key, value in content.items() if key != "name"}
            found.append((name, json.dumps(own, sort_keys=True)))
        except FileNotFoundError:
            raise InputError(f"there is no file {name!r} beside it", place=f"{place}: tables") from None
        except TypeError as error:  # a date
            raise InputError(f"{name} is no table: {error}", place=f"{place}: tables") from None
    return tuple(found)


def _check_branches(fixed: Mapping[str, Any], axes: Mapping[str, Any], place: str) -> None:
    """A branch for a value that the other setting never has is a slip of the pen."""
    for name, axis in axes.items():
        if isinstance(axis, dict):
            by = axis["by"]
            other = axes.get(by, [fixed[by]] if by in fixed else None)
            for key in (one for one in axis if one != "by"):
                if isinstance(other, list) and key not in map(str, other):
                    allowed = nearest(key, [str(value) for value in other])
                    raise InputError(f"{by} is never {key!r}", place=f"{place}: axes.{name}", allowed=allowed)


def _entries(content: Mapping[str, Any], part: str, place: str) -> tuple[Entry, ...]:
    """The entries of `[[measures]]` or `[[zero_shot]]`."""
    return tuple(_entry(entry, f"{place}: {part} {number}") for number, entry in enumerate(content.get(part, []), 1))


def _entry(entry: dict[str, Any], place: str) -> Entry:
    """Each setting with its values; a list is an axis."""
    for name, value in entry.items():
        if value == []:
            raise InputError("an axis needs at least one value", place=f"{place}: {name}")
    return tuple((name, _values(value if isinstance(value, list) else [value])) for name, value in entry.items())


def _axis(name: str, values: list[Any] | dict[str, Any]) -> Axis:
    if isinstance(values, dict):
        branches = tuple((key, _values(branch)) for key, branch in values.items() if key != "by")
        return Axis(name=name, by=values["by"], branches=branches)
    return Axis(name=name, values=_values(values))


def _check_axis(axis: Axis, spec: Spec) -> None:
    place = f"{spec.place}: axes.{axis.name}"
    groups = [("", axis.values)] if axis.by is None else [(f".{key}", values) for key, values in axis.branches]
    for suffix, values in groups or [("", ())]:
        if not values:
            raise InputError("an axis needs at least one value", place=place + suffix)
        for index, value in enumerate(values):
            if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values[:index]):
                raise InputError(f"the value {_shown(value)} stands twice", place=place + suffix)
    if axis.by is None:
        return
    others = {other.name: other for other in spec.axes if other.by is None}
    if axis.by in others:
        needed = [str(value) for value in others[axis.by].values]
    elif axis.by in dict(spec.fixed):
        needed = [str(dict(spec.fixed)[axis.by])]
    else:
        raise InputError(f"{axis.by!r} is neither fixed nor a plain axis", place=f"{place}.by")
    missing = [value for value in needed if value not in dict(axis.branches)]
    if missing:
        raise InputError(
            f"no values for {axis.by} = {missing[0]!r}",
            place=place,
            allowed="given: " + ", ".join(key for key, _ in axis.branches),
        )


def _change(spec: Spec, change: str) -> Spec:
    """`spec` with one `--set key=value`: a value fixes the setting, a list of values makes it an axis."""
    place = f"--set {shortened(change)}"
    key, equals, text = change.partition("=")
    key = key.strip()
    if not equals or not NAME.fullmatch(key) or not text.strip():
        raise InputError("this is not key=value", place=place, allowed="for example: --set epochs=30 --set bits=[2,4]")
    value = _toml_value(text.strip(), place)
    if key in known_measure_settings():
        return _change_measures(spec, key, value, place)
    if key in known_zero_shot_settings() and (spec.zero_shot or key not in Training.known()):
        return _change_zero_shot(spec, key, value, place)
    is_axis = isinstance(value, list) and (key not in LISTS or any(isinstance(one, list) for one in value))
    fixed = {name: old for name, old in spec.fixed if name != key}
    axes = [axis for axis in spec.axes if axis.name != key]
    if is_axis:
        index = next((i for i, axis in enumerate(spec.axes) if axis.name == key), len(axes))
        axes.insert(index, Axis(name=key, values=_values(value)))
    else:
        fixed[key] = _frozen(value)
    return dataclasses.replace(spec, fixed=tuple(fixed.items()), axes=tuple(axes), place=f"{spec.place} {place}")


def _change_measures(spec: Spec, key: str, value: Any, place: str) -> Spec:
    """`spec` with a setting changed in every entry of its measures that has it."""

    def has(entry: Mapping[str, tuple[Setting, ...]]) -> bool:
        kinds = entry.get("measure", ())
        return key == "measure" or any(key in names_of(MEASURES[str(kind)]) for kind in kinds if kind in MEASURES)

    entries = _changed(spec.measures, key, value, has)
    if entries == spec.measures:
        raise InputError(f"no measure of {spec.name} is changed by {key}", place=place)
    return dataclasses.replace(spec, measures=entries, place=f"{spec.place} {place}")


def _change_zero_shot(spec: Spec, key: str, value: Any, place: str) -> Spec:
    """`spec` with a setting changed in every entry of `[[zero_shot]]` that has it."""

    def has(entry: Mapping[str, tuple[Setting, ...]]) -> bool:
        return key == "rounding" or key in settings_of_entry(entry.get("images", ()), entry.get("rounding", ()))

    entries = _changed(spec.zero_shot, key, value, has)
    if entries == spec.zero_shot:
        raise InputError(f"no entry of zero_shot of {spec.name} is changed by {key}", place=place)
    return dataclasses.replace(spec, zero_shot=entries, place=f"{spec.place} {place}")


def _changed(
    entries: Sequence[Entry], key: str, value: Any, has: Callable[[Mapping[str, tuple[Setting, ...]]], bool]
) -> tuple[Entry, ...]:
    values = _values(value if isinstance(value, list) else [value])
    return tuple(tuple({**dict(entry), key: values}.items()) if has(dict(entry)) else entry for entry in entries)


def _toml_value(text: str, place: str) -> Any:
    if NAME.fullmatch(text) and not re.match(r"[\d.]", text) and text not in ("true", "false", "inf", "nan"):
        return text
    problem = InputError(
        f"{shortened(text)!r} is not a value", place=place, allowed="a number, a word, 'a text' or a [list]"
    )
    try:
        value = parse_toml(f"value = {text}", place)
    except InputError as error:
        if not error.problem.startswith("this is not TOML"):
            raise
        if NAME.fullmatch(text):  # a word that begins with a digit, such as a fingerprint
            return text
        raise problem from None
    if value.keys() != {"value"} or not isinstance(value["value"], bool | int | float | str | list):
        raise problem
    return value["value"]


def _values(values: list[Any]) -> tuple[Setting, ...]:
    return tuple(_frozen(value) for value in values)


def _frozen(value: Any) -> Setting:
    frozen: Setting = tuple(value) if isinstance(value, list) else value
    return frozen


def _shown(value: Setting) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)
