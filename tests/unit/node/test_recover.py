"""rusd/node/bootstrap.py: what a member has when it starts, after a crash at any moment before."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusd.lease.lessor import Lessor
from rusd.log import SILENT
from rusd.mvcc.keyspace import Applied, Keyspace
from rusd.node import bootstrap
from rusd.node.alarms import Alarms
from rusd.node.apply import Applier
from rusd.node.bootstrap import BootstrapError, DamagedDataError, Identity, Recovered, recover
from rusd.node.entry import Kind, encode
from rusd.node.membership import Action, MemberChange, Membership
from rusd.pb.rpc_pb2 import Member, PutRequest
from rusd.raft.confchange import ConfChange
from rusd.raft.message import (
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Persisted,
    Snapshot,
)
from rusd.raft.raw_node import RawNode
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal


def member(id_: int, *, learner: bool = False) -> Member:
    return Member(ID=id_, peerURLs=[f"http://m{id_}:2380"], isLearner=learner)


FOUNDER = Identity(77, member(2), (member(1), member(3)))
JOINER = Identity(77, member(4, learner=True), (member(1), member(2), member(3)), joins=True)


class Directory:
    """A member's directory, opened for a moment at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Engine, Wal]]:
        engine, wal = Engine(self.path), Wal(self.path / "wal")
        try:
            yield engine, wal
        finally:
            wal.close()
            engine.close()
            vars(engine).clear()

    @contextlib.contextmanager
    def recovered(
        self, identity: Identity | None = None, *, force_new_cluster: bool = False
    ) -> Iterator[Recovered]:
        with self.opened() as (engine, wal):
            recovered = recover(
                engine,
                wal,
                Lessor(lambda: 0.0),
                identity,
                SILENT,
                force_new_cluster=force_new_cluster,
            )
            try:
                yield recovered
            finally:
                vars(recovered.applier.keyspace).clear()

    def append(self, entries: list[Entry], hard_state: HardState | None = None) -> None:
        wal = Wal(self.path / "wal")
        wal.append(entries, hard_state)
        wal.close()


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "member")


def put(index: int, term: int = 2) -> Entry:
    request = PutRequest(key=b"%d" % index, value=b"v")
    return Entry(term, index, encode([(Kind.PUT, request.SerializeToString())], 2, index))


def change(index: int, action: Action, changed: Member, term: int = 2) -> Entry:
    data = MemberChange(action, changed).conf_change(1, index).encode()
    return Entry(term, index, data, EntryKind.CONF_CHANGE)


def apply(applier: Applier, entries: tuple[Entry, ...]) -> None:
    """As the pipeline does, with a core that does what the configuration's changes say."""
    membership = applier.membership
    for entry in entries:
        if entry.kind != EntryKind.CONF_CHANGE:
            applier.replay(entry.term, entry.index, entry.data)
            continue
        of_members = MemberChange.of(ConfChange.decode(entry.data))
        assert of_members is not None
        assert applier.change_members(of_members[2]) is None
        applier.set_conf_state(
            ConfState(
                tuple(sorted(each.ID for each in membership.voters)),
                tuple(sorted(each.ID for each in membership.learners)),
            )
        )
        applier.finish(entry.term, entry.index)


def unapplied(persisted: Persisted) -> tuple[Entry, ...]:
    return tuple(entry for entry in persisted.entries if entry.index > persisted.snapshot.index)


FIRST_STATE = HardState(1, 0, 1)
FIRST_SNAPSHOT = Snapshot(1, 1, ConfState(voters=(1, 2, 3)))


def test_a_founder_begins_as_if_a_snapshot_had_been_installed(directory: Directory) -> None:
    """Also when it starts again, and then whatever it is told to be."""
    for identity in (FOUNDER, JOINER, None):
        with directory.recovered(identity) as (applier, persisted):
            assert persisted.snapshot == FIRST_SNAPSHOT
            assert persisted.hard_state == FIRST_STATE
            assert persisted.entries == ()
            membership = applier.membership
            assert (membership.cluster_id, membership.local_id) == (77, 2)
            assert membership.members == {id_: member(id_) for id_ in (1, 2, 3)}
    directory.append([put(2)], HardState(2, 3, 2))
    with directory.recovered() as (applier, persisted):
        assert persisted.snapshot == FIRST_SNAPSHOT
        assert persisted.hard_state == HardState(2, 3, 2)
        assert persisted.entries == (put(2),)
        assert len(applier.keyspace) == 0


