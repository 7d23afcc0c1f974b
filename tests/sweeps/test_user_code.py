"""Code of the user: its settings by the syntax tree, its identity, its kept copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.user_code import (
    keep_user_code,
    kept_user_code,
    origin_of,
    read_user_code,
    reference_of,
    with_code,
)

NET = '''
"""A net."""
import no_such_library
from typing import Literal
from blocks import block
import pieces.deep

raise SystemExit("nobody runs this file to read it")


def build(data, *, width: int = 16, dropout: float = 0, act: Literal["relu", "gelu"] = "relu", sizes: list[int] = (1,),
          norm: bool = True, name, late: "int | None" = None):
    # a comment
    return block(width)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text("def block(width): return width\n")
    (tmp_path / "unused.py").write_text("x = 1\n")
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "__init__.py").write_text("")
    (tmp_path / "pieces" / "deep.py").write_text("from . import more\n")
    (tmp_path / "pieces" / "more.py").write_text("y = 2\n")
    return tmp_path


def digest(folder: Path) -> str:
    return read_user_code("net.py", folder, place="s").digest


def test_the_settings_are_read_without_running_the_file(folder: Path) -> None:
    signature = read_user_code("net.py", folder, place="s").signature("build", place="s")
    assert signature.positional == ("data",)
    given = {"width": 8, "dropout": 1, "name": "a"}
    found = signature.settings(given, place="s")
    assert found == {"width": 8, "dropout": 1.0, "act": "relu", "sizes": (1,), "norm": True, "name": "a"}
    assert isinstance(found["dropout"], float)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 0.5}, "width: 0.5 is not a whole number"),
        ({"width": True}, "width: True is not a whole number"),
        ({"dropout": "much"}, "dropout: 'much' is not a number"),
        ({"act": "tanh"}, "act: 'tanh' is not allowed; allowed: relu, gelu"),
        ({"norm": 1}, "norm: 1 is not true or false"),
        ({"widht": 8}, "'widht' is not an argument of the function; did you mean 'width'"),
        ({}, "name is missing"),
    ],
)
def test_a_wrong_value_is_refused_in_words(folder: Path, wrong: dict[str, object], says: str) -> None:
    signature = read_user_code("net.py", folder, place="s").signature("build", place="s")
    with pytest.raises(InputError, match=says):
        signature.settings(({"name": "a"} if wrong else {}) | wrong, place="s")


def test_comments_layout_and_docstrings_count_nothing(folder: Path) -> None:
    before = digest(folder)
    text = NET.replace("# a comment", "# another\n").replace('"""A net."""', '"""Other words."""')
    (folder / "net.py").write_text(text.replace("width: int = 16, ", "width:  int=16,\n          "))
    (folder / "unused.py").write_text("x = 2\n")
    assert digest(folder) == before


@pytest.mark.parametrize("file", ["net.py", "blocks.py", "pieces/more.py"])
def test_an_edit_of_the_file_or_of_what_it_imports_counts(folder: Path, file: str) -> None:
    before = digest(folder)
    with (folder / file).open("a") as more:
        more.write("\nz = 1.0\n")
    edited = digest(folder)
    assert edited != before
    (folder / file).write_text((folder / file).read_text().replace("z = 1.0", "z = 1"))
    assert digest(folder) != edited, "1.0 is not 1"


def test_the_name_of_the_file_counts_nothing(folder: Path) -> None:
    before = digest(folder)
    (folder / "net.py").rename(folder / "model.py")
    assert read_user_code("model.py", folder, place="s").digest == before


def test_a_copy_is_the_code_that_its_hash_names(folder: Path, tmp_path: Path) -> None:
    code, kept = read_user_code("net.py", folder, place="s"), tmp_path / "kept"
    copy = keep_user_code(kept, code)
    keep_user_code(kept, code)
    assert kept_user_code(kept, code.digest).files == code.files
    assert set(code.files) == {"net.py", "blocks.py", "pieces/__init__.py", "pieces/deep.py", "pieces/more.py"}
    assert origin_of(kept, code.digest) == folder
    (copy / "code" / "blocks.py").write_text("def block(width): return 2 * width\n")
    with pytest.raises(InputError, match="not the code"):
        kept_user_code(kept, code.digest)
    with pytest.raises(InputError, match="gone"):
        kept_user_code(kept, "0" * 16)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file:net.py", "names no function"),
        ("file:net:build", "names no function"),
        ("file:none.py:build", "there is no file"),
        ("file:net.py:biuld", "defines no function 'biuld'; did you mean 'build'"),
        ("file:broken.py:f", "is not Python in line 1"),
    ],
)
def test_what_names_nothing_is_refused(folder: Path, text: str, says: str) -> None:
    (folder / "broken.py").write_text("def f(:\n")

    def read() -> None:
        reference = reference_of(text, place="s")
        read_user_code(reference.path, folder, place="s").signature(reference.name, place="s")

    with pytest.raises(InputError, match=says):
        read()


def test_a_setting_that_names_code_has_its_hash_beside_it() -> None:
    point = {"model": "file:net.py:build", "width": 8}
    assert with_code(point, {"file:net.py:build": "abc"}) == {**point, "model_code": "abc"}
