"""Is a concurrent history of a key-value store linearizable? Own search, no dependencies.

After Wing and Gong (1993) and Lowe (2017): a depth-first search for an order of the operations that
respects real time and that a store executing them one by one could have answered. Seen states are
remembered, so every (set of operations done, store) is visited once. Keys that no operation touches
together are checked apart (Herlihy and Wing's locality).

    history = [
        Operation(Put("a", b"1"), 0.0, 0.4, Answer(revision=2)),
        Operation(Put("a", b"2"), 0.5),                     # timed out: may happen later, or never
        Operation(Get("a"), 0.6, 0.7, Answer(value=b"1", mod=2, revision=2)),
    ]
    check(history)                                          # raises NotLinearizableError

What is left `None` in an answer is not checked, but for a Get's value, where it means that the key
was absent. Give revisions where they are known: they make the check sharper and much faster. An
operation that certainly had no effect (refused) is left out of the history.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, NamedTuple

MOST_STATES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key. Answer: `value` (None: absent), `mod`."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write one key. Answer: nothing but the revision."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key. Answer: `deleted`, 0 or 1. Deleting what is absent makes no revision."""

    key: str


@dataclass(frozen=True, slots=True)
class Compare:
    """All that is given must be equal. As in etcd, an absent key has mod revision 0 and no value
    that anything is equal to.
    """

    key: str
    value: bytes | None = None
    mod: int | None = None


@dataclass(frozen=True, slots=True)
class Txn:
    """If all of `compares` hold, `success`, else `failure`, in order, in one revision. Answer:
    `succeeded`, and `answers` of the branch taken.
    """

    compares: tuple[Compare, ...]
    success: tuple[Get | Put | Delete, ...] = ()
    failure: tuple[Get | Put | Delete, ...] = ()


Request = Get | Put | Delete | Txn


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store answered. `revision` is the store's (etcd's header): a write makes a higher
    one than any before, a read shows the newest.
    """

    revision: int | None = None
    value: bytes | None = None
    mod: int | None = None
    deleted: int | None = None
    succeeded: bool | None = None
    answers: tuple["Answer", ...] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of one client. `invoked` and `returned` are of one clock, any unit. Where
    `returned` is None the outcome is unknown: it took effect at any time after `invoked`, or never.
    """

    request: Request
    invoked: float
    returned: float | None = None
    answer: Answer = Answer()
    client: object = None

    def __str__(self) -> str:
        """One line for a report."""
        until = "?" if self.returned is None else f"{self.returned:g}"
        shown = "" if self.returned is None else f" -> {self.answer}"
        return f"[{self.invoked:g}, {until}] client {self.client}: {self.request}{shown}"


class NotLinearizableError(AssertionError):
    """No order of the operations explains the answers; the text shows where the best one ends."""


class UndecidedError(Exception):
    """The search was given up after `most_states` states."""


class Version(NamedTuple):
    """What a key is: its value (None: absent), and its mod revision, or, when that is not `exact`,
    what the mod revision must be higher than.
    """

    value: bytes | None = None
    mod: int = 0
    exact: bool = True


class Store(NamedTuple):
    """All keys of a component, and the lowest revision that the store may have."""

    revision: int
    versions: tuple[Version, ...]

    def covers(self, other: "Store") -> bool:
        """Whether this may be whatever `other` may be."""
        return self.revision <= other.revision and all(
            mine == theirs
            or (
                mine.value == theirs.value
                and not mine.exact
                and mine.mod < theirs.mod + (not theirs.exact)
            )
            for mine, theirs in zip(self.versions, other.versions, strict=True)
        )


def check(
    history: Iterable[Operation],
    initial: Mapping[str, Version] | None = None,
    most_states: int = MOST_STATES,
) -> None:
    """Raise NotLinearizableError if no order explains the history, UndecidedError if the search for
    one is too long. `initial` has the keys that are not absent at first.
    """
    initial = initial or {}
    for component in _components(_with_seen_effects(list(history), initial)):
        keys = sorted({key for each in component for key in _keys(each.request)})
        versions = tuple(initial.get(key, Version()) for key in keys)
        store = Store(max(version.mod for version in versions), versions)
        _Search(component, keys, most_states).run(store)


