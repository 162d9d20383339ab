"""What can happen to a cluster under load. Each fault ends with all members running, all links and
disks well, and the load served again; what the load was told is checked by the run.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import ask, ask_until, status
from tests.cluster.machines import Machines
from tests.cluster.network import CUT, Link
from tests.cluster.run import Run
from tests.cluster.workload import Workload
from tests.members import Member, wait_for

ELECTION_SECONDS = 2.0
"""The longest that a follower waits for its leader, with default flags: twice 1 s."""
SERVED_SECONDS = 60.0
HELD_SECONDS = 1.0
WRITES = 20
BIG_WRITES = 300
OUTRUNNING_WRITES = 100
"""Of 1 MiB each: more than a leader keeps for those who lag."""


class Faults:
    """All faults, by name; each is a method without arguments."""

    def __init__(self, run: Run, machines: Machines) -> None:
        """Make faults in the machines of a run."""
        self._run = run
        self._machines = machines
        self._cluster = run.cluster
        self._random = run.random

    # processes

    def kill_the_leader(self) -> None:
        """Kill -9."""
        leader = self._cluster.leader()
        leader.kill()
        self._served()
        leader.start()

    def kill_a_follower(self) -> None:
        """Kill -9."""
        follower = self._follower()
        follower.kill()
        self._served()
        follower.start()

    def kill_all(self) -> None:
        """Kill -9 of every member."""
        for member in self._cluster.members:
            member.kill()
        self._cluster.start()
        self._served()

    def restart_all_in_turn(self) -> None:
        """A rolling restart."""
        for member in list(self._cluster.members):
            member.stop()
            self._served()
            member.start()

    def kill_while_it_stops(self) -> None:
        """A member is asked to end, and killed before it has; or the power fails then."""
        member = self._random.choice(self._cluster.members)
        member.terminate()
        time.sleep(self._random.uniform(0, 0.2))  # the moment is the random input
        member.kill()
        if member in self._machines.disks:
            self._machines.disks[member].lose_power()
        self._served()
        member.start()

    def pause_the_leader(self) -> None:
        """SIGSTOP for longer than an election; then it goes on as if nothing had been."""
        stopped = self._cluster.leader()
        stopped.pause()
        self._await_other_leader(stopped)
        self._served()
        stopped.resume()
        self._served()

    def outrun_a_follower(self) -> None:
        """SIGSTOP of a follower, until the leader has no longer what it lacks: a snapshot brings it
        back while clients watch on it.
        """
        follower = self._follower()
        others = [member for member in self._cluster.members if member is not follower]
        follower.pause()
        for _ in range(OUTRUNNING_WRITES):
            self._write_big(others)
        self._served()
        follower.resume()
        self._served()

    def move_the_leader(self) -> None:
        """Transfer leadership to another member."""
        leader = self._cluster.leader()
        target = self._random.choice([each for each in self._cluster.members if each is not leader])
        request = rpc.MoveLeaderRequest(targetID=status(target).header.member_id)
        try:
            ask(leader, request, rpc.MoveLeaderResponse, 10)
        except grpc.RpcError as error:  # a leader may lose an election meanwhile
            print(f"move-leader: {error.details()}")
        self._served()

    # network

    def cut_the_leader_off(self) -> None:
        """No packet to or from the other members; clients still reach it."""
        self._cut(self._cluster.leader())

    def let_the_leader_hear_nothing(self) -> None:
        """A partition one way: what it sends arrives, what is sent to it does not."""
        self._cut(self._cluster.leader(), outbound=False)

    def let_nobody_hear_the_leader(self) -> None:
        """A partition the other way."""
        self._cut(self._cluster.leader(), inbound=False)

    def cut_a_follower_off(self) -> None:
        """It must not disturb the others when it comes back."""
        self._cut(self._follower(), replaced=False)

    def cut_one_link(self) -> None:
        """A follower does not hear the leader, but hears the other follower: one way."""
        network = self._machines.network
        assert network is not None
        leader, follower = self._cluster.leader(), self._follower()
        network.set(self._machines.hosts[leader], self._machines.hosts[follower], CUT)
        self._served()
        time.sleep(2 * ELECTION_SECONDS)  # the fault lasts
        self._served()
        network.heal()

    def lose_packets(self) -> None:
        """One packet of ten between members is lost, and packets overtake each other."""
        self._degrade(Link(loss=0.1, delay=0.002, jitter=0.02))

    def slow_the_links(self) -> None:
        """Members are 50 ms apart, and 100 kB/s are all that there is."""
        self._degrade(Link(delay=0.05, bytes_per_second=100_000))

    # disks

    def power_fails_at_the_leader(self) -> None:
        """What it has not synced is lost or torn."""
        leader = self._cluster.leader()
        self._lose_power([leader])
        self._served()
        leader.start()

    def power_fails_everywhere(self) -> None:
        """At the same moment."""
        self._lose_power(self._cluster.members)
        self._cluster.start()
        self._served()

    def fill_the_leaders_disk(self) -> None:
        """The member refuses, or stops; when there is space again it goes on where it was."""
        self._fill(self._cluster.leader())

    def fill_a_followers_disk(self) -> None:
        """The others go on."""
        self._fill(self._follower())

    def use_a_disk_up(self) -> None:
        """Space ends where a member needs more of it: for its next log, or for its database."""
        member = self._random.choice(self._cluster.members)
        disk = self._machines.disks[member]
        disk.limit(8 << 20)
        refused, said = disk.counts()["refused"], len(member.log)
        for _ in range(BIG_WRITES):
            if disk.counts()["refused"] > refused or "no room for the log" in member.log[said:]:
                break
            self._write_big(self._cluster.members)
        else:
            raise AssertionError(f"{BIG_WRITES} MiB were written to a disk with 8 MiB left")
        self._served()
        disk.limit()
        self._restart(member)

    def fail_a_sync(self) -> None:
        """The member must stop: it does not know what is on its disk."""
        member = self._random.choice(self._cluster.members)
        disk = self._machines.disks[member]
        disk.fail_syncs(1)
        assert member.process is not None
        wait_for(lambda: disk.counts()["failed"] > 0, SERVED_SECONDS, "a failed sync")
        code = member.wait_exit()
        assert code != 0, "a member that cannot write ends with an error"
        disk.lose_power()
        self._served()
        member.start()

    def slow_a_disk(self) -> None:
        """Every sync of the leader takes 100 ms."""
        disk = self._machines.disks[self._cluster.leader()]
        disk.slow_syncs(0.1)
        self._served()
        disk.slow_syncs(0.0)

    # membership

    def wipe_a_member(self) -> None:
        """Its data is gone: it is removed, added again, and comes back through a snapshot."""
        member = self._follower()
        self._wipe(member)
        member.start()
        self._served()

    def end_a_member_while_its_snapshot_arrives(self) -> None:
        """A wiped member is killed, at any moment of its return; or the power fails there."""
        member = self._follower()
        self._wipe(member)
        for _ in range(3):
            member.launch()
            time.sleep(self._random.uniform(0, 2))  # the moment is the random input
            member.kill()
            if member in self._machines.disks:
                self._machines.disks[member].lose_power()
        member.start()
        self._served()

    def compact_the_history(self) -> None:
        """No fault, but it changes what faults meet."""
        self._run.compact()
        self._served()

    def replace_a_member(self) -> None:
        """Add a learner, promote it when it has caught up, and remove another member."""
        member = self._machines.new_member()
        learner = self._add(member, learner=True)
        member.initial_cluster_state = "existing"
        member.start()
        self._promote(learner)
        self._cluster.members = [*self._cluster.members, member]
        removed = self._random.choice(self._cluster.members[:-1])
        self._remove(status(removed).header.member_id)
        self._cluster.members = [each for each in self._cluster.members if each is not removed]
        removed.wait_exit()
        self._run.watch()
        self._served()

    # parts of faults

    def _wipe(self, member: Member) -> None:
        gone = status(member).header.member_id
        member.kill()
        self._remove(gone)
        self._machines.wipe(member)
        self._add(member, learner=False)
        member.initial_cluster_state = "existing"

    def _write_big(self, members: Sequence[Member]) -> None:
        """Try to put 1 MiB, through any of the members."""
        request = rpc.PutRequest(key=b"big", value=self._random.randbytes(1 << 20))
        with suppress(grpc.RpcError):
            ask(self._random.choice(members), request, rpc.PutResponse)

    def _load(self) -> Workload:
        assert self._run.workload is not None, "faults are made under load"
        return self._run.workload

    def _served(self) -> None:
        self._load().await_writes(WRITES, SERVED_SECONDS)

    def _follower(self) -> Member:
        leader = self._cluster.leader()
        return self._random.choice([each for each in self._cluster.members if each is not leader])

    def _await_other_leader(self, old: Member) -> None:
        wait_for(
            lambda: self._cluster.leader() is not old,
            SERVED_SECONDS,
            f"another leader than {old.name}",
        )

    def _cut(
        self, member: Member, inbound: bool = True, outbound: bool = True, replaced: bool = True
    ) -> None:
        network = self._machines.network
        assert network is not None
        host = self._machines.hosts[member]
        network.cut_off(host, self._machines.others(member), inbound, outbound)
        if replaced:
            self._await_other_leader(member)
        else:
            time.sleep(ELECTION_SECONDS)  # the fault lasts; a follower's candidacy begins meanwhile
        self._served()
        network.heal()
        self._served()

    def _degrade(self, link: Link) -> None:
        network = self._machines.network
        assert network is not None
        hosts = [self._machines.hosts[member] for member in self._cluster.members]
        network.set_all(hosts, link)
        self._served()
        network.heal()

    def _lose_power(self, members: list[Member]) -> None:
        """Kill members in the middle of a sync, and drop what no sync has brought to the disk."""
        held = {
            disk: disk.counts()["held"]
            for disk in (self._machines.disks[member] for member in members)
        }
        for disk in held:
            disk.hold_syncs()
        with suppress(TimeoutError):  # nothing may be left to sync
            wait_for(
                lambda: all(disk.counts()["held"] > before for disk, before in held.items()),
                HELD_SECONDS,
                "a sync",
            )
        for member in members:
            member.kill()
        for member in members:
            counts = self._machines.disks[member].lose_power()
            print(f"power fails at {member.name}: unsynced writes {counts}")

    def _fill(self, member: Member) -> None:
        disk = self._machines.disks[member]
        disk.fill()
        self._served()
        disk.fill(False)
        self._restart(member)

    def _restart(self, member: Member) -> None:
        """Kill the member, unless it has ended by itself, and start it."""
        assert member.process is not None
        if member.process.poll() is None:
            member.kill()
        else:
            assert member.wait_exit() > 0, "it ends with an error, not by a signal"
        member.start()
        self._served()

    def _add(self, member: Member, learner: bool) -> int:
        request = rpc.MemberAddRequest(peerURLs=[member.peer_url], isLearner=learner)
        ids: list[int] = []

        def added() -> bool:
            listed = self._list()
            ids.extend(each.ID for each in listed if member.peer_url in each.peerURLs)
            if ids:
                member.initial_cluster = ",".join(
                    f"{member.name if ids[0] == each.ID else each.name}={url}"
                    for each in listed
                    for url in each.peerURLs
                )
                return True
            self._try(request, rpc.MemberAddResponse)
            return False

        wait_for(added, SERVED_SECONDS, f"{member.name} to be added")
        return ids[0]

    def _remove(self, id: int) -> None:  # noqa: A002
        def removed() -> bool:
            if all(id != each.ID for each in self._list()):
                return True
            self._try(rpc.MemberRemoveRequest(ID=id), rpc.MemberRemoveResponse)
            return False

        wait_for(removed, SERVED_SECONDS, f"the removal of {id:x}")

    def _promote(self, learner: int) -> None:
        def promoted() -> bool:
            if any(learner == each.ID and not each.isLearner for each in self._list()):
                return True
            self._try(rpc.MemberPromoteRequest(ID=learner), rpc.MemberPromoteResponse)
            return False

        wait_for(promoted, SERVED_SECONDS, f"the promotion of {learner:x}")

    def _list(self) -> list[rpc.Member]:
        request = rpc.MemberListRequest(linearizable=True)
        answer = ask_until(self._cluster, request, rpc.MemberListResponse, SERVED_SECONDS)
        return list(answer.members)

    def _try(
        self,
        request: rpc.MemberAddRequest | rpc.MemberRemoveRequest | rpc.MemberPromoteRequest,
        answer: type,
    ) -> None:
        """Ask one member, which may refuse: not yet healthy, not yet in sync, no leader."""
        member = self._random.choice(self._cluster.running)
        try:
            ask(member, request, answer, 10)
        except grpc.RpcError as error:
            self._refused = f"{member.name}: {error.details()}"


PROCESS_FAULTS = (
    "kill_the_leader",
    "kill_a_follower",
    "kill_all",
    "restart_all_in_turn",
    "kill_while_it_stops",
    "pause_the_leader",
    "outrun_a_follower",
    "move_the_leader",
)
NETWORK_FAULTS = (
    "cut_the_leader_off",
    "let_the_leader_hear_nothing",
    "let_nobody_hear_the_leader",
    "cut_a_follower_off",
    "cut_one_link",
    "lose_packets",
    "slow_the_links",
)
DISK_FAULTS = (
    "power_fails_at_the_leader",
    "power_fails_everywhere",
    "fill_the_leaders_disk",
    "fill_a_followers_disk",
    "fail_a_sync",
    "slow_a_disk",
    "use_a_disk_up",
)
MEMBER_FAULTS = (
    "wipe_a_member",
    "replace_a_member",
    "end_a_member_while_its_snapshot_arrives",
    "compact_the_history",
)
ALL_FAULTS = (*PROCESS_FAULTS, *NETWORK_FAULTS, *DISK_FAULTS, *MEMBER_FAULTS)


def fault(faults: Faults, name: str) -> Callable[[], None]:
    """Return the fault of that name."""
    assert name in ALL_FAULTS, name
    made: Callable[[], None] = getattr(faults, name)
    return made
