"""Members that talk over TLS: all that holds without it, and nobody else gets in."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.tls.authority import LOCAL, Authority
from rusd.config import load
from rusd.log import SILENT
from rusd.node.peer_wire import Hello, Method, Purpose, encode_hello
from rusd.node.peers import PeerUnreachableError, ask
from rusd.tls.admission import Admission
from rusd.tls.context import dial_context
from rusd.tls.dialing import Dialing
from rusd.tls.files import Reloaded
from rusd.tls.settings import Settings, peer_settings
from tests.unit.node import peering, test_peers
from tests.unit.node.peering import (
    CLUSTER,
    Node,
    connect,
    eventually,
    members,
    run,
)

SECONDS = 20.0


class Certificates:
    """A folder of certificates, and settings for members."""

    def __init__(self, folder: Path) -> None:
        """Make the authority's, and one that is good for every member."""
        self.folder = folder
        self.authority = Authority.create("peers")
        self.authority.credential.write(folder, "ca")
        self.authority.issue("member", LOCAL).write(folder, "member")

    def settings(self, name: str = "member", *flags: str, ca: str = "ca.crt") -> Settings:
        """How a member with this certificate accepts and dials."""
        pair = f"--peer-cert-file={self.folder}/{name}.crt"
        key = f"--peer-key-file={self.folder}/{name}.key"
        trust = f"--peer-trusted-ca-file={self.folder}/{ca}"
        return peer_settings(load([pair, key, trust, "--peer-client-cert-auth", *flags], {}))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Certificates of an authority of their own."""
    return Certificates(tmp_path)


@pytest.mark.parametrize(
    "scenario",
    [
        test_peers.test_messages_of_a_lane_arrive_in_order_both_ways,
        test_peers.test_one_send_reaches_each_member_with_its_own_messages_at_once,
        test_peers.test_a_message_of_16_mib_arrives_whole,
        test_peers.test_a_call_is_answered_with_its_own_body_or_error,
        test_peers.test_a_call_fails_when_the_member_is_lost_in_the_middle,
        test_peers.test_calls_and_answers_have_bounds,
        test_peers.test_a_stream_carries_bytes_both_ways_from_the_first_one,
        test_peers.test_a_stream_ends_when_its_member_leaves_and_streams_are_few,
        test_peers.test_stop_ends_the_streams_and_calls_that_others_made,
        test_peers.test_a_member_that_is_removed_is_told_and_can_send_nothing_more,
        test_peers.test_a_member_that_is_killed_and_comes_back_is_connected_again,
        test_peers.test_an_idle_connection_stays,
        test_peers.test_stop_sends_what_was_given_before,
        test_peers.test_stop_at_any_moment_of_connecting_leaves_nothing_open,
    ],
    ids=lambda test: test.__name__,
)
def test_with_tls_too(
    scenario: Callable[[], None], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peering, "default_tls", certificates.settings())
    scenario()


def rejected(node: Node) -> list[Mapping[str, Any]]:
    """The log's lines of handshakes that failed."""
    return node.logged("rejected connection on peer endpoint")


def bad_settings(certificates: Certificates) -> dict[str, tuple[Settings, str]]:
    """Members that are not to be heard, and what is logged of them where they connect."""
    folder, authority = certificates.folder, certificates.authority
    stranger = Authority.create("peers")
    stranger.credential.write(folder, "strange-ca")
    stranger.issue("member", LOCAL).write(folder, "stranger")
    authority.issue("somebody", LOCAL).write(folder, "renamed")
    authority.issue("member", ["192.0.2.7"]).write(folder, "elsewhere")
    authority.issue("member", LOCAL, client=False).write(folder, "serves")
    revoked = authority.issue("member", LOCAL)
    revoked.write(folder, "revoked")
    authority.revoke(revoked)
    (folder / "crl").write_bytes(authority.revocations())
    return {
        "stranger": (certificates.settings("stranger"), "unable to get local issuer certificate"),
        "renamed": (certificates.settings("renamed"), "client certificate authentication failed"),
        "elsewhere": (certificates.settings("elsewhere"), "valid for 192.0.2.7, not 127.0.0.1"),
        "serves": (certificates.settings("serves"), "unsuitable certificate purpose"),
        "revoked": (certificates.settings("revoked"), "revoked"),
    }


