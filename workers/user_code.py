"""The user's functions, imported from the copies of their files that sweeps were launched with."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.user_code import UserCode, keep_user_code, kept_user_code

_folders: list[Path] = []
"""Folders of copies, by their hashes, in which this process looks."""
_offered: list[TemporaryDirectory[str]] = []


def look_in(folder: Path) -> None:
    """Look for copies in this folder of a home from now on, before all others."""
    if folder in _folders:
        _folders.remove(folder)
    _folders.insert(0, folder)


def offer(codes: Iterable[Mapping[str, Any]]) -> None:
    """Have this code at hand too, that no home keeps yet: of each the name of its `main` file, and its `files`."""
    for one in codes:
        files = {name: text.encode() for name, text in one["files"].items()}
        code = UserCode(folder=Path(), main=one["main"], files=files)
        place = TemporaryDirectory(prefix="qsweep-code-")
        keep_user_code(Path(place.name), code)
        _offered.append(place)  # it goes with the process
        look_in(Path(place.name))


def is_copied(file: str) -> bool:
    """Whether a file of a traceback is code of a user."""
    return any(Path(file).is_relative_to(folder) for folder in _folders)


@cache
def function_of(digest: str, name: str) -> Callable[..., Any]:
    """The function or class of this name in the code of this hash. Its file is run once in a process.

    While the file or the function runs, what it imports is looked for beside it first, and no other code of a user
    finds those modules. Raises InputError if there is no whole copy, and whatever the file raises.
    """
    folder, main = _copy_of(digest)
    modules: dict[str, Any] = {}
    with _beside(folder, modules):
        module_name = f"qsweep_user_{digest}"
        spec = importlib.util.spec_from_file_location(module_name, folder / main)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # its dataclasses look it up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    found = getattr(module, name)

    def call(*given: Any, **settings: Any) -> Any:
        with _beside(folder, modules):
            return found(*given, **settings)

    return call


def _copy_of(digest: str) -> tuple[Path, str]:
    """The folder of a copy, and the name of its file."""
    for folder in _folders:
        if (folder / digest).is_dir():
            code = kept_user_code(folder, digest)
            return code.folder, code.main
    raise InputError(
        f"the kept copy of the code {digest} is gone",
        place="model",
        allowed="launch the sweep again where its files are",
    )


@contextmanager
def _beside(folder: Path, modules: dict[str, Any]) -> Iterator[None]:
    """Have what is imported looked for in this folder first; the `modules` that come from there are put aside after."""
    place = str(folder)
    sys.path.insert(0, place)
    sys.modules.update(modules)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the copy stays what it was
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(place)
        for name, one in list(sys.modules.items()):
            file = getattr(one, "__file__", None) or ""
            if file.startswith(f"{place}/") and not name.startswith("qsweep_user_"):
                modules[name] = sys.modules.pop(name)
