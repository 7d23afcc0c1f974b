"""How a user begins: `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command("init", epilog="Example: qsweep init mine && cd mine && qsweep launch mine.toml")(init)


def init(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if needed.")] = Path()) -> None:
    """Write sweep files with a training function and with a network, commented, that run as they are."""
    from qsweep.orchestrator.layout import say
    from qsweep.orchestrator.starter import starter_name, write_starter

    for path in write_starter(folder):
        say(str(path))
    place = "" if folder == Path() else f"cd {folder} && "
    say(f"next: {place}qsweep launch {starter_name(folder)}.toml")
