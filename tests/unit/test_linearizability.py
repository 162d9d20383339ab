"""The linearizability checker is held to histories that are known to be good or bad."""

import random
import time
from collections.abc import Sequence

import pytest

from tests.linearizability import (
    Answer,
    Compare,
    Delete,
    Get,
    NotLinearizableError,
    Operation,
    Put,
    Txn,
    UndecidedError,
    Version,
    check,
)


def put(
    value: str, invoked: float, returned: float | None, revision: int | None = None
) -> Operation:
    return Operation(Put("k", value.encode()), invoked, returned, Answer(revision=revision))


def get(
    value: str | None, invoked: float, returned: float, mod: int | None = None, key: str = "k"
) -> Operation:
    seen = None if value is None else value.encode()
    return Operation(Get(key), invoked, returned, Answer(value=seen, mod=mod))


def swap(
    old: str, new: str, invoked: float, returned: float | None, succeeded: bool | None = None
) -> Operation:
    request = Txn((Compare("k", value=old.encode()),), (Put("k", new.encode()),))
    return Operation(request, invoked, returned, Answer(succeeded=succeeded))


GOOD: dict[str, Sequence[Operation]] = {
    "nothing": [],
    "absent at first": [get(None, 0, 1)],
    "one after the other": [put("a", 0, 1), get("a", 2, 3), put("b", 4, 5), get("b", 6, 7)],
    "a read during a write sees either": [put("a", 0, 9), get(None, 1, 2), get("a", 3, 4)],
    "concurrent writes in either order": [put("a", 0, 9), put("b", 0, 9), get("a", 10, 11)],
    "two reads during two writes": [
        put("a", 0, 9),
        put("b", 0, 9),
        get("b", 1, 2),
        get("a", 3, 4),
    ],
    "a write of unknown outcome never happens": [put("a", 0, 1), put("b", 2, None), get("a", 3, 4)],
    "a write of unknown outcome happens late": [
        put("a", 0, 1),
        put("b", 2, None),
        get("a", 3, 4),
        put("c", 5, 6),
        get("b", 7, 8),
    ],
    "unknown outcomes one after the other": [
        swap("b", "c", 0, None),
        put("a", 1, None),
        swap("a", "b", 2, None),
        get("c", 3, 4),
    ],
    "compare fails, then succeeds": [
        put("a", 0, 1),
        swap("b", "c", 2, 3, False),
        swap("a", "c", 4, 5, True),
        get("c", 6, 7),
    ],
    "a delete that found the key": [
        put("a", 0, 1),
        Operation(Delete("k"), 2, 3, Answer(deleted=1)),
        get(None, 4, 5),
        Operation(Delete("k"), 6, 7, Answer(deleted=0)),
    ],
    "revisions": [put("a", 0, 9, 3), put("b", 0, 9, 2), get("a", 10, 11, 3)],
    "a mod revision that nobody saw before": [
        put("a", 0, 1, 2),
        put("b", 2, None),
        get("b", 3, 4, 3),
        Operation(Txn((Compare("k", mod=3),)), 5, 6, Answer(succeeded=True)),
    ],
    "a write of unknown outcome happened when its mod revision says": [
        put("a", 0, 1, 2),
        put("b", 2, None),
        put("c", 3, 9, 4),
        get("b", 3, 9, 3),
        get("c", 10, 11, 4),
    ],
    "a compare with a mod revision that nobody saw may fail": [
        put("b", 2, None),
        get("b", 3, 4),
        Operation(Txn((Compare("k", mod=3),)), 5, 6, Answer(succeeded=False)),
        get("b", 7, 8, 4),
    ],
    "an absent key has mod revision 0": [
        Operation(Txn((Compare("k", mod=0),), (Put("k", b"a"),)), 0, 1, Answer(5, succeeded=True)),
        Operation(
            Txn((Compare("k", mod=0),), (Put("k", b"b"),), (Get("k"),)),
            2,
            3,
            Answer(5, succeeded=False, answers=(Answer(value=b"a", mod=5),)),
        ),
    ],
    "keys in one transaction": [
        Operation(Txn((), (Put("k", b"1"), Put("l", b"1"))), 0, 9),
        Operation(Txn((), (Get("k"), Get("l"))), 1, 2, Answer(answers=(Answer(), Answer()))),
        Operation(
            Txn((), (Get("k"), Get("l"))),
            3,
            4,
            Answer(answers=(Answer(value=b"1"), Answer(value=b"1"))),
        ),
    ],
    "a transaction sees what it wrote": [
        Operation(
            Txn((), (Put("k", b"1"), Get("k"), Delete("k"), Get("k"))),
            0,
            1,
            Answer(
                7,
                answers=(Answer(), Answer(value=b"1", mod=7), Answer(deleted=1), Answer()),
            ),
        ),
    ],
}

