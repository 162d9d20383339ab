"""rusd/wire/tally.py: every call counts once when it begins, and once when it ends, however."""

from collections import Counter
from collections.abc import Callable

from rusd.wire import frames
from rusd.wire.frames import ErrorCode
from rusd.wire.grpc import Code, Status
from rusd.wire.loopback import Loopback
from rusd.wire.service import Call, RequestHead
from rusd.wire.tally import Counts, Tally
from rusd.wire.timing import Timer
from tests.members import wait_for

from .peer import DEADLINE, RawClient, Serving, prefixed, serving

HOLD, ECHO, FAIL, BIDI = (
    f"/test.Test/{name}".encode() for name in ("Hold", "Echo", "Fail", "Bidi")
)


def counts(running: Serving) -> Counts:
    """Of the server, now."""
    found: Counts = running.run(running.server.counts)
    return found


def begin(client: RawClient, path: str, message: bytes, *more: tuple[str, str]) -> int:
    """A unary call, whose answer is not waited for."""
    stream = client.open(path, *more)
    client.data(stream, prefixed(message))
    return stream


def until(done: Callable[[], object]) -> None:
    """Waits."""
    wait_for(lambda: bool(done()), DEADLINE, "the counts")


def ended(found: Counts, path: bytes) -> dict[int, int]:
    """How a method's calls ended."""
    return {code: n for (each, code), n in found.ended.items() if each == path and n}


def test_calls_are_counted_by_how_they_end() -> None:
    with serving() as running, RawClient(running.port) as client:
        for _ in range(3):
            client.call("/test.Test/Echo", b"x")
        client.call("/test.Test/Fail", b"no")
        client.call("/test.Test/Broken", b"")
        client.call("/test.Test/Nothing", b"")
        found = counts(running)
        assert found.started[ECHO] == 3
        assert ended(found, ECHO) == {Code.OK: 3}
        assert ended(found, FAIL) == {Code.ABORTED: 1}
        assert ended(found, b"/test.Test/Broken") == {Code.INTERNAL: 1}
        assert b"/test.Test/Nothing" not in found.started
        assert not +found.open


def test_calls_that_are_reset_late_or_lost_have_ended_otherwise_than_well() -> None:
    with serving() as running:
        with RawClient(running.port) as client:
            held = [begin(client, "/test.Test/Hold", b"") for _ in range(4)]
            late = begin(client, "/test.Test/Hold", b"", ("grpc-timeout", "20m"))
            until(lambda: counts(running).started[HOLD] == 5)
            client.send(frames.rst_stream(held[0], ErrorCode.CANCEL))
            client.answer(late)
            client.sync()
            found = counts(running)
            assert found.open[HOLD] == 3
            assert ended(found, HOLD) == {Code.CANCELLED: 1, Code.DEADLINE_EXCEEDED: 1}
        until(lambda: not counts(running).open[HOLD])
        assert ended(counts(running), HOLD) == {Code.CANCELLED: 4, Code.DEADLINE_EXCEEDED: 1}


def test_a_call_of_many_frames_counts_like_one_of_two() -> None:
    """Requests in pieces, and answers larger than a window, have a stream of their own."""
    with serving() as running, RawClient(running.port) as client:
        stream = client.open("/test.Test/Echo")
        client.data(stream, prefixed(b"in pieces")[:4], end=False)
        client.data(stream, prefixed(b"in pieces")[4:])
        client.answer(stream)
        client.send(frames.window_update(0, 1 << 30))
        large = begin(client, "/test.Test/Large", b"200000")
        client.send(frames.window_update(large, 1 << 30))
        client.answer(large)
        cut = client.open("/test.Test/Echo")
        client.data(cut, prefixed(b"never ends")[:4], end=False)
        client.send(frames.rst_stream(cut, ErrorCode.CANCEL))
        client.sync()
        found = counts(running)
        assert (found.started[ECHO], ended(found, ECHO)) == (1, {Code.OK: 1})
        assert ended(found, b"/test.Test/Large") == {Code.OK: 1}
        assert not found.sent
        assert not found.received


def test_a_held_call_whose_window_is_opened_still_counts() -> None:
    with serving() as running, RawClient(running.port) as client:
        held = begin(client, "/test.Test/Hold", b"")
        until(lambda: counts(running).started[HOLD] == 1)
        client.send(frames.window_update(held, 1 << 20))
        client.sync()
        assert counts(running).open[HOLD] == 1
        client.send(frames.rst_stream(held, ErrorCode.CANCEL))
        client.sync()
        assert ended(counts(running), HOLD) == {Code.CANCELLED: 1}


