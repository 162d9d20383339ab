"""`alarm`, `defrag` and `move-leader`."""

from pathlib import Path

import click

from rusd.cli.ctl.client import Failure
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.endpoint import ask_each, cluster_flag, named_endpoints
from rusd.cli.ctl.errors import Exit, bad_arguments
from rusd.cli.ctl.flags import TEXT, flag, parse_int
from rusd.cli.ctl.methods import ALARM, DEFRAGMENT, MOVE_LEADER, STATUS
from rusd.cli.ctl.session import Session
from rusd.cli.snapshot import human
from rusd.pb import rpc_pb2 as rpc


def _alarms(answer: rpc.AlarmResponse) -> str:
    return "".join(
        f"memberID:{each.memberID} alarm:{rpc.AlarmType.Name(each.alarm)} \n"
        for each in answer.alarms
    )


@command("list", "")
def list_alarms(session: Session, words: tuple[str, ...]) -> None:
    """List the alarms that hold."""
    if words:
        raise bad_arguments("alarm list command accepts no arguments")
    answer = session.call(ALARM, rpc.AlarmRequest())
    session.printer.show(answer, lambda: _alarms(answer))


@command("disarm", "")
def disarm(session: Session, words: tuple[str, ...]) -> None:
    """End the alarms that hold."""
    if words:
        raise bad_arguments("alarm disarm command accepts no arguments")
    found = session.call(ALARM, rpc.AlarmRequest())
    answer = rpc.AlarmResponse()
    for each in found.alarms:
        one = session.call(
            ALARM,
            rpc.AlarmRequest(
                action=rpc.AlarmRequest.DEACTIVATE, memberID=each.memberID, alarm=each.alarm
            ),
        )
        answer.alarms.extend(one.alarms)
    session.printer.show(answer, lambda: _alarms(answer))


alarm = group("alarm", "Alarms.", list_alarms, disarm)


@command(
    "defrag",
    "",
    cluster_flag(),
    flag("data-dir", TEXT, "", "The data directory of a member that does not run, instead."),
)
def defrag(session: Session, words: tuple[str, ...], cluster: bool, data_dir: str) -> None:  # noqa: ARG001
    """Give space back, at each member in turn."""
    if data_dir:
        _defragment_directory(Path(data_dir))
        return
    failed = False
    for endpoint in named_endpoints(session, cluster):
        (answer,) = ask_each(
            session, [endpoint], lambda client: client.call(DEFRAGMENT, rpc.DefragmentRequest())
        )
        if isinstance(answer, Failure):
            failed = True
            click.echo(f"Failed to defragment etcd member[{endpoint}] ({answer.text})", err=True)
        else:
            click.echo(f"Finished defragmenting etcd member[{endpoint}]")
    if failed:
        raise Exit


def _defragment_directory(data: Path) -> None:
    """Defragment data that no member uses; raise Exit where one does, or it is not rusd's."""
    from rusd.storage.engine import Engine
    from rusd.storage.folders import lock_directory
    from rusd.storage.format import claim

    if not (data / "member").is_dir():
        raise Exit(f"{data} is not the data directory of a member")
    try:
        with open(lock_directory(data)):  # which unlocks it in the end
            claim(data)
            engine = Engine(data / "member")
            try:
                before = engine.size()
                engine.compact()
                after = engine.size()
            finally:
                engine.close()
    except OSError as error:
        raise Exit(str(error)) from None
    click.echo(f"Finished defragmenting {data}: {human(before)} before, {human(after)} now")


@command("move-leader", "<transferee-member-id>")
def move_leader(session: Session, words: tuple[str, ...]) -> None:
    """Let another member lead; one of the endpoints is to be the leader's."""
    if len(words) != 1:
        raise bad_arguments("move-leader command needs 1 argument")
    try:
        target = parse_int(words[0], 16, signed=False)
    except ValueError as error:
        raise bad_arguments(str(error)) from None
    endpoints = list(session.settings.endpoints)
    answers = ask_each(session, endpoints, lambda client: client.call(STATUS, rpc.StatusRequest()))
    leader, leading = 0, ""
    for endpoint, answer in zip(endpoints, answers, strict=True):
        if isinstance(answer, Failure):
            raise answer
        if answer.leader == answer.header.member_id:
            leader, leading = answer.leader, endpoint
    if not leader:
        raise bad_arguments(f"no leader endpoint given at [{' '.join(endpoints)}]")
    request = rpc.MoveLeaderRequest(targetID=target)
    (moved,) = ask_each(session, [leading], lambda client: client.call(MOVE_LEADER, request))
    if isinstance(moved, Failure):
        raise moved
    session.printer.show(moved, lambda: f"Leadership transferred from {leader:x} to {target:x}\n")
