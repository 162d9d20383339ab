"""Health checks answer as real etcd's: the same status and body to each request."""

import http.client
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.certificates import Certificates
from tests.compat.client import Client
from tests.members import Cluster, Member, free_ports, running, wait_for

SECONDS = 30.0

PATHS = (
    "/health",
    "/health?serializable=true",
    "/health?serializable=x",
    "/health?exclude=NOSPACE",
    "/health?exclude=CORRUPT",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=NOSPACE,CORRUPT",
    "/health?exclude=nospace",
    "/health?exclude=FOO&serializable=true",
    "/health/",
    "/livez",
    "/livez/",
    "/livez?verbose",
    "/livez?verbose=false",
    "/livez?exclude=serializable_read&verbose",
    "/livez?exclude=nothing",
    "/livez/serializable_read",
    "/livez/serializable_read?verbose",
    "/livez/data_corruption",
    "/livez/linearizable_read",
    "/livez/nothing",
    "/readyz",
    "/readyz/",
    "/readyz?verbose",
    "/readyz?exclude=linearizable_read&verbose",
    "/readyz?exclude=linearizable_read&exclude=data_corruption&verbose",
    "/readyz?exclude=linearizable_read,data_corruption&verbose",
    "/readyz?exclude=&verbose",
    "/readyz?allowlist=data_corruption&verbose",
    "/readyz/serializable_read?verbose",
    "/readyz/linearizable_read?verbose",
    "/readyz/data_corruption",
    "/readyz/data_corruption?exclude=data_corruption&verbose",
    "/readyz/non_learner?verbose",
    "/readyz/nothing",
)
LEADERLESS = (
    "/health",
    "/health?serializable=true",
    "/livez",
    "/readyz/linearizable_read",
    "/readyz?verbose",
    "/readyz?verbose&exclude=linearizable_read",
)
HASTY = (
    "--strict-reconfig-check=false",
    *("--heartbeat-interval", "50", "--election-timeout", "250"),
)
METHODS = ("GET", "POST", "HEAD", "PUT")


class Answer(NamedTuple):
    """What is compared: etcd runs the checks of a path in any order."""

    status: int
    kind: str | None
    allow: str | None
    body: Sequence[str]


def ask(port: int, path: str, method: str = "GET", context: ssl.SSLContext | None = None) -> Answer:
    """One request."""
    host = "127.0.0.1"
    connection = (
        http.client.HTTPConnection(host, port, timeout=SECONDS)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    )
    try:
        connection.request(method, path)
        response = connection.getresponse()
        lines = sorted(response.read().decode().split("\n"))
        kind, allow = response.headers["Content-Type"], response.headers["Allow"]
        return Answer(response.status, kind, allow, lines)
    finally:
        connection.close()


def alarm(member: Member, kind: rpc.AlarmType, *, on: bool) -> None:
    """Raises, or clears, an alarm in the name of no member."""
    action = rpc.AlarmRequest.ACTIVATE if on else rpc.AlarmRequest.DEACTIVATE
    request = rpc.AlarmRequest(action=action, memberID=1, alarm=kind)
    with closing(Client(member.channel())) as client:
        assert client.call("Alarm", request).code == "OK"


def add_learner(member: Member, peer_url: str) -> None:
    """Tells the cluster of one."""
    request = rpc.MemberAddRequest(peerURLs=[peer_url], isLearner=True)
    with closing(Client(member.channel())) as client:
        assert client.call("MemberAdd", request).code == "OK"


def has_no_leader(member: Member) -> bool:
    """Whether the member knows it; unlike /health, `Status` never waits for a leader."""
    with closing(Client(member.channel())) as client:
        status = client.call("Status", rpc.StatusRequest()).response
    return isinstance(status, rpc.StatusResponse) and status.leader == 0


@pytest.fixture(scope="module")
def pair(
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[tuple[Member, int]]]:
    """Real etcd and the subject, each with its port for metrics; tests leave them well."""
    with ExitStack() as stack:
        started = []
        for command, port in zip((etcd_command, subject_command), free_ports(2), strict=True):
            flags = ("--listen-metrics-urls", f"http://127.0.0.1:{port}")
            member = running(command, tmp_path_factory.mktemp("member"), flags)
            started.append((stack.enter_context(member), port))
        yield started


def compare(pair: list[tuple[Member, int]], paths: Sequence[str] = PATHS) -> None:
    """Both answer the same on both of their ports."""
    for path in paths:
        (expected, reference), (asked, subject) = pair
        wanted = ask(expected.client_port, path)
        assert ask(asked.client_port, path) == wanted, path
        assert ask(subject, path) == ask(reference, path) == wanted, path


