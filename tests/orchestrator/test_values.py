"""What a value of a command line becomes does not depend on whether Typer converts it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from qsweep.orchestrator.literal import make_literal


class Form(StrEnum):
    """A choice."""

    TEXT = "text"
    JSON = "json"


def outcome(arguments: Sequence[str], *, literal: bool) -> tuple[Any, ...]:
    """What a command is called with, or its exit code and message."""
    app = typer.Typer()
    seen: list[Any] = []

    @app.command()
    def command(
        number: Annotated[int | None, typer.Option(min=1, max=50)] = None,
        share: Annotated[float, typer.Option(min=0.5)] = 1.0,
        words: Annotated[list[str] | None, typer.Option("--word")] = None,
        form: Form = Form.TEXT,
        text: str = "",
        place: Path = Path("there"),
    ) -> None:
        seen.extend((number, share, words, form, text, place))

    if literal:
        make_literal(app)
    answer = CliRunner().invoke(app, arguments)
    return (tuple(seen), tuple(map(type, seen))) if seen else (answer.exit_code, answer.output)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--number", "3"),
        ("--number", "007"),
        ("--number", "0"),
        ("--number", "51"),
        ("--number", "-3"),
        ("--number", "3.0"),
        ("--number", "1_0"),
        ("--number", "x"),
        ("--number", "9" * 5000),
        ("--number", "\u0663"),
        ("--share", "2"),
        ("--share", "0.1"),
        ("--share", "nan"),
        ("--word", "a", "--word", "b"),
        ("--word", ""),
        ("--word", "gr\u00fcn"),
        ("--form", "json"),
        ("--form", "xml"),
        ("--text", "a b"),
        ("--place", "x/y"),
    ],
)
def test_a_value_is_what_typer_makes_of_it(arguments: tuple[str, ...]) -> None:
    assert outcome(arguments, literal=True) == outcome(arguments, literal=False)
