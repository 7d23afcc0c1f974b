"""The command line: `qsweep`. Commands import what they need when they run, so that none waits for another's."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from qsweep.orchestrator.ondemand import CommandsOnDemand
from qsweep.orchestrator.terminal import outlets
from qsweep.sweeps.errors import InputError, LostResults, QsweepError

MANY_OBJECTS = 100_000
"""New objects at which the garbage collector looks through them. Imports make nearly as many, and all of these stay."""

app = typer.Typer(
    name="qsweep",
    cls=CommandsOnDemand,
    help="Paper-sized sweeps of quantized trainings: run every one, lose nothing, answer with the paper's tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from qsweep.sweeps.code import release

        typer.echo(f"qsweep {release()}")
        raise typer.Exit


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option("--home", metavar="DIR", help="Folder of the sweeps (QSWEEP_HOME).")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="URL", help="Database of the registry (QSWEEP_REGISTRY)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data sets (QSWEEP_DATA).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The global options may also stand behind the command."""
    for variable, value in (("QSWEEP_HOME", home), ("QSWEEP_REGISTRY", registry), ("QSWEEP_DATA", data)):
        if value is not None:
            os.environ[variable] = str(value)


def main() -> None:
    """Run the command line; errors of qsweep's own become one message and their exit code."""
    gc.set_threshold(MANY_OBJECTS)
    atexit.register(_leave)
    with outlets(), warnings.catch_warnings():
        warnings.simplefilter("always", LostResults)
        warnings.showwarning = _say  # type: ignore[assignment]  # its parameters have names that nobody uses
        _run()


def _leave() -> None:
    """Spares Python, when it ends, to go through all that was imported. DuckDB complains of objects that stay."""
    if "duckdb" not in sys.modules:
        gc.freeze()


def _say(message: Warning | str, category: type[Warning], *where: object) -> None:
    """A warning of qsweep's own is a note to the user; any other looks as always."""
    if issubclass(category, LostResults):
        sys.stderr.write(f"note: {message}\n")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, str(where[0]), int(str(where[1]))))


def _run() -> None:
    try:
        app(prog_name="qsweep")  # also where it runs as `python -m qsweep.orchestrator.cli`
    except QsweepError as error:
        _end(error)
    except OSError as error:  # of a name that the user gave: no other is that long
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = os.fsdecode(error.filename or "")
        _end(InputError("this name is too long for the file system", place=f"{name[:60]}…"))
    except KeyboardInterrupt:
        sys.stderr.write("qsweep: interrupted\n")
        sys.exit(130)


def _end(error: QsweepError) -> None:
    from qsweep.orchestrator.layout import broken, width_of

    sys.stderr.write(broken(f"qsweep: {error}", width_of(sys.stderr)) + "\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