def _with_seen_effects(history: list[Operation], initial: Mapping[str, Version]) -> list[Operation]:
    """The history, in which operations of unknown outcome whose effect was seen have an answer: who
    reads, with its mod revision, a value that only one of them writes, tells that it took effect,
    and in which revision.
    """
    writers: defaultdict[bytes, list[Operation]] = defaultdict(list)
    seen: dict[bytes, int] = {}
    for each in history:
        request, answer = each.request, each.answer
        for write in (
            (*request.success, *request.failure) if isinstance(request, Txn) else (request,)
        ):
            if isinstance(write, Put):
                writers[write.value].append(each)
        if each.returned is not None:
            for told in (answer, *(answer.answers or ())):
                if told.value is not None and told.mod:
                    seen[told.value] = told.mod
    for version in initial.values():
        if version.value is not None:
            seen.pop(version.value, None)
    resolved: dict[int, Operation] = {}
    for value, mod in seen.items():
        if len(writers[value]) == 1 and (writer := writers[value][0]).returned is None:
            succeeded = None
            if isinstance(writer.request, Txn):
                succeeded = any(
                    isinstance(put, Put) and put.value == value for put in writer.request.success
                )
            told = Answer(mod, succeeded=succeeded)
            resolved[id(writer)] = replace(writer, returned=inf, answer=told)
    return [resolved.get(id(each), each) for each in history]


def _keys(request: Request) -> set[str]:
    if isinstance(request, Txn):
        return {each.key for each in (*request.compares, *request.success, *request.failure)}
    return {request.key}


def _components(history: Iterable[Operation]) -> list[list[Operation]]:
    """The operations, apart where they share no key, directly or through others."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    # A read that nobody saw the answer of tells nothing.
    told = [
        each
        for each in history
        if _keys(each.request) and not (each.returned is None and isinstance(each.request, Get))
    ]
    for each in told:
        first, *others = _keys(each.request)
        for other in others:
            parent[find(other)] = find(first)
    parts: defaultdict[str, list[Operation]] = defaultdict(list)
    for each in told:
        parts[find(next(iter(_keys(each.request))))].append(each)
    return list(parts.values())


class _Model:
    """A store that executes one operation at a time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._at = {key: place for place, key in enumerate(keys)}

    def stores_after(self, store: Store, operation: Operation) -> list[Store]:
        """The stores that may be after it; none if it could not have been answered as it was.
        There are several where a compare depends on a mod revision that nobody saw.
        """
        request = operation.request
        known = operation.returned is not None
        answer = operation.answer if known else Answer()
        if not isinstance(request, Txn):
            answers = (answer,) if known else None
            after = self._execute(store, (request,), answers, answer.revision)
            return [] if after is None else [after]
        found = []
        for compared, succeeded in self._compare(store, request.compares):
            if answer.succeeded in (None, succeeded):
                branch = request.success if succeeded else request.failure
                after = self._execute(compared, branch, answer.answers, answer.revision)
                if after is not None:
                    found.append(after)
        return found

    def _compare(self, store: Store, compares: tuple[Compare, ...]) -> list[tuple[Store, bool]]:
        """The outcomes of the compares, each with what it tells of the store."""
        succeeding: Store | None = store
        outcomes: list[tuple[Store, bool]] = []
        for each in compares:
            assert succeeding is not None
            version = succeeding.versions[self._at[each.key]]
            equal = each.value is None or each.value == version.value
            seen: Store | None = succeeding
            if each.mod is not None:
                mod = each.mod if version.value is not None else 0
                if each.mod != mod:
                    equal = False
                elif version.value is not None:
                    seen = self._seen(succeeding, each.key, each.mod)
            if not equal or seen is None:
                return [*outcomes, (store, False)]
            if each.mod is not None and version.value is not None and not version.exact:
                outcomes.append((store, False))
            succeeding = seen
        assert succeeding is not None
        return [(succeeding, True), *outcomes[:1]]

    def _seen(self, store: Store, key: str, mod: int) -> Store | None:
        """The store, now that the mod revision of a key that is there was seen; None if it is not
        that.
        """
        version = store.versions[self._at[key]]
        if version.exact:
            return store if version.mod == mod else None
        if mod <= version.mod:
            return None
        return self._with(store, key, Version(version.value, mod))._replace(
            revision=max(store.revision, mod)
        )

    def _with(self, store: Store, key: str, version: Version) -> Store:
        place = self._at[key]
        versions = store.versions
        return store._replace(versions=(*versions[:place], version, *versions[place + 1 :]))

    def _execute(
        self,
        store: Store,
        requests: tuple[Get | Put | Delete, ...],
        answers: tuple[Answer, ...] | None,
        revision: int | None,
    ) -> Store | None:
        """The store after all of the requests; None if they cannot have had these answers."""
        before = store.revision
        mod, exact = (before, False) if revision is None else (revision, True)
        wrote = False
        after: Store | None = store
        for place, request in enumerate(requests):
            assert after is not None
            version = after.versions[self._at[request.key]]
            answer = None if answers is None else answers[place]
            if isinstance(request, Put):
                wrote = True
                after = self._with(after, request.key, Version(request.value, mod, exact))
            elif isinstance(request, Delete):
                there = version.value is not None
                if answer is not None and answer.deleted not in (None, int(there)):
                    return None
                if there:
                    wrote = True
                    after = self._with(after, request.key, Version())
            elif answer is not None:
                if answer.value != version.value:
                    return None
                if answer.mod is not None and version.value is not None:
                    after = self._seen(after, request.key, answer.mod)
                    if after is None:
                        return None
        assert after is not None
        if revision is None:
            return after._replace(revision=max(after.revision, before + wrote))
        if revision < after.revision or (wrote and revision == before):
            return None
        return after._replace(revision=revision)


