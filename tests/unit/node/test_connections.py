"""rusd/node/connections.py: what a time-out may be blamed on."""

import asyncio
from pathlib import Path

from rusd.api import errors
from rusd.node.pipeline import Limits
from rusd.raft.message import MessageKind
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import three


def test_a_follower_needs_its_leader_and_a_leader_a_quorum_since_then(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path) as trio:
            loop = asyncio.get_running_loop()
            leader, follower = trio[1].connections, trio[2].connections
            before, now = loop.time() - 1000, loop.time()
            assert leader.since(now)
            assert follower.since(now)
            assert not leader.since(before)
            assert not follower.since(before)
            assert follower.is_reachable(3)

            await trio[3].peers.stop()
            await until(lambda: not leader.is_reachable(3), "it is lost")
            assert leader.since(now)
            assert follower.since(now)

            await trio[2].peers.stop()
            await until(lambda: not leader.is_reachable(2), "it is lost")
            assert not leader.since(now)
            assert not follower.since(now)

            await trio.depose(1)
            assert leader.since(now), "without a leader it is not the connections"

    asyncio.run(test())


def test_a_time_out_tells_what_etcd_tells(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, Limits(request_timeout=0.4)) as trio:
            caller, asked = Recorder(), trio[2]
            asked.pipeline.connected = asked.connections.since
            trio.lose(MessageKind.PROPOSE, 1)
            asked.put(caller, 1, b"connected")
            assert await caller.answer(1) == errors.TIMEOUT
            await trio[1].peers.stop()
            await until(lambda: not asked.connections.is_reachable(1), "the leader is lost")
            asked.put(caller, 2, b"not connected")
            assert await caller.answer(2) == errors.TIMEOUT_DUE_TO_CONNECTION_LOST
            asked.put(caller, 3, b"the next leader")
            await asyncio.sleep(0.05)
            trio.cut_off(1)
            await trio.elect(3)
            assert await caller.answer(3) == errors.TIMEOUT_DUE_TO_LEADER_FAIL
            await trio.depose(3)
            trio[3].put(caller, 4, b"no leader")
            assert await caller.answer(4) == errors.TIMEOUT

    asyncio.run(test())
