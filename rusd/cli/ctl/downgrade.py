"""`downgrade`: lowers the cluster's version, and takes that back. etcdctl has it since 3.6."""

from typing import Final

from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import bad_arguments
from rusd.cli.ctl.methods import Method
from rusd.cli.ctl.session import Session
from rusd.pb import rpc_pb2 as rpc

_DOWNGRADE: Final = Method(
    "/etcdserverpb.Maintenance/Downgrade", rpc.DowngradeRequest, rpc.DowngradeResponse
)


def _done(session: Session, request: rpc.DowngradeRequest) -> None:
    answer = session.call(_DOWNGRADE, request)
    name = rpc.DowngradeRequest.DowngradeAction.Name(request.action).lower()
    text = f"Downgrade {name} success, cluster version {answer.version}\n"
    session.printer.show(answer, lambda: text)


def _target(words: tuple[str, ...]) -> str:
    if not words:
        raise bad_arguments("TARGET_VERSION not provided")
    if len(words) > 1:
        raise bad_arguments("too many arguments")
    if not words[0]:
        raise bad_arguments("target version not provided")
    return words[0]


@command("validate", "<TARGET_VERSION>")
def validate(session: Session, words: tuple[str, ...]) -> None:
    """See whether the cluster can go to a version."""
    request = rpc.DowngradeRequest(action=rpc.DowngradeRequest.VALIDATE, version=_target(words))
    _done(session, request)


@command("enable", "<TARGET_VERSION>")
def enable(session: Session, words: tuple[str, ...]) -> None:
    """Lower the cluster's version."""
    request = rpc.DowngradeRequest(action=rpc.DowngradeRequest.ENABLE, version=_target(words))
    _done(session, request)


@command("cancel", "")
def cancel(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Raise it again."""
    _done(session, rpc.DowngradeRequest(action=rpc.DowngradeRequest.CANCEL))


downgrade = group("downgrade", "The version that the cluster goes by.", validate, enable, cancel)
