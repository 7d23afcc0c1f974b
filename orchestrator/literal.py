"""Help texts as they stand in the code: `[list]` is no markup."""

from __future__ import annotations

import copy
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo, TyperInfo

from qsweep.orchestrator.values import take_as_they_are

TEXTS = ("help", "short_help", "epilog")


class LiteralCommand(TyperCommand):
    """A command whose texts Rich shows without reading markup in them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_as_they_are(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super(LiteralCommand, _escaped(self)).format_help(ctx, formatter)


class LiteralGroup(TyperGroup):
    """The same for a group of commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_as_they_are(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = _escaped(self)
        shown.commands = {name: _escaped(command) for name, command in self.commands.items()}
        super(LiteralGroup, shown).format_help(ctx, formatter)


def make_literal(app: Any) -> None:
    """Let every command of a Typer application, and of the groups in it, show its texts as they are."""
    app.info.cls = LiteralGroup
    for command in app.registered_commands:
        assert isinstance(command, CommandInfo)
        command.cls = LiteralCommand
    for group in app.registered_groups:
        assert isinstance(group, TyperInfo)
        group.cls = LiteralGroup
        make_literal(group.typer_instance)


def _escaped(command: Any) -> Any:
    """A copy in which Rich finds no markup."""
    from rich.markup import escape  # here: only help needs it

    shown = copy.copy(command)
    for holder in (shown, *(params := [copy.copy(one) for one in command.params])):
        for name in TEXTS:
            if text := getattr(holder, name, None):
                setattr(holder, name, escape(text))
    shown.params = params
    return shown
