"""The first start of a member, and every later one: who it is, and what it had when it stopped."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rusd.config import Config, InitialMember, same_urls
from rusd.lease.lessor import ROW_PREFIX, Lessor
from rusd.log import Logger
from rusd.mvcc.keyspace import Applied, Keyspace
from rusd.mvcc.tables import rows_under
from rusd.node.alarms import Alarms
from rusd.node.apply import Applier
from rusd.node.identity import cluster_id, member_id
from rusd.node.membership import Action, MemberChange, Membership, MembershipError
from rusd.node.peer_inbound import PeerCallError
from rusd.node.peer_outbound import PeerUnreachableError
from rusd.node.peer_wire import Method
from rusd.node.truncation import KEPT_BYTES
from rusd.pb.rpc_pb2 import Member, MemberListResponse
from rusd.raft.confchange import LEAVE_JOINT, ConfChange, changed, is_joint
from rusd.raft.message import ConfState, Entry, EntryKind, HardState, Persisted, Snapshot
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal

FIRST: Final = Snapshot(1, 1)
"""What all members of a new cluster begin with, as if a snapshot had been installed: whoever joins
later has to get one, since no log has what is in it.
"""
_PATIENCE_WHEN_NEW: Final = 1.0
_PATIENCE_WHEN_JOINING: Final = 10.0
"""Seconds for the other members to say who they are."""


class Identity(NamedTuple):
    """Who a new member is; of no use once it has a data directory."""

    cluster_id: int
    member: Member
    others: tuple[Member, ...] = ()
    joins: bool = False
    """Whether the cluster runs already: then the member has nothing until it gets a snapshot."""


class Recovered(NamedTuple):
    """What a member starts with."""

    applier: Applier
    persisted: Persisted
    """Of which entries that are committed are yet to be applied."""


class BootstrapError(Exception):
    """The member cannot become part of the cluster; the text is etcd's."""


class DamagedDataError(Exception):
    """The data directory does not fit together."""


Ask = Callable[[Sequence[str], int, bytes, float], Awaitable[bytes]]
"""`rusd.node.peers.ask`."""


async def identify(config: Config, ask: Ask) -> Identity:
    """Who a member without data is: one of a new cluster, or one that was added to a running one.

    Raises ConfigError and BootstrapError.
    """
    config.check_bootstrap()
    others = [each for each in config.initial_cluster if each.name != config.name]
    urls = [url.text for other in others for url in other.peer_urls]
    if config.initial_cluster_state == "existing":
        return _join(config, await _running_cluster(urls, ask, _PATIENCE_WHEN_JOINING))
    identity = founder(config)
    running = await _running_cluster(urls, ask, _PATIENCE_WHEN_NEW)
    if running is not None:
        local = identity.member
        _refuse_bootstrapped(next((m for m in running.members if m.ID == local.ID), local))
    return identity


def founder(config: Config) -> Identity:
    """One of a new cluster, which begins with the members that `config` names."""
    members = {
        member.name: Member(
            ID=member_id(_texts(member), config.initial_cluster_token),
            name=member.name,
            peerURLs=_texts(member),
        )
        for member in config.initial_cluster
    }
    ids = [member.ID for member in members.values()]
    local = members.pop(config.name)
    return Identity(cluster_id(ids), local, tuple(members.values()))


def founded_by(identity: Identity) -> Membership:
    """What a member knows of its cluster when it begins."""
    members = {member.ID: member for member in (identity.member, *identity.others)}
    membership = Membership(identity.cluster_id, identity.member.ID, members)
    if not identity.joins:
        membership.conf_state = ConfState(voters=tuple(sorted(members)))
    return membership


async def _running_cluster(
    urls: Sequence[str], ask: Ask, patience: float
) -> MemberListResponse | None:
    """What the first of the others that answers says of the cluster; None when none does."""
    if not urls:
        return None
    try:
        return MemberListResponse.FromString(await ask(urls, Method.MEMBERS, b"", patience))
    except (PeerCallError, PeerUnreachableError, TimeoutError):
        return None


