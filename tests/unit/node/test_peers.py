"""Members that talk over real sockets, in one event loop."""

import asyncio

import pytest

from rusd.node.peer_wire import Method, Purpose, encode_message
from rusd.node.peers import PeerCallError, PeerUnreachableError, ask
from rusd.raft.message import Entry, Message, MessageKind
from tests.unit.node.peering import (
    DEADLINE,
    Node,
    eventually,
    members,
    network,
    run,
)


def append(to: int, sender: int, index: int, size: int = 10) -> Message:
    """An APPEND of one entry."""
    entries = (Entry(7, index + 1, bytes(size)),)
    return Message(MessageKind.APPEND, to, sender, term=7, index=index, entries=entries)


def heartbeat(to: int, sender: int, commit: int = 0) -> Message:
    """A HEARTBEAT."""
    return Message(MessageKind.HEARTBEAT, to, sender, term=7, commit=commit)


async def echo(_member: int, body: bytes) -> bytes:
    """Answer with what came."""
    return body


# Messages


def test_messages_of_a_lane_arrive_in_order_both_ways() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            appends = [append(2, 1, n, size=n) for n in range(300)]
            beats = [heartbeat(2, 1, n) for n in range(300)]
            for sent in zip(appends, beats, strict=True):
                one.peers.send(sent)
            acks = [Message(MessageKind.APPEND_REPLY, 1, 2, term=7, index=n) for n in range(300)]
            two.peers.send(acks)
            await eventually(lambda: len(two.received) == 600 and len(one.received) == 300)
            assert [m for m in two.received if m.kind == MessageKind.APPEND] == appends
            assert [m for m in two.received if m.kind == MessageKind.HEARTBEAT] == beats
            assert one.received == acks
            assert one.unreachable == two.unreachable == []

    run(scenario())


def test_one_send_reaches_each_member_with_its_own_messages_at_once() -> None:
    async def scenario() -> None:
        async with network(3) as (one, two, three):
            one.peers.send([heartbeat(to, 1, n) for n in range(50) for to in (2, 3)])
            await eventually(lambda: len(two.received) == len(three.received) == 50)
            for node in (two, three):
                assert node.received == [heartbeat(node.member, 1, n) for n in range(50)]
                assert node.batches == [50]

    run(scenario())


def test_a_message_of_16_mib_arrives_whole() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            large = append(2, 1, 5, size=16 << 20)
            one.peers.send([large, append(2, 1, 6)])
            await eventually(lambda: len(two.received) == 2)
            assert two.received == [large, append(2, 1, 6)]

    run(scenario())


def test_a_message_for_or_from_another_than_the_hello_said_is_dropped() -> None:
    async def scenario() -> None:
        async with network(3) as (one, two, _):
            lane = one.peers._peers[2].control.connection
            assert lane is not None
            for wrong in (heartbeat(2, 3), heartbeat(3, 1), heartbeat(2, 2)):
                lane.put(encode_message(wrong))
            one.peers.send([heartbeat(2, 1, 9)])
            await eventually(lambda: two.received)
            assert two.received == [heartbeat(2, 1, 9)]

    run(scenario())


# Calls


def test_a_call_is_answered_with_its_own_body_or_error() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):

            async def refuse(member: int, body: bytes) -> bytes:
                raise PeerCallError(f"not for {member}: {body.decode()}")

            async def break_down(_member: int, _body: bytes) -> bytes:
                raise ZeroDivisionError

            two.peers.serve(Method.MEMBERS, echo)
            two.peers.serve(Method.PROMOTE, refuse)
            two.peers.serve(Method.VERSION, break_down)
            bodies = [b"%d" % n for n in range(100)]
            calls = [one.peers.call(2, Method.MEMBERS, body, DEADLINE) for body in bodies]
            assert await asyncio.gather(*calls) == bodies
            with pytest.raises(PeerCallError, match="^not for 1: x$"):
                await one.peers.call(2, Method.PROMOTE, b"x", DEADLINE)
            with pytest.raises(PeerCallError, match="^internal error$"):
                await one.peers.call(2, Method.VERSION, b"x", DEADLINE)
            with pytest.raises(PeerCallError, match="^unknown method 2$"):
                await one.peers.call(2, Method.KEEP_ALIVE, b"x", DEADLINE)
            assert len(two.logged("call of remote peer failed")) == 1

    run(scenario())


def test_a_call_ends_in_time_whatever_the_other_side_does() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            cancelled = asyncio.Event()

            async def never(_member: int, _body: bytes) -> bytes:
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    cancelled.set()
                return b""

            two.peers.serve(Method.MEMBERS, never)
            with pytest.raises((TimeoutError, PeerCallError)):
                await one.peers.call(2, Method.MEMBERS, b"", 0.05)
            async with asyncio.timeout(DEADLINE):
                await cancelled.wait()
            with pytest.raises(PeerUnreachableError):
                await one.peers.call(9, Method.MEMBERS, b"", DEADLINE)

    run(scenario())


def test_a_call_fails_when_the_member_is_lost_in_the_middle() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            begun = asyncio.Event()

            async def never(_member: int, _body: bytes) -> bytes:
                begun.set()
                return await asyncio.get_running_loop().create_future()

            two.peers.serve(Method.MEMBERS, never)
            call = asyncio.create_task(one.peers.call(2, Method.MEMBERS, b"", 2 * DEADLINE))
            async with asyncio.timeout(DEADLINE):
                await begun.wait()
                await two.peers.stop()
                with pytest.raises(PeerUnreachableError, match="was lost"):
                    await call

    run(scenario())


def test_one_who_is_no_member_may_ask_what_is_public() -> None:
    async def scenario() -> None:
        node = Node(1)
        node.peers.serve(Method.MEMBERS, echo, public=True)
        node.peers.serve(Method.PROMOTE, echo)
        async with members(node):
            urls = ["http://127.0.0.1:1", node.url]
            assert await ask(urls, Method.MEMBERS, b"who?", DEADLINE) == b"who?"
            with pytest.raises(PeerCallError, match="unknown method 4"):
                await ask(urls, Method.PROMOTE, b"me", DEADLINE)
            with pytest.raises(PeerUnreachableError):
                await ask(urls[:1], Method.MEMBERS, b"", DEADLINE)
            with pytest.raises(PeerUnreachableError):
                await ask(["http://127.0.0.1:1:1", "what?"], Method.MEMBERS, b"", DEADLINE)

    run(scenario())


# Streams


def test_a_stream_carries_bytes_both_ways_from_the_first_one() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):

            async def greet(
                member: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
            ) -> None:
                writer.write(b"hello %d\n" % member)
                writer.write(await reader.readexactly(1 << 20))
                await writer.drain()

            two.peers.accept(Purpose.SNAPSHOT, greet)
            reader, writer = await one.peers.open(2, Purpose.SNAPSHOT)
            data = bytes(range(256)) * 4096
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                assert await reader.readline() == b"hello 1\n"
                assert await reader.read() == data
            writer.close()
            with pytest.raises(PeerUnreachableError, match="purpose"):
                await two.peers.open(1, Purpose.SNAPSHOT)

    run(scenario())