def test_a_joiner_has_nothing_until_it_gets_a_snapshot(directory: Directory) -> None:
    for identity in (JOINER, None):
        with directory.recovered(identity) as (applier, persisted):
            assert persisted.snapshot == Snapshot()
            assert persisted.hard_state == HardState()
            assert persisted.entries == ()
            assert applier.membership.local_id == 4
            assert applier.membership.members[4].isLearner
            assert set(applier.membership.members) == {1, 2, 3, 4}


@pytest.mark.parametrize("crash_at", ["append", "note_snapshot", "flush", "reset"])
def test_a_crash_while_founding_leaves_a_founder(
    directory: Directory, crash_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Engine if crash_at == "flush" else Wal, crash_at, crash)
        with pytest.raises(CrashError), directory.recovered(FOUNDER):
            pass
    with directory.recovered(FOUNDER) as (applier, persisted):
        assert persisted.snapshot == FIRST_SNAPSHOT
        assert persisted.hard_state == FIRST_STATE
        assert applier.membership.conf_state == ConfState(voters=(1, 2, 3))
    directory.append([put(2)], HardState(2, 0, 2))
    with directory.recovered() as (_, persisted):
        assert persisted.entries == (put(2),)


def test_what_is_applied_is_committed_and_never_handed_out_again(directory: Directory) -> None:
    with directory.recovered(FOUNDER):
        pass
    directory.append([put(2), put(3), put(4)], HardState(2, 0, 2))
    with directory.opened() as (engine, wal):
        applier, persisted = recover(engine, wal, Lessor(lambda: 0.0), None, SILENT)
        apply(applier, persisted.entries[:2])
        engine.flush()
        vars(applier.keyspace).clear()
    with directory.recovered() as (_, persisted):
        assert persisted.snapshot == Snapshot(3, 2, ConfState(voters=(1, 2, 3)))
        assert unapplied(persisted) == (put(4),)
        assert persisted.hard_state.commit == 3


@pytest.mark.parametrize("stored_term", [2, 5])
def test_an_entry_that_is_applied_in_part_is_committed(
    directory: Directory, stored_term: int
) -> None:
    """Also where the term of that entry was stored, as it once was, and not of the one before."""
    with directory.recovered(FOUNDER):
        pass
    directory.append([put(2, term=2), put(3, term=5)], HardState(5, 0, 1))
    with directory.opened() as (engine, wal):
        applier, persisted = recover(engine, wal, Lessor(lambda: 0.0), None, SILENT)
        apply(applier, persisted.entries[:1])
        applier.at(3, 1)
        assert applier.keyspace.applied == Applied(2, 2, 1)
        applier.keyspace.applied = Applied(stored_term, 2, 1)
        applier.keyspace.write()
        engine.flush()
        vars(applier.keyspace).clear()
    with directory.recovered() as (_, persisted):
        assert (persisted.snapshot.index, persisted.snapshot.term) == (2, 2)
        assert persisted.hard_state.commit == 3
        assert unapplied(persisted) == (put(3, term=5),)


def test_a_commit_index_that_the_log_does_not_reach_is_of_a_snapshot_that_was_lost(
    directory: Directory,
) -> None:
    with directory.recovered(FOUNDER):
        pass
    directory.append([put(2)], HardState(3, 0, 900))
    with directory.recovered() as (_, persisted):
        assert persisted.hard_state == HardState(3, 0, 2)


def test_tables_without_a_log_are_damage(directory: Directory) -> None:
    with directory.recovered(FOUNDER):
        pass
    shutil.rmtree(directory.path / "wal")
    missing = pytest.raises(DamagedDataError, match="the end of the log is missing")
    with missing, directory.recovered():
        pass


def test_a_directory_of_nobody_is_refused(directory: Directory) -> None:
    with pytest.raises(DamagedDataError, match="whose it is"), directory.recovered():
        pass


def old_rows() -> Membership:
    return Membership(77, 2, {2: member(2)})


