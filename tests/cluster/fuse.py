"""The kernel's FUSE protocol (linux/fuse.h, version 7.31): requests from /dev/fuse to method calls.

Without the kernel's write-back cache, so every write and every sync of a program arrives here, in
order, before the program's own call returns; so does what it writes through shared memory maps,
at the latest with its sync.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

MAX_WRITE: Final = 1 << 20
_IN: Final = struct.Struct("<IIQQIIIHH")
_OUT: Final = struct.Struct("<IiQ")
_ATTR: Final = struct.Struct("<6Q10I")
_ENTRY_HEAD: Final = struct.Struct("<4QII")
_ATTR_HEAD: Final = struct.Struct("<QII")
_IO: Final = struct.Struct("<QQIIQII")
_SETATTR: Final = struct.Struct("<IIQQQQQQIIIIIIII")
_FALLOCATE: Final = struct.Struct("<QQQII")
_STATFS: Final = struct.Struct("<5Q4I24x")
_DIRENT: Final = struct.Struct("<QQII")
_INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")
_INTERRUPT: Final = 36
_ASYNC_READ, _BIG_WRITES, _MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
_SET_MODE, _SET_SIZE = 1 << 0, 1 << 3
_VALID_SECONDS: Final = 3600  # only the kernel changes what it has cached
_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Attributes(NamedTuple):
    """What stat(2) shows of a node."""

    number: int
    mode: int
    size: int
    blocks: int
    links: int
    seconds: float


class Filesystem(Protocol):
    """What the kernel asks for. Nodes are numbered, 1 is the root; refusals are OSErrors."""

    def lookup(self, parent: int, name: bytes) -> int: ...
    def attributes(self, node: int) -> Attributes: ...
    def set_mode(self, node: int, mode: int) -> None: ...
    def resize(self, node: int, size: int) -> None: ...
    def create(self, parent: int, name: bytes, mode: int) -> int: ...
    def link(self, node: int, parent: int, name: bytes) -> None: ...
    def unlink(self, parent: int, name: bytes) -> None: ...
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None: ...
    def names(self, node: int) -> list[tuple[bytes, int]]: ...
    def open(self, node: int) -> None: ...
    def close(self, node: int) -> None: ...
    def read(self, node: int, offset: int, size: int) -> bytes: ...
    def write(self, node: int, offset: int, data: bytes) -> None: ...
    def allocate(self, node: int, offset: int, size: int, mode: int) -> None: ...
    def sync(self, node: int) -> bool: ...  # False: it is not to be answered
    def space(self) -> tuple[int, int]: ...


def mount(path: str) -> int:
    """Mount an empty filesystem; return the descriptor on which the kernel asks for it."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    flags = _MS_NOSUID | _MS_NODEV
    if _libc.mount(b"disk", path.encode(), b"fuse", flags, options.encode()) != 0:
        os.close(device)
        raise OSError(ctypes.get_errno(), "a FUSE mount", path)
    return device


def unmount(path: str, device: int) -> None:
    """Take the filesystem away; who still uses it gets errors."""
    os.close(device)
    _libc.umount2(path.encode(), _MNT_DETACH)


