"""rusd/lease/lessor.py against a plain model, on a clock that the test sets."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rusd.lease.lessor import Expiry, LeaseExistsError, Lessor, NoSuchLeaseError

AGAIN = 1.0
IDS = st.sampled_from([1, 2**63 - 1, -(2**63)])
KEYS = st.sampled_from([b"a", b"b", b"c"])


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Modelled:
    """What the model knows of a lease."""

    ttl: int
    remaining: int
    granted: int
    expires: float
    named_again: float = 0.0
    keys: set[bytes] = field(default_factory=set)


class AgainstModel(RuleBasedStateMachine):
    """Random grants, revocations, renewals, checkpoints, waits and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.lessor = Lessor(self.clock)
        self.model: dict[int, Modelled] = {}
        self.position = 0

    @rule(lease=IDS, ttl=st.integers(1, 12))
    def grant(self, lease: int, ttl: int) -> None:
        self.position += 1
        if lease in self.model:
            with pytest.raises(LeaseExistsError):
                self.lessor.grant(lease, ttl, self.position)
        else:
            self.lessor.grant(lease, ttl, self.position)
            self.model[lease] = Modelled(ttl, ttl, self.position, self.clock.now + ttl)

    @rule(lease=IDS)
    def revoke(self, lease: int) -> None:
        if lease in self.model:
            assert self.lessor.revoke(lease) == sorted(self.model.pop(lease).keys)
        else:
            with pytest.raises(NoSuchLeaseError):
                self.lessor.revoke(lease)

    @rule(lease=IDS, older=st.booleans())
    def expire(self, lease: int, older: bool) -> None:
        known = self.model.get(lease)
        expiry = Expiry(lease, known.granted - older if known else 1)
        assert Expiry.decode(expiry.encode()) == expiry
        if known and not older:
            assert self.lessor.expire(expiry) == sorted(self.model.pop(lease).keys)
        else:
            with pytest.raises(NoSuchLeaseError):
                self.lessor.expire(expiry)

    @rule(lease=IDS)
    def renew(self, lease: int) -> None:
        known = self.model.get(lease)
        if known is None or known.expires <= self.clock.now:
            with pytest.raises(NoSuchLeaseError):
                self.lessor.renew(lease)
        else:
            assert self.lessor.renew(lease).ttl == known.ttl
            known.expires = max(known.expires, self.clock.now + known.ttl)

    @rule(lease=IDS, remaining=st.integers(0, 12))
    def checkpoint(self, lease: int, remaining: int) -> None:
        self.lessor.checkpoint(lease, remaining)
        if lease in self.model:
            self.model[lease].remaining = remaining or self.model[lease].ttl

    @rule(lease=IDS, key=KEYS, attached=st.booleans())
    def attach(self, lease: int, key: bytes, attached: bool) -> None:
        if not attached:
            self.lessor.detach(lease, key)
            if lease in self.model:
                self.model[lease].keys.discard(key)
        elif lease in self.model:
            self.lessor.attach(lease, key)
            self.model[lease].keys.add(key)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(limit=st.integers(1, 10))
    def look(self, limit: int) -> None:
        """All that have run out are named, none else, and none twice in a second."""
        named = []
        while self.lessor.behind():
            named += self.lessor.expired(limit)
        due = [
            Expiry(lease, known.granted)
            for lease, known in self.model.items()
            if known.expires <= self.clock.now and known.named_again <= self.clock.now
        ]
        assert sorted(named) == sorted(due)
        for expiry in due:
            self.model[expiry.lease].named_again = self.clock.now + AGAIN

    @rule(more=st.sampled_from([0.0, 1.5]))
    def restart(self, more: float) -> None:
        """Keeps what was granted and what the log promises; time starts anew."""
        rows = []
        for lease in self.model:
            row = self.lessor.row(lease)
            assert row is not None
            rows.append((Lessor.row_name(lease), row))
        self.clock.now += 100.0
        self.lessor = Lessor(self.clock)
        self.lessor.load(rows)
        self.clock.now += 5.0  # the log is replayed meanwhile
        self.lessor.extend(more)
        for lease, known in self.model.items():
            known.expires = self.clock.now + known.remaining + more
            known.named_again = 0.0
            for key in known.keys:
                self.lessor.attach(lease, key)

    @rule(ended=st.sets(IDS), anew=st.sets(IDS), ttl=st.integers(1, 12))
    def take(self, ended: set[int], anew: set[int], ttl: int) -> None:
        """A snapshot: some leases have ended, some are others of the same id; those that stay have
        no less time than they had.
        """
        taken = Lessor(lambda: 0.0)
        for lease in ended & self.model.keys():
            del self.model[lease]
        for lease in anew:
            self.position += 1
            self.model[lease] = Modelled(ttl, ttl, self.position, 0.0)
        for lease, known in self.model.items():
            taken.grant(lease, known.ttl, known.granted)
            taken.checkpoint(lease, known.remaining)
            for key in known.keys:
                taken.attach(lease, key)
            known.expires = max(known.expires, self.clock.now + known.remaining)
            known.named_again = 0.0
        self.lessor.take(taken)

    @invariant()
    def agrees(self) -> None:
        assert sorted(self.lessor.ids()) == sorted(self.model)
        assert len(self.lessor) == len(self.model)
        for lease in self.lessor:
            known = self.model[lease.id]
            assert lease.id in self.lessor
            assert (lease.ttl, lease.remaining, lease.granted, lease.keys) == (
                known.ttl,
                known.remaining,
                known.granted,
                known.keys,
            )
            assert self.lessor.left(lease) == pytest.approx(known.expires - self.clock.now)


