"""Calls of the user's own code: a function of a file, or a command line, with whatever settings the sweep gives it."""

from __future__ import annotations

import math
import re
import shlex
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.user_code import CODE, Signature, reference_of

RUN, COMMAND = "run", "command"
FORMS: tuple[str, ...] = (RUN, COMMAND)
"""The settings that make a sweep one of calls."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_COLUMNS = """job attempt sweep variant state kind code torch device host slots form seconds steps_per_second
    finished_at diverged settings returned"""
TAKEN = frozenset([*_COLUMNS.split(), *FORMS, *(f"{one}{CODE}" for one in FORMS)])
"""Names that are something else in the answers: no setting, and no returned value, is called so."""
SEED = "seed"
SCRIPT = ".py"
FUNCTION_TAKES = "allowed: train(config), train(config, run), or keyword-only arguments that are the settings"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: of a function `file:PATH:NAME`, or of a command line with `{setting}` in it."""

    form: Literal["run", "command"]
    target: str
    code: str | None
    """The hash of the code; None of a command that runs no file of the user."""
    given: tuple[tuple[str, Setting], ...]

    @property
    def config(self) -> dict[str, Any]:
        """What the function gets; lists are lists there."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.given}

    @property
    def seed(self) -> int:
        """The setting `seed`, else 0."""
        found = dict(self.given).get(SEED, 0)
        return found if isinstance(found, int) else 0

    @property
    def name(self) -> str:
        """What its jobs have in common, to read: the function's name, or the command's first word."""
        if self.form == RUN:
            return reference_of(self.target, place=RUN).name
        return Path(shlex.split(self.target)[0]).name

    def settings(self) -> dict[str, Setting]:
        """Every setting by its name, with what is called and the hash of its code."""
        code: dict[str, Setting] = {} if self.code is None else {f"{self.form}{CODE}": self.code}
        return {self.form: self.target, **code, **dict(self.given)}

    def content(self) -> dict[str, Any]:
        """What counts for the identity: a function by its name and its code, wherever its file lies."""
        called = reference_of(self.target, place=RUN).name if self.form == RUN else self.target
        return {self.form: called, "code": self.code, "settings": dict(self.given)}

    @classmethod
    def from_settings(cls, given: Mapping[str, Any], *, place: str) -> Call:
        """The call that flat settings describe. Raises InputError."""
        form: Literal["run", "command"] = "run" if RUN in given else "command"
        target = given[form]
        if COMMAND in given and RUN in given:
            raise InputError("a sweep has a function or a command, not both", place=f"{place}: {COMMAND}")
        if not isinstance(target, str):
            raise InputError(f"{target!r} is not a text", place=f"{place}: {form}")
        settings = {name: value for name, value in given.items() if name not in (form, f"{form}{CODE}")}
        for name, value in settings.items():
            check_name(name, place)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, float) and not math.isfinite(one):
                    raise InputError(f"{one} is not a finite number", place=f"{place}: {name}")
        return cls(
            form=form,
            target=target,
            code=given.get(f"{form}{CODE}"),
            given=tuple(sorted((name, _plain(value)) for name, value in settings.items())),
        )


def _plain(value: Any) -> Setting:
    """−0.0 is 0.0."""
    found: Setting = value + 0.0 if isinstance(value, float) else tuple(value) if isinstance(value, list) else value
    return found


def check_name(name: str, place: str) -> None:
    """Raise InputError for what no setting can be called."""
    if name in TAKEN or NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} can't name a setting of your own",
            place=place,
            allowed="allowed: letters, digits and '_', a letter first; not " + ", ".join(sorted(TAKEN)),
        )


def is_call(names: Iterable[str]) -> bool:
    """Whether settings of these names describe a call and not a training."""
    return any(name in FORMS for name in names)


def check_command(command: str, given: Iterable[str], place: str) -> None:
    """Raise InputError unless a command line names exactly the settings that there are; the seed may be missing."""
    names, named = set(given), placeholders(command, f"{place}: {COMMAND}")
    if missing := sorted(named - names):
        raise InputError(f"{{{missing[0]}}} is no setting of the sweep", place=f"{place}: {COMMAND}")
    if idle := sorted(names - named - {SEED}):
        raise InputError(
            f"the command has no {{{idle[0]}}}", place=f"{place}: {idle[0]}", allowed="write it into the command"
        )


def check_function(signature: Signature, place: str) -> None:
    """Raise InputError for a function that can't be called by us."""
    if len(signature.positional) > 2 or not (signature.positional or signature.parameters or signature.open):
        raise InputError(
            f"the function takes {len(signature.positional)} arguments", place=f"{place}: {RUN}", allowed=FUNCTION_TAKES
        )


def placeholders(command: str, place: str) -> set[str]:
    """The settings that a command line names as `{name}`. Raises InputError if it is malformed."""
    try:
        words = shlex.split(command)
        found = {name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None}
    except ValueError as error:
        raise InputError(f"this is no command line: {error}", place=place, allowed=COMMAND_ALLOWED) from None
    if not words or not all(NAME.fullmatch(name) for name in found):
        raise InputError("this is no command line", place=place, allowed=COMMAND_ALLOWED)
    return found


COMMAND_ALLOWED = "allowed: words, with {setting} where a value stands; {{ and }} for braces"


def words_of(call: Call) -> list[str]:
    """The words of the command line with the settings in their places; no shell reads them."""
    texts = {name: _text(value) for name, value in call.given}
    return [word.format_map(texts) for word in shlex.split(call.target)]


def _text(value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(_text(one) for one in value) if isinstance(value, tuple) else str(value)


def script_of(command: str, folder: Path) -> str | None:
    """The first word of a command line that names a Python file in the folder; None if there is none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    return next((word for word in words if word.endswith(SCRIPT) and (folder / word).is_file()), None)
