"""The JSON gateway answers as real etcd's: the same bodies to each path, good and bad."""

import base64
import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.certificates import Certificates
from tests.compat.gateway import CURL, SECONDS, Answer, ask, comparable, lines, post
from tests.conftest import StartMember
from tests.members import Member, free_ports, wait_for


def b64(text: str) -> str:
    """As JSON has bytes."""
    return base64.b64encode(text.encode()).decode()


FOO, BAR = b64("foo"), b64("bar")
PUT = f'{{"key":"{FOO}","value":"{BAR}"}}'

# For each path: bodies in order, what some of them need having been done by earlier paths.
BODIES: dict[str, list[str]] = {
    "/v3/kv/put": [
        PUT,
        f'{{"key":"{FOO}","value":"{BAR}","prev_kv":true}}',
        f'{{"key":"{FOO}","value":"{BAR}","prevKv":true,"ignoreLease":false}}',
        f'{{"key":"{FOO}","ignore_value":true,"value":"{BAR}"}}',
        f'{{"key":"{FOO}","value":"{BAR}","lease":"7777"}}',
        '{"key":"_-8","value":"/+8="}',
    ],
    "/v3/kv/range": [
        f'{{"key":"{FOO}"}}',
        '{"key":"AA==","rangeEnd":"AA==","sortOrder":"DESCEND","sort_target":"MOD"}',
        '{"key":"AA==","range_end":"AA==","sort_order":2,"limit":"1"}',
        '{"key":"AA==","range_end":"AA==","count_only":true}',
        '{"key":"AA==","range_end":"AA==","keys_only":true,"limit":1.0}',
        f'{{"key":"{FOO}","limit":1e2}}',
        f'{{"key":"{FOO}","limit":1.5}}',
        f'{{"key":"{FOO}","limit":"x"}}',
        f'{{"key":"{FOO}","limit":9223372036854775808}}',
        f'{{"key":"{FOO}","limit":1e999999999}}',
        f'{{"key":"{FOO}","sort_order":"BAD"}}',
        f'{{"key":"{FOO}","sort_order":true}}',
        f'{{"key":"{FOO}","serializable":"true"}}',
        f'{{"key":"{FOO}","serializable":1}}',
        f'{{"key":"{FOO}","revision":"100000"}}',
        f'{{"key":"{FOO}"}} behind',
        f'{{"key":"{FOO}"}}{{"key":"AA=="}}',
        f'{{"key":"{FOO}","key":"AA=="}}',
        f'{{"key":"{FOO}","limit":1,"rangeEnd":"AA==","range_end":"AA=="}}',
        f'{{"key":"{FOO}",}}',
        f'{{"key" "{FOO}"}}',
        f'{{"key":"{FOO}" "limit":1}}',
        f'{{key:"{FOO}"}}',
        f'{{"key":"{FOO}","limit":NaN}}',
        f'{{"key":"{FOO}","limit":nul}}',
        f'\n {{\n  "key":\n "{FOO}", "limit":\n  {{}}}}',
        '{"key":"Zm9v!!"}',
        '{"key":"Zm9v\\n"}',
        '{"key":"Zm9v\n"}',
        '{"key":"Zm9v\\x"}',
        '{"key":[1,2]}',
        '{"key":{"a":[1,"]"],"b":"\\""}}',
        '{"key":"AA==',
        '"text"',
        "1",
        "true",
        "é",
    ],
    "/v3/kv/txn": [
        f'{{"compare":[{{"target":"VERSION","key":"{FOO}","version":"0","result":"GREATER"}}],'
        f'"success":[{{"request_put":{{"key":"{FOO}","value":"eA=="}}}},'
        f'{{"requestRange":{{"key":"{FOO}"}}}},{{"request_delete_range":{{"key":"eQ=="}}}}],'
        f'"failure":[{{"request_txn":{{}}}}]}}',
        f'{{"compare":[{{"target":"VERSION","key":"{FOO}","version":"0","mod_revision":"1"}}]}}',
        f'{{"success":[{{"request_put":{{"key":"{FOO}"}},"request_range":{{}}}}]}}',
        f'{{"success":{{"request_put":{{"key":"{FOO}"}}}}}}',
        '{"success":[1]}',
        '{"success":[null]}',
        '{"success":[{}]}',
        '{"success":[{"request_put":{"key":1}}]}',
    ],
    "/v3/kv/deleterange": [f'{{"key":"{FOO}","prev_kv":true}}', f'{{"key":"{FOO}"}}'],
    "/v3/kv/compaction": ['{"revision":"2"}', '{"revision":2}', '{"revision":"99999"}'],
    "/v3/lease/grant": ['{"ID":"77","TTL":"600"}', '{"ID":77,"TTL":1}', '{"TTL":"99999999999"}'],
    "/v3/lease/timetolive": ['{"ID":"77","keys":true}', '{"ID":"78"}'],
    "/v3/kv/lease/timetolive": ['{"ID":"77","keys":true}', '{"id":"77"}'],
    "/v3/lease/leases": [],
    "/v3/kv/lease/leases": [],
    "/v3/lease/keepalive": ['{"ID":77}', '{"ID":77}{"ID":78} {"ID":"79"}\n'],
    "/v3/lease/revoke": ['{"ID":"77"}', '{"ID":"77"}'],
    "/v3/kv/lease/revoke": ['{"ID":"77"}'],
    "/v3/watch": [],
    "/v3/cluster/member/list": ['{"linearizable":true}'],
    "/v3/cluster/member/add": ['{"peerURLs":["no URL"]}', '{"peerURLs":"http://a:1"}'],
    "/v3/cluster/member/remove": ['{"ID":"1"}'],
    "/v3/cluster/member/update": ['{"ID":"1","peerURLs":["http://127.0.0.1:1"]}'],
    "/v3/cluster/member/promote": ['{"ID":"1"}'],
    "/v3/maintenance/alarm": [
        '{"action":"ACTIVATE","memberID":"1","alarm":"NOSPACE"}',
        '{"action":"GET","alarm":"NOSPACE"}',
        '{"action":"DEACTIVATE","memberID":"1","alarm":1}',
    ],
    "/v3/maintenance/status": [],
    "/v3/maintenance/defragment": [],
    "/v3/maintenance/hash": [],
    "/v3/maintenance/hashkv": ['{"revision":"99999"}'],
    "/v3/maintenance/transfer-leadership": ['{"targetID":"1"}'],
    "/v3/maintenance/downgrade": [
        '{"action":"CANCEL","version":1}',
        '{"action":"CANCEL"}',
        '{"version":"3"}',
        '{"action":"ENABLE","version":"3.99"}',
        '{"action":3,"version":"3.99"}',
    ],
    "/v3/maintenance/snapshot": [],
    "/v3/auth/status": [],
    "/v3/auth/authenticate": ['{"name":"u","password":"p"}'],
    "/v3/auth/enable": [],
    "/v3/auth/disable": [],
    "/v3/auth/role/add": ['{"name":"r"}', '{"name":"r"}'],
    "/v3/auth/role/grant": [
        f'{{"name":"r","perm":{{"permType":"READWRITE","key":"{FOO}","range_end":"AA=="}}}}',
        f'{{"name":"none","perm":{{"permType":2,"key":"{FOO}"}}}}',
    ],
    "/v3/auth/role/get": ['{"role":"r"}', '{"role":"none"}', '{"role":"\\u00e9"}'],
    "/v3/auth/role/list": [],
    "/v3/auth/role/revoke": [f'{{"role":"r","key":"{FOO}","rangeEnd":"AA=="}}', '{"role":"r"}'],
    "/v3/auth/user/add": [
        '{"name":"u","password":"p","options":{"no_password":false}}',
        '{"name":"n","options":{"noPassword":true}}',
        '{"name":"u","password":"p"}',
    ],
    "/v3/auth/user/get": ['{"name":"u"}', '{"name":"none"}'],
    "/v3/auth/user/list": [],
    "/v3/auth/user/changepw": ['{"name":"u","password":"q"}', '{"name":"none","password":"q"}'],
    "/v3/auth/user/grant": ['{"user":"u","role":"r"}', '{"user":"u","role":"none"}'],
    "/v3/auth/user/revoke": ['{"name":"u","role":"r"}', '{"name":"u","role":"r"}'],
    "/v3/auth/user/delete": ['{"name":"u"}', '{"name":"u"}'],
    "/v3/auth/role/delete": ['{"role":"r"}', '{"role":"r"}'],
    "/v3/lock/lock": ['{"name":"bA==","lease":"5"}'],
    "/v3/lock/unlock": ['{"key":"bm9uZQ=="}'],
    "/v3/election/campaign": ['{"name":"ZQ==","lease":"5","value":"dg=="}'],
    "/v3/election/leader": ['{"name":"ZQ=="}'],
    "/v3/election/proclaim": [
        '{"leader":{"name":"ZQ==","key":"ZS8x","rev":"3","lease":"1"},"value":"dg=="}',
        '{"leader":{}}',
    ],
    "/v3/election/resign": ['{"leader":{"key":"ZS8x","rev":"3","lease":"1"}}', '{"leader":{}}'],
    "/v3/election/observe": [],
}
NONE_FITS = ["[]", "null", "{", "no JSON", '{"no_such_field":[{"a":null}]}']
NOTHING = ["", "{}"]

