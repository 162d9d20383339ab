"""`member`: list, add, remove, update, promote."""

from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import Code, Exit, bad_arguments
from rusd.cli.ctl.flags import TEXT, flag, parse_int, switch
from rusd.cli.ctl.methods import (
    MEMBER_ADD,
    MEMBER_LIST,
    MEMBER_PROMOTE,
    MEMBER_REMOVE,
    MEMBER_UPDATE,
)
from rusd.cli.ctl.printing import write
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.table import Table
from rusd.pb import rpc_pb2 as rpc

_TITLES = ("ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner")


def member_id(words: tuple[str, ...]) -> int:
    """Return the id that the line names, in hexadecimal; raise Exit if there is none."""
    if len(words) != 1:
        raise bad_arguments("member ID is not provided")
    try:
        return parse_int(words[0], 16, signed=False)
    except ValueError as error:
        raise bad_arguments(f"bad member ID arg ({error}), expecting ID in Hex") from None


@command(
    "list",
    "",
    flag("consistency", TEXT, "l", "Linearizable (l) or serializable (s).", values=("l", "s")),
)
def list_members(session: Session, words: tuple[str, ...], consistency: str) -> None:  # noqa: ARG001
    """List the members of the cluster."""
    if consistency not in ("l", "s"):
        raise Exit(f'unknown consistency flag "{consistency}"', Code.BAD_FEATURE)
    request = rpc.MemberListRequest(linearizable=consistency == "l")
    answer = session.call(MEMBER_LIST, request)
    table = Table(
        _TITLES,
        [
            (
                f"{each.ID:x}",
                "started" if each.name else "unstarted",
                each.name,
                ",".join(each.peerURLs),
                ",".join(each.clientURLs),
                str(each.isLearner).lower(),
            )
            for each in answer.members
        ],
    )
    if session.printer.name == "table":
        write(table.drawn())
    else:
        session.printer.show(answer, table.lines)


@command(
    "add",
    "<memberName> [options]",
    switch("learner", "A member that does not vote yet."),
    flag("peer-urls", TEXT, "", "Its peer URLs, with commas between them."),
)
def add(session: Session, words: tuple[str, ...], learner: bool, peer_urls: str) -> None:
    """Add a member; prints what it is to be started with."""
    if not words:
        raise bad_arguments("member name not provided")
    if len(words) > 1:
        raise bad_arguments("too many arguments")
    name, urls = words[0], _urls(peer_urls)
    answer = session.call(MEMBER_ADD, rpc.MemberAddRequest(peerURLs=urls, isLearner=learner))

    def simple() -> str:
        started = [
            f"{name if each.ID == answer.member.ID else each.name}={url}"
            for each in answer.members
            for url in each.peerURLs
        ]
        return (
            f"Member {answer.member.ID:16x} added to cluster {answer.header.cluster_id:16x}\n\n"
            f'ETCD_NAME="{name}"\n'
            f'ETCD_INITIAL_CLUSTER="{",".join(started)}"\n'
            f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{",".join(answer.member.peerURLs)}"\n'
            'ETCD_INITIAL_CLUSTER_STATE="existing"\n'
        )

    session.printer.show(answer, simple)


@command("remove", "<memberID>")
def remove(session: Session, words: tuple[str, ...]) -> None:
    """Remove a member."""
    number = member_id(words)
    answer = session.call(MEMBER_REMOVE, rpc.MemberRemoveRequest(ID=number))
    session.printer.show(answer, lambda: _done(number, "removed from", answer.header))


@command(
    "update",
    "<memberID> [options]",
    flag("peer-urls", TEXT, "", "Its peer URLs from now on, with commas between them."),
)
def update(session: Session, words: tuple[str, ...], peer_urls: str) -> None:
    """Change the peer URLs of a member."""
    number = member_id(words)
    request = rpc.MemberUpdateRequest(ID=number, peerURLs=_urls(peer_urls))
    answer = session.call(MEMBER_UPDATE, request)
    session.printer.show(answer, lambda: _done(number, "updated in", answer.header))


@command("promote", "<memberID>")
def promote(session: Session, words: tuple[str, ...]) -> None:
    """Let a learner vote."""
    number = member_id(words)
    answer = session.call(MEMBER_PROMOTE, rpc.MemberPromoteRequest(ID=number))
    session.printer.show(answer, lambda: _done(number, "promoted in", answer.header))


def _done(number: int, what: str, header: rpc.ResponseHeader) -> str:
    return f"Member {number:16x} {what} cluster {header.cluster_id:16x}\n"


def _urls(text: str) -> list[str]:
    if not text:
        raise bad_arguments("member peer urls not provided")
    urls = text.split(",")
    for each in urls:
        if not each.startswith(("http://", "https://", "unix://", "unixs://")):
            raise Exit(f"URL scheme must be http, https, unix, or unixs: {each}")
    return urls


member = group("member", "Members of the cluster.", list_members, add, remove, update, promote)
