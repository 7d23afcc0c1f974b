"""Commands that are made when they are asked for: a command line pays for the module of its own command alone."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import Any

import typer

from qsweep.orchestrator.literal import LiteralGroup, make_literal

MODULES: Mapping[str, Sequence[str]] = {
    "begin": ("init",),
    "ask": ("sweeps", "calibrate", "images", "plan"),
    "run": ("launch", "resume", "worker"),
    "carry": ("pack", "import", "recall"),
    "tune": ("tune",),
    "look": ("status", "jobs", "show", "logs"),
    "ui": ("ui",),
    "act": ("retry", "cancel", "invalidate", "delete"),
    "answer": ("query", "tables", "export", "figures", "report", "analyze"),
    "landscape": ("landscape",),
    "distort": ("corruptions",),
    "care": ("doctor", "du", "gc", "compact", "db"),
}
"""The modules of `orchestrator.commands`, in the order of the help, with the commands that each adds."""
HOLDERS = {name: module for module, names in MODULES.items() for name in names}


class CommandsOnDemand(LiteralGroup):
    """The group of all commands. Where `commands` are looked at, every one of them is made."""

    _given: MutableMapping[str, Any]
    """Those that stand in place of them, as in a copy that is shown."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in HOLDERS and not self._given:
            return made(HOLDERS[cmd_name], only=cmd_name)[cmd_name]
        return super().get_command(ctx, cmd_name)

    @property
    def commands(self) -> MutableMapping[str, Any]:
        return self._given or {name: command for module in MODULES for name, command in made(module).items()}

    @commands.setter
    def commands(self, given: MutableMapping[str, Any]) -> None:
        self._given = given


def made(module: str, *, only: str | None = None) -> Mapping[str, Any]:
    """The commands that a module adds, by name; or that one of them."""
    app = typer.Typer(rich_markup_mode="rich")
    import_module(f"qsweep.orchestrator.commands.{module}").add_to(app)
    if only is not None:
        app.registered_commands = [one for one in app.registered_commands if one.name == only]
        app.registered_groups = [one for one in app.registered_groups if one.name == only]
    make_literal(app)
    app.callback()(lambda: None)  # or one command alone would be no group
    return typer.main.get_group(app).commands
