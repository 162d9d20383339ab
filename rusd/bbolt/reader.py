"""Reads a bbolt file through a memory map: what it looks at is checked before it is used.

A damaged file gives a BboltError that names the page. It never makes a read go on for ever, for no
page is visited twice in a pass, nor past the end of a page.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from operator import add, lt
from pathlib import Path
from struct import unpack
from types import TracebackType
from typing import Final, NamedTuple, Self

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
    KIND_NAMES,
    LEAF,
    MAGIC,
    MANY,
    META,
    NO_FREELIST,
    PAGE_SIZES,
    VERSION,
    BboltError,
    fnv1a,
)

Item = tuple[bytes, bytes]
Visit = Callable[[int, int], None]
"""Told of each page that a pass visits: its id, and how many pages it is."""
_DEPTH: Final = 64
"""Levels of a tree: more than any file can have whose branches have two children each."""


class Meta(NamedTuple):
    """What a meta page says."""

    page_size: int
    root: int
    freelist: int
    pages: int
    """Pages that are in use: those from this number on may be missing."""
    transaction: int


class Page(NamedTuple):
    """A page with those that it runs on over. `body` begins with the page's head."""

    id: int
    kind: int
    items: int
    pages: int
    body: memoryview


class Child(NamedTuple):
    """A page of a tree, and the keys that may be in it: from `first` on, before `end`."""

    page: int
    first: bytes | None
    end: bytes | None


class Bucket(NamedTuple):
    """Where a bucket is: on a page of its own, or, with `root` 0, in `inline`."""

    holder: int
    """The page that says so."""
    root: int
    sequence: int
    inline: bytes


class Leaf(NamedTuple):
    """The items of a leaf page, in key order: each has flags, a key and a value."""

    page: int
    flags: tuple[int, ...]
    keys: list[bytes]
    values: list[bytes]


