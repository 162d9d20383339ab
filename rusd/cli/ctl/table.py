"""Rows about members: as lines with commas, as fields, and as a table that is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """Rows of as many cells as there are titles."""

    titles: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    """The same in the form `fields`."""

    def lines(self) -> str:
        """Return a line for each row."""
        return "".join(f"{', '.join(each)}\n" for each in self.rows)

    def drawn(self) -> str:
        """Return the table in a frame: titles in the middle, cells at the right."""
        cells = [[each.upper() for each in self.titles], *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        bars = ["─" * (width + 2) for width in widths]
        titles = [f" {each:^{width}} " for each, width in zip(cells[0], widths, strict=True)]
        rows = [
            [f" {each:>{width}} " for each, width in zip(row, widths, strict=True)]
            for row in self.rows
        ]
        return "".join(
            f"{line}\n"
            for line in (
                "┌" + "┬".join(bars) + "┐",
                "│" + "│".join(titles) + "│",
                "├" + "┼".join(bars) + "┤",
                *("│" + "│".join(row) + "│" for row in rows),
                "└" + "┴".join(bars) + "┘",
            )
        )
