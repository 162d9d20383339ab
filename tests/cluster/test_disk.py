"""The disk that loses what was not synced, held to programs whose syncs are known."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.child import ChildError
from tests.cluster.disk import SECTOR, Disk

StartDisk = Callable[..., tuple[Disk, Path]]


@pytest.fixture
def start_disk(tmp_path: Path) -> Iterator[StartDisk]:
    """Mounts disks that go with the test: `start_disk(seed, strict)`."""
    with ExitStack() as disks:

        def start(seed: int, strict: bool = False) -> tuple[Disk, Path]:
            folder = tmp_path / f"disk{seed}"
            try:
                disk = Disk(folder, seed, strict)
            except ChildError as error:
                pytest.skip(str(error))
            disks.callback(disk.close)
            return disk, folder

        yield start


def write(path: Path, data: bytes, offset: int = 0, sync: bool = False) -> None:
    """Write into a file, which is made if it is not there."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.pwrite(descriptor, data, offset)
    if sync:
        os.fdatasync(descriptor)
    os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_what_was_synced_stays_and_what_was_not_is_kept_lost_or_torn_by_sectors(
    start_disk: StartDisk,
) -> None:
    """One write over another, synced and not: each sector is of one of them."""
    seen = set()
    size = 20 * SECTOR
    for seed in range(12):
        disk, folder = start_disk(seed)
        write(folder / "file", b"s" * size, sync=True)
        write(folder / "file", b"u" * size)
        assert (folder / "file").read_bytes() == b"u" * size, "before the power loss"
        disk.lose_power()
        content = (folder / "file").read_bytes()
        sectors = [content[at : at + SECTOR] for at in range(0, size, SECTOR)]
        assert all(sector in (b"s" * SECTOR, b"u" * SECTOR) for sector in sectors)
        kept = sum(sector[:1] == b"u" for sector in sectors)
        seen.add("lost" if not kept else "kept" if kept == len(sectors) else "torn")
        disk.close()
    assert seen >= {"lost", "torn"}


def test_names_survive_in_order_up_to_a_moment_and_a_sync_makes_them_durable(
    start_disk: StartDisk,
) -> None:
    """As on ext4: a later name is not there without the earlier ones."""
    seen = set()
    for seed in range(8):
        disk, folder = start_disk(seed)
        (folder / "sub").mkdir()
        write(folder / "sub" / "synced", b"1", sync=True)
        for number in range(4):
            write(folder / f"late{number}", b"")
        (folder / "sub" / "synced").rename(folder / "sub" / "renamed")
        disk.lose_power()
        late = sorted(path.name for path in folder.glob("late*"))
        assert late == [f"late{number}" for number in range(len(late))]
        (name,) = [path.name for path in (folder / "sub").iterdir()]
        assert name == "synced" or len(late) == 4
        assert (folder / "sub" / name).read_bytes() == b"1"
        seen.add((len(late), name))
        disk.close()
    assert len(seen) > 2, "the moment is drawn"


def test_a_strict_disk_wants_the_folder_synced(start_disk: StartDisk) -> None:
    """A synced file in a folder that was not synced may be gone."""
    outcomes = []
    for seed in range(8):
        disk, folder = start_disk(seed, strict=True)
        write(folder / "kept", b"1", sync=True)
        sync_folder(folder)
        write(folder / "unsure", b"2", sync=True)
        disk.lose_power()
        assert (folder / "kept").read_bytes() == b"1"
        outcomes.append((folder / "unsure").exists())
        disk.close()
    assert set(outcomes) == {True, False}


def test_appends_truncation_allocation_links_and_maps_pass_through(start_disk: StartDisk) -> None:
    """What databases do with files, synced: all of it is there after the power loss."""
    disk, folder = start_disk(1)
    descriptor = os.open(folder / "log", os.O_CREAT | os.O_RDWR, 0o600)
    os.posix_fallocate(descriptor, 0, 1 << 20)
    os.pwrite(descriptor, b"entry", 4096)
    os.ftruncate(descriptor, 8192)
    os.fsync(descriptor)
    (folder / "link").hardlink_to(folder / "log")
    with mmap.mmap(descriptor, 8192) as mapped:
        mapped[5000:5003] = b"map"
        mapped.flush()
    os.close(descriptor)
    (folder / "log").unlink()
    sync_folder(folder)
    for _ in range(2):  # the second finds what the first has left
        disk.lose_power()
        expected = bytearray(8192)
        expected[4096:4101] = b"entry"
        expected[5000:5003] = b"map"
        assert (folder / "link").read_bytes() == expected
        assert [path.name for path in folder.iterdir()] == ["link"]


def test_a_full_disk_refuses_and_a_failed_sync_never_comes_true(start_disk: StartDisk) -> None:
    """No space: ENOSPC. A sync that failed: a later one that succeeds does not make up for it."""
    disk, folder = start_disk(3)
    write(folder / "file", b"before", sync=True)
    disk.fill()
    with pytest.raises(OSError, match="No space") as refused:
        write(folder / "file", b"refuse")
    assert refused.value.errno == errno.ENOSPC
    disk.fill(False)
    disk.limit(4096)
    write(folder / "other", bytes(4096))
    with pytest.raises(OSError, match="No space"):
        write(folder / "other", b"more", offset=4096)
    (folder / "other").unlink()
    write(folder / "another", bytes(4000))

    disk.fail_syncs(1)
    with pytest.raises(OSError, match="Input/output"):
        write(folder / "file", b"failed", sync=True)
    write(folder / "file", b"7", offset=6, sync=True)
    assert (folder / "file").read_bytes() == b"failed7"
    disk.lose_power()
    assert (folder / "file").read_bytes() == b"before7"
    assert disk.counts()["failed"] == 1
