"""Leases over the ends of a process: never shorter than a client was told."""

from pathlib import Path

import grpc
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.members import running, rusd_command, wait_for

TTL = 60
SECONDS = 30.0


def call(channel: grpc.Channel, method: str, request: Message, response: type[Message]) -> Message:
    """One unary call."""
    answer: Message = channel.unary_unary(
        f"/etcdserverpb.{method}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=response.FromString,
    )(request, timeout=SECONDS)
    return answer


def grant(channel: grpc.Channel, ttl: int, *keys: bytes) -> None:
    """Grants lease 7 and hangs keys on it."""
    call(channel, "Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=7, TTL=ttl), rpc.LeaseGrantResponse)
    for key in keys:
        call(channel, "KV/Put", rpc.PutRequest(key=key, lease=7), rpc.PutResponse)


def left(channel: grpc.Channel) -> int:
    """Seconds that the lease has left, as the member says."""
    answer = call(
        channel,
        "Lease/LeaseTimeToLive",
        rpc.LeaseTimeToLiveRequest(ID=7),
        rpc.LeaseTimeToLiveResponse,
    )
    assert isinstance(answer, rpc.LeaseTimeToLiveResponse)
    return answer.TTL


def keep_alive(channel: grpc.Channel) -> int:
    """The TTL that a renewal is answered with."""
    (answer,) = channel.stream_stream(
        "/etcdserverpb.Lease/LeaseKeepAlive",
        request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
        response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
    )(iter([rpc.LeaseKeepAliveRequest(ID=7)]), timeout=SECONDS)
    return int(answer.TTL)


def everything(channel: grpc.Channel) -> rpc.RangeResponse:
    """How many keys there are, and the revision."""
    request = rpc.RangeRequest(key=b"\0", range_end=b"\0", count_only=True)
    answer = call(channel, "KV/Range", request, rpc.RangeResponse)
    assert isinstance(answer, rpc.RangeResponse)
    return answer


def test_time_left_survives_an_orderly_restart_and_a_renewal_survives_a_kill(
    tmp_path: Path,
) -> None:
    with running(rusd_command(), tmp_path) as member:
        with member.channel() as channel:
            grant(channel, TTL, b"k")
            wait_for(lambda: left(channel) < TTL - 3, SECONDS, "three seconds to pass")
            told = left(channel)
        member.stop()
        member.start()
        with member.channel() as channel:
            after = left(channel)
            assert 0 < after <= told + 1, "time left was written down at the end"
            wait_for(lambda: left(channel) < after, SECONDS, "a second to pass")
            assert keep_alive(channel) == TTL
        member.kill()
        member.start()
        with member.channel() as channel:
            assert left(channel) >= TTL - 2, "the renewal was told, so the log promises it"
            assert everything(channel).count == 1


def test_a_lease_expires_with_its_keys_after_a_kill(tmp_path: Path) -> None:
    with running(rusd_command(), tmp_path) as member:
        with member.channel() as channel:
            grant(channel, 2, b"a", b"b", b"c")
        member.kill()
        member.start()
        with member.channel() as channel:
            wait_for(lambda: left(channel) == -1, SECONDS, "expiry")
            answer = everything(channel)
            assert (answer.count, answer.header.revision) == (0, 5)
