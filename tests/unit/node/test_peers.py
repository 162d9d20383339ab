"""Members that talk over real sockets, in one event loop."""

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from rusd.node.peer_wire import (
    Answer,
    FrameKind,
    Hello,
    Method,
    Purpose,
    Welcome,
    encode_answer,
    encode_hello,
    encode_message,
    encode_welcome,
    frame,
)
from rusd.node.peers import PeerCallError, PeerLimits, PeerUnreachableError, ask
from rusd.raft.message import Entry, Message, MessageKind
from tests.unit.node.peering import (
    CLUSTER,
    DEADLINE,
    QUICK,
    Node,
    Relay,
    connect,
    eventually,
    members,
    network,
    run,
)

NOWHERE = "http://127.0.0.1:1"
"""A peer URL at which nobody is."""


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
                lane.put(*encode_message(wrong))
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
            with pytest.raises(PeerCallError, match=r"^not for 1: x$"):
                await one.peers.call(2, Method.PROMOTE, b"x", DEADLINE)
            with pytest.raises(PeerCallError, match=r"^internal error$"):
                await one.peers.call(2, Method.VERSION, b"x", DEADLINE)
            with pytest.raises(PeerCallError, match=r"^unknown method 2$"):
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
                await asyncio.get_running_loop().create_future()
                return b""

            two.peers.serve(Method.MEMBERS, never)
            call = asyncio.create_task(one.peers.call(2, Method.MEMBERS, b"", 2 * DEADLINE))
            async with asyncio.timeout(DEADLINE):
                await begun.wait()
                await two.peers.stop()
                with pytest.raises(PeerUnreachableError, match="was lost"):
                    await call

    run(scenario())


def test_calls_and_answers_have_bounds() -> None:
    async def scenario() -> None:
        limits = replace(QUICK, max_calls=2, max_control_frame_bytes=10_000)
        async with network(2, limits=limits) as (one, two):

            async def grow(_member: int, body: bytes) -> bytes:
                return body * 2

            async def never(_member: int, _body: bytes) -> bytes:
                await asyncio.get_running_loop().create_future()
                return b""

            two.peers.serve(Method.MEMBERS, grow)
            two.peers.serve(Method.VERSION, never)
            assert len(await one.peers.call(2, Method.MEMBERS, bytes(4000), DEADLINE)) == 8000
            with pytest.raises(PeerCallError, match="the answer is too large"):
                await one.peers.call(2, Method.MEMBERS, bytes(6000), DEADLINE)
            with pytest.raises(PeerCallError, match="the call is too large"):
                await one.peers.call(2, Method.MEMBERS, bytes(12_000), DEADLINE)
            calls = [
                asyncio.create_task(one.peers.call(2, Method.VERSION, b"", DEADLINE))
                for _ in range(2)
            ]
            await asyncio.sleep(0)
            with pytest.raises(PeerUnreachableError, match="too many calls"):
                await one.peers.call(2, Method.MEMBERS, b"", DEADLINE)
            for call in calls:
                call.cancel()

    run(scenario())


def test_a_caller_that_is_gone_is_not_worked_for() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            begun, ended = asyncio.Event(), asyncio.Event()

            async def never(_member: int, _body: bytes) -> bytes:
                begun.set()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    ended.set()
                return b""

            two.peers.serve(Method.MEMBERS, never)
            call = asyncio.create_task(one.peers.call(2, Method.MEMBERS, b"", 2 * DEADLINE))
            async with asyncio.timeout(DEADLINE):
                await begun.wait()
                await one.peers.stop()
                await ended.wait()
            with pytest.raises(PeerUnreachableError):
                await call

    run(scenario())


def test_asking_ends_in_time() -> None:
    async def scenario() -> None:
        server, url = await serve_bytes(b"")
        async with asyncio.timeout(2.0):
            with pytest.raises(TimeoutError):
                await ask([url], Method.MEMBERS, b"", 0.1)
        server.close()

    run(scenario())


def test_one_who_is_no_member_may_ask_what_is_public() -> None:
    async def scenario() -> None:
        node = Node(1)
        node.peers.serve(Method.MEMBERS, echo, public=True)
        node.peers.serve(Method.PROMOTE, echo)
        async with members(node):
            urls = [NOWHERE, node.url]
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


