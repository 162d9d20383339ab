"""A disk that knows what was synced, and loses the rest when the power goes.

A filesystem (FUSE) served by this process, for one member's data directory. It keeps each file
twice: as programs see it, and as it is on the platter. A sync brings the second up to the first.
At a power loss each write since the last sync is on the platter, or not, or torn by sectors of 512
bytes, as the seed says. Names are journaled as on ext4: a sync makes all names durable, and what
was renamed, made or removed since then survives up to some point, in order. A `strict` disk keeps
POSIX's letter instead: only the sync of a directory makes its names durable, and each change since
then survives or not. The disk can also be full, slow, or fail a sync: then, as Linux does it, what
was to be synced is seen by programs but never reaches the platter.

Needs Linux, /dev/fuse and the right to mount. The mount goes when the process ends.
"""

import errno
import itertools
import json
import os
import select
import signal
import stat
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.cluster.child import Child, say
from tests.cluster.fuse import Attributes, Server, mount, unmount

SECTOR: Final = 512
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16


_CAPACITY: Final = 1 << 40


class Disk:
    """The process and what it is told. ChildError if this machine or user cannot mount."""

    def __init__(self, folder: Path, seed: int, strict: bool = False) -> None:
        """Mount an empty disk on a folder, which is made."""
        folder.mkdir(parents=True)
        self._child = Child("tests.cluster.disk", folder, seed, int(strict))

    def lose_power(self) -> dict[str, int]:
        """Forget what was not synced; the programs that use the disk must have been killed.

        Returns how many writes since the last syncs were `kept`, `lost` and `torn`.
        """
        return self._child.ask("power")

    def fill(self, full: bool = True) -> None:
        """Let every write that needs space fail, as on a full disk that writes to new places."""
        self._child.ask({"full": full})

    def limit(self, free_bytes: int = _CAPACITY) -> None:
        """Leave so much space; what is allocated already can be written."""
        self._child.ask({"free": free_bytes})

    def fail_syncs(self, count: int) -> None:
        """Let the next syncs fail with EIO."""
        self._child.ask({"fail_syncs": count})

    def slow_syncs(self, seconds: float) -> None:
        """Let every sync take this long."""
        self._child.ask({"sync_seconds": seconds})

    def hold_syncs(self) -> None:
        """Let no sync return any more: the power is about to fail, and writes wait for it."""
        self._child.ask({"hold_syncs": True})

    def counts(self) -> dict[str, int]:
        """How many `writes` and `syncs` there were; how many syncs `failed` or are `held`, and how
        often space was `refused`.
        """
        return self._child.ask("counts")

    def close(self) -> None:
        """Unmount, and end the process."""
        self._child.close()


@dataclass(frozen=True, slots=True)
class _Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Resize:
    size: int


@dataclass(eq=False)
class _Node:
    number: int
    mode: int
    live: int = -1
    """Descriptor of the content as programs see it; files only."""
    platter: int = -1
    """Descriptor of the content as it is on the platter."""
    allocated: int = 0
    pending: list[_Write | _Resize] = field(default_factory=list)
    """What the platter lacks, oldest first."""
    differs: bool = False
    """A failed sync has lost what only programs see."""
    names: dict[bytes, "_Node"] = field(default_factory=dict)
    durable_names: dict[bytes, "_Node"] = field(default_factory=dict)
    links: int = 0
    durable_links: int = 0
    handles: int = 0
    changed: float = field(default_factory=time.time)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


_Change = list[tuple[_Node, bytes, _Node | None]]
"""Names in folders that change together: to a node, or to nothing."""


