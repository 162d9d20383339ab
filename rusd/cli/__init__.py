"""The `rusd` command: bare, with etcd's flags, it is the server."""

from rusd.cli.server import main

__all__ = ["main"]