def test_a_stream_ends_when_its_member_leaves_and_streams_are_few() -> None:
    async def scenario() -> None:
        async with network(2, limits=replace(QUICK, max_streams=2)) as (one, two):
            ended: list[int] = []

            async def hold(
                member: int, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
            ) -> None:
                try:
                    await reader.read()
                finally:
                    ended.append(member)

            two.peers.accept(Purpose.SNAPSHOT, hold)
            streams = [await one.peers.open(2, Purpose.SNAPSHOT) for _ in range(2)]
            with pytest.raises(PeerUnreachableError, match="too many connections"):
                await one.peers.open(2, Purpose.SNAPSHOT)
            streams[0][1].close()
            await eventually(lambda: ended == [1])
            streams[0] = await one.peers.open(2, Purpose.SNAPSHOT)
            two.peers.update({}, ())
            async with asyncio.timeout(DEADLINE):
                for reader, writer in streams:
                    assert await reader.read() == b""
                    writer.close()
            assert ended == [1, 1, 1]
            await eventually(lambda: one.peers._acceptor.since(2) is None)

    run(scenario())


def test_a_stream_handler_that_fails_is_logged_and_ends_its_stream() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            kept = []

            async def fail(
                _member: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
            ) -> None:
                kept.append(writer)
                raise ZeroDivisionError

            two.peers.accept(Purpose.SNAPSHOT, fail)
            reader, writer = await one.peers.open(2, Purpose.SNAPSHOT)
            async with asyncio.timeout(DEADLINE):
                assert await reader.read() == b""
            writer.close()
            assert two.logged("connection of remote peer failed")

    run(scenario())


def test_stop_ends_the_streams_and_calls_that_others_made() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            ended: list[str] = []

            async def hold(
                _member: int, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
            ) -> None:
                try:
                    await reader.read()
                finally:
                    ended.append("stream")

            two.peers.accept(Purpose.SNAPSHOT, hold)
            _, writer = await one.peers.open(2, Purpose.SNAPSHOT)
            await eventually(lambda: two.peers._acceptor._open_streams)
            await asyncio.sleep(0)
            await two.peers.stop()
            assert ended == ["stream"]
            assert two.peers._local.connections == set()
            writer.close()

    run(scenario())


# Who may connect


@pytest.mark.parametrize(
    ("cluster", "claims", "reason"),
    [
        (CLUSTER + 1, 2, "request cluster ID mismatch"),
        (CLUSTER, 3, "member 3 is not known"),
        (CLUSTER, 4, "permanently removed"),
    ],
)
def test_who_does_not_belong_here_is_refused_and_told_why_once(
    cluster: int, claims: int, reason: str
) -> None:
    async def scenario() -> None:
        one, other = Node(1), Node(claims, cluster)
        async with members(one, other):
            one.peers.update({2: [NOWHERE]}, [4])
            relay = Relay(one.port)
            await relay.start()
            other.peers.update({1: [relay.url]}, ())
            await eventually(lambda: relay.accepted > 12)
            other.peers.send([heartbeat(1, claims)])
            assert one.received == []
            assert one.peers.active_since(claims) is None
            assert len(one.logged(reason)) == 1
            assert len(other.logged(reason)) == 1
            assert other.removed == (1 if claims == 4 else 0)
            assert one.removed == 0
            await relay.stop()

    run(scenario())


