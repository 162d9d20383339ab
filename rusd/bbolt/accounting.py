"""Accounts for every page of a file: each is used once, or free, and none is both or neither."""

from typing import Final

from rusd.bbolt.layout import NO_FREELIST, BboltError
from rusd.bbolt.reader import Database

_UNKNOWN: Final = 0
_USED: Final = 1
_FREE: Final = 2


class Accounting:
    """What is known of each page while all trees are read, with `visit` told of every page.

    Needs a byte of memory a page.
    """

    def __init__(self, database: Database) -> None:
        """Raises BboltError when a meta page, the root or the freelist is damaged."""
        if database.damaged_meta is not None:
            raise database.damaged_meta
        self._pages = bytearray(database.meta.pages)
        self._pages[0:2] = bytes((_USED, _USED))
        self._knows_free = database.meta.freelist != NO_FREELIST
        freelist = database.meta.freelist
        for number in database.free_pages(self.visit):
            if not 2 <= number < len(self._pages):
                raise BboltError(freelist, f"the freelist has page {number}, which is not there")
            if self._pages[number] != _UNKNOWN:
                raise BboltError(number, "it is in the freelist, and is there twice or in use")
            self._pages[number] = _FREE
        database.visit_root(self.visit)

    def visit(self, number: int, count: int) -> None:
        """Notes that a page, which is `count` pages long, is used. Raises BboltError."""
        for page in range(number, number + count):
            if self._pages[page] == _FREE:
                raise BboltError(page, "it is used, and in the freelist")
            if self._pages[page] == _USED:
                raise BboltError(page, "it is used twice")
            self._pages[page] = _USED

    def finish(self) -> None:
        """To be called when all trees were read. Raises BboltError when a page was in none."""
        if self._knows_free and (lost := self._pages.find(_UNKNOWN)) >= 0:
            raise BboltError(lost, "it is neither used nor in the freelist")