def _join(config: Config, running: MemberListResponse | None) -> Identity:
    if running is None:
        raise BootstrapError(
            "cannot fetch cluster info from peer urls: "
            "could not retrieve cluster information from the given URLs"
        )
    found = running.header.cluster_id
    if len(running.members) != len(config.initial_cluster):
        raise BootstrapError(f"{_validating(running)}: member count is unequal")
    local: Member | None = None
    left = list(config.initial_cluster)
    for member in running.members:
        matched = next((each for each in left if same_urls(_texts(each), member.peerURLs)), None)
        if matched is None:
            raise BootstrapError(
                f"{_validating(running)}: PeerURLs: no match found for existing member "
                f"({member.ID:x}, [{' '.join(member.peerURLs)}]), last resolver error "
                f'(resolved urls: "{",".join(member.peerURLs)}" != "{",".join(_texts(left[-1]))}")'
            )
        left.remove(matched)
        if matched.name == config.name:
            local = member
    assert local is not None, "as many members as were matched, and the local one is among them"
    # etcd starts here, and dies of a heartbeat that speaks of entries which it does not have: that
    # member has voted for them, and with the same id it could vote against them.
    _refuse_bootstrapped(local)
    others = tuple(member for member in running.members if member.ID != local.ID)
    return Identity(found, local, others, joins=True)


def _refuse_bootstrapped(member: Member) -> None:
    if member.clientURLs:
        raise BootstrapError(f"member {member.ID:x} has already been bootstrapped")


def _texts(member: InitialMember) -> list[str]:
    return [url.text for url in member.peer_urls]


def _validating(running: MemberListResponse) -> str:
    members = " ".join(
        f"&{{ID:{member.ID:x} RaftAttributes:{{PeerURLs:[{' '.join(member.peerURLs)}] "
        f"IsLearner:{str(member.isLearner).lower()}}} Attributes:{{Name:{member.name} "
        f"ClientURLs:[{' '.join(member.clientURLs)}]}}}}"
        for member in running.members
    )
    return (
        f"error validating peerURLs {{ClusterID:{running.header.cluster_id:x} "
        f"Members:[{members}] RemovedMemberIDs:[]}}"
    )


def recover(
    engine: Engine,
    wal: Wal,
    lessor: Lessor,
    identity: Identity | None,
    log: Logger,
    *,
    force_new_cluster: bool = False,
) -> Recovered:
    """Reads a member's state from its tables and its log.

    A member that has none becomes what `identity` says; None where there must be one. Raises
    DamagedDataError, or BootstrapError when a member alone cannot be a new cluster.
    """
    if wal.torn is not None:
        log.warn(
            "dropped an unfinished last record of the log; it was never acknowledged",
            path=str(wal.torn.path),
            offset=wal.torn.offset,
            size=wal.torn.size,
        )
    state = engine.tables.state
    lessor.load(rows_under(state, ROW_PREFIX))
    keyspace = Keyspace(engine.tables, lessor)
    membership = Membership.load(state)
    if membership is None:
        membership = _found(engine, wal, keyspace, identity)
    wal.reconcile(keyspace.applied.position)
    _check(wal, keyspace.applied.position)
    applier = Applier(keyspace, lessor, membership, Alarms(state.get(Alarms.ROW)))
    if not Membership.has_conf_state(state):
        _upgrade(engine, wal, applier)
    if force_new_cluster:
        _stay_alone(wal, applier, log)
    persisted = _persisted(wal, applier)
    lessor.extend(0)
    _log_recovery(applier, persisted, log)
    return Recovered(applier, persisted)


def _found(engine: Engine, wal: Wal, keyspace: Keyspace, identity: Identity | None) -> Membership:
    """Makes the directory this member's own. What is done is on disk before the log begins, and
    done again when a crash comes before the log knows.
    """
    if identity is None:
        raise DamagedDataError("the data directory does not say whose it is")
    membership = founded_by(identity)
    if not identity.joins:
        keyspace.applied = Applied(FIRST.term, FIRST.index)
        wal.append((), HardState(term=FIRST.term, commit=FIRST.index))
        wal.note_snapshot(FIRST.index, FIRST.term)
    for name, row in membership.rows():
        keyspace.set_state(name, row)
    keyspace.write()
    engine.flush()
    return membership


def _check(wal: Wal, applied: int) -> None:
    if wal.last_index and wal.first_index > applied + 1:
        raise DamagedDataError(
            f"the keyspace has entries up to {applied}, the log begins at {wal.first_index}: "
            "entries between them are missing"
        )
    if applied > wal.last_index:
        raise DamagedDataError(
            f"the keyspace has entries up to {applied}, the log ends at {wal.last_index}: "
            "the end of the log is missing"
        )


def _upgrade(engine: Engine, wal: Wal, applier: Applier) -> None:
    """Takes over what was written when a cluster had one member and its log began at 1: everything
    in the log was committed, and is applied at once, so that whoever joins needs a snapshot.
    """
    keyspace = applier.keyspace
    for entry in wal.entries(keyspace.applied.position):
        applier.replay(entry.term, entry.index, entry.data)
    if not keyspace.applied.position:
        keyspace.applied = Applied(FIRST.term, FIRST.index)
        wal.append((), HardState(term=FIRST.term, commit=FIRST.index))
        wal.note_snapshot(FIRST.index, FIRST.term)
    keyspace.set_state(*applier.membership.conf_state_row())
    keyspace.write()
    engine.flush()
    wal.reconcile(keyspace.applied.position)


