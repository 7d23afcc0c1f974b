"""Code of the user: what `file:PATH:NAME` names, its settings, its identity, and its copy that agents run.

A file of the user is read as text and by its syntax tree. It is never imported here, so reading it needs no library
that it imports, and runs nothing of it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.settings import Scalar, Setting
from qsweep.sweeps.wholefiles import whole_folder, write_whole

PREFIX = "file:"
FORM = re.compile(r"file:(?P<path>[^:\0]+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
FORM_ALLOWED = "allowed: file:PATH.py:NAME, the path from the folder of the sweep file"
DIGEST = re.compile(r"[0-9a-f]{16}")
CODE = "_code"
"""What the setting is called by, behind the name of the one that names code, that holds the code's hash."""
CODES = frozenset(f"{name}{CODE}" for name in ("run", "command", "model", "data"))
ORIGIN = "ORIGIN"
"""The file of a kept copy that names the folder from which it was launched last."""
MOST_BYTES = 4 << 20
"""Of all the files of one piece of code together: they travel to every machine."""
TYPES: Mapping[str, type[Any]] = {"int": int, "float": float, "str": str, "bool": bool, "list": tuple, "tuple": tuple}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`file:PATH:NAME`: a function or class in a file of the user."""

    path: str
    """From the folder of the sweep file, or absolute."""
    name: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.path}:{self.name}"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One keyword-only argument, which is a setting of the sweep."""

    name: str
    kind: type[Any] | None
    """What its annotation says: int, float, str, bool or tuple (any list); None says nothing."""
    choices: tuple[Scalar, ...] | None = None
    """Of `Literal[…]`."""
    required: bool = True
    default: Setting | None = None

    def checked(self, value: Any, *, place: str) -> Setting:
        """The value as the function gets it: a whole number is a float where one is asked for. Raises InputError."""
        allowed = None if self.choices is None else "allowed: " + ", ".join(str(one) for one in self.choices)
        if self.choices is not None and not any(value == one and type(value) is type(one) for one in self.choices):
            raise InputError(f"{value!r} is not allowed", place=place, allowed=allowed)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.kind is tuple and isinstance(value, list):
            value = tuple(value)
        if self.kind is not None and not _is_of(value, self.kind):
            raise InputError(f"{value!r} is not {WORDS[self.kind]}", place=place)
        found: Setting = value
        return found


def _is_of(value: Any, kind: type[Any]) -> bool:
    """True is no whole number here."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


WORDS: Mapping[type[Any], str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    tuple: "a list",
}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The arguments of a function, of a class (of its `__init__`), as far as they are settings."""

    positional: tuple[str, ...]
    """What it is called with by us, such as `data` or `config`; without `self`."""
    parameters: tuple[Parameter, ...]
    open: bool
    """Whether it takes any keyword (`**settings`)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the settings."""
        return tuple(one.name for one in self.parameters)

    def content(self) -> dict[str, Any]:
        """The settings as plain values, from which `from_content` makes equal ones."""
        named = {kind: name for name, kind in TYPES.items() if name != "list"}
        parameters = [
            {
                "name": one.name,
                "kind": named.get(one.kind) if one.kind else None,
                "choices": one.choices,
                "required": one.required,
                "default": one.default,
            }
            for one in self.parameters
        ]
        return {"parameters": parameters, "open": self.open}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Signature:
        parameters = tuple(
            Parameter(
                name=one["name"],
                kind=TYPES[one["kind"]] if one["kind"] else None,
                choices=None if one["choices"] is None else tuple(one["choices"]),
                required=one["required"],
                default=tuple(one["default"]) if isinstance(one["default"], list) else one["default"],
            )
            for one in content["parameters"]
        )
        return cls(positional=(), parameters=parameters, open=content["open"])

    def settings(self, given: Mapping[str, Any], *, place: str) -> dict[str, Setting]:
        """The value of each keyword-only argument: as given, else its default. Raises InputError for a value that its
        annotation does not allow, one that is missing, and a name that the function does not take."""
        known = {one.name: one for one in self.parameters}
        if not self.open and (unknown := sorted(set(given) - set(known))):
            allowed = nearest(unknown[0], known) if known else "it takes no settings"
            raise InputError(f"{unknown[0]!r} is not an argument of the function", place=place, allowed=allowed)
        found: dict[str, Setting] = {}
        for name, one in known.items():
            if name in given:
                found[name] = one.checked(given[name], place=f"{place}: {name}")
            elif one.required:
                raise InputError(f"{name} is missing", place=place, allowed="the function has no default for it")
            elif one.default is not None:
                found[name] = one.default
        return found | {name: value for name, value in given.items() if name not in known}


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """A file of the user with the modules beside it that it imports."""

    folder: Path
    """Where the file lies: what it imports is looked for there."""
    main: str
    """The file's name in that folder."""
    files: Mapping[str, bytes] = field(repr=False)
    """The file and those modules, by their paths below the folder."""

    @cached_property
    def digest(self) -> str:
        """16 hex digits: the hash of the normalized syntax trees. Comments, layout and docstrings count nothing, and
        neither does the name of the file itself."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            shown = "" if name == self.main else name
            digest.update(f"{shown}\0{''.join(_normal(_parsed(content, name)))}\0".encode())
        return digest.hexdigest()[:16]

    def signature(self, name: str, *, place: str) -> Signature:
        """Of the function or class of this name. Raises InputError if the file defines none."""
        tree = _parsed(self.files[self.main], self.main)
        defined = {
            one.name: one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        if name not in defined:
            allowed = nearest(name, defined) if defined else "it defines no function"
            raise InputError(f"{self.main} defines no function {name!r}", place=place, allowed=allowed)
        found = defined[name]
        if isinstance(found, ast.ClassDef):
            inside = [one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            if not inside:
                return Signature(positional=(), parameters=(), open=False)
            return _signature(inside[0], is_method=True, place=f"{place}: {name}")
        return _signature(found, is_method=False, place=f"{place}: {name}")


def is_reference(value: object) -> bool:
    """Whether a setting's value names code of the user."""
    return isinstance(value, str) and value.startswith(PREFIX)