@pytest.mark.parametrize("flushed", [0, 1, 3])
@pytest.mark.parametrize("entries", [0, 3])
def test_a_directory_of_before_there_were_clusters_is_a_cluster_of_one(
    directory: Directory, flushed: int, entries: int
) -> None:
    """All that it had in its log is applied, so that whoever joins it needs a snapshot."""
    log = [put(index, term=4) for index in range(1, entries + 1)]
    with directory.opened() as (engine, wal):
        keyspace = Keyspace(engine.tables, Lessor(lambda: 0.0))
        for name, row in old_rows().rows():
            if name != old_rows().conf_state_row()[0]:
                keyspace.set_state(name, row)
        keyspace.write()
        engine.flush()
        if log:
            wal.append(log, HardState(4, 0, 1))
        vars(keyspace).clear()
    if flushed and entries:
        with directory.opened() as (engine, wal):
            keyspace = Keyspace(engine.tables, Lessor(lambda: 0.0))
            applier = Applier(keyspace, Lessor(lambda: 0.0), old_rows(), Alarms(None))
            apply(applier, tuple(log[:flushed]))
            engine.flush()
            vars(keyspace).clear()
    last = max(entries, 1)
    for _ in range(2):
        with directory.recovered() as (applier, persisted):
            term = 4 if entries else 1
            assert persisted.snapshot == Snapshot(last, term, ConfState(voters=(2,)))
            assert persisted.entries == ()
            assert persisted.hard_state.commit == last
            assert len(applier.keyspace) == entries
    directory.append([put(last + 1, term=5)], HardState(5, 2, last + 1))
    with directory.recovered() as (_, persisted):
        assert persisted.entries == (put(last + 1, term=5),)


def test_force_new_cluster_leaves_one_member_with_all_of_its_log(directory: Directory) -> None:
    """What the tail of the log changes counts, and the log says so at the next start."""
    with directory.recovered(FOUNDER):
        pass
    tail = [
        put(2),
        change(3, Action.REMOVE, Member(ID=3)),
        change(4, Action.ADD_LEARNER, member(5)),
        put(5),
    ]
    directory.append(tail, HardState(2, 1, 3))
    for force in (True, True, False):
        with directory.recovered(force_new_cluster=force) as (applier, persisted):
            assert list(persisted.entries[:4]) == tail
            assert [entry.index for entry in persisted.entries] == list(range(2, 8))
            assert [entry.term for entry in persisted.entries[4:]] == [2, 2]
            assert persisted.hard_state == HardState(2, 1, 7)
            assert persisted.snapshot.conf_state == ConfState(voters=(1, 2, 3))
            if force:
                continue
            apply(applier, persisted.entries)
            membership = applier.membership
            assert membership.members == {2: member(2)}
            assert membership.removed == {1, 3, 5}
            assert membership.conf_state == ConfState(voters=(2,))
            assert len(applier.keyspace) == 2


def test_a_forced_learner_becomes_a_voter(directory: Directory) -> None:
    with directory.opened() as (engine, wal):
        joined = Membership(
            77,
            4,
            {1: member(1), 4: member(4, learner=True)},
            conf_state=ConfState(voters=(1,), learners=(4,)),
        )
        keyspace = Keyspace(engine.tables, Lessor(lambda: 0.0))
        for name, row in joined.rows():
            keyspace.set_state(name, row)
        keyspace.applied = Applied(3, 20)
        keyspace.write()
        engine.flush()
        wal.append((), HardState(3, 0, 20))
        wal.reset(20, 3)
        vars(keyspace).clear()
    with directory.recovered(force_new_cluster=True) as (applier, persisted):
        apply(applier, persisted.entries)
        assert applier.membership.members == {4: member(4)}
        assert applier.membership.conf_state == ConfState(voters=(4,))
        assert persisted.hard_state == HardState(3, 0, 22)


def test_a_member_that_was_removed_cannot_be_forced(directory: Directory) -> None:
    with directory.recovered(FOUNDER):
        pass
    directory.append([change(2, Action.REMOVE, Member(ID=2))], HardState(2, 1, 2))
    removed = pytest.raises(BootstrapError, match="permanently removed")
    with removed, directory.recovered(force_new_cluster=True):
        pass


def test_followers_that_lag_find_what_they_lack_also_after_a_restart(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much of what is applied as a member that did not restart keeps."""
    entries = tuple(put(index) for index in range(2, 12))
    with directory.recovered(FOUNDER):
        pass
    directory.append(list(entries), HardState(2, 3, 11))
    with directory.opened() as (engine, wal):
        applier, persisted = recover(engine, wal, Lessor(lambda: 0.0), None, SILENT)
        apply(applier, persisted.entries[:6])
        engine.flush()
        vars(applier.keyspace).clear()
    with directory.recovered() as (_, persisted):
        assert persisted.snapshot.index == 7
        assert persisted.entries == entries
        raw = RawNode(Config(2), persisted)
        assert (raw.first_index, raw.applied, raw.last_index) == (3, 7, 11)
    monkeypatch.setattr(bootstrap, "KEPT_BYTES", 2 * len(entries[0].data))
    with directory.recovered() as (_, persisted):
        assert persisted.entries == entries[4:]