async def serve_bytes(answer: bytes) -> tuple[asyncio.Server, str]:
    """Something that gives the same answer to everyone, and its peer URL."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (encode_welcome(Welcome(CLUSTER + 1, 2)), "request cluster ID mismatch"),
        (encode_welcome(Welcome(CLUSTER, 3)), "this is member 3, not 2"),
        (encode_welcome(Welcome(CLUSTER, 2, protocol=2)), "peer protocol 2 instead of 1"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "over the limit"),
        (frame(FrameKind.PONG), "no answer of a member"),
    ],
)
def test_who_answers_and_is_not_the_member_that_was_dialed_gets_nothing(
    answer: bytes, reason: str
) -> None:
    async def scenario() -> None:
        server, url = await serve_bytes(answer)
        one = Node(1)
        async with members(one):
            one.peers.update({2: [url]}, ())
            await eventually(lambda: one.logged(reason))
            assert one.peers._peers[2].control.connection is None
            one.peers.send([heartbeat(2, 1)])
            await eventually(lambda: one.unreachable == [2])
        server.close()

    run(scenario())


def test_what_comes_together_with_the_welcome_is_heard() -> None:
    async def scenario() -> None:
        greeting = encode_welcome(Welcome(CLUSTER, 2)) + encode_answer(Answer(1, b"early"))
        server, url = await serve_bytes(greeting)
        assert await ask([url], Method.MEMBERS, b"", DEADLINE) == b"early"
        server.close()

    run(scenario())


def test_a_member_of_another_protocol_version_is_refused() -> None:
    async def scenario() -> None:
        one = Node(1)
        async with members(one):
            one.peers.update({2: [NOWHERE]}, ())
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(encode_hello(Hello(Purpose.CONTROL, CLUSTER, 2, 1, protocol=2)))
            async with asyncio.timeout(DEADLINE):
                assert b"peer protocol 2 instead of 1" in await reader.read()
            writer.close()

    run(scenario())


def test_a_refusal_is_logged_again_when_there_was_success_between() -> None:
    async def scenario() -> None:
        one, two = Node(1), Node(2)
        async with members(one, two):
            two.peers.update({1: [one.url]}, ())
            for times in (1, 2):
                await eventually(lambda: len(one.logged("is not known")) == times)  # noqa: B023
                one.peers.update({2: [two.url]}, ())
                await eventually(lambda: one.active(two))
                one.peers.update({}, ())
            await eventually(lambda: len(one.logged("is not known")) == 3)

    run(scenario())


def test_a_new_connection_of_a_member_takes_the_place_of_the_old_one() -> None:
    async def scenario() -> None:
        one = Node(1)
        async with members(one):
            one.peers.update({2: [NOWHERE]}, ())
            greeting = encode_hello(Hello(Purpose.CONTROL, CLUSTER, 2, 1))
            opened = []
            for _ in range(2):
                opened.append(await asyncio.open_connection("127.0.0.1", one.port))
                opened[-1][1].write(greeting)
                await opened[-1][0].readexactly(10)
            async with asyncio.timeout(DEADLINE):
                with contextlib.suppress(ConnectionResetError):
                    await opened[0][0].read()
            since = one.peers._acceptor.since(2)
            assert since is not None
            opened[1][1].write(b"".join(encode_message(heartbeat(1, 2))))
            await eventually(lambda: one.received)
            assert one.peers._acceptor.since(2) == since
            for _, writer in opened:
                writer.close()

    run(scenario())


def test_a_url_at_which_another_member_listens_is_refused() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            third = Node(3)
            async with members(third):
                third.peers.update({2: [one.url]}, ())
                await eventually(lambda: third.logged("this is member 1, not 2"))
                assert one.received == two.received == []

    run(scenario())


def test_a_member_that_is_removed_is_told_and_can_send_nothing_more() -> None:
    async def scenario() -> None:
        async with network(3) as (one, two, three):
            one.peers.update({2: [two.url]}, [3])
            two.peers.update({1: [one.url]}, [3])
            await eventually(lambda: three.removed)
            three.peers.send([heartbeat(1, 3), heartbeat(2, 3)])
            one.peers.send([heartbeat(3, 1), heartbeat(2, 1)])
            await eventually(lambda: two.received)
            assert one.received == []
            assert two.received == [heartbeat(2, 1)]
            assert three.removed == 1
            assert one.removed == two.removed == 0
            assert one.peers.active_since(3) is None
            assert one.active(two)

    run(scenario())


def test_a_member_that_missed_how_all_others_were_replaced_is_reached_and_can_answer() -> None:
    async def scenario() -> None:
        behind, new = Node(1), Node(9)
        async with members(behind, new):
            behind.peers.update({2: [NOWHERE]}, ())
            new.peers.advertise([new.url])
            new.peers.update({1: [behind.url]}, ())
            await eventually(lambda: behind.active(new))
            new.peers.send([heartbeat(1, 9)])
            behind.peers.send([append(9, 1, 1)])
            await eventually(lambda: behind.received and new.received)
            since = behind.peers.active_since(9)
            behind.peers.update({9: [new.url]}, [2])
            assert behind.peers.active_since(9) == since
            behind.peers.send([append(9, 1, 2)])
            await eventually(lambda: len(new.received) == 2)
            assert 2 not in behind.unreachable
            await new.stop()
            await eventually(lambda: behind.peers.active_since(9) is None)
            behind.peers.send([append(9, 1, 3)])
            await eventually(lambda: 9 in behind.unreachable)

    run(scenario())


def test_visitors_are_few_and_forgotten_when_they_leave() -> None:
    async def scenario() -> None:
        limits = replace(QUICK, max_visitors=2)
        one = Node(1, limits=limits)
        visitors = [Node(member) for member in (7, 8, 9)]
        async with members(one, *visitors):
            for visitor in visitors:
                visitor.peers.advertise([visitor.url])
                visitor.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.logged("is not known"))
            await eventually(lambda: sum(one.active(v) for v in visitors) == 2)
            gone = next(v for v in visitors if one.active(v))
            lane = one.peers._peers[gone.member].bulk
            assert lane.connection is not None
            lane.connection.abort("test")
            await eventually(lambda: lane.connection is None)
            await eventually(lambda: one.active(gone))
            assert one.unreachable == []
            await gone.stop()
            visitors.remove(gone)
            await eventually(lambda: gone.member not in one.peers._peers)
            await eventually(lambda: one.active(*visitors))

    run(scenario())


# Loss and return


def test_a_member_that_is_killed_and_comes_back_is_connected_again() -> None:
    async def scenario() -> None:
        one, two = Node(1), Node(2)
        async with members(one):
            await two.listen()
            port = two.port
            connect([one, two])
            await eventually(lambda: one.active(two))
            await two.stop()
            await eventually(lambda: one.peers.active_since(2) is None and 2 in one.unreachable)
            again = Node(2)
            await again.listen(port)
            again.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.active(again))
            one.peers.send([heartbeat(2, 1), append(2, 1, 1)])
            await eventually(lambda: len(again.received) == 2)
            assert len(one.logged("peer became active")) == 2
            assert len(one.logged("lost connection with remote peer")) == 1
            await again.stop()

    run(scenario())


def test_attempts_to_connect_back_off() -> None:
    async def scenario() -> None:
        one, relay = Node(1, limits=replace(QUICK, max_backoff=0.2)), Relay(1)
        async with members(one):
            await relay.start()
            one.peers.update({2: [relay.url]}, ())
            # Two lanes: from 5 ms to 200 ms at half of it. Without back-off there are thousands.
            await asyncio.sleep(1.0)
            assert 2 <= relay.accepted <= 2 * (7 + 10)
            assert len(one.logged("remote peer cannot be reached")) == 1
            await relay.stop()

    run(scenario())


def test_a_member_that_connects_is_connected_to_at_once() -> None:
    async def scenario() -> None:
        one, two = Node(1, limits=PeerLimits(max_backoff=1000.0)), Node(2)
        async with members(one):
            await two.listen()
            port, url = two.port, two.url
            await two.stop()
            one.peers.update({2: [url]}, ())
            await eventually(lambda: one.logged("remote peer cannot be reached"))
            again = Node(2)
            await again.listen(port)
            again.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.active(again))
            await again.stop()

    run(scenario())


def test_back_off_begins_anew_after_a_connection_that_lasted() -> None:
    async def scenario() -> None:
        async with network(2, limits=replace(QUICK, max_backoff=0.4)) as (one, two):
            relay = Relay(two.port)
            await relay.start()
            server, nobody = await serve_bytes(b"")
            server.close()
            await server.wait_closed()
            lane = one.peers._peers[2].control
            one.peers.update({2: [nobody]}, ())
            await asyncio.sleep(1.0)  # at the longest wait now
            one.peers._peers[2].arrived([relay.url])
            await eventually(lambda: one.active(two))
            lane = one.peers._peers[2].control
            await asyncio.sleep(0.6)
            gaps = []
            for _ in range(3):
                began = asyncio.get_running_loop().time()
                assert lane.connection is not None
                lane.connection.abort("test")
                await eventually(lambda: lane.connection is None)
                await eventually(lambda: lane.connection is not None)
                gaps.append(asyncio.get_running_loop().time() - began)
            assert min(gaps) < 0.15, gaps
            await relay.stop()

    run(scenario())


def test_the_peer_url_that_worked_is_tried_first() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            relay = Relay(1)
            await relay.start()
            one.peers.update({2: [relay.url, two.url]}, ())
            await eventually(lambda: one.active(two))
            before = relay.accepted
            for lane in (one.peers._peers[2].control, one.peers._peers[2].bulk):
                assert lane.connection is not None
                lane.connection.abort("test")
            await eventually(lambda: not one.active(two))
            await eventually(lambda: one.active(two))
            assert relay.accepted == before
            await relay.stop()

    run(scenario())


def test_every_peer_url_of_a_member_is_tried() -> None:
    async def scenario() -> None:
        one, two = Node(1), Node(2)
        async with members(one, two):
            one.peers.update({2: [NOWHERE, "unix://a:1", "http://256.0.0.1:1", two.url]}, ())
            two.peers.update({1: [one.url]}, ())
            await eventually(lambda: one.active(two))

    run(scenario())


def test_new_peer_urls_are_connected_to_in_place_of_the_old_ones() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            relay = Relay(two.port)
            await relay.start()
            one.peers.update({2: [relay.url]}, ())
            await eventually(lambda: relay.accepted == 2 and one.active(two))
            one.peers.update({2: [relay.url]}, ())
            one.peers.send([heartbeat(2, 1)])
            await eventually(lambda: two.received)
            assert relay.accepted == 2
            await relay.stop()

    run(scenario())


def test_a_link_that_goes_silent_is_noticed_and_used_again_when_it_heals() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            relay = Relay(two.port)
            await relay.start()
            one.peers.update({2: [relay.url]}, ())
            await eventually(lambda: relay.accepted == 2 and one.active(two))
            since = one.peers.active_since(2)
            relay.silence()
            with pytest.raises(TimeoutError):
                await one.peers.call(2, Method.MEMBERS, b"", 0.05)
            await eventually(lambda: one.peers.active_since(2) is None)
            await eventually(lambda: two.peers.active_since(1) is None)
            assert one.logged("nothing was received for 0.5s")
            relay.heal()
            await eventually(lambda: one.active(two))
            active = one.peers.active_since(2)
            assert since is not None
            assert active is not None
            assert active > since
            await relay.stop()

    run(scenario())


def test_a_member_that_reads_nothing_is_given_up() -> None:
    async def scenario() -> None:
        # It sends, so it is not silent.
        limits = replace(QUICK, read_timeout=2 * DEADLINE, max_control_frame_bytes=64 << 20)
        one = Node(1, limits=limits)
        async with members(one):
            one.peers.update({2: [NOWHERE]}, ())
            _, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=1)
            writer.write(encode_hello(Hello(Purpose.CONTROL, CLUSTER, 2, 1)))
            await eventually(lambda: one.peers._acceptor.since(2))
            (connection,) = one.peers._local.connections
            connection.put(bytes(32 << 20))
            connection.flush()
            await eventually(lambda: one.peers._acceptor.since(2) is None)
            assert connection.gone.is_set()
            writer.close()

    run(scenario())


def test_an_idle_connection_stays() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            since = one.peers.active_since(2), two.peers.active_since(1)
            await asyncio.sleep(3 * QUICK.read_timeout)
            assert (one.peers.active_since(2), two.peers.active_since(1)) == since

    run(scenario())


def test_a_member_that_was_suspended_does_not_take_it_for_silence_of_the_others() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            since = one.peers.active_since(2), two.peers.active_since(1)
            # Blocks the loop of both, as SIGSTOP does.
            time.sleep(3 * QUICK.read_timeout)
            await asyncio.sleep(QUICK.read_timeout)
            assert (one.peers.active_since(2), two.peers.active_since(1)) == since

    run(scenario())


# Load


def test_heartbeats_pass_while_a_large_append_fills_a_slow_link() -> None:
    async def scenario() -> None:
        limits = PeerLimits(read_timeout=1.0, write_timeout=1.0)
        async with network(2, limits=limits) as (one, two):
            relay = Relay(two.port, rate=8 << 20)
            await relay.start()
            one.peers.update({2: [relay.url]}, ())
            await eventually(lambda: relay.accepted == 2 and one.active(two))
            loop = asyncio.get_running_loop()
            one.peers.send([append(2, 1, 0, size=16 << 20)])
            worst, count = 0.0, 0
            while not any(m.kind == MessageKind.APPEND for m in two.received):
                began = loop.time()
                one.peers.send([heartbeat(2, 1, count)])
                await eventually(lambda: heartbeat(2, 1, count) in two.received[-3:])  # noqa: B023
                worst = max(worst, loop.time() - began)
                count += 1
                await asyncio.sleep(0.05)
            assert count >= 10
            assert worst < 0.5
            assert one.unreachable == []
            assert len(one.logged("peer became active")) == 2
            await relay.stop()

    run(scenario())


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT])
def test_what_a_member_does_not_take_is_bounded_and_dropped(kind: MessageKind) -> None:
    async def scenario() -> None:
        bound = 4 << 20
        limits = PeerLimits(max_waiting_bytes=bound, max_waiting_control_bytes=bound)
        async with network(2, limits=limits) as (one, two):
            relay = Relay(two.port)
            await relay.start()
            one.peers.update({2: [relay.url]}, ())
            await eventually(lambda: relay.accepted == 2 and one.active(two))
            relay.silence()
            data = bytes(100_000)
            messages = [
                Message(kind, 2, 1, 7, index=n, entries=(Entry(7, n, data),)) for n in range(300)
            ]
            for message in messages:
                one.peers.send([message])
                await asyncio.sleep(0)
            waiting = sum(connection.unsent for connection in one.peers._local.connections)
            assert bound / 2 < waiting < 1.5 * bound
            assert one.unreachable.count(2) > 100
            relay.heal()
            await eventually(lambda: len(two.received) > 20)
            one.peers.send([message])
            await eventually(lambda: message in two.received)
            # In order, without those that found no room.
            indexes = [m.index for m in two.received]
            assert indexes == sorted(indexes)
            assert len(indexes) < 250
            await relay.stop()

    run(scenario())


def test_many_small_messages_that_wait_are_bounded_by_number() -> None:
    async def scenario() -> None:
        async with network(2, limits=PeerLimits(max_waiting=100)) as (one, two):
            lane = one.peers._peers[2].control.connection
            assert lane is not None
            lane.pause_writing()
            one.peers.send([heartbeat(2, 1, n) for n in range(150)])
            lane.resume_writing()
            await eventually(lambda: len(two.received) == 100)
            assert one.unreachable == [2]
            assert two.received == [heartbeat(2, 1, n) for n in range(100)]

    run(scenario())


def test_a_message_over_the_limit_is_dropped_and_said_so_once() -> None:
    async def scenario() -> None:
        async with network(2, limits=replace(QUICK, max_frame_bytes=100_000)) as (one, two):
            for _ in range(3):
                one.peers.send([append(2, 1, 0, size=200_000)])
            one.peers.send([append(2, 1, 1, size=99_000)])
            await eventually(lambda: two.received)
            assert two.received == [append(2, 1, 1, size=99_000)]
            assert len(one.logged("a message is too large")) == 1
            assert one.active(two)

    run(scenario())


def test_stop_sends_what_was_given_before() -> None:
    async def scenario() -> None:
        async with network(2) as (one, two):
            one.peers.send([Message(MessageKind.TIMEOUT_NOW, 2, 1), append(2, 1, 0, 1 << 20)])
            await one.stop()
            await eventually(lambda: len(two.received) == 2)

    run(scenario())


def test_stop_at_any_moment_of_connecting_leaves_nothing_open() -> None:
    async def scenario() -> None:
        for moment in range(25):
            one, two = Node(1), Node(2)
            async with members(one, two):
                for node, other in ((one, two), (two, one)):
                    node.peers.advertise([node.url])
                    node.peers.update({other.member: [other.url]}, ())
                for _ in range(moment):
                    await asyncio.sleep(0)
                async with asyncio.timeout(DEADLINE):
                    await asyncio.gather(one.peers.stop(), two.peers.stop())
                assert one.peers._local.connections == two.peers._local.connections == set()

    run(scenario())
