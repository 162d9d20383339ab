"""A file system of a given size that a test fills and empties: ext4 on a loop device.

Where there are no loop devices, a tmpfs; where nothing can be mounted, ChildError says why.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.child import ChildError


class SmallDisk:
    """A mounted file system, with a file that takes space away from others."""

    def __init__(self, folder: Path, kind: str) -> None:
        """`kind` is for reports."""
        self.folder, self.kind = folder, kind
        self._ballast = folder / "ballast"

    @property
    def free(self) -> int:
        """Bytes that can be written."""
        return shutil.disk_usage(self.folder).free

    def fill(self, but: int = 0) -> None:
        """Take all space but so many bytes."""
        with self._ballast.open("ab") as file:
            taken = file.tell()
            while (more := self.free - but) > 1 << 16:
                # What ext4 needs to find the blocks again comes off as well.
                more -= min(more // 2, 1 << 16)
                os.posix_fallocate(file.fileno(), taken, more)
                taken += more

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """A disk of `size` bytes, mounted on a folder that is made; gone after the `with` block."""
    folder.mkdir(parents=True)
    image = folder.with_suffix(".img")
    device = ""
    try:
        try:
            with image.open("wb") as file:
                file.truncate(size)
            device = _run("losetup", "--find", "--show", image).strip()
            _run("mkfs.ext4", "-q", "-m", 0, device)
            _run("mount", device, folder)
            kind = f"ext4 on {device}"
        except ChildError as no_loop:
            try:
                _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
            except ChildError as no_tmpfs:
                raise ChildError(f"no small disk: {no_loop}; {no_tmpfs}") from None
            kind = f"tmpfs, for {no_loop}"
        print(f"the small disk is {kind}")
        try:
            yield SmallDisk(folder, kind)
        finally:
            # Lazily: what a failed test has left open on it must not keep it.
            _run("umount", "--lazy", folder)
    finally:
        if device:
            _run("losetup", "--detach", device)
        image.unlink(missing_ok=True)


def _run(*command: object) -> str:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except OSError as error:
        raise ChildError(str(error)) from error
    if done.returncode:
        raise ChildError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout
