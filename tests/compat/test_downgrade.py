"""Maintenance.Downgrade: as real etcd answers it, and what it leaves in a cluster of rusd."""

import json
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

import rusd
from rusd.cli.ctl import ctl
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client
from tests.compat.gateway import post
from tests.compat.scrape import of
from tests.conftest import StartMember
from tests.members import Member, running_cluster, rusd_command, wait_for

SECONDS = 30.0
PATH = "/v3/maintenance/downgrade"
TARGETS = (
    *("{0}", "{0}.0", "{0}.5", "{0}.0-rc.1", "{0}.0-", "{0}.00", "0{0}", "{0}.1-a+b", "{0}.0+b"),
    *("v{0}", "+{0}", " {0}", "{0}.0 ", "{0}.", "{0}.x", "{0}-rc.1", "{0}+b", "{0}.0.0", "{0}.0-é"),
    *("x", "", "3", "3.-4", "3.99999999999999999999", "0.0", "4.4", "3.99", "3.0", "{1}"),
)
"""Versions to go to, of that before the cluster's and its own."""


def versions(member: Member) -> dict[str, str]:
    """What /version says."""
    with urllib.request.urlopen(f"{member.client_url}/version", timeout=SECONDS) as answer:
        found: dict[str, str] = json.load(answer)
    return found


def decided(member: Member) -> bool:
    """Whether the cluster has a version; etcd's has none at first."""
    return "not_decided" not in versions(member).values()


def minor(version: str) -> str:
    """Without the patch."""
    return version.rpartition(".")[0]


def lower(version: str) -> str:
    """The minor version before."""
    major, minor, _ = version.split(".")
    return f"{major}.{int(minor) - 1}"


def answers(member: Member, action: str, own: str) -> list[object]:
    """Status and body for each target; of a version in it, whether it is the cluster's."""
    before = lower(own)
    found: list[object] = []
    for target in TARGETS:
        text = target.format(before, minor(own))
        answer = post(member, PATH, json.dumps({"action": action, "version": text}))
        assert isinstance(answer.body, dict)
        body = {name: value for name, value in answer.body.items() if name != "header"}
        if "version" in body:
            # etcd 3.5 says 3.5.0, etcd 3.6 and rusd say 3.6.
            body["version"] = str(body["version"]) in (own, minor(own))
        found.append((target, answer.status, body))
    return found


def downgrade(member: Member, action: str, version: str = "", seconds: float = SECONDS) -> str:
    """The version that a request is answered with, or code and text of its error."""
    with member.channel() as channel:
        call = channel.unary_unary(
            "/etcdserverpb.Maintenance/Downgrade",
            request_serializer=rpc.DowngradeRequest.SerializeToString,
            response_deserializer=rpc.DowngradeResponse.FromString,
        )
        request = rpc.DowngradeRequest(action=action, version=version)
        try:
            answer: rpc.DowngradeResponse = call(request, timeout=seconds)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    assert answer.header.member_id
    return answer.version


def test_every_step_is_judged_as_by_etcd(
    start_member: StartMember, etcd_command: Sequence[str]
) -> None:
    seen = []
    for command in (etcd_command, rusd_command()):
        member = start_member(command)
        wait_for(partial(decided, member), SECONDS, "a version")
        own = versions(member)["etcdcluster"]
        target = lower(own)
        of_this: list[object] = [answers(member, "VALIDATE", own)]
        of_this.append(downgrade(member, "CANCEL"))
        # etcd 3.5 does these, and does not answer: it forgets who waits.
        forgets = command is etcd_command
        enabled = downgrade(member, "ENABLE", target, 1.0 if forgets else SECONDS)
        assert forgets or enabled == minor(own)
        # etcd 3.5 does not lower the version of the cluster yet: that before the target is invalid
        # there, and "in progress" in etcd 3.6 and in rusd. It is not asked for.
        of_this.append(answers(member, "ENABLE", own))
        cancelled = downgrade(member, "CANCEL", "any", 1.0 if forgets else SECONDS)
        assert forgets or cancelled == target
        of_this.append(downgrade(member, "CANCEL"))
        of_this.append(downgrade(member, "VALIDATE", target) in (own, minor(own)))
        seen.append(of_this)
    assert seen[0] == seen[1]


def status(member: Member) -> rpc.StatusResponse:
    """What a member says of itself."""
    with member.channel() as channel:
        call = channel.unary_unary(
            "/etcdserverpb.Maintenance/Status",
            request_serializer=rpc.StatusRequest.SerializeToString,
            response_deserializer=rpc.StatusResponse.FromString,
        )
        answer: rpc.StatusResponse = call(rpc.StatusRequest(), timeout=SECONDS)
    return answer


def shown(member: Member) -> tuple[object, ...]:
    """All that a member shows of the cluster's version."""
    answer = status(member)
    (labels,) = (labels for labels, _ in of(member).samples["etcd_cluster_version"])
    return (
        versions(member),
        labels["cluster_version"],
        answer.storageVersion,
        answer.downgradeInfo.enabled,
        answer.downgradeInfo.targetVersion,
    )


def of_cluster(version: str) -> dict[str, str]:
    """What /version says in a cluster of that version."""
    return {"etcdserver": rusd.ETCD_VERSION, "etcdcluster": version, "storage": version}


USUAL = (of_cluster("3.7.0"), "3.7", "3.7.0", False, "")
LOWERED = (of_cluster("3.6.0"), "3.6", "3.6.0", True, "3.6.0")


def shows(member: Member, expected: tuple[object, ...]) -> bool:
    """Whether that is what it shows."""
    return shown(member) == expected


def all_show(members: Sequence[Member], expected: tuple[object, ...]) -> None:
    """Wait until every member has applied it."""
    for member in members:
        wait_for(partial(shows, member, expected), SECONDS, f"{member.name}: {expected}")


def test_a_cluster_keeps_its_downgrade_over_leaders_and_restarts(tmp_path: Path) -> None:
    with running_cluster(rusd_command(), tmp_path) as cluster:
        leader = cluster.leader()
        follower = next(member for member in cluster.members if member is not leader)
        all_show(cluster.members, USUAL)
        assert downgrade(follower, "VALIDATE", "3.6.4") == "3.7"
        assert downgrade(follower, "ENABLE", "3.6") == "3.7"
        assert shown(follower) == LOWERED
        all_show(cluster.members, LOWERED)
        for target in ("3.6", "3.5"):
            assert downgrade(leader, "VALIDATE", target) == (
                "FAILED_PRECONDITION etcdserver: cluster has a downgrade job in progress"
            )
        assert downgrade(leader, "VALIDATE", "3.7") == (
            "INVALID_ARGUMENT etcdserver: invalid downgrade target version"
        )
        for member in cluster.members:
            member.kill()
        for member in cluster.members:
            member.launch()
        for member in cluster.members:
            member.wait_ready()
        all_show(cluster.members, LOWERED)
        with leader.channel() as channel:
            assert Client(channel).call("Put", rpc.PutRequest(key=b"k")).code == "OK"
        assert downgrade(leader, "CANCEL") == "3.6"
        all_show(cluster.members, USUAL)


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        ("validate 3.6", 0, "Downgrade validate success, cluster version 3.7\n"),
        ("validate", 128, "Error: TARGET_VERSION not provided\n"),
        ("enable 3.6 3.5", 128, "Error: too many arguments\n"),
        ("validate 3.5", 1, "Error: etcdserver: invalid downgrade target version\n"),
        ("cancel", 1, "Error: etcdserver: no inflight downgrade job\n"),
        ("enable 3.6", 0, "Downgrade enable success, cluster version 3.7\n"),
        ("cancel", 0, "Downgrade cancel success, cluster version 3.6\n"),
    ],
)
def test_ctl_speaks_as_etcdctl_of_etcd_3_7(
    words: str, code: int, printed: str, subject: Member
) -> None:
    """In this order; etcdctl 3.5 has no such command."""
    ended = CliRunner().invoke(ctl, ["--endpoints", subject.target, "downgrade", *words.split()])
    assert (ended.exit_code, ended.output) == (code, printed)
