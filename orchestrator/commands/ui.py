"""What is looked at in a browser: `ui`."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from qsweep.orchestrator.commands.answer import BundleOption
from qsweep.orchestrator.options import DEFAULT_HOME, HomeOption, RegistryOption, home_of


def add_to(app: typer.Typer) -> None:
    app.command("ui", epilog="Example: qsweep ui --open")(ui)


def ui(
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65_535, help="Where it listens.", show_default="8470 or the next free one"),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Who reaches it; beyond this machine it asks for a token.")
    ] = "127.0.0.1",
    opening: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    actions: Annotated[
        bool, typer.Option("--allow-actions", help="Let the page pause, resume, retry and cancel; asks for a token.")
    ] = False,
    bundle: BundleOption = None,
    home: HomeOption = DEFAULT_HOME,
    registry: RegistryOption = None,
) -> None:
    """Show the sweeps live in a browser, until Ctrl-C. It only reads, unless actions are allowed."""
    from qsweep.orchestrator.ui.serve import Wanted, prepared

    wanted = Wanted(home=home_of(home, registry), bundle=bundle, host=host, port=port, actions=actions)
    served = prepared(wanted)
    typer.echo(served.address)
    typer.echo("Ctrl-C ends it. From another machine: ssh -L PORT:localhost:PORT HOST", err=True)
    if opening:
        import webbrowser

        webbrowser.open(served.address)
    with suppress(KeyboardInterrupt):
        served.run()
