"""`check datascale` asks a member's metrics as the client asks the member."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from ssl import CERT_REQUIRED, Purpose, create_default_context

import pytest

from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.performance import _resident
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.settings import Settings
from tests.certificates import Certificates


class Metrics(BaseHTTPRequestHandler):
    """One metric."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"process_resident_memory_bytes 5e+06\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A lab's."""
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def target(certificates: Certificates) -> Iterator[str]:
    """host:port of a member that wants a certificate from its clients."""
    context = create_default_context(Purpose.CLIENT_AUTH, cafile=certificates["ca.crt"])
    context.load_cert_chain(certificates["server.crt"], certificates["server.key"])
    context.verify_mode = CERT_REQUIRED
    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def resident(endpoint: str, certificates: Certificates, **given: str | bool) -> float:
    """Ask with the client's certificate, and the files and switches that are given."""
    files = {name: certificates[f"client.{end}"] for name, end in (("cert", "crt"), ("key", "key"))}
    return _resident(Session(Settings.with_defaults(endpoints=(endpoint,), **files, **given)))


@pytest.mark.parametrize("scheme", ["https://", ""])
def test_a_member_is_known_by_its_authority(
    scheme: str, target: str, certificates: Certificates
) -> None:
    """With the scheme, or with what says that it is TLS."""
    assert resident(scheme + target, certificates, cacert=certificates["ca.crt"]) == 5e6


def test_one_that_is_not_known_tells_nothing(target: str, certificates: Certificates) -> None:
    """But to who trusts anybody."""
    for other in ({}, {"cacert": certificates["wrong-ca.crt"]}):
        with pytest.raises(Exit, match="CERTIFICATE_VERIFY_FAILED"):
            resident(f"https://{target}", certificates, **other)
    assert resident(f"https://{target}", certificates, insecure_skip_tls_verify=True) == 5e6


def test_an_endpoint_without_metrics_is_named(certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(Exit, match="unix"):
        resident(f"unix://{tmp_path}/socket", certificates)