# Where an empty request waits without an end, or gives ids that differ.
WAITING = {"/v3/watch", "/v3/lock/lock", "/v3/election/campaign", "/v3/election/observe"}
# Of bad JSON etcd's gateway says nothing in a stream of requests: watch hangs, keepalive ends well.
SILENT = {"/v3/watch", "/v3/lease/keepalive"}


def test_every_path_of_the_gateway_is_asked() -> None:
    from rusd.gateway.paths import ROUTES

    assert BODIES.keys() == ROUTES.keys()


@pytest.mark.parametrize("path", BODIES)
def test_a_path_answers_as_etcd_does(path: str, reference: Member, subject: Member) -> None:
    bodies = [*BODIES[path], *NONE_FITS[: 1 if path in WAITING else None]]
    if path not in WAITING:
        bodies += NOTHING
    if path in SILENT:
        bodies = [body for body in bodies if body not in NONE_FITS]
    for body in bodies:
        expected, seen = (post(member, path, body) for member in (reference, subject))
        assert seen._replace(body=comparable(seen.body)) == expected._replace(
            body=comparable(expected.body)
        ), body


@pytest.mark.parametrize("path", sorted(SILENT))
def test_bad_json_in_a_stream_of_requests_is_an_error(path: str, subject: Member) -> None:
    answer = post(subject, path, "{bad")
    assert answer.status == 400
    assert answer.body == {
        "code": 3,
        "message": "invalid character 'b' looking for beginning of object key string",
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v3/kv/range"),
        ("PUT", "/v3/kv/range"),
        ("HEAD", "/v3/kv/range"),
        ("POST", "/v3/kv/range/"),
        ("POST", "/v3/kv/none"),
        ("GET", "/v3/"),
        ("POST", "/v3beta/kv/range"),
        ("POST", "/v3alpha/kv/range"),
        ("POST", "/none"),
        ("POST", "/"),
        ("OPTIONS", "/v3/kv/range"),
        ("OPTIONS", "/health"),
    ],
)
def test_other_methods_and_paths(
    method: str, path: str, reference: Member, subject: Member
) -> None:
    body = "" if method in ("HEAD", "OPTIONS", "GET") else f'{{"key":"{b64("none")}"}}'
    answers = []
    for member in (reference, subject):
        status, kind, headers, data = ask(member, method, path, body)
        answers.append((status, kind, _cors(headers), _comparable(data)))
    assert answers[0] == answers[1]