BAD: dict[str, Sequence[Operation]] = {
    "a value from nowhere": [get("a", 0, 1)],
    "a stale read": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "a lost write": [put("a", 0, 1), get(None, 2, 3)],
    "a read of what is not written yet": [get("a", 0, 1), put("a", 2, 3)],
    "a read goes back": [put("a", 0, 1), put("b", 2, 9), get("b", 3, 4), get("a", 5, 6)],
    "reads disagree on the order of writes": [
        put("a", 0, 1),
        put("b", 0, 1),
        get("a", 2, 3),
        get("b", 4, 5),
    ],
    "an overwritten value": [
        put("a", 0, 1),
        put("b", 0, 9),
        put("c", 2, 3),
        get("b", 4, 5),
        get("c", 6, 7),
    ],
    "a write of unknown outcome happens twice": [
        put("b", 0, None),
        get("b", 1, 2),
        put("c", 3, 4),
        get("b", 5, 6),
    ],
    "a write of unknown outcome before it was asked for": [get("b", 0, 1), put("b", 2, None)],
    "a lost update: both swaps succeed": [
        put("a", 0, 1),
        swap("a", "b", 2, 9, True),
        swap("a", "c", 2, 9, True),
    ],
    "a swap fails for no reason": [put("a", 0, 1), swap("a", "b", 2, 3, False)],
    "a delete that must have found the key": [
        put("a", 0, 1),
        Operation(Delete("k"), 2, 3, Answer(deleted=0)),
    ],
    "a delete that comes back": [
        put("a", 0, 1),
        Operation(Delete("k"), 2, 3, Answer(deleted=1)),
        get("a", 4, 5),
    ],
    "a write applied twice": [put("a", 0, 1, 2), get("a", 2, 3, 3)],
    "revisions against real time": [put("a", 0, 1, 3), put("b", 2, 3, 2)],
    "one revision of two writes": [put("a", 0, 9, 3), put("b", 0, 9, 3)],
    "a write of unknown outcome happened later than its mod revision says": [
        put("a", 0, 1, 2),
        put("b", 2, None),
        put("c", 3, 4, 4),
        get("b", 5, 6, 3),
    ],
    "a mod revision not above one seen before": [
        put("a", 0, 1, 5),
        put("b", 2, None),
        get("b", 3, 4, 4),
    ],
    "a read of an old revision": [
        put("a", 0, 1, 5),
        Operation(Get("k"), 2, 3, Answer(revision=4, value=b"a")),
    ],
    "a compare of mod revisions against what was seen": [
        put("a", 0, 1, 2),
        Operation(Txn((Compare("k", mod=2),)), 2, 3, Answer(succeeded=False)),
    ],
    "half a transaction": [
        Operation(Txn((), (Put("k", b"1"), Put("l", b"1"))), 0, 9),
        Operation(
            Txn((), (Get("k"), Get("l"))),
            1,
            2,
            Answer(answers=(Answer(value=b"1"), Answer())),
        ),
    ],
    "a bad key beside a good one": [
        Operation(Put("other", b"x"), 0, 1),
        put("a", 0, 1),
        get(None, 2, 3),
        get("x", 2, 3, key="other"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_passes(name: str) -> None:
    check(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_fails(name: str) -> None:
    with pytest.raises(NotLinearizableError):
        check(BAD[name])


def test_what_a_key_was_at_first_counts() -> None:
    check([get("a", 0, 1, 4)], {"k": Version(b"a", 4)})
    with pytest.raises(NotLinearizableError):
        check([get(None, 0, 1)], {"k": Version(b"a", 4)})


def test_a_report_names_the_operation_that_does_not_fit() -> None:
    with pytest.raises(NotLinearizableError, match=r"none can be next:\n.*Get.*value=b'a'"):
        check(BAD["a stale read"])


def test_a_search_that_is_too_long_is_not_an_answer() -> None:
    history = [put(str(number), 0, 9) for number in range(40)]
    with pytest.raises(UndecidedError):
        check([*history, get("x", 10, 11)], most_states=1000)


def random_history(seed: int, count: int, revisions: bool) -> list[Operation]:
    """Of 12 clients and a true store: each operation takes effect at one time within it, or, with
    an unknown outcome, later or never.
    """
    draw = random.Random(seed)
    store: dict[str, tuple[bytes, int]] = {}
    revision = 1
    planned: list[tuple[float, float, float | None, Put | Get | Delete | Txn, int]] = []
    for client in range(12):
        now = draw.random()
        for number in range(count // 12):
            invoked, at, ended = sorted(now + draw.random() for _ in range(3))
            now = ended + draw.random() / 10
            key, value = draw.choice("abc"), f"{client}.{number}".encode()
            request = draw.choice(
                (
                    Get(key),
                    Put(key, value),
                    Delete(key),
                    Txn((Compare(key, mod=revision),), (Put(key, value),), (Get(key),)),
                )
            )
            if draw.random() < 0.1:
                late = at + 1000 * draw.random() if draw.random() < 0.5 else at
                planned.append((late, invoked, None, request, client))
            else:
                planned.append((at, invoked, ended, request, client))
    history = []
    planned.sort(key=lambda each: each[0])
    for _, invoked, returned, request, client in planned:
        if returned is None and draw.random() < 0.3:
            history.append(Operation(request, invoked, None, client=client))
            continue
        key = request.compares[0].key if isinstance(request, Txn) else request.key
        found = store.get(key)
        old, mod = found or (None, 0)
        answer = Answer(value=old, mod=mod)
        if isinstance(request, Put):
            revision += 1
            store[key] = (request.value, revision)
            answer = Answer()
        elif isinstance(request, Delete):
            if store.pop(key, None):
                revision += 1
            answer = Answer(deleted=int(found is not None))
        elif isinstance(request, Txn):
            first = request.success[0]
            assert isinstance(first, Put)
            succeeded = request.compares[0].mod == mod
            if succeeded:
                revision += 1
                store[key] = (first.value, revision)
            answer = Answer(succeeded=succeeded, answers=(Answer() if succeeded else answer,))
        if revisions:
            answer = Answer(
                revision, answer.value, answer.mod, answer.deleted, answer.succeeded, answer.answers
            )
        history.append(Operation(request, invoked, returned, answer, client))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_a_true_store_answered_passes_and_one_false_answer_fails(seed: int) -> None:
    history = random_history(seed, 600, revisions=seed % 2 == 0)
    check(history)
    reads = [
        place
        for place, each in enumerate(history)
        if isinstance(each.request, Get) and each.returned is not None and each.answer.value
    ]
    place = random.Random(seed).choice(reads)
    true = history[place]
    history[place] = Operation(
        true.request, true.invoked, true.returned, Answer(value=b"never written")
    )
    with pytest.raises(NotLinearizableError):
        check(history)


def test_a_long_history_takes_seconds() -> None:
    started = time.process_time()
    check(random_history(1, 12000, revisions=True))
    assert time.process_time() - started < 30
