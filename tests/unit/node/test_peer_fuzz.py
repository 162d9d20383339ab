"""A peer port that is said half a sentence, or one with wrong letters, goes on with the others.

On real sockets: what is cut off anywhere, and what has a few bytes changed, harms the connection
that it came on, leaves nothing behind, and is not repeated in the log.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.node.peer_wire import (
    PING,
    Call,
    Hello,
    Method,
    Purpose,
    encode_call,
    encode_hello,
    encode_message,
)
from rusd.raft.message import Entry, Message, MessageKind
from tests.unit.node.peering import CLUSTER, DEADLINE, QUICK, Node, eventually, members, run

SECRET = b"value-that-no-log-may-show"
AT_ONCE = 40

APPEND = b"".join(
    encode_message(Message(MessageKind.APPEND, 1, 2, term=7, entries=(Entry(7, 1, SECRET),)))
)
HEARTBEAT = b"".join(encode_message(Message(MessageKind.HEARTBEAT, 1, 2, term=7)))


def hello(purpose: int) -> bytes:
    """The hello of member 2 to member 1."""
    return encode_hello(Hello(purpose, CLUSTER, 2, 1))


SPOKEN: dict[str, bytes] = {
    "control": hello(Purpose.CONTROL) + PING + HEARTBEAT + encode_call(Call(1, 1, 1.0, SECRET)),
    "bulk": hello(Purpose.BULK) + APPEND + PING,
    "asking": encode_hello(Hello(Purpose.ASK)) + encode_call(Call(1, Method.MEMBERS, 1.0, b"")),
}


async def say(node: Node, spoken: bytes) -> None:
    """Say it all and hang up; the other side may have done so before."""
    try:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(spoken)
            writer.write_eof()
            await reader.read()
            writer.close()
    except (ConnectionError, OSError):
        pass


async def unharmed(spoken: Sequence[bytes]) -> None:
    """Say each on a connection of its own, many at once; the members go on with each other."""
    limits = replace(QUICK, read_timeout=2 * DEADLINE, max_pending=2 * AT_ONCE)
    one, three = Node(1, limits=limits), Node(3)
    async with members(one, three):
        one.peers.update({2: ["http://127.0.0.1:1"], 3: [three.url]}, ())
        three.peers.update({1: [one.url]}, ())
        await eventually(lambda: one.active(three))
        since = one.peers.active_since(3)
        for start in range(0, len(spoken), AT_ONCE):
            await asyncio.gather(*(say(one, each) for each in spoken[start : start + AT_ONCE]))
        assert one.peers.active_since(3) == since
        one.received.clear()
        three.peers.send([Message(MessageKind.HEARTBEAT, 1, 3, term=9)])
        await eventually(lambda: any(message.sender == 3 for message in one.received))
        await eventually(lambda: not one.peers._acceptor.tasks)
        await eventually(lambda: not one.peers._acceptor._pending)
        assert one.logged(SECRET.decode()) == []


def test_what_is_cut_off_anywhere_harms_nobody() -> None:
    async def scenario() -> None:
        pieces = [spoken[:end] for spoken in SPOKEN.values() for end in range(len(spoken))]
        await unharmed(pieces)

    run(scenario())


def test_frames_with_a_few_bytes_changed_harm_nobody() -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def scenario() -> None:
        changed = []
        for _ in range(200):
            spoken = bytearray(chance.choice(list(SPOKEN.values())))
            for _ in range(chance.randint(1, 4)):
                spoken[chance.randrange(len(spoken))] = chance.randrange(256)
            changed.append(bytes(spoken))
        await unharmed(changed)

    run(scenario())


@given(st.lists(st.binary(max_size=400), min_size=20, max_size=40))
@settings(max_examples=5)
def test_first_bytes_of_any_kind_harm_nobody(spoken: list[bytes]) -> None:
    run(unharmed(spoken))