def _cors(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control")}


def _comparable(data: bytes) -> object:
    try:
        content = comparable(json.loads(data))
    except ValueError:
        return data
    assert isinstance(content, dict)
    return {**content, "header": None}


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain", "Accept": "text/html"},
        {"Grpc-Timeout": "10S"},
        {"Grpc-Timeout": "x"},
        {"Grpc-Timeout": "1n"},
        {"Grpc-Metadata-Hasleader": "true"},
        {"Transfer-Encoding": "chunked"},
    ],
    ids=str,
)
def test_headers_of_a_request(headers: dict[str, str], reference: Member, subject: Member) -> None:
    body = f'{{"key":"{FOO}","count_only":true}}'.encode()
    if "Transfer-Encoding" in headers:
        body = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
    expected, seen = (
        post(member, "/v3/kv/range", body, headers) for member in (reference, subject)
    )
    assert (seen.status, _message(seen)) == (expected.status, _message(expected))


def _message(answer: Answer) -> object:
    return answer.body.get("message") if isinstance(answer.body, dict) else answer.body


# Streams


def both(reference: Member, subject: Member, path: str, body: str, count: int) -> list[object]:
    """The first lines of a stream, which must be equal."""
    expected, seen = (
        comparable(lines(member, path, body, count)) for member in (reference, subject)
    )
    assert seen == expected
    assert isinstance(seen, list)
    assert len(seen) == count
    return seen