def test_messages_of_streams_are_counted_open_or_over() -> None:
    with serving() as running, RawClient(running.port) as client:
        stream = client.open("/test.Test/Bidi")
        client.data(stream, prefixed(b"1") + prefixed(b"2"), end=False)
        client.data(stream, prefixed(b"3"), end=False)
        until(lambda: counts(running).sent[BIDI] == 3)
        found = counts(running)
        assert (found.started[BIDI], found.open[BIDI], found.received[BIDI]) == (1, 1, 3)
        client.data(stream, b"")
        client.answer(stream)
        found = counts(running)
        assert (found.open[BIDI], found.received[BIDI], found.sent[BIDI]) == (0, 3, 3)
        assert ended(found, BIDI) == {Code.OK: 1}


def test_bytes_are_those_of_messages_and_stay_when_the_connection_is_gone() -> None:
    with serving() as running:
        with RawClient(running.port) as client:
            for _ in range(20):
                client.call("/test.Test/Echo", b"x" * 3000)
            server = running.server
            received, sent = running.run(lambda: (server.bytes_received, server.bytes_sent))
            assert received == sent == 20 * 3005
        until(lambda: not server.connections)
        assert running.run(lambda: (server.bytes_received, server.bytes_sent)) == (received, sent)


def test_times_are_taken_of_calls_that_are_answered() -> None:
    with serving() as running, RawClient(running.port) as client:
        timer = running.server.turn.timer = Timer()
        held = begin(client, "/test.Test/Hold", b"")
        client.call("/test.Test/Echo", b"x")
        client.call("/test.Test/Fail", b"x")
        assert sum(timer.seconds[ECHO].counts) == sum(timer.seconds[FAIL].counts) == 1
        assert sum(timer.seconds[HOLD].counts) == 0
        [(connection, stream, _, _)] = running.service.held
        running.run(lambda: connection.reply(stream, b""))
        client.answer(held)
        assert sum(timer.seconds[HOLD].counts) == 1
        assert timer.seconds[HOLD].total > timer.seconds[ECHO].total > 0


class _Receiver:
    congested = False

    def message(self, data: bytes, /) -> None:
        pass

    def finished(self, status: Status | None, /) -> None:
        pass


def test_calls_from_inside_count_as_those_from_outside() -> None:
    with serving() as running:
        loopback: Loopback = running.server.loopback
        answers: list[bytes | Status] = []

        def call() -> None:
            for path in (ECHO, FAIL, HOLD):
                loopback.call(RequestHead(path, {}), b"x", answers.append)
            loopback.call(RequestHead(HOLD, {}), b"x", answers.append).cancel()
            stream = loopback.stream(RequestHead(BIDI, {}), _Receiver())
            stream.message(b"m")
            stream.cancel()
            loopback.stream(RequestHead(BIDI, {}), _Receiver()).half_close()

        running.run(call)
        until(lambda: len(answers) == 2)
        found = counts(running)
        assert found.started == Counter({ECHO: 1, FAIL: 1, HOLD: 2, BIDI: 2})
        assert +found.open == Counter({HOLD: 1})
        assert ended(found, ECHO) == {Code.OK: 1}
        assert ended(found, FAIL) == {Code.ABORTED: 1}
        assert ended(found, HOLD) == {Code.CANCELLED: 1}
        assert ended(found, BIDI) == {Code.CANCELLED: 1, Code.OK: 1}
        assert (found.received[BIDI], found.sent[BIDI]) == (1, 1)


def test_times_are_taken_of_streams_from_inside_however_they_end() -> None:
    with serving() as running:
        timer, loopback = Timer(), running.server.loopback

        def call() -> None:
            untimed = loopback.stream(RequestHead(BIDI, {}), _Receiver())
            running.server.turn.timer = timer
            untimed.half_close()
            loopback.stream(RequestHead(BIDI, {}), _Receiver()).half_close()
            loopback.stream(RequestHead(BIDI, {}), _Receiver()).cancel()
            loopback.stream(RequestHead(BIDI, {}, 0.02), _Receiver())

        running.run(call)
        until(lambda: sum(timer.seconds[BIDI].counts) == 3)
        assert timer.seconds[BIDI].total > 0.02


def test_a_call_that_waits_and_comes_again_counts_once() -> None:
    with serving() as running, RawClient(running.port) as client:
        turn = running.server.turn
        timer = turn.timer = Timer()
        parked: list[Call] = []

        def park(_: str, calls: list[Call]) -> list[Call]:
            parked.extend(calls)
            return []

        turn.gate = park
        stream = begin(client, "/test.Test/Echo", b"x")
        until(lambda: len(parked) == 1)
        assert counts(running).open[ECHO] == counts(running).started[ECHO] == 1

        def go_on() -> None:
            turn.gate = None
            turn.add("/test.Test/Echo", parked[0])

        running.run(go_on)
        client.answer(stream)
        assert ended(counts(running), ECHO) == {Code.OK: 1}
        assert counts(running).started[ECHO] == 1
        assert sum(timer.seconds[ECHO].counts) == 1


def test_what_nobody_called_is_not_counted() -> None:
    found = Tally().counts((), {ECHO: []})
    assert not any(+counted for counted in found)