AgainstModel.TestCase.settings = settings(
    max_examples=400, stateful_step_count=60, deadline=None, print_blob=True
)
TestAgainstModel = AgainstModel.TestCase


def test_leases_revoked_long_before_their_end_leave_nothing_behind() -> None:
    lessor = Lessor(Clock())
    for position in range(10_000):
        lessor.grant(7, 1_000_000, position)
        lessor.revoke(7)
    assert len(lessor._queue) < 200


def test_looks_at_no_more_than_it_may() -> None:
    clock = Clock()
    lessor = Lessor(clock)
    for lease in range(1, 101):
        lessor.grant(lease, 10, lease)
    clock.now += 5
    for lease in range(1, 51):
        lessor.renew(lease)
    clock.now += 5
    looks = 0
    named: list[Expiry] = []
    while lessor.behind():
        found = lessor.expired(30)
        assert len(found) <= 30
        named += found
        looks += 1
    assert looks == 4
    assert sorted(named) == [Expiry(lease, lease) for lease in range(51, 101)]


@pytest.mark.parametrize(
    ("ttl", "waited", "worth"),
    [
        (60, 0.0, False),
        (60, 20.0, False),  # a client that renews after a third never causes a checkpoint
        (60, 29.9, False),
        (60, 30.0, True),
        (8, 4.9, False),  # so short a lease is not worth the entry
        (8, 5.0, True),
        (86_400, 299.0, False),
        (86_400, 300.0, True),
        (60, 60.0, False),  # it has run out: its revocation comes
    ],
)
def test_a_checkpoint_is_worth_it_when_half_is_lost_or_five_minutes(
    ttl: int, waited: float, worth: bool
) -> None:
    clock = Clock()
    lessor = Lessor(clock)
    lessor.grant(1, ttl, 1)
    clock.now += waited
    assert lessor.worth_a_checkpoint(lessor.get(1)) is worth


def test_a_checkpoint_never_promises_less_than_is_left() -> None:
    clock = Clock()
    lessor = Lessor(clock)
    lessor.grant(1, 60, 1)
    lease = lessor.get(1)
    assert lessor.reduction(lease) == 0
    clock.now += 30.4
    assert lessor.reduction(lease) == 30
    assert lessor.reduction(lease) >= lessor.left(lease)
    lessor.checkpoint(1, 30)
    assert lessor.reduction(lease) == 0
    clock.now += 1000
    assert lessor.reduction(lease) == 1  # 0 would stand for the full TTL


def test_the_log_promises_the_full_ttl_only_when_no_reduction_is_on_its_way() -> None:
    lessor = Lessor(Clock())
    lessor.grant(1, 60, 1)
    lease = lessor.get(1)
    assert lease.logged_in_full
    lease.reductions += 1  # proposed
    assert not lease.logged_in_full
    lessor.checkpoint(1, 0)  # a renewal's, which was proposed before
    assert not lease.logged_in_full
    lessor.checkpoint(1, 30)
    assert not lease.logged_in_full
    lessor.checkpoint(1, 0)
    assert lease.logged_in_full
