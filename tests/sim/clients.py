"""Clients of the simulated cluster, and the store that they use: what they asked and were told is
the history whose linearizability is checked at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from rusd.raft.message import Entry, EntryKind, ReadState
from tests.linearizability import (
    Answer,
    Compare,
    Delete,
    Get,
    Operation,
    Put,
    Request,
    Txn,
    check,
)
from tests.sim.disk import FIRST_INDEX
from tests.sim.invariants import require
from tests.sim.schedule import TICK

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.member import Member

KEYS: Final = ("a", "b", "c")
FILLER: Final = b"filler"
"""An entry that does nothing, proposed together with one that does."""

_TIMEOUT: Final = 25 * TICK
_MOST_OPERATIONS: Final = 400

Versions = dict[str, tuple[bytes, int]]
"""Value and mod revision by key."""


@dataclass(slots=True)
class _Asked:
    number: int
    client: int
    request: Request
    invoked: int
    member: int
    incarnation: int
    commit: int
    """What was committed when it was invoked."""


class Clients:
    """All clients; each waits for its answer before it asks again."""

    def __init__(self, world: Cluster) -> None:
        self._world = world
        self._asked: dict[int, _Asked] = {}
        self._last = 0
        self.history: list[Operation] = []
        self._states: list[tuple[int, Versions]] = [(1, {})] * (FIRST_INDEX + 1)
        """By index: the store's revision and keys once that is applied."""
        self._answers: dict[int, tuple[int, Answer]] = {}
        """By index: number and answer of the operation that was executed."""
        self._requests: dict[int, Request] = {}
        self._executed: dict[int, Answer] = {}
        self._unknown: list[_Asked] = []
        """Timed out, or lost with a member."""
        self._preferred: dict[int, Member] = {}
        """By client: whom it asked last, and mostly asks again."""
        self._seen: dict[str, Answer] = {}
        """What the last read of each key told."""

    # Asking.

    def begin(self, client: int) -> None:
        """A client asks for the next thing."""
        world = self._world
        if world.healed or self._last >= _MOST_OPERATIONS:
            return
        member = self._preferred.get(client)
        if member is None or not member.up or world.draw.random() < 0.3:
            member = world.some_member()
        if member is not None:
            self._preferred[client] = member
        if member is None or not self.ask(client, member, self._some_request()):
            self._rest(client)

    def ask(self, client: int, member: Member, request: Request) -> bool:
        """Asks a member; returns False when it cannot take the request."""
        world = self._world
        self._last = number = self._last + 1
        asked = _Asked(
            number,
            client,
            request,
            world.now,
            member.id,
            member.incarnation,
            world.invariants.commit,
        )
        self._asked[number] = asked
        self._requests[number] = request
        world.log("asks {} for {}: {}", f"client {client}", member, number, request)
        if isinstance(request, Get):
            taken = member.read(number.to_bytes(8, "big"))
        else:
            data = [b"%d:" % number + bytes(world.schedule.value_bytes)]
            if world.draw.random() < 0.1:
                data.insert(world.draw.randint(0, 1), FILLER)
            taken = member.propose(data)
        if taken:
            world.at(_TIMEOUT, self._timed_out, number)
        else:
            self._asked.pop(number)
        return taken

    def _rest(self, client: int) -> None:
        if client >= 0:
            world = self._world
            pause = 1 + int(world.draw.random() * world.schedule.client_pause)
            world.at(pause, self.begin, client)

    def _some_request(self) -> Request:
        draw = self._world.draw
        key, value = draw.choice(KEYS), b"%d" % (self._last + 1)
        which = draw.random()
        if which < 0.35:
            return Get(key)
        if which < 0.65:
            return Put(key, value)
        if which < 0.72:
            return Delete(key)
        if which < 0.97:
            seen = self._seen.get(key)
            compare = (
                Compare(key, value=seen.value)
                if seen is not None and seen.value is not None and draw.random() < 0.3
                else Compare(key, mod=(seen.mod or 0) if seen is not None else 0)
            )
            return Txn((compare,), (Put(key, value),), (Get(key),))
        other = draw.choice(KEYS)
        return Txn((Compare(key, mod=0),), (Put(other, value),), (Get(key), Get(other)))

    # Executing: the state machine that all members have.

    def execute(self, entry: Entry) -> None:
        """An entry is applied for the first time anywhere."""
        revision, versions = self._states[-1]
        assert entry.index == len(self._states)
        if entry.kind == EntryKind.NORMAL and entry.data not in (b"", FILLER):
            number = int(entry.data.partition(b":")[0])
            require(number not in self._executed, "operation", number, "is applied twice")
            request = self._requests[number]
            versions = dict(versions)
            if isinstance(request, Txn):
                succeeded = all(_holds(versions, compare) for compare in request.compares)
                requests = request.success if succeeded else request.failure
                wrote, answers = _run(versions, requests, revision)
                answer = Answer(revision + wrote, succeeded=succeeded, answers=answers)
            else:
                wrote, (one,) = _run(versions, (request,), revision)
                answer = Answer(revision + wrote, one.value, one.mod, one.deleted)
            revision += wrote
            self._answers[entry.index] = number, answer
            self._executed[number] = answer
        self._states.append((revision, versions))

    # Answering.

    def applied(self, member: Member, entry: Entry) -> None:
        """A member has applied an entry; if it was asked for that, it answers."""
        result = self._answers.get(entry.index)
        if result is None:
            return
        number, answer = result
        asked = self._asked.get(number)
        if asked is not None and member.id == asked.member and member.is_up(asked.incarnation):
            self._answered(asked, answer)

    def read_index(self, member: Member, state: ReadState) -> None:
        """A member was told from where on it may answer a read."""
        asked = self._asked.get(int.from_bytes(state.context, "big"))
        if asked is not None and member.is_up(asked.incarnation) and member.id == asked.member:
            require(
                state.index >= asked.commit,
                member, "may read at", state.index, "though before,", asked.commit,
                "was committed",
            )  # fmt: skip

    def readable(self, member: Member, context: bytes) -> None:
        """A member has applied enough to answer a read."""
        asked = self._asked.get(int.from_bytes(context, "big"))
        if asked is None or not member.is_up(asked.incarnation) or member.id != asked.member:
            return
        assert isinstance(asked.request, Get)
        revision, versions = self._states[member.applied]
        value, mod = versions.get(asked.request.key, (None, 0))
        answer = Answer(revision, value, mod)
        self._seen[asked.request.key] = answer
        self._answered(asked, answer)

    def _answered(self, asked: _Asked, answer: Answer) -> None:
        world = self._world
        world.log("is told {}", f"client {asked.client}", answer)
        world.count("answers")
        del self._asked[asked.number]
        self.history.append(
            Operation(asked.request, asked.invoked, world.now, answer, asked.client)
        )
        self._rest(asked.client)

    def _timed_out(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._unanswered(asked)

    def lost(self, member: Member) -> None:
        """A member has crashed, and its clients know."""
        for asked in [each for each in self._asked.values() if each.member == member.id]:
            del self._asked[asked.number]
            self._unanswered(asked)

    def _unanswered(self, asked: _Asked) -> None:
        self._world.count("unknown outcomes")
        self._unknown.append(asked)
        self._rest(asked.client)

    # At the end.

    def is_answered(self, client: int) -> bool:
        """Whether a client has got an answer."""
        return any(each.client == client for each in self.history)

    def check(self) -> None:
        """The history must be linearizable, with what the store did for those who were not told."""
        for asked in self._asked.values():
            self._unknown.append(asked)
        for asked in self._unknown:
            if asked.number in self._executed:
                answer = self._executed[asked.number]
                self.history.append(
                    Operation(asked.request, asked.invoked, inf, answer, asked.client)
                )
        check(self.history)


def _holds(versions: Versions, compare: Compare) -> bool:
    value, mod = versions.get(compare.key, (None, 0))
    return (compare.value is None or compare.value == value) and compare.mod in (None, mod)


def _run(
    versions: Versions, requests: tuple[Get | Put | Delete, ...], revision: int
) -> tuple[bool, tuple[Answer, ...]]:
    """Executes requests in one revision; returns whether they wrote, and their answers."""
    wrote, answers = False, []
    for request in requests:
        value, mod = versions.get(request.key, (None, 0))
        if isinstance(request, Put):
            wrote = True
            versions[request.key] = request.value, revision + 1
            answers.append(Answer())
        elif isinstance(request, Delete):
            wrote |= versions.pop(request.key, None) is not None
            answers.append(Answer(deleted=int(value is not None)))
        else:
            answers.append(Answer(value=value, mod=mod))
    return wrote, tuple(answers)