class _Place(NamedTuple):
    """How far an order has come. Known operations are numbered by when they were invoked: all below
    `base` are done, and those of the bits of `beyond`, counted from `base`. `unknown` has the bits
    of the done ones of unknown outcome.
    """

    base: int
    beyond: int
    unknown: int


class _Frame(NamedTuple):
    place: _Place
    store: Store
    unneeded: Store | None
    """The store without the last operation, where that has an unknown outcome: what it changes must
    matter to the next operation, or the order without it is as good."""
    ways: Iterator[tuple[Operation, _Place]]


class _Search:
    def __init__(self, operations: list[Operation], keys: Sequence[str], most_states: int) -> None:
        self._model = _Model(keys)
        self._most_states = most_states
        by_invocation = sorted(operations, key=lambda each: each.invoked)
        self._known = [each for each in by_invocation if each.returned is not None]
        self._unknown = [each for each in by_invocation if each.returned is None]
        self._sort_of_unknown = _sorts(self._unknown, operations)
        # By number: the lowest revision that a known operation from there on answered.
        self._least_revision = [inf] * (len(self._known) + 1)
        for number in reversed(range(len(self._known))):
            revision = self._known[number].answer.revision
            self._least_revision[number] = min(
                self._least_revision[number + 1], inf if revision is None else revision
            )

    def run(self, store: Store) -> None:
        start = _Place(0, 0, 0)
        seen: set[tuple[_Place, Store]] = {(start, store)}
        stack = [_Frame(start, store, None, self._ways(start))]
        best = stack[0]
        while stack:
            place, store, unneeded, ways = frame = stack[-1]
            if place.base == len(self._known):
                return
            if (place.base, place.beyond.bit_count()) > (
                best.place.base,
                best.place.beyond.bit_count(),
            ):
                best = frame
            for operation, after in ways:
                deeper = self._enter(operation, after, store, unneeded, seen)
                if deeper:
                    stack.extend(deeper)
                    break
            else:
                stack.pop()
            if len(seen) > self._most_states:
                raise UndecidedError(
                    f"no order found among {self._most_states} states; {self._report(best)}"
                )
        raise NotLinearizableError(self._report(best))

    def _enter(
        self,
        operation: Operation,
        after: _Place,
        store: Store,
        unneeded: Store | None,
        seen: set[tuple[_Place, Store]],
    ) -> list[_Frame]:
        stores = self._model.stores_after(store, operation)
        if not stores:
            return []
        if unneeded is not None:
            elsewhere = self._model.stores_after(unneeded, operation)
            stores = [each for each in stores if not any(other.covers(each) for other in elsewhere)]
        frames = []
        for each in stores:
            if (after, each) not in seen:
                seen.add((after, each))
                without = store if operation.returned is None else None
                frames.append(_Frame(after, each, without, self._ways(after)))
        return frames

    def _ways(self, place: _Place) -> Iterator[tuple[Operation, _Place]]:
        """The operations that may be next: no other one that is not done returned before they were
        invoked. Those that returned first come first, those of unknown outcome last.
        """
        base, beyond, unknown = place
        first_return = least_revision = inf
        candidates: list[tuple[float, int]] = []
        for number in range(base, len(self._known) + 1):
            if number == len(self._known) or self._known[number].invoked > first_return:
                # No operation may raise the revision above what is still to be answered.
                least_revision = min(least_revision, self._least_revision[number])
                break
            if not beyond >> (number - base) & 1:
                operation = self._known[number]
                assert operation.returned is not None
                candidates.append((operation.returned, number))
                first_return = min(first_return, operation.returned)
                least_revision = min(least_revision, operation.answer.revision or inf)
        candidates.sort()
        for _, number in candidates:
            if (self._known[number].answer.revision or 0) <= least_revision:
                done = beyond | 1 << (number - base)
                skipped = (~done & (done + 1)).bit_length() - 1
                yield self._known[number], _Place(base + skipped, done >> skipped, unknown)
        tried: set[Request] = set()
        for number, operation in enumerate(self._unknown):
            if operation.invoked > first_return:
                break
            sort = self._sort_of_unknown[number]
            if not unknown >> number & 1 and sort not in tried:
                tried.add(sort)
                yield operation, _Place(base, beyond, unknown | 1 << number)

    def _report(self, best: _Frame) -> str:
        base, beyond, _ = best.place
        waiting = [
            each
            for number, each in enumerate(self._known[base : base + beyond.bit_length() + 8])
            if not beyond >> number & 1
        ]
        before = self._known[max(0, base - 8) : base]
        lines = [
            f"{base + beyond.bit_count()} of {len(self._known)} operations have an order; there "
            f"the store is {best.store}",
            "the last before it:",
            *(f"  {each}" for each in before),
            "of these none can be next:",
            *(f"  {each}" for each in waiting),
        ]
        return "\n".join(lines)


def _sorts(unknown: list[Operation], operations: list[Operation]) -> list[Request]:
    """For each operation of unknown outcome a request that stands for all like it, so that only the
    first of them is tried: a value that nobody saw or compared is as good as any other such.
    """
    seen: set[bytes | None] = set()
    for each in operations:
        seen.update(answer.value for answer in (each.answer, *(each.answer.answers or ())))
        if isinstance(each.request, Txn):
            seen.update(compare.value for compare in each.request.compares)

    def plain(request: Get | Put | Delete) -> Get | Put | Delete:
        unseen = isinstance(request, Put) and request.value not in seen
        return Put(request.key, b"") if unseen else request

    return [
        Txn(
            each.request.compares,
            tuple(plain(request) for request in each.request.success),
            tuple(plain(request) for request in each.request.failure),
        )
        if isinstance(each.request, Txn)
        else plain(each.request)
        for each in unknown
    ]
