"""What comes on a peer port from who keeps to no protocol ends that connection, nothing else."""

import asyncio
import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.node.peer_wire import (
    PING,
    Call,
    FrameKind,
    Hello,
    Method,
    Purpose,
    encode_call,
    encode_hello,
    encode_message,
    frame,
)
from rusd.pb import peer_pb2 as pb
from rusd.raft.message import Message, MessageKind
from tests.unit.node.peering import (
    CLUSTER,
    DEADLINE,
    QUICK,
    Node,
    eventually,
    members,
    network,
    run,
)

HEARTBEAT = b"".join(encode_message(Message(MessageKind.HEARTBEAT, 1, 2, term=7)))


async def say(node: Node, *pieces: bytes) -> bytes:
    """Send bytes to the peer port of `node`, and return all that comes until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        async with asyncio.timeout(DEADLINE):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def hello(purpose: int = Purpose.CONTROL) -> bytes:
    """The hello of member 2 to member 1."""
    return encode_hello(Hello(purpose, CLUSTER, 2, 1))


def raft_message(encoded: pb.Message) -> bytes:
    """The frame of a message that the codec does not write."""
    head = encoded.SerializeToString()
    return frame(FrameKind.MESSAGE, len(head).to_bytes(4, "big") + head)


GARBAGE: dict[str, list[bytes]] = {
    "an etcd that dials": [b"GET /raft/stream/message/1 HTTP/1.1\r\nHost: x\r\n\r\n"],
    "TLS": [bytes.fromhex("16030100c8010000c40303") + bytes(200)],
    "a huge length": [b"\xff\xff\xff\xff\x01"],
    "a hello that is too long": [frame(FrameKind.HELLO, bytes(20_000))],
    "no hello first": [PING],
    "wrong magic": [frame(FrameKind.HELLO, pb.Hello(magic=7).SerializeToString())],
    "not UTF-8": [frame(FrameKind.HELLO, b"\x1a\x02\xff\xfe")],
    "hello twice": [hello(), hello()],
    "a huge length after the hello": [hello(), b"\xff\xff\xff\xff\x06"],
    "an unknown frame": [hello(), frame(99)],
    "a broken message": [hello(), frame(FrameKind.MESSAGE, b"\xff\xff")],
    "a message of an unknown kind": [
        hello(),
        raft_message(pb.Message(kind=99, to=1, sender=2)),
    ],
    "an index out of range": [
        hello(Purpose.BULK),
        raft_message(pb.Message(kind=1, index=1 << 63)),
    ],
    "a call on the wrong lane": [hello(Purpose.BULK), encode_call(Call(1, 1, 1.0, b""))],
    "a message of one who only asks": [encode_hello(Hello(Purpose.ASK)), HEARTBEAT],
    "an unknown purpose": [hello(77)],
}


@pytest.mark.parametrize("pieces", GARBAGE.values(), ids=GARBAGE.keys())
def test_bad_input_closes_its_connection_only(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        # Member 2 is expected, but says only what the test says; 3 is a member as it should be.
        # Time closes nothing here.
        limits = replace(QUICK, read_timeout=2 * DEADLINE, hello_timeout=2 * DEADLINE)
        one, three = Node(1, limits=limits), Node(3)
        async with members(one, three):
            one.peers.update({2: ["http://127.0.0.1:1"], 3: [three.url]}, ())
            three.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.active(three))
            since = one.peers.active_since(3)
            await say(one, *pieces)
            assert one.received == []
            assert one.peers.active_since(3) == since
            three.peers.send([Message(MessageKind.HEARTBEAT, 1, 3)])
            await eventually(lambda: one.received)

    run(scenario())


def test_what_came_before_the_garbage_is_heard() -> None:
    async def scenario() -> None:
        one = Node(1)
        async with members(one):
            one.peers.update({2: ["http://127.0.0.1:1"]}, ())
            await say(one, hello() + HEARTBEAT + HEARTBEAT + frame(99) + HEARTBEAT)
            assert len(one.received) == 2

    run(scenario())


@given(st.lists(st.binary(max_size=200), max_size=4), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_any_bytes_leave_the_others_alone(pieces: list[bytes], greeted: bool, framed: bool) -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            one.peers.update({2: [two.url], 5: ["http://127.0.0.1:1"]}, ())
            stream = [frame(6, piece) if framed else piece for piece in pieces]
            if greeted:
                stream.insert(0, encode_hello(Hello(Purpose.BULK, CLUSTER, 5, 1)))
            await say(one, *stream, b"\xff" * 20)
            two.peers.send([Message(MessageKind.HEARTBEAT, 1, 2)])
            await eventually(lambda: one.received)
            assert one.active(two)

    run(scenario())


def test_garbage_is_logged_once_a_minute_a_host() -> None:
    async def scenario() -> None:
        one = Node(1)
        async with members(one):
            for _ in range(20):
                await say(one, os.urandom(random.randint(5, 30)) + b"\xff" * 20)
            # Twice when the minute ends meanwhile.
            assert len(one.logged("rejected connection on peer URL")) in (1, 2)

    run(scenario())


def test_who_says_no_hello_is_sent_away() -> None:
    async def scenario() -> None:
        one = Node(1)
        async with members(one):
            assert await say(one) == b""
            assert await say(one, hello()[:-1]) == b""
            assert one.logged("no hello in time")

    run(scenario())


def test_who_says_no_hello_does_not_keep_members_out() -> None:
    async def scenario() -> None:
        limits = replace(QUICK, hello_timeout=2 * DEADLINE, max_pending=3)
        one, two = Node(1, limits=limits), Node(2)
        async with members(one, two):
            silent = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(10)]
            one.peers.update({2: [two.url]}, ())
            two.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.active(two))
            for reader, writer in silent[:7]:
                async with asyncio.timeout(DEADLINE):
                    assert await reader.read() == b""
                writer.close()
            for _, writer in silent:
                writer.close()

    run(scenario())


def test_askers_and_their_calls_are_few() -> None:
    async def scenario() -> None:
        one = Node(1, limits=replace(QUICK, max_askers=2, max_calls=3))

        async def never(_member: int, _body: bytes) -> bytes:
            await asyncio.get_running_loop().create_future()
            return b""

        one.peers.serve(Method.MEMBERS, never, public=True)
        greeting = encode_hello(Hello(Purpose.ASK))
        async with members(one):
            opened = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(2)]
            for reader, writer in opened:
                writer.write(greeting)
                await reader.readexactly(5)
            assert b"too many connections" in await say(one, greeting)
            reader, writer = opened[0]
            for number in range(4):
                writer.write(encode_call(Call(number, Method.MEMBERS, 60.0, b"")))
            async with asyncio.timeout(DEADLINE):
                assert b"too many calls" in await reader.readuntil(b"too many calls")
            assert len(one.peers._acceptor.tasks) == 3
            for _, writer in opened:
                writer.close()
            await eventually(lambda: not one.peers._acceptor.tasks)
            assert b"too many connections" not in await say(one, greeting, PING)

    run(scenario())
