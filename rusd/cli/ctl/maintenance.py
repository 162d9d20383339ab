"""`alarm`, `defrag` and `move-leader`."""

import click

from rusd.cli.ctl.client import Failure
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.endpoint import ask_each, cluster_flag, named_endpoints
from rusd.cli.ctl.errors import Exit, bad_arguments
from rusd.cli.ctl.flags import parse_int
from rusd.cli.ctl.methods import ALARM, DEFRAGMENT, MOVE_LEADER, STATUS
from rusd.cli.ctl.session import Session
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


@command("defrag", "", cluster_flag())
def defrag(session: Session, words: tuple[str, ...], cluster: bool) -> None:  # noqa: ARG001
    """Give space back, at each member in turn."""
    defragment(session, named_endpoints(session, cluster))


def defragment(session: Session, endpoints: list[str]) -> None:
    """Defragment members one after the other; raise Exit if one could not be."""
    failed = False
    for endpoint in endpoints:
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
