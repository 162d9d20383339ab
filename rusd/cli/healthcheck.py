"""`rusd healthcheck`: whether a member serves, as an exit code for containers and supervisors."""

import json
import urllib.parse
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import ssl


class Unhealthy(click.ClickException):
    """The member does not serve; the exit code is 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002
        """Write the reason alone."""
        click.echo(self.message, err=True)


class Trust(NamedTuple):
    """For https: whom to trust (None for the system's authorities), and what to show."""

    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    """Whoever answers is trusted."""


def ask(endpoint: str, seconds: float, trust: Trust) -> None:
    """Ask /health, which takes a linearizable read; raise Unhealthy unless it says true."""
    import http.client  # here, so that the server starts without it

    url = urllib.parse.urlsplit(endpoint)
    if url.scheme == "https":
        context = _context(trust)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            url.netloc, timeout=seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=seconds)
    with closing(connection):
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unhealthy(f"{endpoint} is unhealthy: {error or type(error).__name__}") from None
    try:
        healthy = answer.status == 200 and json.loads(body)["health"] == "true"
    except (ValueError, KeyError, TypeError):
        healthy = False
    if not healthy:
        text = body.decode(errors="replace").strip()
        raise Unhealthy(f"{endpoint} is unhealthy: status {answer.status}, {text}")


def _context(trust: Trust) -> "ssl.SSLContext":
    """Raise ClickException for files that cannot be used."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=trust.cacert)
        if trust.cert is not None:
            # A password asked for would wait for someone at the terminal.
            context.load_cert_chain(trust.cert, trust.key, password=lambda: "")
    except (OSError, ValueError) as error:
        files = ", ".join(filter(None, trust[:3]))
        raise click.ClickException(f"{files}: {error}") from None
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _endpoint(_: click.Context, __: click.Parameter, text: str) -> str:
    url = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/"):
        raise click.BadParameter(f"not of the form http://host:port: {text}")
    return f"{url.scheme}://{url.netloc}"


@click.command("healthcheck")
@click.option(
    "--endpoint",
    callback=_endpoint,
    default="http://127.0.0.1:2379",
    show_default=True,
    help="The member's client URL.",
)
@click.option(
    "--timeout", type=float, default=5.0, show_default=True, help="Seconds to wait for an answer."
)
@click.option("--cacert", help="For https: the authority that signed the member's certificate.")
@click.option("--cert", help="For https: a certificate to show to the member.")
@click.option("--key", help="Its key, if it is in another file.")
@click.option(
    "--insecure-skip-tls-verify",
    "insecure",
    is_flag=True,
    help="Trust any certificate, as one that the member made for itself (--auto-tls).",
)
def healthcheck(
    endpoint: str,
    timeout: float,
    cacert: str | None,
    cert: str | None,
    key: str | None,
    insecure: bool,
) -> None:
    """Exit with 0 if the member serves, else with 1."""
    ask(endpoint, timeout, Trust(cacert, cert, key, insecure))
    click.echo(f"{endpoint} is healthy")