def test_a_member_that_is_well_says_so_in_etcds_words(pair: list[tuple[Member, int]]) -> None:
    compare(pair)
    for path in ("/health", "/livez", "/readyz", "/readyz/linearizable_read", "/livez/nothing"):
        for method in METHODS:
            wanted = ask(pair[0][0].client_port, path, method)
            assert ask(pair[1][0].client_port, path, method) == wanted, (method, path)
    # What is not for monitoring is not on its port.
    compare(pair, ["/", "/nothing"])
    for path in ("/version", "/v3/kv/range"):
        assert ask(pair[1][1], path) == ask(pair[0][1], path)
        assert ask(pair[1][1], path).status == 404


@pytest.mark.parametrize("kinds", [(rpc.NOSPACE,), (rpc.CORRUPT,), (rpc.NOSPACE, rpc.CORRUPT)])
def test_alarms_are_told_unless_they_are_excluded(
    pair: list[tuple[Member, int]], kinds: Sequence[rpc.AlarmType]
) -> None:
    for member, _ in pair:
        for kind in kinds:
            alarm(member, kind, on=True)
    # etcd tells any one of two alarms.
    both = len(kinds) == 2
    compare(pair, [path for path in PATHS if not both or "exclude=NOSPACE&exclude" in path])
    if both:
        assert ask(pair[1][1], "/health").status == ask(pair[0][1], "/health").status == 503
    for member, _ in pair:
        for kind in kinds:
            alarm(member, kind, on=False)
    compare(pair, ["/health", "/readyz?verbose"])


def test_auth_hides_health_from_nobody(pair: list[tuple[Member, int]]) -> None:
    for member, _ in pair:
        with closing(Client(member.channel())) as client:
            client.add_user("root")
            assert client.call("AuthEnable", rpc.AuthEnableRequest()).code == "OK"
    compare(pair)
    for member, _ in pair:
        with closing(Client(member.channel())) as client:
            token = (("token", client.login("root", "root")[1]),)
            assert client.call("AuthDisable", rpc.AuthDisableRequest(), token).code == "OK"


def test_a_metrics_url_may_be_plain_where_clients_need_certificates(
    etcd_command: Sequence[str], subject_command: Sequence[str], tmp_path: Path
) -> None:
    certificates = Certificates.made(tmp_path / "certificates")
    context, stranger = (
        certificates.context(),
        ssl.create_default_context(cafile=certificates["ca.crt"]),
    )
    answers = []
    for name, command in (("etcd", etcd_command), ("subject", subject_command)):
        plain, secure = free_ports(2)
        urls = f"http://127.0.0.1:{plain},https://127.0.0.1:{secure}"
        flags = ("--listen-metrics-urls", urls)
        with closing(Member(command, tmp_path / name, flags, certificates=certificates)) as member:
            member.start()
            ports = ((plain, None), (secure, context), (member.client_port, context))
            answers.append(
                [
                    ask(port, path, context=encrypted)
                    for path in ("/health", "/readyz?verbose", "/livez", "/readyz/nothing")
                    for port, encrypted in ports
                ]
            )
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                ask(secure, "/health", context=stranger)
    assert answers[0] == answers[1]
    assert [answer.status for answer in answers[0][:3]] == [200, 200, 200]


def test_a_learner_and_a_member_without_a_leader_are_told_apart(
    etcd_command: Sequence[str], subject_command: Sequence[str], tmp_path: Path
) -> None:
    """The member that is left answers what it still can, and says why it cannot do the rest."""
    both = []
    with ExitStack() as stack:
        for name, command in (("etcd", etcd_command), ("subject", subject_command)):
            cluster = stack.enter_context(closing(Cluster(command, tmp_path / name, 3, HASTY)))
            first, second, learner = cluster.members
            everyone = learner.initial_cluster
            for member in (first, second):
                member.initial_cluster = everyone.rpartition(",")[0]
                member.launch()
            for member in (first, second):
                member.wait_ready()
            add_learner(first, learner.peer_url)
            learner.initial_cluster_state = "existing"
            learner.start()
            both.append(cluster)
        paths = ("/health", "/readyz", "/readyz/non_learner", "/readyz?exclude=non_learner")
        ports = [cluster.members[2].client_port for cluster in both]
        for path in paths:
            wanted, found = (ask(port, path) for port in ports)
            assert found == wanted, path
        for cluster in both:
            for member in cluster.members[1:]:
                member.kill()
        ports = [cluster.members[0].client_port for cluster in both]
        for cluster in both:
            wait_for(partial(has_no_leader, cluster.members[0]), SECONDS, "no leader")
        requests = [(port, path) for port in ports for path in LEADERLESS]
        with ThreadPoolExecutor(len(requests)) as threads:
            # A read that asks for a leader waits for one as long as any request.
            answers = list(threads.map(lambda request: ask(*request), requests))
        assert answers[len(LEADERLESS) :] == answers[: len(LEADERLESS)]
        assert "NO LEADER" in str(answers[0])