class _Files:
    """The files of the disk, as the kernel asks for them."""

    def __init__(self, folder: Path, seed: int, strict: bool) -> None:
        self._folder = folder
        self._random = Random(seed)
        self._strict = strict
        self._root = _Node(1, 0o040755, links=2)
        self._nodes = {1: self._root}
        self._newest = 1
        self._journal: list[_Change] = []
        """Changes of names that are not durable."""
        self._used = 0
        self.full = False
        self.free = _CAPACITY
        self.fail_syncs = 0
        self.sync_seconds = 0.0
        self.hold_syncs = False
        self.counts = {"writes": 0, "syncs": 0, "failed": 0, "held": 0, "refused": 0}

    # what the kernel asks

    def lookup(self, parent: int, name: bytes) -> int:
        return self._named(parent, name).number

    def attributes(self, node: int) -> Attributes:
        each = self._nodes[node]
        size = 4096 if each.is_folder else os.fstat(each.live).st_size
        blocks = (each.allocated + 511) // 512
        return Attributes(node, each.mode, size, blocks, each.links, each.changed)

    def set_mode(self, node: int, mode: int) -> None:
        self._nodes[node].mode = stat.S_IFMT(self._nodes[node].mode) | stat.S_IMODE(mode)

    def resize(self, node: int, size: int) -> None:
        each = self._nodes[node]
        self._take_space(each, min(each.allocated, size))
        os.ftruncate(each.live, size)
        each.pending.append(_Resize(size))
        each.changed = time.time()

    def create(self, parent: int, name: bytes, mode: int) -> int:
        folder = self._nodes[parent]
        if name in folder.names:
            raise OSError(errno.EEXIST, "exists")
        self._require_space(1)
        self._newest += 1
        node = _Node(self._newest, mode)
        if node.is_folder:
            node.links = 1
        else:
            node.live, node.platter = self._content(), self._content()
        self._nodes[node.number] = node
        self._change([(folder, name, node)])
        return node.number

    def link(self, node: int, parent: int, name: bytes) -> None:
        folder = self._nodes[parent]
        if name in folder.names:
            raise OSError(errno.EEXIST, "exists")
        self._require_space(1)
        self._change([(folder, name, self._nodes[node])])

    def unlink(self, parent: int, name: bytes) -> None:
        node = self._named(parent, name)
        if node.names:
            raise OSError(errno.ENOTEMPTY, "not empty")
        self._change([(self._nodes[parent], name, None)])

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        node = self._named(parent, name)
        folder, target = self._nodes[parent], self._nodes[new_parent]
        replaced = target.names.get(new_name)
        if replaced is node:
            return
        if replaced is not None and replaced.names:
            raise OSError(errno.ENOTEMPTY, "not empty")
        self._change([(folder, name, None), (target, new_name, node)])

    def names(self, node: int) -> list[tuple[bytes, int]]:
        folder = self._nodes[node]
        return [(b".", node), (b"..", node)] + [
            (name, each.number) for name, each in folder.names.items()
        ]

    def open(self, node: int) -> None:
        self._nodes[node].handles += 1

    def close(self, node: int) -> None:
        self._nodes[node].handles -= 1
        self._free(self._nodes[node])

    def read(self, node: int, offset: int, size: int) -> bytes:
        return os.pread(self._nodes[node].live, size, offset)

    def write(self, node: int, offset: int, data: bytes) -> None:
        each = self._nodes[node]
        self._require_space(1)  # what is overwritten goes to a new place too, when the disk is full
        self._take_space(each, max(each.allocated, offset + len(data)))
        os.pwrite(each.live, data, offset)
        each.pending.append(_Write(offset, data))
        each.changed = time.time()
        self.counts["writes"] += 1

    def allocate(self, node: int, offset: int, size: int, mode: int) -> None:
        each = self._nodes[node]
        now = os.fstat(each.live).st_size
        if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE):
            raise OSError(errno.EOPNOTSUPP, "not supported")
        if mode & (_PUNCH_HOLE | _ZERO_RANGE):
            zeroed = min(size, max(0, now - offset))
            os.pwrite(each.live, bytes(zeroed), offset)
            each.pending.append(_Write(offset, bytes(zeroed)))
        if mode & _PUNCH_HOLE:
            return
        self._take_space(each, max(each.allocated, offset + size))
        if not mode & _KEEP_SIZE and offset + size > now:
            os.ftruncate(each.live, offset + size)
            each.pending.append(_Resize(offset + size))

    def sync(self, node: int) -> bool:
        each = self._nodes[node]
        self.counts["syncs"] += 1
        if self.hold_syncs:
            self.counts["held"] += 1
            return False
        if self.sync_seconds:
            time.sleep(self.sync_seconds)
        if self.fail_syncs:
            self.fail_syncs -= 1
            self.counts["failed"] += 1
            each.pending.clear()
            each.differs = True
            raise OSError(errno.EIO, "a failed sync")
        for change in each.pending:
            _apply(each.platter, change)
        each.pending.clear()
        self._commit_names(each)
        return True

    def space(self) -> tuple[int, int]:
        return _CAPACITY, 0 if self.full else self.free

    # names

    def _named(self, parent: int, name: bytes) -> _Node:
        node = self._nodes[parent].names.get(name)
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        return node

    def _change(self, change: _Change) -> None:
        gone = []
        for folder, name, node in change:
            if (before := folder.names.pop(name, None)) is not None:
                before.links -= 1
                gone.append(before)
            if node is not None:
                folder.names[name] = node
                node.links += 1
            folder.changed = time.time()
        self._journal.append(change)
        for node in gone:
            self._free(node)

    def _commit_names(self, synced: _Node) -> None:
        """Make durable what the sync of a node does."""
        if not self._strict:
            durable, self._journal = self._journal, []
        else:
            durable = [each for each in self._journal if any(part[0] is synced for part in each)]
            self._journal = [each for each in self._journal if each not in durable]
        dropped = [node for change in durable for node in _make_durable(change)]
        for node in dropped:
            self._free(node)

    def _free(self, node: _Node) -> None:
        """Give back the space of a file without names, and its content if no platter needs it."""
        if node.links or node.is_folder or node.number not in self._nodes:
            return
        self._take_space(node, 0)
        needed = any(part[2] is node for change in self._journal for part in change)
        if not node.handles and not node.durable_links and not needed:
            self._drop(node)

    def _drop(self, node: _Node) -> None:
        os.close(node.live)
        os.close(node.platter)
        del self._nodes[node.number]

    # content

    def _content(self) -> int:
        return os.open(self._folder, os.O_TMPFILE | os.O_RDWR, 0o600)

    def _take_space(self, node: _Node, allocated: int) -> None:
        self._require_space(allocated - node.allocated)
        self._used += allocated - node.allocated
        self.free -= allocated - node.allocated
        node.allocated = allocated

    def _require_space(self, more: int) -> None:
        if more > 0 and (self.full or more > self.free):
            self.counts["refused"] += 1
            raise OSError(errno.ENOSPC, "full")

    # power

    def lose_power(self) -> dict[str, int]:
        """Bring the files to what is on the platter, and decide what of the rest got there."""
        self.hold_syncs = False
        counts = {"kept": 0, "lost": 0, "torn": 0}
        survive = self._random.randint(0, len(self._journal))
        for place, change in enumerate(self._journal):
            if self._random.random() < 0.5 if self._strict else place < survive:
                _make_durable(change)
        self._journal = []
        found = {self._root}
        waiting = [self._root]
        while waiting:
            for node in waiting.pop().durable_names.values():
                if node not in found:
                    found.add(node)
                    waiting.append(node)
        for node in list(self._nodes.values()):
            if node not in found:
                if node.is_folder:
                    del self._nodes[node.number]
                else:
                    self._drop(node)
                continue
            if not node.is_folder:
                self._tear(node, counts)
            node.handles = 0
            node.links = 1 if node.is_folder else node.durable_links
            node.names = dict(node.durable_names)
        return counts

    def _tear(self, node: _Node, counts: dict[str, int]) -> None:
        """Let some of the pending writes reach the platter: none, all up to one, or any of them."""
        if not node.pending and not node.differs:
            return
        way = self._random.choice(("none", "prefix", "any"))
        end = self._random.randint(0, len(node.pending))
        for place, change in enumerate(node.pending):
            if way == "none" or (way == "prefix" and place > end):
                fate = "lost"
            elif way == "prefix":
                fate = "torn" if place == end else "kept"
            else:
                fate = self._random.choice(("kept", "torn", "lost"))
            if fate == "torn" and isinstance(change, _Resize):
                fate = "lost"
            counts[fate] += 1
            if fate == "kept":
                _apply(node.platter, change)
            elif fate == "torn":
                assert isinstance(change, _Write)
                self._apply_torn(node.platter, change, way)
        node.pending.clear()
        node.differs = False
        os.close(node.live)
        node.live = self._content()
        _copy(node.platter, node.live)

    def _apply_torn(self, content: int, change: _Write, way: str) -> None:
        first = -change.offset % SECTOR  # sectors of the disk, not of the write
        cuts = [0, *range(first or SECTOR, len(change.data), SECTOR), len(change.data)]
        keep = self._random.randrange(len(cuts))
        for place, (start, end) in enumerate(itertools.pairwise(cuts)):
            if place < keep if way == "prefix" else self._random.random() < 0.5:
                os.pwrite(content, change.data[start:end], change.offset + start)