class Server:
    """Answers the kernel's requests on one mounted descriptor."""

    def __init__(self, device: int, files: Filesystem) -> None:
        """Serve `files`; nothing happens before `answer_one`."""
        self._device = device
        self._files = files
        self._calls: dict[int, Callable[[int, bytes], bytes | None]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr,
            8: self._mknod,
            9: self._mkdir,
            10: self._unlink,
            11: self._unlink,
            12: self._rename,
            13: self._link,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._release,
            20: self._sync,  # FSYNC
            26: self._init,
            28: self._readdir,
            30: self._sync,  # FSYNCDIR
            35: self._create,
            43: self._fallocate,
            45: self._rename2,
        }
        self._silent = {2, 42}  # FORGET, BATCH_FORGET
        self._held: set[int] = set()
        """Requests that wait for an answer which only the end of who asked will bring."""

    def answer_one(self) -> None:
        """Read one request and answer it."""
        request = os.read(self._device, MAX_WRITE + 4096)
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in self._silent:
            return
        if opcode == _INTERRUPT:
            (interrupted,) = struct.unpack_from("<Q", request, _IN.size)
            if interrupted in self._held:
                self._held.remove(interrupted)
                self._answer(interrupted, -errno.EINTR)
            return
        call = self._calls.get(opcode)
        if call is None:
            self._answer(unique, -errno.ENOSYS)
            return
        try:
            answer = call(node, request[_IN.size :])
        except OSError as error:
            self._answer(unique, -(error.errno or errno.EIO))
        else:
            if answer is None:
                self._held.add(unique)
            else:
                self._answer(unique, 0, answer)

    def _answer(self, unique: int, code: int, answer: bytes = b"") -> None:
        with suppress(FileNotFoundError):  # who asked was killed
            os.write(self._device, _OUT.pack(_OUT.size + len(answer), code, unique) + answer)

    def _init(self, _node: int, _body: bytes) -> bytes:
        flags = _ASYNC_READ | _BIG_WRITES | _MAX_PAGES
        return _INIT_OUT.pack(7, 31, 1 << 17, flags, 16, 12, MAX_WRITE, 1, MAX_WRITE >> 12, 0, 0)

    def _attr(self, node: int) -> bytes:
        number, mode, size, blocks, links, seconds = self._files.attributes(node)
        whole, part = int(seconds), int(seconds % 1 * 1e9)
        return _ATTR.pack(
            *(number, size, blocks, whole, whole, whole),
            *(part, part, part, mode, links, os.getuid(), os.getgid(), 0, 4096, 0),
        )

    def _entry(self, node: int) -> bytes:
        return _ENTRY_HEAD.pack(node, 0, _VALID_SECONDS, _VALID_SECONDS, 0, 0) + self._attr(node)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._files.lookup(node, body[:-1]))

    def _getattr(self, node: int, _body: bytes) -> bytes:
        return _ATTR_HEAD.pack(_VALID_SECONDS, 0, 0) + self._attr(node)

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, *rest = _SETATTR.unpack_from(body)
        if valid & _SET_SIZE:
            self._files.resize(node, size)
        if valid & _SET_MODE:
            self._files.set_mode(node, rest[7])
        return self._getattr(node, b"")

    def _mknod(self, node: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._files.create(node, body[16:-1], mode))

    def _mkdir(self, node: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._files.create(node, body[8:-1], 0o040000 | mode))

    def _create(self, node: int, body: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        created = self._files.create(node, body[16:-1], mode)
        return self._entry(created) + self._open(created, b"")

    def _unlink(self, node: int, body: bytes) -> bytes:
        self._files.unlink(node, body[:-1])
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        (new_parent,) = struct.unpack_from("<Q", body)
        name, new_name, _ = body[8:].split(b"\0")
        self._files.rename(node, name, new_parent, new_name)
        return b""

    def _rename2(self, node: int, body: bytes) -> bytes:
        new_parent, flags = struct.unpack_from("<QI", body)
        name, new_name, _ = body[16:].split(b"\0")
        if flags:
            raise OSError(errno.EINVAL, "rename flags")
        self._files.rename(node, name, new_parent, new_name)
        return b""

    def _link(self, node: int, body: bytes) -> bytes:
        (linked,) = struct.unpack_from("<Q", body)
        self._files.link(linked, node, body[8:-1])
        return self._entry(linked)

    def _open(self, node: int, _body: bytes) -> bytes:
        self._files.open(node)
        return struct.pack("<QIi", node, 0, 0)

    def _release(self, node: int, _body: bytes) -> bytes:
        self._files.close(node)
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _IO.unpack_from(body)
        return self._files.read(node, offset, size)

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _IO.unpack_from(body)
        self._files.write(node, offset, body[_IO.size : _IO.size + size])
        return struct.pack("<II", size, 0)

    def _sync(self, node: int, _body: bytes) -> bytes | None:
        return b"" if self._files.sync(node) else None

    def _fallocate(self, node: int, body: bytes) -> bytes:
        _, offset, size, mode, _ = _FALLOCATE.unpack_from(body)
        self._files.allocate(node, offset, size, mode)
        return b""

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        size, free = (each >> 12 for each in self._files.space())
        return _STATFS.pack(size, free, free, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _IO.unpack_from(body)
        answer = b""
        for place, (name, number) in enumerate(self._files.names(node)[offset:], offset + 1):
            kind = self._files.attributes(number).mode >> 12
            entry = _DIRENT.pack(number, place, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer
