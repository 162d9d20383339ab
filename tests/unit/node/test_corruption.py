"""rusd/node/corruption.py with three members: who has other data is found, and changes end."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from rusd.mvcc.tables import rows
from rusd.node.alarms import CorruptError
from rusd.node.compactor import Compactor
from rusd.node.corruption import UNKNOWN, CorruptDataError, Corruption, corrupt
from rusd.node.entry import Kind
from rusd.node.peers import Peers
from rusd.pb.rpc_pb2 import CORRUPT, AlarmMember, AlarmResponse, CompactionRequest
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import Member, Scenario, Trio, three


def play(directory: Path, scenario: Scenario) -> None:
    """On members of its own: what is spoiled stays so."""

    async def played() -> None:
        async with three(directory) as trio:
            await scenario(trio)

    asyncio.run(played())


async def comparing(trio: Trio) -> list[Corruption]:
    """A check of each member, which all have the same ten keys."""
    recorder = Recorder()
    for number in range(10):
        trio[1].put(recorder, number, b"key%d" % number)
    await until(lambda: len(recorder.answers) >= 10, "the puts")
    await trio.level()
    checks = []
    for member in trio:
        compactor = Compactor(member.keyspace, 0.0, member.log, member.failures.append, 1000)
        member.applier.on_compact = compactor.start
        link = cast(Peers, member.link)
        checks.append(Corruption(member.pipeline, member.reads, link, compactor, member.log))
    return checks


def spoil(member: Member) -> None:
    """Changes one bit of what a member has stored."""
    events = member.keyspace.tables.events
    row, value = next(iter(rows(events, b"", b"\xff" * 20)))
    events[row] = value[:-1] + bytes([value[-1] ^ 1])


def alarms(member: Member) -> list[tuple[int, int]]:
    found: list[AlarmMember] = list(
        AlarmResponse.FromString(member.applier.alarms.listing(CORRUPT)).alarms
    )
    return [(each.memberID, each.alarm) for each in found]


async def compact(trio: Trio, revision: int) -> None:
    request = CompactionRequest(revision=revision)
    trio[1].pipeline.propose(Kind.COMPACT, request.SerializeToString(), request, None, 0)
    await until(lambda: all(m.keyspace.swept == revision for m in trio), "all have compacted")


def test_members_with_the_same_data_are_left_in_peace(tmp_path: Path) -> None:
    async def test(trio: Trio) -> None:
        checks = await comparing(trio)
        for check in checks:
            await check.compare()
            await check.compare_compaction()
            await check.check_before_serving()
        await trio.level()
        assert [alarms(member) for member in trio] == [[], [], []]

    play(tmp_path, test)


@pytest.mark.parametrize("spoiled", [1, 3])
def test_who_differs_from_the_others_is_named_the_leader_too(tmp_path: Path, spoiled: int) -> None:
    async def test(trio: Trio) -> None:
        checks = await comparing(trio)
        spoil(trio[spoiled])
        await checks[1].compare()
        await trio.level()
        assert alarms(trio[1]) == [], "a follower compares nothing"
        await checks[0].compare()
        await until(lambda: all(alarms(m) == [(spoiled, CORRUPT)] for m in trio), "the alarm")
        assert all(member.applier.alarms.refusal is CorruptError for member in trio)

    play(tmp_path, test)


def test_where_two_of_three_are_heard_nobody_is_named(tmp_path: Path) -> None:
    async def test(trio: Trio) -> None:
        checks = await comparing(trio)
        spoil(trio[2])
        trio.cut_off(3)
        await checks[0].compare()
        trio.heal()
        await until(lambda: all(alarms(m) == [(UNKNOWN, CORRUPT)] for m in trio), "the alarm")

    play(tmp_path, test)


def test_what_a_compaction_left_is_compared_once(tmp_path: Path) -> None:
    async def test(trio: Trio) -> None:
        checks = await comparing(trio)
        await compact(trio, 5)
        await checks[0].compare_compaction()
        spoil(trio[2])
        await checks[0].compare_compaction()
        await trio.level()
        assert alarms(trio[1]) == []
        await compact(trio, 7)
        await checks[0].compare_compaction()
        await until(lambda: all(alarms(m) == [(2, CORRUPT)] for m in trio), "the alarm")

    play(tmp_path, test)


def test_only_who_differs_from_most_does_not_begin_to_serve(tmp_path: Path) -> None:
    async def test(trio: Trio) -> None:
        checks = await comparing(trio)
        spoil(trio[2])
        with pytest.raises(CorruptDataError, match="not those of the others at revision 11"):
            await checks[1].check_before_serving()
        await checks[2].check_before_serving()
        trio.cut_off(2)
        await checks[1].check_before_serving()  # there is nobody to ask

    play(tmp_path, test)


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ({1: 7}, []),
        ({1: 7, 2: 7, 3: 7}, []),
        ({1: 7, 2: 8, 3: 7}, [2]),
        ({1: 8, 2: 7, 3: 7}, [1]),
        ({1: 7, 2: 8}, [UNKNOWN]),
        ({1: 7, 2: 8, 3: 9}, [UNKNOWN]),
        ({1: 7, 2: 7}, []),
    ],
)
def test_the_majority_of_all_members_is_right(hashes: dict[int, int], expected: list[int]) -> None:
    assert corrupt(hashes, 3) == expected
    assert corrupt({1: 7, 2: 7, 3: 7, 4: 8, 5: 9}, 5) == [4, 5]