def _make_durable(change: _Change) -> list[_Node]:
    """Bring durable names up to a change of names; return the nodes that lost one."""
    dropped = []
    for folder, name, node in change:
        if (before := folder.durable_names.pop(name, None)) is not None:
            before.durable_links -= 1
            dropped.append(before)
        if node is not None:
            folder.durable_names[name] = node
            node.durable_links += 1
    return dropped


def _apply(content: int, change: _Write | _Resize) -> None:
    if isinstance(change, _Resize):
        os.ftruncate(content, change.size)
    else:
        os.pwrite(content, change.data, change.offset)


def _copy(source: int, target: int) -> None:
    """Copy a file's content, and leave its holes holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole follows
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        for place in range(start, end, 1 << 20):
            os.pwrite(target, os.pread(source, min(1 << 20, end - place), place), place)


def main() -> None:
    """Be the disk: arguments are the mount point, the seed, and whether the disk is strict."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test, which ends this
    folder, seed, strict = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as contents:
        files = _Files(Path(contents), seed, strict)
        try:
            device = mount(folder)
        except OSError as error:
            say({"error": f"no FUSE: {error}"})
            return
        say({})
        try:
            while True:
                poll = select.poll()
                poll.register(device, select.POLLIN)
                poll.register(0, select.POLLIN)
                server = Server(device, files)
                while (request := _serve(poll, device, server, files)) == "more":
                    pass
                if request == "end":
                    return
                unmount(folder, device)
                counts = files.lose_power()
                device = mount(folder)
                say(dict(counts))
        finally:
            unmount(folder, device)


def _serve(poll: select.poll, device: int, server: Server, files: _Files) -> str:
    """Serve what is asked for now; return `power` or `end` when that is asked for, else `more`."""
    ready = [descriptor for descriptor, _ in poll.poll()]
    if device in ready:
        server.answer_one()
    if 0 not in ready:
        return "more"
    line = sys.stdin.buffer.readline()
    if not line:
        return "end"
    request = json.loads(line)
    if request == "power":
        return "power"
    if request == "counts":
        say(dict(files.counts))
    else:
        for name, value in request.items():
            setattr(files, name, value)
        say({})
    return "more"


if __name__ == "__main__":
    main()
