"""rusd/node/publication.py: when it returns, the cluster knows this member as it is."""

import asyncio
from pathlib import Path

from rusd.node.pipeline import Limits
from rusd.node.publication import publish
from rusd.raft.message import MessageKind
from tests.unit.node.running import until
from tests.unit.node.trio import Member, Stage, Trio, stage, three

__all__ = ["stage"]


def known(trio: Trio, of: int) -> list[tuple[str, list[str]]]:
    """What each member knows of one."""
    rows = [member.applier.membership.members[of] for member in trio]
    return [(row.name, list(row.clientURLs)) for row in rows]


def test_all_members_know_what_was_published(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await publish(trio[2].pipeline, "new name", ["http://two:2379"])
        assert known(trio, 2)[1] == ("new name", ["http://two:2379"])
        await trio.level()
        assert known(trio, 2) == [("new name", ["http://two:2379"])] * 3

    stage.play(test)


def test_what_is_known_is_not_published_again(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await publish(trio[3].pipeline, "same", ["http://three:2379"])
        await trio.level()
        last = trio[1].replica.raw.last_index
        async with asyncio.timeout(1):
            await publish(trio[3].pipeline, "same", ["http://three:2379"])
        await trio.level()
        assert trio[1].replica.raw.last_index == last

    stage.play(test)


def test_it_waits_for_a_leader(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        member = await trio.depose(1)
        published = asyncio.ensure_future(publish(member.pipeline, "patient", []))
        await asyncio.sleep(0.05)
        assert not published.done()
        trio.heal()
        await trio.elect(2)
        await published
        assert known(trio, 1)[0] == ("patient", [])

    stage.play(test)


def test_it_waits_until_who_joins_has_the_members(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        member: Member = trio[2]
        row = member.applier.membership.members.pop(2)
        published = asyncio.ensure_future(publish(member.pipeline, "joined", []))
        await asyncio.sleep(0.05)
        assert not published.done()
        member.applier.membership.members[2] = row
        member.replica.conf_changed()
        await published
        assert known(trio, 2)[1] == ("joined", [])
        assert len(member.replica.on_conf_change) == len(trio[1].replica.on_conf_change)

    stage.play(test)


def test_it_tries_again_when_it_has_timed_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, Limits(request_timeout=0.3)) as trio:
            trio.lose(MessageKind.PROPOSE, 1)
            published = asyncio.ensure_future(publish(trio[2].pipeline, "again", []))
            await until(lambda: trio[2].pipeline._pending, "it is proposed")
            trio.lose(0)
            await published
            assert known(trio, 2)[1] == ("again", [])

    asyncio.run(test())
