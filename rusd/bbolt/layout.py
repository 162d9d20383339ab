"""How a bbolt file is laid out: pages, and what is in them. All integers are little-endian.

A file is a row of pages of one size. A page has a head and runs on over `overflow` further pages:

    head      page id (8), kind (2), count (2), overflow (4)

Pages 0 and 1 are meta pages, written in turn; the valid one with the higher transaction counts:

    meta      magic (4), version (4), page size (4), flags (4), root bucket's header (16),
              page of the freelist (8), pages in use (8), transaction (8), FNV-1a 64 of that (8)

The freelist page lists the pages that nothing uses. A bucket is a B+ tree of the others. Its nodes
hold heads of their items first, then the items' bytes, where a position counts from its own head:

    branch    position (4), key's size (4), page id (8)             for each child, by its first key
    leaf      flags (4), position (4), key's size (4), value's size (4)               for each item

An item with flag 1 is a bucket: its value is that bucket's header (root page, sequence), and, when
the root page is 0, the bucket's one leaf page itself.
"""

from struct import Struct
from typing import Final

HEAD: Final = Struct("<QHHI")
META: Final = Struct("<IIIIQQQQQ")
"""Without the checksum that follows."""
CHECKSUM: Final = Struct("<Q")
BRANCH: Final = Struct("<IIQ")
LEAF: Final = Struct("<IIII")
BUCKET: Final = Struct("<QQ")
"""Page id of its root, sequence."""

KIND_BRANCH: Final = 0x01
KIND_LEAF: Final = 0x02
KIND_META: Final = 0x04
KIND_FREELIST: Final = 0x10
KIND_NAMES: Final = {
    KIND_BRANCH: "branch",
    KIND_LEAF: "leaf",
    KIND_META: "meta",
    KIND_FREELIST: "freelist",
}

MAGIC: Final = 0xED0CDAED
VERSION: Final = 2
FLAG_BUCKET: Final = 0x01
NO_FREELIST: Final = 2**64 - 1
"""In place of the freelist's page, when the freelist was not stored."""
MANY: Final = 0xFFFF
"""A freelist's count when the real one is in the first eight bytes of its body."""
PAGE_SIZES: Final = tuple(1 << power for power in range(10, 17))
"""1 KiB to 64 KiB: what machines have, with room on both sides."""
MAX_KEY: Final = 32768

_FNV_BASIS: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


class BboltError(Exception):
    """A file that is no whole bbolt database. The text names the page."""

    def __init__(self, page: int, what: str) -> None:
        super().__init__(f"page {page}: {what}")
        self.page = page


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash, by which a meta page is checked."""
    result = _FNV_BASIS
    for byte in data:
        result = (result ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return result
