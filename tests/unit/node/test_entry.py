"""rusd/node/entry.py: what a batch is in the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.auth.store import Identity
from rusd.node.entry import (
    MEMBER,
    Kind,
    batch_of,
    decode,
    decode_identity,
    encode,
    encode_identity,
)

requests = st.lists(
    st.tuples(st.sampled_from(sorted(set(Kind) - {Kind.BATCH})), st.binary(max_size=300)),
    max_size=9,
)


@given(requests)
def test_requests_come_back_in_order(batch: list[tuple[int, bytes]]) -> None:
    assert list(decode(encode(batch, 7, 9))) == batch


@given(requests.filter(bool), st.data())
def test_data_that_is_not_whole_is_refused(
    batch: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Unless it was cut between requests: that is another, shorter batch."""
    whole = encode(batch, 7, 9)
    cut = data.draw(st.integers(0, len(whole) - 1))
    boundaries = {len(encode(batch[:count], 7, 9)) for count in range(len(batch))}
    if cut in {0, *boundaries}:
        assert len(list(decode(whole[:cut]))) < len(batch)
    else:
        with pytest.raises(ValueError, match="ends within a request"):
            list(decode(whole[:cut]))


def test_the_numbers_on_disk_do_not_change() -> None:
    assert [(kind.name, kind.value) for kind in Kind] == [
        ("BATCH", 0),
        ("PUT", 1),
        ("DELETE_RANGE", 2),
        ("TXN", 3),
        ("COMPACT", 4),
        ("LEASE_GRANT", 5),
        ("LEASE_REVOKE", 6),
        ("LEASE_CHECKPOINT", 7),
        ("ALARM", 8),
        ("MEMBER", 9),
        ("LEASE_EXPIRE", 10),
        ("AUTH_ENABLE", 11),
        ("AUTH_DISABLE", 12),
        ("AUTHENTICATE", 13),
        ("USER_ADD", 14),
        ("USER_DELETE", 15),
        ("USER_CHANGE_PASSWORD", 16),
        ("USER_GRANT_ROLE", 17),
        ("USER_REVOKE_ROLE", 18),
        ("ROLE_ADD", 19),
        ("ROLE_DELETE", 20),
        ("ROLE_GRANT_PERMISSION", 21),
        ("ROLE_REVOKE_PERMISSION", 22),
        ("IDENTITY", 23),
        ("DOWNGRADE", 24),
    ]
    origin, sequence = b"\x01" + bytes(7), b"\x02" + bytes(7)
    assert encode([(Kind.PUT, b"ab")], 1, 2) == (
        b"\x00\x10\x00\x00\x00" + origin + sequence + b"\x01\x02\x00\x00\x00ab"
    )


def test_an_entry_says_whose_batch_it_is() -> None:
    assert batch_of(encode([(Kind.PUT, b"ab")], 2**64 - 1, 2**63)) == (2**64 - 1, 2**63)
    assert batch_of(b"") == (0, 0)
    assert batch_of(b"\x01\x02\x00\x00\x00ab" + bytes(30)) == (0, 0), "of a cluster of one member"


@given(st.builds(Identity, st.text(), st.integers(0, 2**63)) | st.sampled_from([None, MEMBER]))
def test_an_identity_comes_back_and_no_user_becomes_the_member(identity: Identity | None) -> None:
    found = decode_identity(encode_identity(identity))
    assert found == identity
    assert (found is MEMBER) == (identity is MEMBER)
