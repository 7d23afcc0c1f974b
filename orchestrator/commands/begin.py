"""How a user begins: `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command("init", epilog="Example: qsweep init mine && cd mine && qsweep launch sweep.toml")(init)


def init(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if needed.")] = Path()) -> None:
    """Write a sweep file and a training function, both commented, that run as they are."""
    from qsweep.orchestrator.layout import say
    from qsweep.orchestrator.starter import write_starter

    for path in write_starter(folder):
        say(str(path))
    place = "" if folder == Path() else f"cd {folder} && "
    say(f"next: {place}qsweep launch sweep.toml")