def reference_of(text: str, *, place: str) -> Reference:
    """What `file:PATH:NAME` names. Raises InputError for another form."""
    found = FORM.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} names no function in a file", place=place, allowed=FORM_ALLOWED)
    return Reference(path=found["path"], name=found["name"])


def referenced(values: Iterable[object]) -> list[str]:
    """The `file:PATH:NAME` among the values of a sweep's settings, each once."""
    return sorted({value for value in values if isinstance(value, str) and is_reference(value)})


def with_code(point: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """The settings, and beside each that names code of the user, as `model` does, the hash of it, as `model_code`."""
    named = {name: value for name, value in point.items() if isinstance(value, str) and value in digests}
    return {**point, **{f"{name}{CODE}": digests[value] for name, value in named.items()}}


def digests_of(settings: Mapping[str, Any]) -> set[str]:
    """The hashes of the user's code among the settings of a job."""
    return {str(value) for name, value in settings.items() if name in CODES and value is not None}


def read_user_code(path: str, folder: Path, *, place: str) -> UserCode:
    """The file at this path from the folder, and the modules beside it that it imports, directly or not.

    Raises InputError if there is none, or if one of them is no Python.
    """
    main = (folder / Path(path).expanduser()).absolute()
    if not main.is_file():
        raise InputError(f"there is no file {path!r}", place=place, allowed=FORM_ALLOWED)
    beside, files, waiting = main.parent, dict[str, bytes](), [main.name]
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        try:
            files[name] = (beside / name).read_bytes()
        except OSError as error:
            raise InputError(f"{name} can't be read: {error.strerror}", place=place) from None
        if sum(map(len, files.values())) > MOST_BYTES:
            raise InputError(
                f"{path} and what it imports from its folder have more than {MOST_BYTES >> 20} MiB", place=place
            )
        try:
            tree = _parsed(files[name], name)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            problem = error.msg if isinstance(error, SyntaxError) else str(error)
            raise InputError(f"{name} is not Python{line}: {problem}", place=place) from None
        waiting += _beside(tree, beside, PurePosixPath(name))
    return UserCode(folder=beside, main=main.name, files=files)


def _beside(tree: ast.AST, folder: Path, importer: PurePosixPath) -> list[str]:
    """The files below the folder that this module imports, with every module of a package that it imports from."""
    found: list[str] = []
    for dotted in _imported(tree, importer):
        top, *rest = dotted
        if (folder / top / "__init__.py").is_file():
            package = folder / top
            found += [one.relative_to(folder).as_posix() for one in sorted(package.rglob("*.py"))]
        elif (folder / f"{top}.py").is_file():
            found.append(f"{top}.py")
        elif rest and (folder / top / f"{rest[0]}.py").is_file():  # a package without an __init__.py
            found.append(f"{top}/{rest[0]}.py")
    return found


def _imported(tree: ast.AST, importer: PurePosixPath) -> Iterator[tuple[str, ...]]:
    """The dotted names that a module imports, as parts; relative ones from the folder of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(one.name.split(".")) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(node.module.split(".")) if node.module else ()
            above = importer.parent.parts[: len(importer.parent.parts) - (node.level - 1)] if node.level else ()
            for one in node.names:
                if whole := (*above, *parts, one.name):
                    yield whole


def _parsed(content: bytes, name: str) -> ast.Module:
    return ast.parse(content, filename=name)


def _normal(node: object) -> Iterator[str]:
    """The text of a syntax tree that counts: without places, docstrings and empty fields, of which each version of
    Python has others."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name in ("kind", "type_comment", "type_ignores", "ctx") or value is None or value == []:
                continue
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = value[1:] if _is_docstring(value[0]) else value
            yield f" {name}="
            yield from _normal(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for one in node:
            yield from _normal(one)
            yield ","
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r}"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool, place: str) -> Signature:
    given = function.args
    positional = [one.arg for one in (*given.posonlyargs, *given.args)]
    parameters = [
        _parameter(one, default, place) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return Signature(
        positional=tuple(positional[1:] if is_method else positional),
        parameters=tuple(parameters),
        open=given.kwarg is not None,
    )


def _parameter(argument: ast.arg, default: ast.expr | None, place: str) -> Parameter:
    kind, choices = _annotated(argument.annotation)
    if default is None:
        return Parameter(name=argument.arg, kind=kind, choices=choices)
    try:
        value = ast.literal_eval(default)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise InputError(
            "the default of an argument that is a setting has to be written out",
            place=f"{place}: {argument.arg}",
            allowed="a number, a text, True, False, or a list of them",
        ) from None
    found = Parameter(name=argument.arg, kind=kind, choices=choices, required=False)
    if value is None:
        return found
    checked = found.checked(value, place=f"{place}: the default of {argument.arg}")
    return Parameter(name=argument.arg, kind=kind, choices=choices, required=False, default=checked)


def _annotated(annotation: ast.expr | None) -> tuple[type[Any] | None, tuple[Scalar, ...] | None]:
    """What an annotation says of a value: its type, and the choices of a `Literal`. One that says more says nothing."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):  # as with quotes
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None, None
    if isinstance(annotation, ast.Subscript):
        outer = _last_name(annotation.value)
        if outer == "Literal":
            try:
                named = ast.literal_eval(annotation.slice)
            except ValueError:
                return None, None
            return None, tuple(named) if isinstance(named, tuple) else (named,)
        return (tuple if outer in ("list", "tuple", "List", "Tuple", "Sequence") else None), None
    return TYPES.get(_last_name(annotation) or ""), None


def _last_name(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def keep_user_code(folder: Path, code: UserCode) -> Path:
    """Keep a copy of the code as `folder/DIGEST`, complete or not at all, and where it was launched from."""
    target = folder / code.digest
    if not target.is_dir():
        try:
            with whole_folder(target) as begun:
                for name, content in code.files.items():
                    copy = begun / "code" / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(content)
                (begun / "MAIN").write_text(code.main, encoding="utf-8")
        except OSError:
            if not target.is_dir():  # else another launch was faster
                raise
    write_whole(target / ORIGIN, str(code.folder).encode(), tidy=True)
    return target


def kept_user_code(folder: Path, digest: str) -> UserCode:
    """The copy of this hash. Raises InputError if it is gone or no longer the code that its hash names."""
    target = folder / digest
    allowed = "launch the sweep again where its files are"
    if DIGEST.fullmatch(digest) is None or not target.is_dir():
        raise InputError(f"the kept copy of the code {digest} is gone", place=str(target), allowed=allowed)
    try:
        main = (target / "MAIN").read_text(encoding="utf-8")
        found = read_user_code(main, target / "code", place=str(target))
    except OSError as error:
        raise InputError(
            f"the kept copy of the code {digest} can't be read: {error}", place=str(target), allowed=allowed
        ) from None
    if found.digest != digest:
        raise InputError(
            f"this is not the code {digest} any more: a file was changed, added or lost; nothing runs from it",
            place=str(target),
            allowed="delete this folder; a launch of the same code writes it again",
        )
    return found


def origin_of(folder: Path, digest: str) -> Path | None:
    """The folder that the code of this hash was launched from, if it is on this machine."""
    try:
        found = Path((folder / digest / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found if found.is_dir() else None
