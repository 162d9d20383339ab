"""A member whose data on disk have changed under it: found by the others, or kept from serving."""

from pathlib import Path

import pytest

from rusd.mvcc.tables import rows
from rusd.pb import rpc_pb2 as rpc
from rusd.storage.engine import Engine
from tests.cluster.calls import ask, ask_until
from tests.members import Cluster, Member, running_cluster, rusd_command, wait_for

pytestmark = pytest.mark.timeout(120)


def _with_one_that_differs(cluster: Cluster) -> tuple[Member, int]:
    """The last member stopped, its id, and one bit of a value on its disk changed."""
    for number in range(20):
        request = rpc.PutRequest(key=b"key%d" % number, value=b"value")
        ask(cluster.members[0], request, rpc.PutResponse)
    member = cluster.members[-1]
    member_id = ask(member, rpc.StatusRequest(), rpc.StatusResponse).header.member_id
    wait_for(
        lambda: ask(member, rpc.StatusRequest(), rpc.StatusResponse).header.revision == 21,
        30,
        "the puts on the last member",
    )
    member.stop()
    engine = Engine(member.data_dir / "member")
    row, value = next(iter(rows(engine.tables.events, b"", b"\xff" * 20)))
    engine.tables.events[row] = value[:-1] + bytes([value[-1] ^ 1])
    engine.flush()
    engine.close()
    return member, member_id


def test_the_leader_finds_who_differs_and_all_changes_end(
    tmp_path: Path,
) -> None:
    flags = ("--corrupt-check-time", "300ms")
    with running_cluster(rusd_command(), tmp_path, flags=flags) as cluster:
        member, member_id = _with_one_that_differs(cluster)
        member.launch()
        member.wait_ready(healthy=False)  # the alarm may be there before it is asked
        listing = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)

        def raised() -> list[rpc.AlarmMember]:
            return list(ask_until(cluster, listing, rpc.AlarmResponse, 10).alarms)

        wait_for(lambda: bool(raised()), 60, "the alarm")
        assert raised() == [rpc.AlarmMember(memberID=member_id, alarm=rpc.CORRUPT)]


def test_a_member_that_differs_does_not_begin_to_serve(
    tmp_path: Path,
) -> None:
    flags = ("--feature-gates", "InitialCorruptCheck=true")
    with running_cluster(rusd_command(), tmp_path, flags=flags) as cluster:
        member, _ = _with_one_that_differs(cluster)
        member.launch()
        assert member.wait_exit(60) == 1
        assert "the data of this member are not those of the others" in member.log
        assert "ready to serve" not in member.log.rpartition("starting rusd")[2]
