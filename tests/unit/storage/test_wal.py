"""rusd/storage/wal.py: what was appended is there, what was torn is dropped, damage is told."""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rusd.storage import wal as wal_module
from rusd.storage.wal import DamagedLogError, Entry, HardState, Mark, NoRoomError, Wal

SECTOR = 512


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "SEGMENT_BYTES", 4096)


def contents(log: Wal, after: int = 0) -> list[Entry]:
    return list(log.entries(after))


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


def written(*appends: list[Entry], directory: Path) -> list[int]:
    """A log of these appends; returns where each frame ended in the last segment."""
    log = Wal(directory)
    ends = [log._offset]
    for entries in appends:
        log.append(entries)
        ends.append(log._offset)
    log.close()
    return ends


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes without a zero, so that no part of them looks unwritten."""
    source = random.Random(seed)
    return bytes(source.randrange(1, 256) for _ in range(size))


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    assert (log.first_index, log.last_index, log.hard_state) == (0, 0, HardState())
    assert contents(log) == []
    assert log.torn is None
    log.close()
    log = Wal(tmp_path)
    assert (log.first_index, log.last_index, log.hard_state) == (0, 0, HardState())
    log.close()


LOGS = st.lists(
    st.tuples(
        st.integers(0, 4).map(lambda short: short - 1),  # how far the last append is replaced
        st.lists(st.one_of(st.binary(max_size=40), st.just(b"x" * 1500)), max_size=4),
        st.booleans(),  # a hard state with it
        st.sampled_from(["", "", "reopen", "drop"]),
    ),
    max_size=14,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LOGS, st.data())
def test_gives_back_what_was_appended_last_for_each_index(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, list[bytes], bool, str]],
    data: st.DataObject,
) -> None:
    """Suffixes are replaced within and across segments, the log is opened again, and shortened."""
    directory = tmp_path_factory.mktemp("log")
    log = Wal(directory)
    model: list[Entry] = []
    dropped = 0
    hard_state = HardState()
    for term, (shorter, bodies, with_state, then) in enumerate(steps, 1):
        first = max(len(model) + 1 - max(0, shorter) * 3, dropped + 1, 1)
        entries = [Entry(term, first + offset, body) for offset, body in enumerate(bodies)]
        if with_state:
            hard_state = HardState(term, term * 7, first)
        log.append(entries, hard_state if with_state else None)
        if entries:
            model = [*model[: first - 1], *entries]
        if then == "reopen":
            log.close()
            log = Wal(directory)
        elif then == "drop" and model:
            dropped = data.draw(st.integers(dropped, len(model)))
            log.drop_before(dropped + 1)
        after = max(dropped, data.draw(st.integers(0, len(model))))
        assert contents(log, after) == model[after:]
        assert log.last_index == len(model)
        assert log.hard_state == hard_state
        assert log.first_index <= dropped + 1
    log.close()
    log = Wal(directory)
    assert contents(log, dropped) == model[dropped:]
    assert (log.last_index, log.hard_state, log.torn) == (len(model), hard_state, None)
    log.close()
    shutil.rmtree(directory)


def test_an_append_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    entries = [Entry(1, index, noise(10_000, index)) for index in range(1, 4)]
    for entry in entries:
        log.append([entry])
    log.close()
    assert len(segments(tmp_path)) == 4
    log = Wal(tmp_path)
    assert contents(log) == entries
    log.close()


def test_segments_below_an_index_are_removed_and_no_others(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    for index in range(1, 21):
        log.append([Entry(1, index, noise(900, index))], HardState(index, 0, index))
    names = segments(tmp_path)
    firsts = [int(name.stem.split("-")[1]) for name in names]
    log.drop_before(firsts[2])
    assert segments(tmp_path) == names[2:]
    assert log.first_index == firsts[2]
    log.drop_before(1000)
    assert segments(tmp_path) == names[-1:], "the last one stays"
    log.close()
    log = Wal(tmp_path)
    assert (log.first_index, log.last_index) == (firsts[-1], 20)
    assert log.hard_state == HardState(20, 0, 20)
    log.close()


def check_torn(directory: Path, kept: list[Entry]) -> None:
    """Opens a log with a torn end: nothing before it is lost, and the log goes on."""
    log = Wal(directory)
    assert contents(log) == kept
    assert log.last_index == len(kept)
    more = Entry(2, len(kept) + 1, b"more")
    log.append([more], HardState(2))
    log.close()
    log = Wal(directory)
    assert log.torn is None
    assert contents(log) == [*kept, more]
    assert log.hard_state == HardState(2)
    log.close()


@pytest.mark.parametrize("size", [0, 300, 1200])
def test_a_last_frame_cut_anywhere_is_dropped(tmp_path: Path, size: int) -> None:
    first, second = Entry(1, 1, noise(200)), Entry(1, 2, noise(size))
    origin = tmp_path / "origin"
    _, begin, end = written([first], [second], directory=origin)
    (segment,) = segments(origin)
    boundaries = range(begin - begin % SECTOR + SECTOR, end, SECTOR)
    cuts = [
        (length, False) for length in {*range(begin, min(end, begin + 40)), *range(begin, end, 37)}
    ]
    # What is allocated ahead is written in whole sectors, so that zeros begin at a boundary.
    cuts += [(length, True) for length in boundaries]
    for length, filled in [*cuts, (end - 1, False)]:
        directory = tmp_path / f"{length}{filled}"
        directory.mkdir()
        data = segment.read_bytes()[:length]
        (directory / segment.name).write_bytes(data + bytes(4096 - length) * filled)
        check_torn(directory, [first])
        shutil.rmtree(directory)


@pytest.mark.parametrize("start", [100, 500, 505, 511, 512, 600])
def test_a_last_frame_is_dropped_whichever_of_its_sectors_were_not_written(
    tmp_path: Path, start: int
) -> None:
    """Sectors reach the disk in any order: what a power loss leaves is any subset of them."""
    origin = tmp_path / "origin"
    log = Wal(origin)
    overhead = log._offset + 16 + 5 + 16
    while start < overhead:
        start += SECTOR
    first, second = Entry(1, 1, noise(start - overhead)), Entry(1, 2, noise(1400))
    log.append([first])
    begin = log._offset
    assert begin == start
    log.append([second])
    end = log._offset
    log.close()
    (segment,) = segments(origin)
    data = segment.read_bytes()
    sectors = list(range(begin - begin % SECTOR, end, SECTOR))
    for chosen in range(1, 1 << len(sectors)):
        torn = bytearray(data)
        for position, sector in enumerate(sectors):
            if chosen >> position & 1:
                # An old sector has the end of the frame before, and nothing of this one.
                since = max(begin, sector)
                torn[since : sector + SECTOR] = bytes(sector + SECTOR - since)
        directory = tmp_path / str(chosen)
        directory.mkdir()
        (directory / segment.name).write_bytes(torn)
        check_torn(directory, [first])


def test_a_torn_frame_is_reported(tmp_path: Path) -> None:
    _, begin, end = written([Entry(1, 1, b"kept")], [Entry(1, 2, noise(99))], directory=tmp_path)
    (segment,) = segments(tmp_path)
    os.truncate(segment, end - 10)
    log = Wal(tmp_path)
    assert log.torn is not None
    assert (log.torn.path, log.torn.offset, log.torn.size) == (segment, begin, end - 10 - begin)
    log.close()


def test_a_torn_frame_may_hold_what_looks_like_a_frame(tmp_path: Path) -> None:
    whole = wal_module._frame([b"a client may write this"])
    _, begin, end = written(
        [Entry(1, 1, b"kept")], [Entry(1, 2, noise(50) + whole + noise(50))], directory=tmp_path
    )
    os.truncate(segments(tmp_path)[0], end - 10)
    assert begin < end
    check_torn(tmp_path, [Entry(1, 1, b"kept")])


def test_a_flipped_bit_anywhere_stops_the_start(tmp_path: Path) -> None:
    """In the last frame too: it may have been acknowledged."""
    origin = tmp_path / "origin"
    ends = written(
        [Entry(1, 1, noise(30, 1))],
        [Entry(1, 2, noise(30, 2))],
        [Entry(1, 3, noise(30, 3))],
        directory=origin,
    )
    (segment,) = segments(origin)
    data = segment.read_bytes()
    directory = tmp_path / "flipped"
    directory.mkdir()
    path = directory / segment.name
    for byte in range(ends[-1]):
        flipped = bytearray(data)
        flipped[byte] ^= 1 << byte % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedLogError) as damage:
            Wal(directory)
        assert damage.value.path == path
        assert damage.value.offset == max((end for end in ends if end <= byte), default=0)
        assert str(path) in str(damage.value)


def test_a_torn_frame_in_a_closed_segment_is_damage(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    for index in range(1, 11):
        log.append([Entry(1, index, noise(900, index))])
    log.close()
    first = segments(tmp_path)[0]
    os.truncate(first, first.stat().st_size - 5)
    with pytest.raises(DamagedLogError, match=first.name):
        Wal(tmp_path)


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    for index in range(1, 11):
        log.append([Entry(1, index, noise(900, index))])
    log.close()
    names = segments(tmp_path)
    names[1].unlink()
    missing = int(names[1].stem.split("-")[1])
    with pytest.raises(DamagedLogError, match=f"entry {missing} is missing"):
        Wal(tmp_path)


@pytest.mark.parametrize("allocated", [0, 4096])
def test_a_crash_while_a_segment_begins_loses_nothing(tmp_path: Path, allocated: int) -> None:
    """Not even the hard state, once the segments before are dropped."""
    log = Wal(tmp_path)
    entries = [Entry(1, 1, b"a"), Entry(1, 2, b"b")]
    log.append(entries, HardState(3, 4, 2))
    log.close()
    (tmp_path / f"{2:016d}-{3:020d}.log").write_bytes(bytes(allocated))
    log = Wal(tmp_path)
    assert contents(log) == entries
    log.append([Entry(3, 3, b"c")])
    log.drop_before(3)
    log.close()
    assert len(segments(tmp_path)) == 1
    log = Wal(tmp_path)
    assert contents(log, 2) == [Entry(3, 3, b"c")]
    assert log.hard_state == HardState(3, 4, 2)
    log.close()


def failing(_: int) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("sync", [True, False])
def test_after_a_failed_append_the_log_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """A sync that succeeds after one that failed says nothing of what the first was for."""
    fail: Callable[..., None] = lambda *_: failing(0)  # noqa: E731
    log = Wal(tmp_path, sync)
    monkeypatch.setattr(os, "pwritev" if sync else "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error"):
        log.append([Entry(1, 1, b"a")])
    monkeypatch.undo()
    with pytest.raises(OSError, match="takes no more"):
        log.append([Entry(1, 2, b"b")])
    assert log.last_index == 0
    log.close()


@pytest.mark.parametrize("step", ["posix_fallocate", "statvfs"])
def test_a_roll_without_room_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What had to wait is there once, however often it was tried, and with it what came after."""
    log = Wal(tmp_path)
    log.append([Entry(1, 1, noise(3000))])
    before = os.statvfs(tmp_path)

    def full(*_: object) -> Any:
        if step == "statvfs":
            return SimpleNamespace(f_blocks=before.f_blocks, f_frsize=before.f_frsize, f_bavail=1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    for attempt in range(3):
        with pytest.raises(NoRoomError, match="No space left"):
            log.append([Entry(1, 2 + attempt, noise(3000))])
        assert [path.name for path in tmp_path.iterdir()] == [segments(tmp_path)[0].name]
    assert log.last_index == 1
    monkeypatch.undo()
    log.append([Entry(1, 5, b"last")])
    expected = [Entry(1, index, noise(3000)) for index in range(1, 5)] + [Entry(1, 5, b"last")]
    assert contents(log) == expected
    log.close()
    log = Wal(tmp_path)
    assert contents(log) == expected
    assert log.torn is None
    log.close()


def test_a_failed_roll_stops_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Wal(tmp_path)
    log.append([Entry(1, 1, noise(3000))])

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    for message in ("Input/output", "takes no more"):
        with pytest.raises(OSError, match=message):
            log.append([Entry(1, 2, noise(3000))])
    log.close()
    monkeypatch.undo()
    log = Wal(tmp_path)
    assert log.last_index == 1
    log.close()


def test_without_sync_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: failing(0))
    log = Wal(tmp_path, sync=False)
    log.append([Entry(1, 1, b"a")])
    assert contents(log) == [Entry(1, 1, b"a")]
    log.close()


