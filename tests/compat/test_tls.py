"""TLS as openssl's client and etcdctl see it: real etcd and rusd let the same ones in.

Both serve the same clients with the same certificates, and both have a plain port beside the one
with TLS. Where rusd is on purpose stricter or more patient than etcd, a test says so.
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.tls.authority import LOCAL, Authority
from tests.certificates import Certificates
from tests.members import Member, free_ports, rusd_command

SECONDS = 30.0
OPENSSL = shutil.which("openssl") or ""

pytestmark = pytest.mark.skipif(not OPENSSL, reason="there is no openssl")


class Served:
    """A member with a plain port and one with TLS, and clients of the latter."""

    def __init__(self, member: Member, port: int, certificates: Certificates) -> None:
        """It runs."""
        self.member = member
        self.port = port
        self.certificates = certificates

    def talk(self, name: str = "", *options: str) -> str:
        """What openssl's client gets for GET /health; "" when it is not served."""
        command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{self.port}", "-quiet"]
        command += ["-CAfile", self.certificates["ca.crt"], "-verify_return_error"]
        if name:
            command += ["-cert", self.certificates[f"{name}.crt"]]
            command += ["-key", self.certificates[f"{name}.key"]]
        ran = subprocess.run(
            [*command, *options],
            input=b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        answer = ran.stdout.decode(errors="replace")
        return answer if '"health"' in answer else ""

    def serves(self, name: str = "", *options: str) -> bool:
        """Whether openssl's client is served."""
        return bool(self.talk(name, *options))

    def etcdctl(self, program: Path, name: str = "", *options: str, patience: float = 20) -> bool:
        """Whether etcdctl can put and get; `patience` is the seconds that it tries for."""
        flags = [f"--endpoints=https://127.0.0.1:{self.port}", f"--command-timeout={patience}s"]
        flags += [f"--dial-timeout={patience}s", f"--cacert={self.certificates['ca.crt']}"]
        if name:
            flags += [f"--cert={self.certificates[f'{name}.crt']}"]
            flags += [f"--key={self.certificates[f'{name}.key']}"]
        environment = {name: value for name, value in os.environ.items() if "ETCD" not in name}
        for command, printed in (("put key value", b"OK\n"), ("get key", b"key\nvalue\n")):
            done = subprocess.run(
                [program, *flags, *options, *command.split()],
                capture_output=True,
                env=environment,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode != 0:
                return False
            assert done.stdout == printed
        return True

    def refuses_etcdctl(self, program: Path, name: str = "") -> bool:
        """Whether it cannot."""
        return not self.etcdctl(program, name, patience=1)

    def shown(self) -> x509.Certificate:
        """The certificate that a client gets to see now, whatever it thinks of it."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=SECONDS)
        return x509.load_pem_x509_certificate(pem.encode())


@contextmanager
def serving(
    command: Sequence[str], folder: Path, certificates: Certificates, *flags: str
) -> Iterator[Served]:
    """A member with both ports, by default without a word on who its clients are."""
    (port,) = free_ports(1)
    member = Member(command, folder)
    urls = f"{member.client_url},https://127.0.0.1:{port}"
    member.flags = ("--listen-client-urls", urls, "--advertise-client-urls", urls, *flags)
    try:
        member.start()
        yield Served(member, port, certificates)
    finally:
        member.close()


Serve = Callable[..., Served]


@pytest.fixture(params=["rusd", "etcd"])
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    """How to start each of the two servers."""
    if request.param == "rusd":
        return rusd_command()
    given: Sequence[str] = request.getfixturevalue("etcd_command")
    return given


@pytest.fixture(scope="module")
def etcdctl(etcd_programs: Path) -> Path:
    """The real etcdctl."""
    return etcd_programs / "etcdctl"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One of each kind, for all tests that do not change them."""
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts members that end with the test: `serve(command, certificates, *flags)`."""
    with ExitStack() as ending:
        count = 0

        def start(command: Sequence[str], certificates: Certificates, *flags: str) -> Served:
            nonlocal count
            count += 1
            folder = tmp_path / f"member{count}"
            return ending.enter_context(serving(command, folder, certificates, *flags))

        yield start


def trusting(certificates: Certificates) -> tuple[str, ...]:
    """Flags that ask clients for a certificate."""
    return (
        *certificates.pair("server"),
        "--client-cert-auth",
        *("--trusted-ca-file", certificates["ca.crt"]),
    )


def test_only_who_has_the_right_certificate_is_served(
    command: Sequence[str], serve: Serve, certificates: Certificates, etcdctl: Path
) -> None:
    flags = (*trusting(certificates), "--client-crl-file", certificates["crl.der"])
    site = serve(command, certificates, *flags)
    for name, good in (
        ("client", True),
        ("user-root", True),
        ("", False),
        ("wrong", False),
        ("expired", False),
        ("revoked", False),
    ):
        for version in ("-tls1_2", "-tls1_3"):
            assert site.serves(name, version) is good, (name, version)
    assert site.etcdctl(etcdctl, "client")
    for name in ("revoked", ""):
        assert site.refuses_etcdctl(etcdctl, name), name
    assert site.serves("client")


def test_plain_text_on_a_tls_port_and_the_reverse_are_refused(
    command: Sequence[str], serve: Serve, certificates: Certificates, etcdctl: Path
) -> None:
    site = serve(command, certificates, *certificates.pair("server"))
    for text in (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        bytes(100),
    ):
        with socket.create_connection(("127.0.0.1", site.port), SECONDS) as plain:
            plain.sendall(text)
            answer = b""
            with suppress(ConnectionResetError):
                while data := plain.recv(4096):
                    answer += data
        assert b'"health"' not in answer
    secure, site.port = site.port, site.member.client_port
    assert not site.serves()
    assert site.refuses_etcdctl(etcdctl)
    site.port = secure
    assert site.serves()
    assert site.etcdctl(etcdctl)


def test_a_client_refuses_who_is_not_the_host_that_it_wanted(
    command: Sequence[str], serve: Serve, tmp_path: Path, etcdctl: Path
) -> None:
    authority = Authority.create("CA")
    authority.credential.write(tmp_path, "ca")
    authority.issue("127.0.0.1", ["elsewhere.example"]).write(tmp_path, "server")
    certificates = Certificates(tmp_path)
    site = serve(command, certificates, *certificates.pair("server"))
    assert not site.serves("", "-verify_ip", "127.0.0.1")
    assert site.serves("", "-verify_hostname", "elsewhere.example")
    assert site.refuses_etcdctl(etcdctl)
    assert site.etcdctl(etcdctl, "", "--insecure-skip-tls-verify")


def test_old_versions_and_suites_that_are_not_allowed_are_refused(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    old = ("-cipher", "ALL:@SECLEVEL=0")
    pair = certificates.pair("server")
    suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    for flags, outcomes in (
        ((), {"tls1_1": False, "tls1_2": True, "tls1_3": True}),
        (("--tls-min-version=TLS1.3",), {"tls1_2": False, "tls1_3": True}),
        (("--tls-max-version=TLS1.2",), {"tls1_2": True, "tls1_3": False}),
    ):
        site = serve(command, certificates, *pair, *flags)
        for version, good in outcomes.items():
            ciphers = old if version == "tls1_1" else ()
            assert site.serves("", f"-{version}", *ciphers) is good, (flags, version)
        site.member.close()
    site = serve(command, certificates, *pair, f"--cipher-suites={suite}")
    for cipher, good in (
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", False),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", False),
        ("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", True),
    ):
        assert site.serves("", "-tls1_2", "-cipher", cipher) is good, cipher
    # Those of TLS 1.3 are not to be chosen.
    assert site.serves("", "-tls1_3")


def test_weak_suites_are_not_there_by_default(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    site = serve(command, certificates, *certificates.pair("server"))
    for cipher in ("NULL", "aNULL", "RC4", "3DES", "kRSA", "PSK"):
        assert not site.serves("", "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"), cipher


def test_protocols_are_agreed_on_in_the_handshake(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    site = serve(command, certificates, *certificates.pair("server"))
    context = ssl.create_default_context(cafile=certificates["ca.crt"])
    chosen = {}
    for offered in (["h2"], ["h2", "http/1.1"], ["grpc-exp", "h2"], []):
        context.set_alpn_protocols(offered)
        with (
            socket.create_connection(("127.0.0.1", site.port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            chosen[tuple(offered)] = secure.selected_alpn_protocol()
    assert chosen == {
        ("h2",): "h2",
        ("h2", "http/1.1"): "h2",
        ("grpc-exp", "h2"): "h2",
        (): None,
    }
    assert site.serves("", "-alpn", "http/1.1")


def test_http2_without_alpn_is_understood(serve: Serve, certificates: Certificates) -> None:
    """Where the client knows what it talks to; real etcd does not."""
    site = serve(rusd_command(), certificates, *certificates.pair("server"))
    context = ssl.create_default_context(cafile=certificates["ca.crt"])
    with (
        socket.create_connection(("127.0.0.1", site.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        head = b""
        while len(head) < 9:
            head += secure.recv(9 - len(head))
    assert head[3] == 4  # SETTINGS


@pytest.mark.parametrize(
    ("allowed", "served"),
    [
        ("client.example", {"named": True, "client": False, "other": False}),
        ("other.example,client.example", {"named": True, "other": True, "client": False}),
        ("host.wild.example", {"wild": True, "named": False}),
    ],
)
def test_clients_may_have_to_have_a_name(
    command: Sequence[str], serve: Serve, tmp_path: Path, allowed: str, served: dict[str, bool]
) -> None:
    authority = Authority.create("CA")
    authority.credential.write(tmp_path, "ca")
    # etcd's gateway is a client of its own server, and shows that certificate.
    authority.issue("server", [*LOCAL, *allowed.split(",")]).write(tmp_path, "server")
    authority.issue("client.example").write(tmp_path, "client")
    authority.issue("x", ["client.example"]).write(tmp_path, "named")
    authority.issue("x", ["other.example"]).write(tmp_path, "other")
    authority.issue("x", ["*.wild.example"]).write(tmp_path, "wild")
    certificates = Certificates(tmp_path)
    site = serve(command, certificates, *trusting(certificates), hostnames(allowed))
    for name, good in served.items():
        assert site.serves(name) is good, name


def hostnames(allowed: str) -> str:
    return f"--client-cert-allowed-hostname={allowed}"


def test_an_authority_alone_asks_for_certificates_too(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    flags = (*certificates.pair("server"), "--trusted-ca-file", certificates["ca.crt"])
    site = serve(command, certificates, *flags)
    assert not site.serves()
    assert site.serves("client")


def test_a_new_certificate_is_shown_without_a_restart(
    command: Sequence[str], serve: Serve, tmp_path: Path
) -> None:
    authority = Authority.create("CA")
    authority.credential.write(tmp_path, "ca")
    made = authority.issue("server", LOCAL)
    made.write(tmp_path, "server")
    certificates = Certificates(tmp_path)
    site = serve(command, certificates, *certificates.pair("server"))
    assert site.shown() == made.certificate
    made = authority.issue("server", LOCAL)
    made.write(tmp_path, "server")
    assert site.shown() == made.certificate
    assert site.serves()


def test_a_certificate_that_cannot_be_used_leaves_the_former(serve: Serve, tmp_path: Path) -> None:
    """Real etcd refuses all clients meanwhile."""
    authority = Authority.create("CA")
    authority.credential.write(tmp_path, "ca")
    made = authority.issue("server", LOCAL)
    made.write(tmp_path, "server")
    certificates = Certificates(tmp_path)
    site = serve(rusd_command(), certificates, *certificates.pair("server"))
    for spoil in (
        lambda: (tmp_path / "server.crt").write_text("nothing"),
        lambda: (tmp_path / "server.crt").unlink(),
        lambda: authority.issue("x", LOCAL, days=-1).write(tmp_path, "server"),
    ):
        spoil()
        assert site.shown() == made.certificate
        assert site.serves()
    log = site.member.log
    assert log.count("changed TLS files cannot be used; the former content stays in use") == 3
    assert "has expired" in log


def test_a_new_list_of_revoked_certificates_counts_at_once(
    command: Sequence[str], serve: Serve, tmp_path: Path
) -> None:
    authority = Authority.create("CA")
    authority.credential.write(tmp_path, "ca")
    authority.issue("server", LOCAL).write(tmp_path, "server")
    client = authority.issue("client")
    client.write(tmp_path, "client")
    other = authority.issue("other")
    other.write(tmp_path, "other")
    crl = tmp_path / "crl"
    crl.write_bytes(authority.revocations(Encoding.DER))
    certificates = Certificates(tmp_path)
    flags = (*trusting(certificates), "--client-crl-file", str(crl))
    site = serve(command, certificates, *flags)
    assert site.serves("client")
    authority.revoke(client)
    crl.write_bytes(authority.revocations(Encoding.DER))
    assert not site.serves("client")
    assert site.serves("other")


def test_the_list_may_be_pem(serve: Serve, certificates: Certificates) -> None:
    flags = (*trusting(certificates), "--client-crl-file", certificates["crl.pem"])
    site = serve(rusd_command(), certificates, *flags)
    assert site.serves("client")
    assert not site.serves("revoked")


def test_a_member_can_make_its_own_certificate(
    command: Sequence[str], serve: Serve, certificates: Certificates, etcdctl: Path
) -> None:
    site = serve(command, certificates, "--auto-tls", "--self-signed-cert-validity=2")
    folder = site.member.data_dir / "fixtures" / "client"
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    made = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    assert site.shown() == made
    assert (made.not_valid_after_utc - made.not_valid_before_utc).days in (729, 730)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each) for each in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1"}
    assert not site.serves()  # nobody has signed it
    assert site.etcdctl(etcdctl, "", "--insecure-skip-tls-verify", "--insecure-transport=false")
    site.member.stop()
    site.member.start()
    assert site.shown() == made


def test_metrics_may_have_tls_where_clients_have_none(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    (port,) = free_ports(1)
    url = f"--listen-metrics-urls=https://127.0.0.1:{port}"
    site = serve(command, certificates, *trusting(certificates), url)
    site.port = port
    assert site.serves("client")
    assert not site.serves()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'"health"' not in plain.recv(4096)


@pytest.mark.parametrize("source", ["environment", "file"])
def test_environment_and_file_say_the_same_as_flags(
    source: str, command: Sequence[str], certificates: Certificates, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    member = Member(command, tmp_path / "member")
    urls = f"{member.client_url},https://127.0.0.1:{port}"
    given = {
        "cert-file": certificates["server.crt"],
        "key-file": certificates["server.key"],
        "client-cert-auth": "true",
        "trusted-ca-file": certificates["ca.crt"],
    }
    if source == "environment":
        names = {name: f"ETCD_{name.upper().replace('-', '_')}" for name in given}
        member.environment = {names[name]: value for name, value in given.items()}
        member.flags = ("--listen-client-urls", urls, "--advertise-client-urls", urls)
    else:
        lines = [
            *("name: default", f"data-dir: {member.data_dir}", "logger: zap"),
            *(f"listen-client-urls: {urls}", f"advertise-client-urls: {urls}"),
            *(f"listen-peer-urls: {member.peer_url}", "client-transport-security:"),
            *(f"  {name}: {value}" for name, value in given.items()),
            f"initial-advertise-peer-urls: {member.peer_url}",
            f"initial-cluster: default={member.peer_url}",
        ]
        path = tmp_path / "config.yaml"
        path.write_text("\n".join(lines))
        member.flags = ("--config-file", str(path))
    try:
        member.start()
        site = Served(member, port, certificates)
        assert site.serves("client")
        assert not site.serves()
    finally:
        member.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_commands_of_etcds_guide_get_its_answers(
    command: Sequence[str], serve: Serve, certificates: Certificates
) -> None:
    """HTTP/2 is what curl and the server agree on."""
    site = serve(command, certificates, *trusting(certificates))

    def curl(path: str, *options: str) -> tuple[int, str, str]:
        url = f"https://127.0.0.1:{site.port}{path}"
        shown = ("-sS", "--write-out", "%{stderr}%{http_version}")
        done = subprocess.run(
            ["curl", *shown, "--cacert", certificates["ca.crt"], *options, url],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    own = ("--cert", certificates["client.crt"], "--key", certificates["client.key"])
    code, body, version = curl("/v3/kv/put", *own, "-d", '{"key": "Zm9v", "value": "YmFy"}')
    assert (code, version) == (0, "2")
    assert '"revision":"2"' in body.replace(" ", "")
    code, body, version = curl("/v3/kv/range", *own, "-d", '{"key": "Zm9v"}')
    assert (code, version) == (0, "2")
    assert '"value":"YmFy"' in body.replace(" ", "")
    code, body, _ = curl("/v3/kv/range", "-d", '{"key": "Zm9v"}')
    assert code != 0
    assert body == ""
    code, body, _ = curl("/health", *own, "--http1.1")
    assert (code, body.strip()) == (0, '{"health":"true","reason":""}')


CANNOT_START = {
    "no certificate": (),
    "no key": ("--cert-file", "{}/server.crt"),
    "no file": ("--cert-file", "{}/none.crt", "--key-file", "{}/server.key"),
    "no key file": ("--cert-file", "{}/server.crt", "--key-file", "{}/none.key"),
    "the key of another": ("--cert-file", "{}/server.crt", "--key-file", "{}/peer.key"),
    "no PEM": ("--cert-file", "{}/crl.der", "--key-file", "{}/server.key"),
    "a key for a certificate": ("--cert-file", "{}/server.key", "--key-file", "{}/server.key"),
    "no authority": ("{pair}", "--trusted-ca-file", "{}/none.crt"),
    "half of a client's": ("{pair}", "--client-cert-file", "{}/client.crt"),
    "an unknown suite": ("{pair}", "--cipher-suites", "TLS_FOO"),
    "no suite for HTTP/2": ("{pair}", "--cipher-suites", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    "suites for 1.3": (
        "{pair}",
        *("--cipher-suites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        "--tls-min-version=TLS1.3",
    ),
    "versions the wrong way": ("{pair}", "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"),
    "an unknown version": ("{pair}", "--tls-min-version=TLS1.1"),
    "validity of no time": ("--auto-tls", "--self-signed-cert-validity=0"),
    "names and hosts": (
        *("{pair}", "{peer}", "--listen-peer-urls=https://127.0.0.1:{port}"),
        *("--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"),
    ),
    "no certificate for members": ("{pair}", "--listen-peer-urls=https://127.0.0.1:{port}"),
}
"""Flags with which no server starts that has an https client URL."""
NAMES_ITS_FILE = ("no file", "no key file", "the key of another", "no PEM", "no authority")

_REASON = re.compile(r'"level":"(?:fatal|warn)".*"error":"((?:[^"\\]|\\.)*)"')


@pytest.mark.parametrize("name", CANNOT_START)
def test_what_etcd_does_not_start_with_is_refused_in_its_words(
    name: str, certificates: Certificates, tmp_path: Path, etcd_command: Sequence[str]
) -> None:
    pairs = {
        "{pair}": certificates.pair("server"),
        "{peer}": certificates.pair("peer", "peer-"),
    }
    client_port, port = free_ports(2)
    url = f"https://127.0.0.1:{client_port}"
    flags: list[str] = []
    for flag in CANNOT_START[name]:
        text = flag.replace("{port}", str(port)).replace("{}", str(certificates.folder))
        flags += pairs.get(flag, (text,))
    members = {
        server: Member(command, tmp_path / server)
        for server, command in (("etcd", etcd_command), ("rusd", rusd_command()))
    }
    said = {}
    try:
        for member in members.values():
            member.flags = ("--listen-client-urls", url, "--advertise-client-urls", url, *flags)
            member.launch()
        for server, member in members.items():
            assert member.wait_exit(SECONDS) == 1, member.log
            said[server] = member.log
    finally:
        for member in members.values():
            member.close()
    reason = _REASON.findall(said["etcd"])[-1].replace('\\"', '"')
    # etcd's own names of its parts; rusd names the file.
    reason = reason.removeprefix("tls: failed to find any PEM data in certificate input")
    reason = re.sub("^tls: failed to find certificate PEM data in certificate input.*", "", reason)
    assert reason in said["rusd"].replace('\\"', '"')
    if name in NAMES_ITS_FILE:
        assert str(certificates.folder) in said["rusd"].splitlines()[-1]


@pytest.mark.parametrize("role", ["client", "peer"])
def test_an_expired_certificate_stops_the_start(
    role: str, certificates: Certificates, tmp_path: Path
) -> None:
    """Real etcd starts, and no client will have anything to do with it."""
    member = Member(rusd_command(), tmp_path / "member")
    (port,) = free_ports(1)
    pair = certificates.pair("expired", "peer-" if role == "peer" else "")
    member.flags = (f"--listen-{role}-urls=https://127.0.0.1:{port}", *pair)
    member.launch()
    assert member.wait_exit(SECONDS) == 1
    assert f"{certificates['expired.crt']}: the certificate has expired, on " in member.log


def test_silent_clients_hold_nobody_up(serve: Serve, certificates: Certificates) -> None:
    site = serve(rusd_command(), certificates, *certificates.pair("server"))
    with ExitStack() as silent:
        for _ in range(500):
            address = ("127.0.0.1", site.port)
            silent.enter_context(socket.create_connection(address, SECONDS)).sendall(b"\x16\x03")
        assert site.serves()


def test_private_keys_and_their_content_are_not_logged(
    serve: Serve, certificates: Certificates
) -> None:
    site = serve(rusd_command(), certificates, *trusting(certificates), "--log-level=debug")
    assert site.serves("client")
    assert not site.serves("wrong")
    for name in ("server", "client", "wrong"):
        secret = Path(certificates[f"{name}.key"]).read_text().splitlines()[1]
        assert secret not in site.member.log
    assert "PRIVATE KEY" not in site.member.log
