"""`rusd healthcheck`: 0 for a member that says that it is healthy, 1 for everything else."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.members import Member, free_ports, rusd_command


def check(*arguments: str) -> tuple[int, str]:
    """The exit code, and what it said."""
    done = subprocess.run(
        [*rusd_command(), "healthcheck", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


@contextmanager
def answering(status: int, body: bytes, silent: threading.Event | None = None) -> Iterator[str]:
    """The URL of a server that answers so, after `silent` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if silent is not None:
                silent.wait()
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            if silent is not None:
                silent.set()
            server.shutdown()
            thread.join()


def test_a_member_that_serves_is_healthy(subject: Member) -> None:
    url = subject.client_url
    assert check("--endpoint", url) == (0, f"{url} is healthy\n")
    assert check("--endpoint", subject.target) == (0, f"{url} is healthy\n")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b'{"health":"false","reason":"RAFT NO LEADER"}'),
        (200, b'{"health":"false","reason":"ALARM NOSPACE"}'),
        (200, b"a page of something else"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b"\xff\x00"),
    ],
)
def test_any_other_answer_is_unhealthy_and_shown(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        shown = body.decode(errors="replace")
        text = f"{url} is unhealthy: status {status}, {shown}\n"
        assert check("--endpoint", url) == (1, text)


def test_no_answer_in_time_is_unhealthy() -> None:
    with answering(200, b'{"health":"true"}', threading.Event()) as url:
        assert check("--endpoint", url, "--timeout", "0.2") == (
            1,
            f"{url} is unhealthy: timed out\n",
        )


def test_no_server_is_unhealthy() -> None:
    (port,) = free_ports(1)
    code, text = check("--endpoint", f"http://127.0.0.1:{port}")
    assert code == 1
    assert "Connection refused" in text


@pytest.mark.parametrize("endpoint", ["http://", "ftp://127.0.0.1:2379", "http://127.0.0.1/path"])
def test_what_is_no_client_url_is_refused(endpoint: str) -> None:
    code, text = check("--endpoint", endpoint)
    assert code == 2
    assert "not of the form http://host:port" in text


def test_a_command_is_one_only_as_the_first_word() -> None:
    done = subprocess.run(
        [*rusd_command(), "--name", "healthcheck", "--version"], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"rusd ")


def test_a_member_with_tls_is_asked_with_certificates(tmp_path: Path) -> None:
    certificates = Certificates.made(tmp_path / "certificates")
    member = Member(rusd_command(), tmp_path / "member", certificates=certificates)
    url, ca = member.client_url, ("--cacert", certificates["ca.crt"])
    own = ("--cert", certificates["client.crt"], "--key", certificates["client.key"])
    try:
        member.start()
        assert check("--endpoint", url, *ca, *own) == (0, f"{url} is healthy\n")
        any_server = ("--insecure-skip-tls-verify", *own)
        assert check("--endpoint", url, *any_server) == (0, f"{url} is healthy\n")
        for wrong in ((), ca, own, (*ca, "--cert", certificates["wrong.crt"])):
            code, said = check("--endpoint", url, *wrong)
            assert code == 1
            assert "Traceback" not in said
        missing = str(tmp_path / "none.crt")
        code, said = check("--endpoint", url, *ca, "--cert", missing)
        assert code == 1
        assert missing in said
    finally:
        member.close()
