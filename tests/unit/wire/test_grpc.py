"""gRPC's own formats: framing, timeouts, percent-encoding, compression bounds."""

import gzip
import tracemalloc
from urllib.parse import unquote

import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from rusd.wire.grpc import (
    Code,
    MessageReader,
    Refused,
    Status,
    decompress,
    parse_timeout,
    percent_encode,
    trailers,
)

from .peer import prefixed


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2H", 7200.0),
        (b"3M", 180.0),
        (b"5S", 5.0),
        (b"100m", 0.1),
        (b"250u", 0.00025),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"5s", b"-5S", b"1.5S", b"123456789S", b"5 S"])
def test_malformed_timeouts(value: bytes) -> None:
    with pytest.raises(ValueError, match="malformed grpc-timeout"):
        parse_timeout(value)


@given(st.text())
def test_a_message_survives_percent_encoding(text: str) -> None:
    encoded = percent_encode(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote(encoded.decode(), errors="strict") == text.encode("utf-8", "replace").decode()


def test_trailers_are_hpack() -> None:
    def decoded(status: Status | None) -> list[tuple[str, str]]:
        return [(str(n), str(v)) for n, v in Decoder().decode(trailers(status))]

    assert decoded(None) == decoded(Status(Code.OK)) == [("grpc-status", "0")]
    for size in (1, 126, 127, 128, 300, 2000):
        text = "x" * size
        expected = [("grpc-status", "13"), ("grpc-message", text)]
        assert decoded(Status(Code.INTERNAL, text)) == expected


def test_a_status_text_is_bounded() -> None:
    assert len(trailers(Status(Code.INTERNAL, "\0" * 1_000_000))) < 8192


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_messages_are_put_together_however_they_are_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(map(prefixed, messages))
    reader = MessageReader(b"identity", 50)
    found: list[bytes] = []
    while body:
        size = data.draw(st.integers(1, len(body)))
        found += reader.feed(body[:size])
        body = body[size:]
    assert found == messages
    assert (reader.held, reader.missing) == (0, 0)


def test_what_is_missing_is_known_from_the_prefix_on() -> None:
    reader = MessageReader(b"identity", 100)
    body = prefixed(bytes(40))
    assert (list(reader.feed(body[:4])), reader.missing) == ([], 0)
    assert (list(reader.feed(body[4:15])), reader.missing, reader.held) == ([], 30, 15)


def test_messages_before_a_bad_one_are_delivered() -> None:
    reader = MessageReader(b"identity", 10)
    found = reader.feed(prefixed(b"good") + prefixed(bytes(11)))
    assert next(found) == b"good"
    with pytest.raises(Refused) as refused:
        next(found)
    assert refused.value.status.code == Code.RESOURCE_EXHAUSTED


def test_gzip_with_several_members() -> None:
    assert decompress(b"gzip", gzip.compress(b"one ") + gzip.compress(b"two"), 7) == b"one two"
    with pytest.raises(Refused) as refused:
        decompress(b"gzip", gzip.compress(b"one ") + gzip.compress(b"two"), 6)
    assert refused.value.status.code == Code.RESOURCE_EXHAUSTED


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(Refused):
        decompress(b"gzip", bomb, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
