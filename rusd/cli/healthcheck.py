"""`rusd healthcheck`: whether a member serves, as an exit code for containers and supervisors."""

import json
import urllib.parse
from contextlib import closing

import click


class Unhealthy(click.ClickException):
    """The member does not serve; the exit code is 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002
        """Write the reason alone."""
        click.echo(self.message, err=True)


def ask(endpoint: str, seconds: float) -> None:
    """Ask /health, which takes a linearizable read; raise Unhealthy unless it says true."""
    import http.client  # here, so that the server starts without it

    url = urllib.parse.urlsplit(endpoint)
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


def _endpoint(_: click.Context, __: click.Parameter, text: str) -> str:
    url = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http" or not url.hostname or url.path.strip("/"):
        raise click.BadParameter(f"not of the form http://host:port: {text}")
    return f"http://{url.netloc}"


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
def healthcheck(endpoint: str, timeout: float) -> None:
    """Exit with 0 if the member serves, else with 1."""
    ask(endpoint, timeout)
    click.echo(f"{endpoint} is healthy")
