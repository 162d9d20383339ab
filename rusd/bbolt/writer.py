"""Writes a bbolt file in one pass, in memory for a page a level: buckets of sorted items.

Its pages are full, in order, and none of them is free.
"""

from collections.abc import Iterable
from struct import pack
from typing import BinaryIO, Final

from rusd.bbolt.layout import (
    BRANCH,
    BUCKET,
    CHECKSUM,
    FLAG_BUCKET,
    HEAD,
    KIND_BRANCH,
    KIND_FREELIST,
    KIND_LEAF,
    KIND_META,
    LEAF,
    MAGIC,
    MAX_KEY,
    META,
    VERSION,
    fnv1a,
)

_FREELIST_PAGE: Final = 2


class Writer:
    """A file that is being made. Nothing of it is valid before `finish`."""

    def __init__(self, file: BinaryIO, page_size: int = 4096) -> None:
        """`file` is empty, buffered and can seek."""
        self._file, self._page_size = file, page_size
        self._next = _FREELIST_PAGE
        self._buckets: dict[bytes, bytes] = {}
        file.write(bytes(2 * page_size))
        self._write(KIND_FREELIST, 0, [])

    def bucket(self, name: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Adds a bucket. The items come in key order.

        Raises ValueError when they do not, or when bbolt has no room for such a key.
        """
        if name in self._buckets:
            raise ValueError(f"bucket {name!r} is there already")
        self._buckets[name] = self._tree(items, self._page_size // 4)

    def finish(self) -> int:
        """Writes what makes a database of the buckets. Returns the file's size in bytes."""
        header = self._tree(sorted(self._buckets.items()), 0, FLAG_BUCKET)
        root, sequence = BUCKET.unpack(header)
        file, size = self._file, self._page_size
        # Both say the same, so that one is enough.
        for number in (0, 1):
            meta = META.pack(
                MAGIC, VERSION, size, 0, root, sequence, _FREELIST_PAGE, self._next, number
            )
            file.seek(number * size)
            file.write(HEAD.pack(number, KIND_META, 0, 0) + meta + CHECKSUM.pack(fnv1a(meta)))
        file.flush()
        return self._next * size

    def _tree(
        self, items: Iterable[tuple[bytes, bytes]], inline_bytes: int, flags: int = 0
    ) -> bytes:
        """Writes a tree and returns its bucket's header. What fits in `inline_bytes` is not
        written, and is in the header.
        """
        levels: list[_Branch] = []
        keys: list[bytes] = []
        values: list[bytes] = []
        size, last, most = HEAD.size, b"", self._page_size
        for key, value in items:
            if not last < key:
                raise ValueError(f"key {key!r} does not come after {last!r}")
            if len(key) > MAX_KEY:
                raise ValueError(f"a key of {len(key)} bytes")
            last = key
            needed = LEAF.size + len(key) + len(value)
            if size + needed > most and keys:
                self._add(levels, 0, keys[0], self._write(KIND_LEAF, *_leaf(keys, values, flags)))
                keys, values, size = [], [], HEAD.size
            keys.append(key)
            values.append(value)
            size += needed
        count, parts = _leaf(keys, values, flags)
        if not levels and size <= inline_bytes:
            return b"".join((BUCKET.pack(0, 0), HEAD.pack(0, KIND_LEAF, count, 0), *parts))
        root = self._write(KIND_LEAF, count, parts)
        first = keys[0] if keys else b""
        for level, branch in enumerate(levels):
            branch.add(first, root)
            if level + 1 < len(levels) or len(branch.children) > 1:
                first = branch.keys[0]
                root = self._write(KIND_BRANCH, *branch.take())
        return BUCKET.pack(root, 0)

    def _add(self, levels: list["_Branch"], level: int, key: bytes, page: int) -> None:
        """Notes a page of the level below, and writes the branch that is full with it."""
        if level == len(levels):
            levels.append(_Branch())
        branch = levels[level]
        if branch.size + BRANCH.size + len(key) > self._page_size and len(branch.children) > 1:
            first = branch.keys[0]
            self._add(levels, level + 1, first, self._write(KIND_BRANCH, *branch.take()))
        branch.add(key, page)

    def _write(self, kind: int, count: int, parts: list[bytes]) -> int:
        """Writes a page, over as many as it takes. Returns its id."""
        number, page_size = self._next, self._page_size
        size = HEAD.size + sum(map(len, parts))
        pages = -(-size // page_size)
        self._file.write(
            b"".join(
                (HEAD.pack(number, kind, count, pages - 1), *parts, bytes(pages * page_size - size))
            )
        )
        self._next += pages
        return number


class _Branch:
    """The branch page of a level that is being filled."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.children: list[int] = []
        self.size = HEAD.size

    def add(self, key: bytes, page: int) -> None:
        self.keys.append(key)
        self.children.append(page)
        self.size += BRANCH.size + len(key)

    def take(self) -> tuple[int, list[bytes]]:
        """Count and body of a page of what is here, which is then no more."""
        keys, children = self.keys, self.children
        heads: list[bytes] = []
        position = BRANCH.size * len(keys)
        for key, child in zip(keys, children, strict=True):
            heads.append(BRANCH.pack(position, len(key), child))
            position += len(key) - BRANCH.size
        self.keys, self.children, self.size = [], [], HEAD.size
        return len(keys), heads + keys


def _leaf(keys: list[bytes], values: list[bytes], flags: int) -> tuple[int, list[bytes]]:
    """Count and body of a leaf page."""
    heads: list[int] = []
    data: list[bytes] = []
    position = LEAF.size * len(keys)
    for key, value in zip(keys, values, strict=True):
        key_size, value_size = len(key), len(value)
        heads += (flags, position, key_size, value_size)
        position += key_size + value_size - LEAF.size
        data += (key, value)
    # One pack for the page: a third of the time of one for each item.
    return len(keys), [pack(f"<{len(heads)}I", *heads), *data]
