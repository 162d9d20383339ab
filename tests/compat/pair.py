"""Two servers that get the same steps and must give the same answers.

Unary answers are compared one by one. Watch answers arrive on their own time, so what is compared
is the sequence of control answers of a stream and the sequence of events of each watcher; the
events are also held against what one watcher of everything, on the reference, has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message import Message

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import ANSWER_SECONDS, Client, WatchStream, eventually, one_line
from tests.compat.steps import Call, CloseStream, KeepAlive, Settle, Step, Watch

_FILTERED = {
    kv.Event.PUT: rpc.WatchCreateRequest.NOPUT,
    kv.Event.DELETE: rpc.WatchCreateRequest.NODELETE,
}


class DifferenceError(AssertionError):
    """The two servers differ, or one breaks a promise."""


@dataclass(slots=True)
class _Watcher:
    """A live watcher: what was asked, and where its history begins."""

    create: rpc.WatchCreateRequest
    start: int
    compacted: int
    """The compacted revision when it was created: events so old come without prev_kv."""

    def expects(self, event: kv.Event) -> kv.Event | None:
        """Return the event as this watcher is to see it, or None if it is not to see it."""
        key, end = self.create.key or b"\0", self.create.range_end
        inside = event.kv.key == key if not end else event.kv.key >= key
        if not inside or (end not in (b"", b"\0") and event.kv.key >= end):
            return None
        if event.kv.mod_revision < self.start or _FILTERED[event.type] in self.create.filters:
            return None
        if self.create.prev_kv and event.kv.mod_revision > self.compacted:
            return event
        bare = kv.Event()
        bare.CopyFrom(event)
        bare.ClearField("prev_kv")
        return bare


class _StreamPair:
    """The same Watch stream on both servers."""

    def __init__(self, reference: WatchStream, subject: WatchStream) -> None:
        self.both = (reference, subject)
        self.watchers: dict[int, _Watcher] = {}
        self.compacted_ids: set[int] = set()
        """Watchers that compaction cancelled: etcd 3.5 keeps their ids and holds back progress."""

    def send(self, request: rpc.WatchRequest) -> None:
        for stream in self.both:
            stream.send(request)

    def close(self) -> None:
        for stream in self.both:
            stream.close()


class Pair:
    """The reference and the subject, and what the answers of both have shown of their state."""

    def __init__(
        self, reference: grpc.Channel, subject: grpc.Channel, seconds: float = ANSWER_SECONDS
    ) -> None:
        """Take over channels to two new servers; what is awaited may take `seconds`."""
        self._seconds = seconds
        self.revision = 1
        self.compacted = 0
        self._clients = (Client(reference), Client(subject))
        self._streams: dict[int, _StreamPair] = {}
        self._history = self._clients[0].watch_stream(seconds)
        everything = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0", prev_kv=True)
        self._history.send(rpc.WatchRequest(create_request=everything))
        if not self._history.wait(lambda: bool(self._history.controls)):
            raise DifferenceError("the reference does not create a watcher")

    def close(self) -> None:
        """Close streams and channels."""
        for pair in self._streams.values():
            pair.close()
        self._history.close()
        for client in self._clients:
            client.close()

    def watch_ids(self, stream: int) -> list[int]:
        """Ids of the live watchers of a stream."""
        return sorted(self._streams[stream].watchers) if stream in self._streams else []

    def run(self, step: Step) -> None:
        """Do one step on both servers; raise DifferenceError if they differ."""
        match step:
            case Call():
                self._call(step)
            case KeepAlive(lease):
                answers = [client.keep_alive(lease) for client in self._clients]
                same(*answers)
            case Watch(stream, request):
                self._watch(stream, request)
            case CloseStream(stream):
                if stream in self._streams:
                    self._streams.pop(stream).close()
            case Settle():
                self.settle()

    def _call(self, call: Call) -> None:
        if call.method == "Compact":
            self._leave_history()
        waiting = [client.begin(call.method, call.request) for client in self._clients]
        expected, seen = (answer() for answer in waiting)
        same(expected, seen)
        if expected.response is not None:
            header: rpc.ResponseHeader = getattr(expected.response, "header")  # noqa: B009
            self.revision = max(self.revision, header.revision)
            if isinstance(call.request, rpc.CompactionRequest):
                self.compacted = call.request.revision

    def _watch(self, number: int, request: rpc.WatchRequest) -> None:
        if number not in self._streams:
            reference, subject = self._clients
            self._streams[number] = _StreamPair(
                reference.watch_stream(self._seconds), subject.watch_stream(self._seconds)
            )
        pair = self._streams[number]
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(pair, request)
            case "cancel_request":
                self._cancel(pair, request)
            case _:
                self._progress(pair)

    def _create(self, pair: _StreamPair, request: rpc.WatchRequest) -> None:
        create = request.create_request
        if create.watch_id in pair.compacted_ids:
            return
        known = len(pair.both[0].controls)
        compacted = 0 < create.start_revision < self.compacted
        pair.send(request)
        first, *rest = _controls(pair, known, at_most=2 if compacted else 1)
        if rest:
            pair.compacted_ids.add(first.watch_id)
        if first.canceled or rest:
            return
        start = create.start_revision or first.header.revision + 1
        pair.watchers[first.watch_id] = _Watcher(create, start, self.compacted)

    def _cancel(self, pair: _StreamPair, request: rpc.WatchRequest) -> None:
        watch_id = request.cancel_request.watch_id
        if watch_id in pair.compacted_ids:
            return
        if watch_id not in pair.watchers:
            pair.send(request)  # no answer, as the next control answer and the settling show
            return
        self.settle()
        known = len(pair.both[0].controls)
        pair.send(request)
        _controls(pair, known, at_most=1)
        del pair.watchers[watch_id]

    def _leave_history(self) -> None:
        """See to it that no watcher still reads history: compaction would cancel it, or not.

        A stream that answers a progress request has none; one that may not answer is closed.
        """
        for number, pair in list(self._streams.items()):
            if pair.watchers and not self._answers_progress(pair):
                self._streams.pop(number).close()
            else:
                self._progress(pair)

    def _answers_progress(self, pair: _StreamPair) -> bool:
        """Whether etcd 3.5 answers a progress request, unless a watcher lags.

        It does not if the stream has no watcher, one that begins in the future, or one that
        compaction cancelled.
        """
        starts = [watcher.create.start_revision for watcher in pair.watchers.values()]
        return bool(starts) and max(starts) <= self.revision and not pair.compacted_ids

    def _progress(self, pair: _StreamPair) -> None:
        if not self._answers_progress(pair):
            return
        self.settle()
        # No client can know whether a watcher lags: so it is asked until it answers.
        for stream in pair.both:
            stream.progress.clear()
            answer = eventually(partial(_ask_progress, stream), self._seconds, every=0)
            if answer is None:
                raise DifferenceError("no answer to a progress request")
            if (answer.watch_id, answer.header.revision) != (-1, self.revision):
                raise DifferenceError(f"progress at {self.revision}: {one_line(answer)}")

    def settle(self) -> None:
        """Wait until each watcher of both servers has its events, and no others."""

        def caught_up() -> bool:
            events = self._history.events[0]
            return self.revision == 1 or (
                bool(events) and events[-1].kv.mod_revision >= self.revision
            )

        if not self._history.wait(caught_up):
            raise DifferenceError(f"the reference's own watcher did not reach {self.revision}")
        history = list(self._history.events[0])
        for number, pair in self._streams.items():
            _same_lists("control answers", pair.both[0].controls, pair.both[1].controls)
            for watch_id, watcher in pair.watchers.items():
                expected = [seen for event in history if (seen := watcher.expects(event))]
                for name, stream in zip(("reference", "subject"), pair.both, strict=True):
                    label = f"{name}, stream {number}, watcher {watch_id}"
                    _same_lists(label, expected, stream.await_events(watch_id, len(expected)))
                    if stream.faults:
                        raise DifferenceError(f"{name}, stream {number}: {stream.faults}")


def _ask_progress(stream: WatchStream) -> rpc.WatchResponse | None:
    stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
    stream.wait(lambda: bool(stream.progress), 0.2)
    return stream.progress[-1] if stream.progress else None


def _controls(pair: _StreamPair, known: int, at_most: int) -> list[rpc.WatchResponse]:
    """Wait for the control answers after the first `known`; both servers' must be equal.

    One that ends the watcher, which is then canceled, is the last.
    """
    reference, subject = (stream.await_controls(known, at_most) for stream in pair.both)
    _same_lists("control answers", reference, subject)
    if not reference:
        raise DifferenceError("no control answer")
    return reference


def same(expected: object, seen: object) -> None:
    """Raise DifferenceError unless both servers gave the same."""
    if expected != seen:
        raise DifferenceError(f"\n  reference: {expected}\n  subject:   {seen}")


def _same_lists(what: str, expected: Sequence[Message], seen: Sequence[Message]) -> None:
    if expected == seen:
        return
    index = next(
        (i for i, (a, b) in enumerate(zip(expected, seen, strict=False)) if a != b),
        min(len(expected), len(seen)),
    )
    shown = [one_line(each[index]) if index < len(each) else "nothing" for each in (expected, seen)]
    raise DifferenceError(
        f"{what}: number {index} of {len(expected)} and {len(seen)} differs"
        f"\n  expected: {shown[0]}\n  seen:     {shown[1]}"
    )
