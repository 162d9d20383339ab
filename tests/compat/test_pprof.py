"""/debug/pprof/ answers where etcd's does, and only when it is asked for."""

import gzip
import http.client
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rusd.pb import profile_pb2 as pb
from rusd.pb import rpc_pb2 as rpc
from tests.compat import gateway
from tests.compat.client import Client
from tests.conftest import StartMember
from tests.members import Member

SECONDS = 30.0
ROOT = "/debug/pprof"
Answer = tuple[int, str | None, bytes]


def ask(member: Member, path: str) -> Answer:
    """Status, content type and body."""
    status, _, headers, body = gateway.ask(member, "GET", path)
    return status, headers.get("content-type"), body


def test_the_paths_are_etcds(
    start_member: StartMember, etcd_command: Sequence[str], subject_command: Sequence[str]
) -> None:
    """With auth on too: no user is asked for. The contents differ with the language."""
    commands = (etcd_command, subject_command)
    members = [start_member(command, "--enable-pprof") for command in commands]
    for member in members:
        client = Client(member.channel())
        client.add_user("root")
        assert client.call("AuthEnable", rpc.AuthEnableRequest()).code == "OK"
        client.close()
    for path in (
        "",
        "/",
        "/profile?seconds=1",
        "/goroutine?debug=1",
        "/goroutine?debug=2",
        "/heap?debug=1",
        "/cmdline",
    ):
        theirs, ours = (ask(member, ROOT + path) for member in members)
        assert ours[:2] == theirs[:2], path
        if not path:
            assert ours == theirs
    theirs, ours = (ask(member, f"{ROOT}/nonesuch") for member in members)
    assert ours[0] == theirs[0] == 404
    with ThreadPoolExecutor(2 * len(members)) as threads:
        # Two at once of each member: one is refused.
        asked = [
            [threads.submit(ask, member, f"{ROOT}/profile?seconds=2") for _ in range(2)]
            for member in members
        ]
    for answers in asked:
        refused, profile = sorted(
            (each.result() for each in answers), key=lambda answer: answer[0], reverse=True
        )
        assert refused[0] == 500
        assert refused[2] == b"Could not enable CPU profiling: cpu profiling already in use\n"
        assert profile[0] == 200
        assert pb.Profile.FromString(gzip.decompress(profile[2])).sample_type


def test_a_profile_of_a_busy_member_shows_its_work(
    start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """Whose requests go on meanwhile."""
    member = start_member(subject_command, "--enable-pprof")
    answers: list[Answer] = []
    path = f"{ROOT}/profile?seconds=2&debug=1"
    thread = threading.Thread(target=lambda: answers.append(ask(member, path)))
    thread.start()
    client = Client(member.channel())
    while thread.is_alive():
        answers_to_puts = [
            client.begin("Put", rpc.PutRequest(key=b"%d" % number)) for number in range(50)
        ]
        assert all(answer().code == "OK" for answer in answers_to_puts)
    client.close()
    (answer,) = answers
    assert answer[0] == 200
    stacks = [line.rpartition(b" ")[0] for line in answer[2].splitlines()]
    assert any(stack.startswith(b"MainThread;") and b"Pipeline." in stack for stack in stacks)
    assert b"in _stacks\n" in ask(member, f"{ROOT}/goroutine")[2]


@pytest.mark.parametrize("path", ["", "/", "/profile?seconds=1", "/goroutine", "/heap", "/cmdline"])
def test_without_the_flag_there_is_nothing(subject: Member, reference: Member, path: str) -> None:
    """404, as from etcd."""
    assert ask(subject, ROOT + path) == ask(reference, ROOT + path)
    assert ask(subject, ROOT + path)[0] == 404


def test_a_profile_holds_up_nobody_who_stops_the_member(
    start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """What was seen until then is answered."""
    member = start_member(subject_command, "--enable-pprof")
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(ask(member, f"{ROOT}/profile?seconds=600"))
    )
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=SECONDS)
    while True:  # until it is being taken
        connection.request("GET", f"{ROOT}/goroutine")
        if b'"profiler"' in connection.getresponse().read():
            break
    connection.close()
    member.stop()
    thread.join(SECONDS)
    assert answers[0][0] == 200