def _comparables(content: list[object]) -> list[object]:
    return [comparable(each) for each in content]


def test_a_watch_is_lines_of_results(reference: Member, subject: Member) -> None:
    for member in (reference, subject):
        created = post(member, "/v3/kv/put", f'{{"key":"{b64("w1")}","value":"MQ=="}}')
        assert isinstance(created.body, dict)
        revision = created.body["header"]["revision"]
        post(member, "/v3/kv/deleterange", f'{{"key":"{b64("w1")}"}}')
    body = f'{{"create_request":{{"key":"{b64("w1")}","start_revision":"{revision}"}}}}'
    seen = both(reference, subject, "/v3/watch", body, 2)
    assert "events" in str(seen[1])
    now = '{"createRequest":{"key":"YQ=="}}'
    progress = now + '\n{"progress_request":{}}'  # which etcd may answer first
    expected, seen = (lines(each, "/v3/watch", progress, 2) for each in (reference, subject))
    assert sorted(map(str, _comparables(seen))) == sorted(map(str, _comparables(expected)))
    both(reference, subject, "/v3/watch", now + '{"cancelRequest":{"watchId":0}}', 2)
    for member in (reference, subject):
        post(member, "/v3/kv/compaction", f'{{"revision":"{revision}"}}')
    both(reference, subject, "/v3/watch", '{"create_request":{"key":"YQ==","start_revision":1}}', 2)
    both(reference, subject, "/v3/watch", '{"create_request":{"key":"YQ==","range_end":"YQ=="}}', 1)


