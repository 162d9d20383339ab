"""`--discovery-srv` finds members in DNS: a server of a few records answers on loopback."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from click.testing import CliRunner, Result

from rusd.cli.ctl import ctl
from rusd.cli.ctl.discovery import discovered
from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.settings import Settings
from tests.unit.backup.serving import TOKEN, in_blocks, served
from tests.unit.cli.test_ctl import BACKUP

Zone = Mapping[str, Sequence[str]]
PLAIN, SECURE = "_etcd-client._tcp.example.test", "_etcd-client-ssl._tcp.example.test"


@contextmanager
def answering(zone: Zone) -> Iterator[int]:
    """Yield the port of a server that has these SRV records, by name, and no other name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            while (datagram := server.recvfrom(4096))[0]:
                data, client = datagram
                query = dns.message.from_wire(data)
                (question,) = query.question
                response = dns.message.make_response(query)
                response.flags |= dns.flags.RA
                records = zone.get(question.name.to_text(omit_final_dot=True))
                if records is None:
                    response.set_rcode(dns.rcode.NXDOMAIN)
                else:
                    response.answer.append(
                        dns.rrset.from_text(question.name, 60, "IN", "SRV", *records)
                    )
                server.sendto(response.to_wire(), client)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.sendto(b"", server.getsockname())
            thread.join()


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Zone], None]]:
    """Lets this process know of these names, and of no others."""
    with ExitStack() as ending:

        def know(zone: Zone) -> None:
            resolver = dns.resolver.Resolver(configure=False)
            resolver.nameservers = ["127.0.0.1"]
            resolver.port = ending.enter_context(answering(zone))
            monkeypatch.setattr(dns.resolver, "default_resolver", resolver)

        yield know


def found(**given: str | bool) -> tuple[str, ...]:
    """Return the endpoints of example.test."""
    return discovered(Settings.with_defaults(discovery_srv="example.test", **given))


def test_members_with_tls_come_first_each_kind_by_priority(zone: Callable[[Zone], None]) -> None:
    zone(
        {
            PLAIN: ["20 0 3 c.test.", "10 0 1 a.test.", "15 0 2 b.test."],
            SECURE: ["0 0 2379 s.test."],
        }
    )
    plain = ("http://a.test:1", "http://b.test:2", "http://c.test:3")
    assert found() == ("https://s.test:2379", *plain)
    assert found(insecure_discovery=False) == ("https://s.test:2379",)


def test_a_service_may_have_a_name(zone: Callable[[Zone], None]) -> None:
    zone({"_etcd-client-one._tcp.example.test": ["0 0 1 a.test."]})
    assert found(discovery_srv_name="one") == ("http://a.test:1",)
    with pytest.raises(Exit):
        found()


@pytest.mark.parametrize(
    ("records", "given", "reason"),
    [
        ({}, {}, rf"dns lookup errors: lookup {SECURE}: .* and lookup {PLAIN}: .*"),
        ({PLAIN: ["0 0 0 ."]}, {}, "no member in the SRV records of example.test"),
        ({PLAIN: ["0 0 1 a.test."]}, {"insecure_discovery": False}, "no member with TLS"),
    ],
    ids=["no records", "no service", "no TLS"],
)
def test_where_there_is_no_member_nobody_is_asked(
    records: Zone, given: dict[str, bool], reason: str, zone: Callable[[Zone], None]
) -> None:
    """Nor the default endpoint, as etcdctl does in the last case."""
    zone(records)
    with pytest.raises(Exit, match=reason):
        found(**given)


def run(*words: str, environment: dict[str, str] | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(ctl, list(words), env=environment)


def test_a_command_goes_to_who_was_found(zone: Callable[[Zone], None], tmp_path: Path) -> None:
    """By flag or by variable, whatever --endpoints says; who asks nobody looks for nobody."""
    with served(lambda _: in_blocks(BACKUP, 1000)) as target:
        zone({PLAIN: [f"0 0 {target.rpartition(':')[2]} localhost."]})
        words = ["snapshot", "save", f"--auth-jwt-token={TOKEN}", "--endpoints=127.0.0.1:1"]
        by_flag, by_variable = tmp_path / "flag", tmp_path / "variable"
        assert run(*words, str(by_flag), "-d", "example.test").exit_code == 0
        environment = {"ETCDCTL_DISCOVERY_SRV": "example.test"}
        assert run(*words, str(by_variable), environment=environment).exit_code == 0
    assert by_flag.read_bytes() == by_variable.read_bytes() == BACKUP
    assert run("version", "-d", "nowhere.test").exit_code == 0
    ended = run("get", "a", "-d", "nowhere.test")
    assert ended.exit_code == 1
    assert "dns lookup errors" in ended.stderr
