"""rusd/storage/wal.py: what was appended is there, what was torn is dropped, damage is told."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rusd.storage import wal as wal_module
from rusd.storage.wal import DamagedLogError, Entry, HardState, Wal

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


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_after_a_failed_append_the_log_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A sync that succeeds after one that failed says nothing of what the first was for."""
    fail: Callable[..., None] = lambda *_: failing(0)  # noqa: E731
    if call == "fdatasync":
        monkeypatch.setattr(os, "fdatasync", fail)
        log = Wal(tmp_path)
    else:
        log = Wal(tmp_path)
        monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error"):
        log.append([Entry(1, 1, b"a")])
    monkeypatch.undo()
    with pytest.raises(OSError, match="takes no more"):
        log.append([Entry(1, 2, b"b")])
    assert log.last_index == 0
    log.close()


def test_a_failed_roll_stops_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Wal(tmp_path)
    log.append([Entry(1, 1, noise(3000))])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for message in ("No space left", "takes no more"):
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
    monkeypatch.setattr(os, "fdatasync", lambda _: failing(0))
    log = Wal(tmp_path, sync=False)
    log.append([Entry(1, 1, b"a")])
    assert contents(log) == [Entry(1, 1, b"a")]
    log.close()


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    log = Wal(tmp_path)
    log.append([Entry(1, 1, noise(100))])
    log.close()
    monkeypatch.undo()
    log = Wal(tmp_path)
    assert contents(log) == [Entry(1, 1, noise(100))]
    log.close()