def _persisted(wal: Wal, applier: Applier) -> Persisted:
    position, term, requests = _applied(wal, applier.keyspace.applied)
    state = wal.hard_state
    # What is applied was committed, also of an entry whose requests are applied in part. And the
    # log may have lost what it did not need once a snapshot was on its way.
    commit = max(min(state.commit, wal.last_index), position + (1 if requests else 0))
    return Persisted(
        Snapshot(position, term, applier.membership.conf_state),
        HardState(state.term, state.vote, commit),
        tuple(_entries(wal, position, applier.membership.is_alone)),
    )


def _entries(wal: Wal, applied: int, alone: bool) -> Iterable[Entry]:
    """What follows what is applied; and before it, where there are others, what those may lack."""
    entries: deque[Entry] = deque()
    earlier_bytes = 0
    for entry in wal.entries(applied if alone else wal.first_index - 1):
        entries.append(Entry(entry.term, entry.index, entry.data, entry.kind))
        if entry.index <= applied:
            earlier_bytes += len(entry.data)
            while earlier_bytes > KEPT_BYTES:
                earlier_bytes -= len(entries.popleft().data)
    return entries


def _applied(wal: Wal, applied: Applied) -> tuple[int, int, int]:
    """Index and term of the last entry that is applied whole, and how much of the next one is."""
    if applied.requests:
        # Directories exist that have the term of the next entry here.
        entry = next(wal.entries(applied.position - 1), None)
        if entry is not None and entry.index == applied.position:
            return applied.position, entry.term, applied.requests
    return applied.position, applied.term, applied.requests


def _stay_alone(wal: Wal, applier: Applier, log: Logger) -> None:
    """--force-new-cluster: appends, as committed, what makes this member the only one.

    All of this member's log counts as committed: the last of it may have been acknowledged before
    the log was told so.
    """
    membership = applier.membership
    local = membership.local_id
    then = Membership(
        membership.cluster_id,
        local,
        dict(membership.members),
        set(membership.removed),
        membership.conf_state,
    )
    applied = applier.keyspace.applied.position
    for entry in wal.entries(applied):
        if entry.kind == EntryKind.CONF_CHANGE:
            _follow(then, ConfChange.decode(entry.data))
    if local not in then.members:
        raise BootstrapError("the member has been permanently removed from the cluster")
    changes = [LEAVE_JOINT] if is_joint(then.conf_state) else []
    if then.members[local].isLearner:
        changes.append(_alone(Action.PROMOTE, local))
    changes += [_alone(Action.REMOVE, other) for other in sorted(then.members) if other != local]
    term, index = max(wal.hard_state.term, FIRST.term), wal.last_index
    entries = [
        Entry(term, index + number, change.encode(), EntryKind.CONF_CHANGE)
        for number, change in enumerate(changes, 1)
    ]
    wal.append(entries, HardState(term, wal.hard_state.vote, index + len(entries)))
    log.warn(
        "forced a new cluster of this member alone",
        **{"removed-members": [f"{id_:x}" for id_ in sorted(then.members) if id_ != local]},
    )


def _follow(membership: Membership, change: ConfChange) -> None:
    """What an entry will make of the membership, without storing anything."""
    of_members = MemberChange.of(change)
    if of_members is not None:
        try:
            membership.apply(of_members[2])
        except MembershipError:
            return
    membership.conf_state = changed(membership.conf_state, change)


def _alone(action: Action, member: int) -> ConfChange:
    return MemberChange(action, Member(ID=member)).conf_change(0, 0)


def _log_recovery(applier: Applier, persisted: Persisted, log: Logger) -> None:
    keyspace, membership = applier.keyspace, applier.membership
    log.info(
        "recovered the keyspace",
        **{
            "cluster-id": f"{membership.cluster_id:x}",
            "local-member-id": f"{membership.local_id:x}",
            "members": len(membership.members),
            "current-revision": keyspace.revision,
            "compact-revision": keyspace.compacted,
            "keys": len(keyspace),
            "leases": len(applier.lessor),
            "applied-index": persisted.snapshot.index,
            "committed-index": persisted.hard_state.commit,
            "entries-in-log": len(persisted.entries),
        },
    )


def wal_directory(data: Path, wal: str) -> Path:
    """Where the log is: --wal-dir, or in the data directory."""
    return Path(wal) if wal else data / "member" / "wal"