@pytest.mark.parametrize("sync", [True, False])
def test_a_short_write_is_carried_on_and_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    pwrite, fdatasync = os.pwrite, os.fdatasync
    synced: list[int] = []
    log = Wal(tmp_path, sync)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, data, at, _: pwrite(fd, data[0][:7], at))

    def counted(fd: int) -> None:
        synced.append(fd)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    log.append([Entry(1, 1, noise(100))])
    log.close()
    assert len(synced) == sync
    monkeypatch.undo()
    log = Wal(tmp_path)
    assert contents(log) == [Entry(1, 1, noise(100))]
    log.close()


def test_an_entrys_kind_comes_back(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    entries = [Entry(1, 1, b"a"), Entry(1, 2, b"b", 1), Entry(2, 3, b"", 1), Entry(2, 4, b"")]
    log.append(entries[:2])
    log.append(entries[2:])
    assert contents(log) == entries
    log.close()
    log = Wal(tmp_path)
    assert contents(log) == entries
    assert (log.first_index, log.last_index) == (1, 4)
    log.close()


def test_what_was_written_together_is_synced_once_and_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    pwritev = os.pwritev

    def counted(fd: int, data: Sequence[bytes], offset: int, flags: int) -> int:
        syncs.append(flags)
        return pwritev(fd, data, offset, flags)

    monkeypatch.setattr(os, "pwritev", counted)
    log = Wal(tmp_path / "log")
    log.append([Entry(1, 1, b"a"), Entry(1, 2, b"replaced"), Entry(1, 3, b"replaced")])
    log.write([Entry(1, 4, b"replaced")])
    log.write([Entry(2, 2, b"b")], HardState(2, 7, 1))
    log.write([], HardState(2, 7, 2))
    assert len(syncs) == 1
    shutil.copytree(tmp_path / "log", tmp_path / "before")
    log.sync()
    log.sync()
    assert syncs == [os.RWF_DSYNC] * 2
    expected = [Entry(1, 1, b"a"), Entry(2, 2, b"b")]
    assert (contents(log), log.last_index) == (expected, 2)
    assert log.hard_state == HardState(2, 7, 2)
    log.close()
    log = Wal(tmp_path / "log")
    assert (contents(log), log.last_index, log.hard_state) == (expected, 2, HardState(2, 7, 2))
    log.close()
    before = Wal(tmp_path / "before")
    assert (before.last_index, before.hard_state) == (3, HardState())
    before.close()


def test_a_large_write_does_not_wait_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_module, "_FULL_FRAME", 1000)
    log = Wal(tmp_path)
    log.write([Entry(1, 1, bytes(600))])
    assert log.last_index == 0
    log.write([Entry(1, 2, bytes(600))])
    assert log.last_index == 2
    log.close()


