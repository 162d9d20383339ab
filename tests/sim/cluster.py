"""A simulated cluster: one heap of events, one source of randomness, and what goes wrong when.

A run has three parts. Things go wrong as the seed's `Schedule` says; then all heals and restarts,
and every member must make progress within a bound; then a member that was cut off comes back, and
must not disturb the leader. The clients' history of all of it must be linearizable.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from zlib import crc32

from rusd.raft import confchange
from rusd.raft.confchange import LEAVE_JOINT, Change, ChangeKind, ConfChange, Transition
from rusd.raft.message import ConfState, Role, Snapshot
from tests.linearizability import Get, Put
from tests.sim.clients import Clients
from tests.sim.disk import FIRST_INDEX
from tests.sim.invariants import Invariants, ViolationError, require
from tests.sim.member import REFUSED, Member
from tests.sim.network import LONG_DELAY, Network
from tests.sim.schedule import TICK, draw_schedule

_MOST_MEMBERS: Final = 9
"""That a run ever has."""

_DIGEST: Final = (1 << 61) - 1


@dataclass(frozen=True, slots=True)
class Result:
    """Of a run: `steps` inputs to cores; how often what happened; a digest of all that happened."""

    seed: int
    steps: int
    counts: Counter[str]
    digest: int


class Cluster:
    """One run."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.draw = Random(seed)
        self.schedule = schedule = draw_schedule(self.draw)
        self.tracing = trace is not None
        self._trace = trace
        self.now = self.steps = 0
        self._digest = self._sequence = 0
        self._events: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.counts: Counter[str] = Counter()
        self.healed = False
        # What heals.
        self.drift, self.sync_delay = schedule.drift, schedule.sync_delay
        self.sync_failure_rate = schedule.sync_failure_rate
        self.apply_delay, self.settle_delay = schedule.apply_delay, schedule.settle_delay
        self._slow_until: dict[int, int] = {}
        first = Snapshot(FIRST_INDEX, 1, ConfState(tuple(range(1, schedule.members + 1))))
        self.invariants = Invariants(first)
        self.network = Network(self)
        self.clients = Clients(self)
        self.removed: dict[int, int] = {}
        """By member that is one no more: the index of the change."""
        self._retired: set[int] = set()
        self._configured_to = FIRST_INDEX
        self.members = {number: Member(self, number, first) for number in first.conf_state.voters}

    # Events.

    def at(self, delay: int, action: Callable[..., Any], *args: Any) -> None:
        """Something happens later."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, action, args))

    def _run(self, until: int) -> None:
        events, pop, digest = self._events, heapq.heappop, self._digest
        while events and events[0][0] <= until:
            self.now, sequence, action, args = pop(events)
            digest = (digest * 1000003 + self.now * 31 + sequence) % _DIGEST
            action(*args)
        self._digest = digest
        self.now = until

    def _run_until(self, done: Callable[[], bool], ticks: int) -> bool:
        for _ in range(ticks):
            if done():
                return True
            self._run(self.now + TICK)
        return done()

    def log(self, text: str, who: object, *what: object) -> None:
        """A line of the trace."""
        if self._trace is not None:
            self._trace(f"{self.now / TICK:9.3f} {who} {text.format(*what)}")

    def count(self, what: str) -> None:
        """Something happened."""
        self.counts[what] += 1

    # The run.

    def run(self) -> Result:
        """Raises what a check raises."""
        schedule = self.schedule
        self.log("{}", "schedule", schedule)
        for member in self.members.values():
            member.start()
        for client in range(schedule.clients):
            self.at(int(self.draw.random() * 5 * TICK), self.clients.begin, client)
        if schedule.faults:
            self.at(self._until_fault(), self._fault)
        self._run(schedule.ticks * TICK)
        self._heal()
        self._require_progress()
        self._disturb()
        self.clients.check()
        digest = self._digest ^ crc32(repr(self.clients.history).encode())
        return Result(self.seed, self.steps, self.counts, digest)

    # What goes wrong.

    def _until_fault(self) -> int:
        return 1 + int(self.draw.expovariate(1 / self.schedule.fault_gap))

    def _fault(self) -> None:
        if self.healed:
            return
        self.at(self._until_fault(), self._fault)
        kind = self.draw.choice(self.schedule.faults)
        member = self._some_leader() if self.draw.random() < 0.4 else None
        member = member or self.some_member()
        if member is None:
            return
        self.count(kind)
        self.log("fault: {}", member, kind)
        ticks = int(self.draw.expovariate(1 / (10 * TICK)))
        if kind == "crash":
            self.stop_for_a_while(member)
        elif kind == "crash all":
            for each in self.members.values():
                if each.up:
                    self.stop_for_a_while(each)
        elif kind == "pause":
            member.paused_until = self.now + ticks
        elif kind == "slow disk":
            self._slow_until[member.id] = self.now + ticks
        elif kind == "transfer":
            member.transfer_leader(self.draw.choice(sorted(self.members)))
        elif kind == "campaign":
            member.campaign()
        elif kind == "membership":
            self._change_membership(member)
        else:
            self._cut(kind, member.id, ticks)

    def _cut(self, kind: str, member: int, ticks: int) -> None:
        others = [each for each in self.members if each != member]
        if not others:
            return
        draw = self.draw
        inbound, outbound = draw.choice(((True, True), (True, True), (True, False), (False, True)))
        before = set(self.network.cut)
        if kind == "isolate":
            self.network.isolate(member, others, inbound, outbound)
        elif kind == "one way":
            self.network.cut.add((member, draw.choice(others)))
        else:
            half = {member, *draw.sample(others, draw.randint(0, len(others) - 1))}
            for each in sorted(half):
                away = [other for other in self.members if other not in half]
                self.network.isolate(each, away, inbound, outbound)
        self.at(ticks, self.network.cut.difference_update, self.network.cut - before)

    def stop_for_a_while(self, member: Member) -> None:
        """A member crashes; later it starts again."""
        member.crash()
        self.at(int(self.draw.expovariate(1 / (10 * TICK))), self._restart, member)

    def _restart(self, member: Member) -> None:
        if not member.up and member.id not in self._retired:
            member.start()

    def is_slow(self, member: Member) -> bool:
        """Whether its disk is slow for a while."""
        return self._slow_until.get(member.id, 0) > self.now

    def some_member(self) -> Member | None:
        """One that is up, most often one of the configuration."""
        draw = self.draw
        known = confchange.members(self.invariants.conf_states[-1])
        members = [each for each in self.members.values() if each.up]
        inside = [each for each in members if each.id in known]
        if inside and draw.random() < 0.95:
            members = inside
        return draw.choice(members) if members else None

    def _some_leader(self) -> Member | None:
        """Who leads in the highest term, if anyone does: what happens to it matters most."""
        leaders = [each for each in self.members.values() if each.up and each.led_term]
        return max(leaders, key=lambda each: each.led_term, default=None)

    def durable_term(self, member: int, index: int) -> int:
        """The term of what a member has on disk at an index; that of what is committed if it is in
        its state machine; 0 if it has nothing.
        """
        found = self.members.get(member)
        if found is None:
            return 0
        term = found.disk.term(index)
        return term if term >= 0 else self.invariants.committed_terms[index]

    # Membership.

    def _change_membership(self, member: Member) -> None:
        draw, conf = self.draw, self.invariants.conf_states[-1]
        if confchange.is_joint(conf):
            if not conf.auto_leave or draw.random() < 0.1:
                member.change(LEAVE_JOINT)
            return
        changes = [self._some_change(conf)]
        while draw.random() < 0.3:
            changes.append(self._some_change(conf))
        left = set(conf.voters)
        for change in changes:
            if change.kind == ChangeKind.ADD_VOTER:
                left.add(change.member)
            else:
                left.discard(change.member)
        if not left:
            return
        transition = draw.choice(
            (Transition.AUTO, Transition.AUTO, Transition.IMPLICIT, Transition.EXPLICIT)
        )
        context = REFUSED if draw.random() < 0.05 else b""
        self.log("proposes {}", member, changes)
        member.change(ConfChange(tuple(changes), transition, context))

    def _some_change(self, conf: ConfState) -> Change:
        draw = self.draw
        kinds = [ChangeKind.ADD_VOTER]
        if conf.learners:
            kinds.append(ChangeKind.ADD_VOTER)
        if len(self.members) < _MOST_MEMBERS:
            kinds.append(ChangeKind.ADD_LEARNER)
        if len(conf.voters) > 1:
            kinds += [ChangeKind.REMOVE, ChangeKind.REMOVE]
        kind = draw.choice(kinds)
        known = sorted(confchange.members(conf))
        if kind == ChangeKind.REMOVE:
            return Change(kind, draw.choice(known))
        if kind == ChangeKind.ADD_VOTER and conf.learners and draw.random() < 0.7:
            return Change(kind, draw.choice(conf.learners))
        if kind == ChangeKind.ADD_LEARNER and len(conf.voters) > 1 and draw.random() < 0.3:
            return Change(kind, draw.choice(conf.voters))
        if len(self.members) >= _MOST_MEMBERS:
            return Change(kind, draw.choice(known))
        return Change(kind, self._new_member())

    def _new_member(self) -> int:
        """One that never was a member; it has nothing, and starts at once."""
        number = len(self.members) + 1
        self.members[number] = Member(self, number, Snapshot())
        self.members[number].start()
        return number

    def configured(self, member: Member) -> None:
        """A member has applied a configuration."""
        states = self.invariants.conf_states
        while self._configured_to < len(states) - 1:
            self._configured_to = index = self._configured_to + 1
            before, after = (confchange.members(states[each]) for each in (index - 1, index))
            for each in before - after:
                self.removed[each] = index
                self.count("removed")
            for each in after - before:
                # A promotion that was proposed before its removal may bring one back.
                self.removed.pop(each, None)
                self._retired.discard(each)
            if states[index] != states[index - 1]:
                self.count("configurations")
        removal = self.removed.get(member.id, member.applied + 1)
        if removal <= member.applied and self.schedule.stops_removed:
            self.at(2 * TICK + int(self.draw.random() * 20 * TICK), self._retire, member)

    def _retire(self, member: Member) -> None:
        """A member that knows itself removed ends."""
        if not self.healed and member.id in self.removed and member.id not in self._retired:
            self._retired.add(member.id)
            if member.up:
                member.crash()

    # Healing.

    def _heal(self) -> None:
        self.healed = True
        self.log("", "all heals")
        self.network.heal()
        self.sync_delay, self.sync_failure_rate = min(self.sync_delay, TICK // 5), 0.0
        self.apply_delay, self.settle_delay = min(self.apply_delay, TICK // 5), 0
        self.drift = min(self.drift, 0.05)
        self._slow_until.clear()
        conf = self.invariants.conf_states[-1]
        known = min(self.members[each].disk.state.index for each in confchange.members(conf))
        for member in self.members.values():
            member.paused_until = 0
            if self.removed.get(member.id, 0) > known:
                # Who is left may need it to learn that it is removed.
                self._retired.discard(member.id)
            if member.up:
                member.set_drift(self.drift)
            else:
                self._restart(member)

    def _require_progress(self) -> None:
        """Each member of the configuration writes, reads, and applies all that is committed."""
        election = self.schedule.election_ticks
        if not self.schedule.is_calming:
            # A removed member that does not know that it is one goes on to disturb the others.
            election *= 5
        started = self.now
        require(
            self._run_until(self._is_settled, 60 + 12 * election),
            "no progress:", self._looks(),
        )  # fmt: skip
        self.counts["ticks to settle"] = (self.now - started) // TICK
        for member in self._configured_members():
            self._ask(member, Put("probe", b"%d" % member.id), 10 * election)
            self._ask(member, Get("probe"), 10 * election)
        require(
            self._run_until(self._is_settled, 2 * election + 10),
            "not settled again:", self._looks(),
        )  # fmt: skip

    def _ask(self, member: Member, request: Put | Get, ticks: int) -> None:
        """A healthy cluster answers within so many ticks; a request may be lost with a leader."""
        client = -(len(self.clients.history) + 1)
        deadline = self.now + ticks * TICK
        retry = self.now
        while not self.clients.is_answered(client) and member in self._configured_members():
            require(self.now < deadline, member, "does not answer", request, self._looks())
            if self.now >= retry and self.clients.ask(client, member, request):
                retry = self.now + 5 * TICK
            self._run(self.now + TICK // 4)

    def _configured_members(self) -> list[Member]:
        conf = self.invariants.conf_states[-1]
        return [self.members[each] for each in sorted(confchange.members(conf))]

    def _is_settled(self) -> bool:
        conf, commit = self.invariants.conf_states[-1], self.invariants.commit
        members = self._configured_members()
        if confchange.is_joint(conf) and not conf.auto_leave:
            for member in members:
                if member.raw.role is Role.LEADER:
                    member.change(LEAVE_JOINT)
        return (
            not confchange.is_joint(conf)
            and len(self.invariants.conf_states) == commit + 1
            and all(member.applied == commit == member.raw.last_index for member in members)
            and self._leader() is not None
        )

    def _leader(self) -> Member | None:
        """Whom all voters follow."""
        conf = self.invariants.conf_states[-1]
        leaders = {self.members[each].raw.leader for each in conf.voters}
        if len(leaders) == 1 and (leader := leaders.pop()) in conf.voters:
            return self.members[leader]
        return None

    def _looks(self) -> str:
        return (
            "; ".join(
                f"{each}: {each.raw.role.name} in {each.raw.term}, commit {each.raw.commit}, "
                f"applied {each.applied}, log {each.raw.first_index}..{each.raw.last_index}"
                if each.up
                else f"{each} down"
                for each in self.members.values()
            )
            + f"; {self.invariants.conf_states[-1]}"
        )

    # A member that goes, and comes back.

    def _disturb(self) -> None:
        """Once all is calm, a leader is succeeded soon, and not deposed by who comes back."""
        schedule = self.schedule
        if not schedule.is_calming:
            return
        # What was delayed before all healed has arrived then, also requests to change leaders.
        self._run(self.now + LONG_DELAY)
        voters = self.invariants.conf_states[-1].voters
        if len(voters) < 3:
            return
        leader = self._leader()
        if leader is None:
            raise ViolationError(f"no leader in a calm cluster: {self._looks()}")
        others = [each for each in self._configured_members() if each is not leader]
        other = self.draw.choice(others)
        if schedule.disturbance == "leader":
            self._lose_leader(leader, other)
        else:
            self._return(other, leader)

    def _lose_leader(self, leader: Member, other: Member) -> None:
        self.count("succession")
        leader.crash()
        self._ask(other, Put("probe", b"successor"), 8 * self.schedule.election_ticks)

    def _return(self, member: Member, leader: Member) -> None:
        """A member that heard nothing for long comes back."""
        schedule, term = self.schedule, leader.raw.term
        self.count(f"return after {schedule.disturbance}")
        self.log("is cut off: {}", member, schedule.disturbance)
        if schedule.disturbance == "crash":
            member.crash()
        else:
            peers = [each for each in self.members if each != member.id]
            self.network.isolate(member.id, peers, True, schedule.disturbance == "both")
        self._ask(leader, Put("probe", b"meanwhile"), 10)
        self._run(self.now + 5 * schedule.election_ticks * TICK)
        self.log("comes back", member)
        self.network.cut.clear()
        self._restart(member)
        self._run(self.now + 4 * schedule.election_ticks * TICK)
        require(
            leader.raw.role is Role.LEADER and leader.raw.term == term,
            leader, "of term", term, "was deposed by the return of", member, self._looks(),
        )  # fmt: skip
        require(self._run_until(self._is_settled, 10), "not settled after it:", self._looks())