KINDS = ("stranger", "renamed", "elsewhere", "serves", "revoked")


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_not_the_right_certificate_is_not_heard(
    kind: str, certificates: Certificates
) -> None:
    settings, reason = bad_settings(certificates)[kind]

    async def scenario() -> None:
        strict = certificates.settings(
            "member", "--peer-cert-allowed-cn=member", f"--peer-crl-file={certificates.folder}/crl"
        )
        one, two, bad = Node(1, tls=strict), Node(2, tls=strict), Node(3, tls=settings)
        async with members(one, two, bad):
            connect([one, two, bad])
            await eventually(lambda: one.active(two) and rejected(one) and rejected(two))
            assert not one.active(bad)
            assert not bad.active(one)
            one.peers.send([test_peers.heartbeat(2, 1)])
            await eventually(lambda: two.received)
            assert one.received == bad.received == []
            for good in (one, two):
                (line,) = rejected(good)
                assert reason in line["error"]

    run(scenario())


def test_one_who_has_no_certificate_cannot_even_ask(certificates: Certificates) -> None:
    async def scenario() -> None:
        one = Node(1, tls=certificates.settings())
        one.peers.serve(Method.MEMBERS, test_peers.echo, public=True)
        async with members(one):
            member = certificates.settings()
            nobody = dialing(replace(member, cert_file="", key_file=""))
            with pytest.raises(PeerUnreachableError):
                await ask([one.url], Method.MEMBERS, b"", SECONDS, nobody)
            somebody = dialing(member)
            assert await ask([one.url], Method.MEMBERS, b"x", SECONDS, somebody) == b"x"

    run(scenario())


def dialing(settings: Settings) -> Dialing:
    contexts = Reloaded(lambda: dial_context(settings), settings.files, SILENT)
    return Dialing(contexts, Admission(settings, SILENT))


def test_another_cluster_with_the_same_authority_is_refused(certificates: Certificates) -> None:
    async def scenario() -> None:
        settings = certificates.settings()
        one, stray = Node(1, tls=settings), Node(2, cluster=CLUSTER + 1, tls=settings)
        async with members(one, stray):
            connect([one, stray])
            await eventually(lambda: one.logged("cluster ID mismatch"))
            assert not one.active(stray)

    run(scenario())


def test_plain_text_on_a_tls_port_and_the_reverse_are_told_of_once(
    certificates: Certificates,
) -> None:
    async def scenario() -> None:
        secure, plain = Node(1, tls=certificates.settings()), Node(2)
        async with members(secure, plain):
            secure.peers.update({2: [plain.url.replace("http:", "https:")]}, ())
            plain.peers.update({1: [secure.url.replace("https:", "http:")]}, ())
            at_plain = "TLS on a peer URL without TLS"
            await eventually(lambda: rejected(secure) and plain.logged(at_plain))
            await asyncio.sleep(0.5)  # more attempts
            assert len(rejected(secure)) == 1
            assert "does not look like a TLS handshake" in rejected(secure)[0]["error"]
            assert len(plain.logged(at_plain)) == 1
            assert not secure.received
            assert not plain.received

    run(scenario())


def test_a_hello_in_plain_text_gets_no_answer_from_a_tls_port(certificates: Certificates) -> None:
    async def scenario() -> None:
        one = Node(1, tls=certificates.settings())
        async with members(one):
            one.peers.update({2: []}, ())
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(encode_hello(Hello(Purpose.CONTROL, CLUSTER, 2, 1)))
            answer = await reader.read()
            assert b"rusd" not in answer
            writer.close()

    run(scenario())


def test_new_certificates_are_used_for_new_connections(certificates: Certificates) -> None:
    async def scenario() -> None:
        settings = certificates.settings()
        one, two = Node(1, tls=settings), Node(2, tls=settings)
        async with members(one, two):
            connect([one, two])
            await eventually(lambda: one.active(two))
            fresh = Authority.create("peers of next year")
            ca = certificates.folder / "ca.crt"
            ca.write_bytes(ca.read_bytes() + fresh.credential.certificate_pem)
            fresh.issue("member", LOCAL).write(certificates.folder, "member")
            for peer in (one.peers._peers[2], two.peers._peers[1]):
                assert peer.control.connection is not None
                peer.control.connection.abort("by the test")
            await eventually(lambda: one.unreachable and one.active(two))
            ca.write_bytes(fresh.credential.certificate_pem)
            third = Node(3, tls=settings)
            async with members(third):
                connect([one, two, third])
                await eventually(lambda: third.active(one, two))

    run(scenario())