def test_after_a_reset_the_log_begins_after_the_snapshot(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    for index in range(1, 11):
        log.append([Entry(1, index, noise(900, index))], HardState(1, 7, index))
    log.write([], HardState(3, 8, 10))
    log.note_snapshot(7, 2)
    assert (log.snapshot, log.last_index) == (Mark(7, 2), 10)
    log.reset(7, 2)
    for _ in range(2):
        assert contents(log) == []
        assert (log.first_index, log.last_index) == (8, 7)
        assert (log.snapshot, log.hard_state) == (Mark(7, 2), HardState(3, 8, 10))
        assert len(segments(tmp_path)) == 1
        log.close()
        log = Wal(tmp_path)
    more = [Entry(3, index, noise(900, index)) for index in range(8, 20)]
    for entry in more:
        log.append([entry])
    log.drop_before(18)
    log.close()
    log = Wal(tmp_path)
    assert contents(log, 17) == more[10:]
    assert (log.snapshot, log.hard_state) == (Mark(7, 2), HardState(3, 8, 10))
    log.close()


def test_a_log_may_be_reset_to_a_snapshot_far_ahead(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    log.append([Entry(1, 1, b"a")])
    log.reset(1000, 5)
    log.append([Entry(5, 1001, b"b")])
    log.close()
    log = Wal(tmp_path)
    assert (log.first_index, log.last_index) == (1001, 1001)
    assert contents(log) == [Entry(5, 1001, b"b")]
    log.close()


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("snapshot", [Mark(4, 2), Mark(12, 2), Mark(1000, 2)])
def test_a_crash_anywhere_in_a_reset_leaves_the_log_of_before_or_of_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Mark
) -> None:
    """And when the state machine is at the snapshot already, `reconcile` finishes the reset."""
    entries = [Entry(1, index, noise(900, index)) for index in range(1, 13)]
    changes = ("ftruncate", "fsync", "posix_fallocate", "pwrite", "rename", "unlink")
    seen = set()
    for survived in range(1000):
        directory = tmp_path / str(survived)
        log = Wal(directory)
        for entry in entries:
            log.append([entry], HardState(2, 3, 4))
        log.note_snapshot(snapshot.index, snapshot.term)
        left = survived

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def change(*arguments: object) -> object:
                nonlocal left
                if left == 0:
                    raise CrashError
                left -= 1
                return call(*arguments)

            return change

        with monkeypatch.context() as patched:
            for name in changes:
                owner = Path if name in ("rename", "unlink") else os
                patched.setattr(owner, name, counted(getattr(owner, name)))
            try:
                log.reset(snapshot.index, snapshot.term)
                finished = True
            except CrashError:
                finished = False
        shutil.copytree(directory, tmp_path / "copy")
        log = Wal(tmp_path / "copy")
        before = (contents(log), log.last_index) == (entries, 12)
        after = (contents(log), log.last_index) == ([], snapshot.index)
        assert before or after
        assert log.snapshot == snapshot
        assert log.hard_state == HardState(2, 3, 4)
        seen.add((before, finished))
        log.reconcile(snapshot.index)
        assert (contents(log), log.last_index, log.first_index) == (
            [],
            snapshot.index,
            snapshot.index + 1,
        )
        log.close()
        shutil.rmtree(tmp_path / "copy")
        if finished:
            break
    assert seen == {(True, False), (False, False), (False, True)}


def test_a_log_that_leads_to_the_snapshot_is_kept(tmp_path: Path) -> None:
    """A snapshot may be noted and never installed: the log went on and got there by itself."""
    log = Wal(tmp_path)
    log.append([Entry(1, index, b"") for index in range(1, 4)])
    log.note_snapshot(5, 2)
    entries = [Entry(2, index, b"") for index in range(4, 9)]
    log.append(entries)
    log.reconcile(4)
    log.reconcile(5)
    log.close()
    log = Wal(tmp_path)
    log.reconcile(5)
    assert contents(log, 3) == entries
    log.close()


def test_a_log_of_another_branch_is_dropped(tmp_path: Path) -> None:
    log = Wal(tmp_path)
    log.append([Entry(1, index, b"") for index in range(1, 9)])
    log.note_snapshot(5, 2)
    log.reconcile(4)
    assert log.last_index == 8
    log.reconcile(5)
    assert (contents(log), log.last_index) == ([], 5)
    log.close()