def test_a_watch_goes_on_until_the_client_leaves(reference: Member, subject: Member) -> None:
    values = ("MQ==", "A" * 400_000, "Mg==")
    for member in (reference, subject):
        body = f'{{"create_request":{{"key":"{b64("live")}"}}}}'
        command = [*CURL, "--data", body, f"{member.client_url}/v3/watch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
            assert curl.stdout is not None
            assert json.loads(curl.stdout.readline())["result"]["created"]
            for value in values:
                post(member, "/v3/kv/put", f'{{"key":"{b64("live")}","value":"{value}"}}')
            for value in values:
                result = json.loads(curl.stdout.readline())["result"]
                assert [event["kv"]["value"] for event in result["events"]] == [value]
            curl.kill()


def test_a_snapshot_is_lines_of_results(reference: Member, subject: Member) -> None:
    for member in (reference, subject):
        seen = post(member, "/v3/maintenance/snapshot", "{}").body
        assert isinstance(seen, list)
        data = [base64.b64decode(line["result"]["blob"]) for line in seen]
        assert len(data[-1]) == 32  # the checksum
        assert int.from_bytes(data[0][16:20], "little") == 0xED0CDAED  # a page of bbolt


@pytest.fixture(scope="module", name="locked")
def locked_members(reference: Member, subject: Member) -> Iterator[tuple[Member, Member]]:
    """Both members, with leases 101 and 102."""
    for member in (reference, subject):
        for lease in (101, 102):
            post(member, "/v3/lease/grant", f'{{"ID":"{lease}","TTL":"600"}}')
    yield reference, subject
    for member in (reference, subject):
        for lease in (101, 102):
            post(member, "/v3/lease/revoke", f'{{"ID":"{lease}"}}')


def test_locks_and_elections(locked: tuple[Member, Member]) -> None:
    def ask_both(path: str, body: str) -> dict[str, object]:
        expected, seen = (post(member, path, body) for member in locked)
        assert seen._replace(body=comparable(seen.body)) == expected._replace(
            body=comparable(expected.body)
        ), path
        assert isinstance(seen.body, dict)
        return seen.body

    key = b64("l/65")
    assert ask_both("/v3/lock/lock", f'{{"name":"{b64("l")}","lease":"101"}}')["key"] == key
    ask_both("/v3/lock/lock", f'{{"name":"{b64("l")}","lease":"101"}}')
    ask_both("/v3/lock/unlock", f'{{"key":"{key}"}}')
    ask_both("/v3/lock/lock", '{"lease":"102"}')
    leader = ask_both("/v3/election/campaign", '{"name":"ZQ==","lease":"101","value":"MQ=="}')
    leader_key = json.dumps(leader["leader"])
    ask_both("/v3/election/campaign", '{"name":"ZQ==","lease":"101","value":"Mg=="}')
    ask_both("/v3/election/leader", '{"name":"ZQ=="}')
    ask_both("/v3/election/proclaim", f'{{"leader":{leader_key},"value":"Mw=="}}')
    both(*locked, "/v3/election/observe", '{"name":"ZQ=="}', 1)
    ask_both("/v3/election/resign", f'{{"leader":{leader_key}}}')
    ask_both("/v3/election/resign", f'{{"leader":{leader_key}}}')
    ask_both("/v3/election/leader", '{"name":"ZQ=="}')


def test_a_lock_whose_client_leaves_is_not_waited_for(locked: tuple[Member, Member]) -> None:
    for member in locked:
        name = b64("leaving")
        held = post(member, "/v3/lock/lock", f'{{"name":"{name}","lease":"101"}}')
        assert held.status == 200
        command = [*CURL, "--data", f'{{"name":"{name}","lease":"102"}}']
        with subprocess.Popen([*command, f"{member.client_url}/v3/lock/lock"]) as waiting:
            wait_for(partial(_has, member, "leaving/", 2), SECONDS, "its key")
            waiting.kill()
        wait_for(partial(_has, member, "leaving/", 1), SECONDS, "its key to be gone")


def _has(member: Member, prefix: str, count: int) -> bool:
    """Whether a member has so many keys with a prefix."""
    end = b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))
    body = f'{{"key":"{b64(prefix)}","range_end":"{end}","count_only":true}}'
    answer = post(member, "/v3/kv/range", body).body
    assert isinstance(answer, dict)
    return int(answer.get("count", 0)) == count


