"""Commands whose modules are imported when they are used: the server starts without them."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of commands by name.

    `rooms` maps names to where the commands are: `module`, or `module:attribute` where the
    attribute is not the name with `_` for `-`.
    """

    def __init__(self, *args: Any, rooms: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.rooms = rooms or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(ctx), *self.rooms})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported with its module."""
        if cmd_name not in self.rooms:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.rooms[cmd_name].partition(":")
        made: click.Command = getattr(
            importlib.import_module(module), attribute or cmd_name.replace("-", "_")
        )
        return made
