"""How answers and messages stand on a terminal: drawn tables, lines that keep to its width, commands in one piece.

In a pipe nothing is drawn and no line is broken.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING

import typer

from qsweep.reports.sheet import Part, Sheet, document, markdown, plain
from qsweep.sweeps.words import counted as counted
from qsweep.sweeps.words import duration as duration

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST = 40
"""A terminal that says it is narrower is written to as if it were not."""
COMMAND = re.compile(r"(?:qsweep|pip install) [^;,()…]*[^;,()…. ]")
"""What one copies out of a message, to the end of its clause."""
LABEL = re.compile(r" +|[-*] |\w+ {2,}")
"""What begins a line, below which its other lines do not reach."""
JOIN = "\N{NO-BREAK SPACE}"


def width_of(stream: IO[str]) -> int | None:
    """The columns of the terminal that the stream writes to; None if it is none, or can't show what is drawn."""
    if not stream.isatty():
        return None
    return max(shutil.get_terminal_size().columns, NARROWEST)


def show(sheet: Sheet, *, piped: Callable[[Sheet], str] = plain, rows: int | None = None) -> None:
    """Print a table to stdout: drawn on a terminal, at most `rows` of its rows there; as `piped` says elsewhere."""
    width = width_of(sys.stdout)
    if width is None:
        typer.echo(piped(sheet), nl=False)
        return
    from qsweep.reports.screen import drawn

    typer.echo(drawn(sheet, width, rows=rows), nl=False)


def show_document(parts: Sequence[Part]) -> None:
    """Print a document to stdout: drawn on a terminal, as Markdown elsewhere."""
    width = width_of(sys.stdout)
    if width is None:
        typer.echo(document(parts), nl=False)
        return
    from qsweep.reports.screen import drawn_document

    typer.echo(drawn_document(parts, width), nl=False)


def show_tables(sheets: Sequence[Sheet]) -> None:
    """Print tables to stdout, each with its caption: drawn on a terminal, as Markdown elsewhere."""
    for number, sheet in enumerate(sheets):
        typer.echo("\n" * bool(number), nl=False)
        show(sheet, piped=markdown)


def say(text: str, *, err: bool = False) -> None:
    """Print a message; on a terminal in lines between whose words it is broken."""
    stream = sys.stderr if err else sys.stdout
    typer.echo(broken(text, width_of(stream)), err=err)


def tell(console: Console, text: str) -> None:
    """Print a message to a console, as `say` does."""
    width = console.width if console.is_terminal else None
    console.print(broken(text, width), highlight=False, soft_wrap=True, markup=False)


def broken(text: str, width: int | None) -> str:
    """The text in lines of that width, broken between words; a command stays in one piece, on a line of its own if
    need be. Without a width as it is."""
    if width is None:
        return text
    from qsweep.reports.screen import paragraph

    lines = []
    for line in text.split("\n"):
        label = LABEL.match(line)
        first = label[0] if label else ""
        whole = COMMAND.sub(lambda found: found[0].replace(" ", JOIN), line[len(first) :])
        lines += [part.rstrip().replace(JOIN, " ") for part in paragraph(whole, width, first=first)]
    return "\n".join(lines)