class Database:
    """An open file. Raises OSError when it cannot be read, BboltError when it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged_meta: BboltError | None = None
        """What is wrong with the other meta page, when one of the two is."""
        with path.open("rb") as file:
            self.file_size = os.fstat(file.fileno()).st_size
            if self.file_size < HEAD.size + META.size + CHECKSUM.size:
                raise BboltError(0, f"the file has only {self.file_size} bytes")
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._view = memoryview(self._map)
        try:
            self.meta = self._choose_meta()
            if self.meta.pages * self.meta.page_size > self.file_size:
                raise BboltError(
                    self.file_size // self.meta.page_size,
                    f"the file ends here; {self.meta.pages} pages are in use",
                )
            self.buckets = self._buckets()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file, once nothing that was read refers to it any more."""
        self.buckets = {}
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            # An error on its way up holds a page; the map goes with it.
            return

    @property
    def size(self) -> int:
        """Bytes that are in use, from the file's beginning."""
        return self.meta.pages * self.meta.page_size

    def items(self, bucket: bytes, visit: Visit | None = None) -> Iterator[Item]:
        """The items of a bucket, in key order; none where there is no such bucket.

        `visit` raises BboltError when a page must not be there.
        """
        for keys, values in self.pages(bucket, visit):
            yield from zip(keys, values, strict=True)

    def pages(
        self, bucket: bytes, visit: Visit | None = None
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """The items of a bucket as `items` has them, a page's keys and values at a time: for whom
        one by one is too slow.
        """
        found = self.buckets.get(bucket)
        if found is None:
            return
        for number, flags, keys, values in self._leaves(found, visit):
            if any(flags):
                key = next(key for key, flag in zip(keys, flags, strict=True) if flag)
                raise BboltError(number, f"key {_shown(key)} is a bucket within a bucket")
            yield keys, values

    def visit_root(self, visit: Visit) -> None:
        """Visits the pages that the buckets' names are on."""
        self._buckets(visit)

    def free_pages(self, visit: Visit | None = None) -> memoryview:
        """The ids of the freelist, as 8-byte integers; empty when it was not stored."""
        if self.meta.freelist == NO_FREELIST:
            return memoryview(b"").cast("Q")
        page = self.page(self.meta.freelist)
        if page.kind != KIND_FREELIST:
            raise BboltError(page.id, f"a {_kind(page.kind)} page where the freelist should be")
        if visit is not None:
            visit(page.id, page.pages)
        start, count = HEAD.size, page.items
        if count == MANY:
            count = int.from_bytes(page.body[start : start + 8], "little")
            start += 8
        if start + 8 * count > len(page.body):
            raise BboltError(page.id, f"a freelist of {count} pages does not fit")
        return page.body[start : start + 8 * count].cast("Q")

    def page(self, number: int) -> Page:
        """A page in use that is no meta page, with what it runs on over."""
        size = self.meta.page_size
        if not 2 <= number < self.meta.pages:
            raise BboltError(number, f"outside of the {self.meta.pages} pages in use")
        start = number * size
        own, kind, count, overflow = HEAD.unpack_from(self._view, start)
        if own != number:
            raise BboltError(number, f"it says that it is page {own}")
        if number + overflow >= self.meta.pages:
            raise BboltError(number, f"it runs on over {overflow} pages, past the last one")
        return Page(
            number, kind, count, overflow + 1, self._view[start : start + (overflow + 1) * size]
        )

    def _choose_meta(self) -> Meta:
        found: list[Meta] = []
        problems: list[BboltError] = []
        sizes = [*PAGE_SIZES]
        for number in (0, 1):
            # Without the first page the size is not known: then all are tried for the second.
            best: BboltError | None = None
            for size in sizes:
                try:
                    meta = self._read_meta(number, number * size)
                    if number and meta.page_size != size:
                        raise BboltError(number, f"it speaks of pages of {meta.page_size} bytes")
                except BboltError as error:
                    best = best or error
                    continue
                found.append(meta)
                sizes = [meta.page_size]
                break
            else:
                assert best is not None, "there are sizes"
                problems.append(best)
        if not found:
            raise problems[0]
        self.damaged_meta = problems[0] if problems else None
        return max(found, key=lambda meta: meta.transaction)

    def _read_meta(self, number: int, start: int) -> Meta:
        end = start + HEAD.size + META.size
        if end + CHECKSUM.size > self.file_size:
            raise BboltError(number, "the file ends before it")
        own, kind, _, _ = HEAD.unpack_from(self._view, start)
        packed = bytes(self._view[start + HEAD.size : end])
        magic, version, page_size, _, root, _, freelist, pages, transaction = META.unpack(packed)
        if magic != MAGIC:
            raise BboltError(number, "no bbolt database: the meta page's magic number is not there")
        if version != VERSION:
            raise BboltError(number, f"format version {version}, not {VERSION}")
        if CHECKSUM.unpack_from(self._view, end)[0] != fnv1a(packed):
            raise BboltError(number, "the meta page's checksum is wrong")
        if own != number or kind != KIND_META:
            raise BboltError(number, f"the head of page {own}, a {_kind(kind)} page")
        if page_size not in PAGE_SIZES:
            raise BboltError(number, f"pages of {page_size} bytes")
        return Meta(page_size, root, freelist, pages, transaction)

    def _buckets(self, visit: Visit | None = None) -> dict[bytes, Bucket]:
        root = Bucket(0, self.meta.root, 0, b"")
        buckets: dict[bytes, Bucket] = {}
        for leaf in self._leaves(root, visit):
            for flags, name, value in zip(leaf.flags, leaf.keys, leaf.values, strict=True):
                if flags != FLAG_BUCKET:
                    raise BboltError(leaf.page, f"item {_shown(name)} of the root is no bucket")
                if len(value) < BUCKET.size:
                    raise BboltError(leaf.page, f"the header of bucket {_shown(name)} is cut short")
                page, sequence = BUCKET.unpack_from(value)
                buckets[name] = Bucket(leaf.page, page, sequence, value[BUCKET.size :])
        return buckets

    def _leaves(self, bucket: Bucket, visit: Visit | None) -> Iterator[Leaf]:
        """The leaves of a tree, in key order."""
        last: list[bytes] = []
        for leaf in self._unordered_leaves(bucket, visit):
            keys = last + leaf.keys
            if not all(map(lt, keys, keys[1:])):
                key = next(after for before, after in pairwise(keys) if before >= after)
                raise BboltError(leaf.page, f"key {_shown(key)} is out of order")
            last = keys[-1:]
            yield leaf

    def _unordered_leaves(self, bucket: Bucket, visit: Visit | None) -> Iterator[Leaf]:
        if not bucket.root:
            yield _inline(bucket)
            return
        seen = bytearray((self.meta.pages + 7) // 8)
        # Children that are yet to be visited, a level each.
        levels: list[Iterator[Child]] = [iter([Child(bucket.root, None, None)])]
        while levels:
            child = next(levels[-1], None)
            if child is None:
                levels.pop()
                continue
            number = child.page
            page = self.page(number)
            if seen[number >> 3] & 1 << (number & 7):
                raise BboltError(number, "it is in the tree twice")
            seen[number >> 3] |= 1 << (number & 7)
            if visit is not None:
                visit(number, page.pages)
            if page.kind == KIND_LEAF:
                leaf = _leaf(page)
                _check_bounds(leaf, child)
                yield leaf
            elif page.kind == KIND_BRANCH:
                if len(levels) == _DEPTH:
                    raise BboltError(number, f"a tree of more than {_DEPTH} levels")
                levels.append(iter(_children(page, child)))
            else:
                raise BboltError(number, f"a {_kind(page.kind)} page within a tree")


def _inline(bucket: Bucket) -> Leaf:
    body = memoryview(bucket.inline)
    if len(body) < HEAD.size:
        raise BboltError(bucket.holder, "a bucket within this page is cut short")
    _, kind, count, overflow = HEAD.unpack_from(body)
    if kind != KIND_LEAF or overflow:
        raise BboltError(bucket.holder, "a bucket within this page is no leaf")
    return _leaf(Page(bucket.holder, kind, count, 0, body))


def _children(page: Page, child: Child) -> list[Child]:
    """The children of a branch page, which is `child` of another."""
    _, _, count, _, body = page
    if not count:
        raise BboltError(page.id, "a branch without children")
    table = HEAD.size + count * BRANCH.size
    if table > len(body):
        raise BboltError(page.id, f"{count} children do not fit")
    keys: list[bytes] = []
    numbers: list[int] = []
    head, start = HEAD.size, table
    for position, size, number in BRANCH.iter_unpack(body[HEAD.size : table]):
        stop = start + size
        if head + position != start or stop > len(body):
            raise BboltError(page.id, f"the key of child page {number} is not in its place")
        keys.append(bytes(body[start:stop]))
        numbers.append(number)
        head, start = head + BRANCH.size, stop
    if child.first is not None and keys[0] < child.first:
        raise BboltError(page.id, f"key {_shown(keys[0])} belongs elsewhere")
    children = list(map(Child, numbers, keys, [*keys[1:], child.end]))
    for one in children:
        if one.end is not None and one.first is not None and one.first >= one.end:
            raise BboltError(page.id, f"key {_shown(one.first)} is out of order")
    return children


def _check_bounds(leaf: Leaf, child: Child) -> None:
    """A leaf has the keys that the branches above it promise."""
    if child.first is None:
        return
    if not leaf.keys:
        raise BboltError(leaf.page, "a leaf without items below a branch")
    first, last = leaf.keys[0], leaf.keys[-1]
    if first < child.first or (child.end is not None and last >= child.end):
        raise BboltError(
            leaf.page, f"keys that belong elsewhere: {_shown(first)} to {_shown(last)}"
        )


def _leaf(page: Page) -> Leaf:
    """What is on a leaf page. All items at once: one by one, it takes three times as long."""
    _, _, count, _, body = page
    table = HEAD.size + count * LEAF.size
    end = len(body)
    if table > end:
        raise BboltError(page.id, f"{count} items do not fit")
    sizes = list(unpack(f"<{4 * count}I", body[HEAD.size : table]))
    flags = tuple(sizes[::4])
    del sizes[::4]
    positions = sizes[::3]
    del sizes[::3]
    # Key, value, key, value: one comes right after the other. Where it does not, a size or a
    # position is wrong.
    edges = list(accumulate(sizes, initial=table))
    starts = list(map(add, positions, range(HEAD.size, table, LEAF.size)))
    if starts != edges[:-1:2] or edges[-1] > end:
        wrong = next(
            number
            for number, start in enumerate(starts)
            if start != edges[2 * number] or edges[2 * number + 2] > end
        )
        raise BboltError(page.id, f"item {wrong} is not in its place")
    data = bytes(body)
    parts = [data[start:stop] for start, stop in pairwise(edges)]
    return Leaf(page.id, flags, parts[::2], parts[1::2])


def _kind(kind: int) -> str:
    return KIND_NAMES.get(kind, f"0x{kind:x}")


def _shown(key: bytes) -> str:
    return (
        key[:32].hex()
        if not key.isascii() or not key[:32].decode().isprintable()
        else repr(key[:32].decode())
    )