def test_a_member_that_stops_ends_its_streams(
    start_member: StartMember, subject_command: tuple[str, ...]
) -> None:
    member = start_member(subject_command)
    body = '{"create_request":{"key":"YQ=="}}'
    command = [*CURL, "--data", body, f"{member.client_url}/v3/watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        assert json.loads(curl.stdout.readline())["result"]["created"]
        member.stop()
        ending = json.loads(curl.stdout.read())
    assert ending == {"error": {"code": 14, "message": "etcdserver: server stopped"}}


# Limits and flags


def test_a_large_value_passes_and_a_larger_one_is_refused(
    reference: Member, subject: Member
) -> None:
    for size in (1_500_000, 2_000_000, 2_600_000):
        body = f'{{"key":"{FOO}","value":"{b64("x" * size)}"}}'
        expected, seen = (post(member, "/v3/kv/put", body) for member in (reference, subject))
        assert (seen.status, _message(seen)) == (expected.status, _message(expected))
        if seen.status == 200:
            big = f'{{"key":"{FOO}"}}'
            found = [_value(post(member, "/v3/kv/range", big)) for member in (reference, subject)]
            assert comparable(found[0]) == found[1]


def _value(answer: Answer) -> str:
    """Of the first key."""
    assert isinstance(answer.body, dict)
    value = answer.body["kvs"][0]["value"]
    assert isinstance(value, str)
    return value


def test_a_body_beyond_all_limits_is_http_413(subject: Member) -> None:
    assert ask(subject, "POST", "/v3/kv/put", b" " * 5_000_000)[0] == 413


PARIS = "https://paris.example:443"


def test_origins_and_hosts_that_may_ask(
    start_member: StartMember, etcd_command: tuple[str, ...], subject_command: tuple[str, ...]
) -> None:
    flags = (f"--cors={PARIS}", "--host-whitelist=127.0.0.1,good.example")
    both_members = [start_member(command, *flags) for command in (etcd_command, subject_command)]
    for origin in (None, PARIS, "https://rome.example:443", "*"):
        for method in ("POST", "OPTIONS"):
            given = {} if origin is None else {"Origin": origin}
            answers = [ask(each, method, "/v3/lease/leases", "", given) for each in both_members]
            assert answers[1][0] == answers[0][0]
            assert _cors(answers[1][2]) == _cors(answers[0][2])
    for host in ("good.example", "good.example:1", "GOOD.example", "bad.example", "[::1]:5"):
        for path in ("/health", "/v3/lease/leases"):
            answers = [ask(each, "POST", path, "", {"Host": host}) for each in both_members]
            if path == "/v3/lease/leases" or answers[0][0] == 421:
                assert answers[1][0] == answers[0][0], host
            if answers[0][0] == 421:
                assert answers[1][3] == answers[0][3]


def test_a_member_without_gateway(
    start_member: StartMember, etcd_command: tuple[str, ...], subject_command: tuple[str, ...]
) -> None:
    expected, seen = (
        ask(start_member(command, "--enable-grpc-gateway=false"), "POST", "/v3/kv/range", "{}")
        for command in (etcd_command, subject_command)
    )
    assert (seen[0], seen[1], seen[3]) == (expected[0], expected[1], expected[3])


def test_http_on_a_port_of_its_own(
    tmp_path: Path, etcd_command: tuple[str, ...], subject_command: tuple[str, ...]
) -> None:
    seen = []
    for number, command in enumerate((etcd_command, subject_command)):
        (port,) = free_ports(1)
        flags = (f"--listen-client-http-urls=http://127.0.0.1:{port}",)
        member = Member(command, tmp_path / str(number), flags)
        try:
            member.launch()
            with member.channel() as channel:
                grpc.channel_ready_future(channel).result(SECONDS)
            answer = ask(member, "POST", "/v3/lease/leases", "{}", port=port)
            assert ask(member, "GET", "/health", port=port)[0] == 200
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                ask(member, "GET", "/health")
            seen.append((answer[0], comparable(json.loads(answer[3]))))
        finally:
            member.close()
    assert seen[0] == seen[1]


def test_tokens_pass(
    start_member: StartMember, etcd_command: tuple[str, ...], subject_command: tuple[str, ...]
) -> None:
    pair = [start_member(command) for command in (etcd_command, subject_command)]
    tokens = []
    for member in pair:
        for path, body in (
            ("user/add", '{"name":"root","password":"r"}'),
            ("role/add", '{"name":"root"}'),
            ("user/grant", '{"user":"root","role":"root"}'),
            ("enable", "{}"),
        ):
            assert post(member, f"/v3/auth/{path}", body).status == 200
        body = '{"name":"root","password":"r"}'
        answer = post(member, "/v3/auth/authenticate", body).body
        assert isinstance(answer, dict)
        tokens.append(answer["token"])
    for header in ("Authorization", "Grpc-Metadata-Token", "Token", None):
        for path, body in (
            ("/v3/kv/put", PUT),
            ("/v3/kv/range", f'{{"key":"{FOO}"}}'),
            ("/v3/lock/lock", f'{{"name":"{b64("l")}","lease":"5"}}'),
            ("/v3/lock/unlock", f'{{"key":"{FOO}"}}'),
            ("/v3/election/leader", '{"name":"ZQ=="}'),
        ):
            expected, seen = (
                post(member, path, body, {header: token} if header else {})
                for member, token in zip(pair, tokens, strict=True)
            )
            assert seen._replace(body=comparable(seen.body)) == expected._replace(
                body=comparable(expected.body)
            ), (header, path)
    for path, body in (("/v3/kv/put", PUT), ("/v3/lease/keepalive", '{"ID":"5"}')):
        answers = [ask(each, "POST", path, body, {"Authorization": "bad"}) for each in pair]
        assert answers[1][0] == answers[0][0] == 401
        assert json.loads(answers[1][3]) == json.loads(answers[0][3])
        assert answers[1][2].get("www-authenticate") == answers[0][2].get("www-authenticate")
    watch = '{"create_request":{"key":"YQ=="}}'
    assert comparable(lines(pair[1], "/v3/watch", watch, 1)) == comparable(
        lines(pair[0], "/v3/watch", watch, 1)
    )


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_json_over_tls(
    version: str, tmp_path: Path, etcd_command: tuple[str, ...], subject_command: tuple[str, ...]
) -> None:
    certificates = Certificates.made(tmp_path / "tls")
    curl = [
        *(*CURL, f"--http{version}", "--cacert", certificates["ca.crt"]),
        *("--cert", certificates["client.crt"], "--key", certificates["client.key"]),
    ]
    seen = []
    for number, command in enumerate((etcd_command, subject_command)):
        member = Member(command, tmp_path / str(number), certificates=certificates)
        with closing(member):
            url = member.start().client_url
            answers = [
                subprocess.run(
                    [*curl, "--write-out", "\n%{http_version} %{http_code}", *arguments],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.rsplit("\n", 1)
                for arguments in (
                    ["--data", PUT, f"{url}/v3/kv/put"],
                    ["--data", f'{{"key":"{FOO}"}}', f"{url}/v3/kv/range"],
                    ["--data", "{bad", f"{url}/v3/kv/range"],
                    ["--data", "", "-H", "Host: bad.example", f"{url}/v3/lease/leases"],
                    [f"{url}/health"],
                    [f"{url}/none"],
                )
            ]
            assert all(ending.startswith(version) for _, ending in answers)
            contents = [comparable(json.loads(text)) for text, _ in answers[:5]]
            seen.append((contents, answers[5][0], [ending for _, ending in answers]))
            with watching(curl, f"{url}/v3/watch") as line:
                assert json.loads(line)["result"]["created"]
    assert seen[0] == seen[1]


@contextmanager
def watching(curl: list[str], url: str) -> Iterator[str]:
    """The first line of a watch that goes on."""
    body = '{"create_request":{"key":"YQ=="}}'
    command = [*curl, "--data", body, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.kill()
