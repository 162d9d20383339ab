"""rusd/node/identity.py against ids that real etcd gave."""

import pytest

from rusd.node.identity import cluster_id, member_id

THREE = (0xEDB0277624D6BA4F, 0xD6EC61671709C39B, 0x8A51962776471D9A)
"""Members of a cluster with the token `my-token`."""


@pytest.mark.parametrize(
    ("urls", "token", "expected"),
    [
        (["http://localhost:2380"], "etcd-cluster", 0x8E9E05C52164694D),
        (["http://127.0.0.1:13601"], "tok", 5164039269395094839),
        (["http://127.0.0.1:13602", "http://127.0.0.1:13601"], "my-token", THREE[0]),
        (["http://127.0.0.1:13601", "http://127.0.0.1:13602"], "my-token", THREE[0]),
        (["http://127.0.0.1:13621"], "my-token", THREE[1]),
        (["http://127.0.0.1:13631"], "my-token", THREE[2]),
    ],
)
def test_members_have_the_ids_that_etcd_gives_them(
    urls: list[str], token: str, expected: int
) -> None:
    assert member_id(urls, token) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([0x8E9E05C52164694D], 0xCDF818194E3A8C32),
        ([5164039269395094839], 12030690049412508831),
        (THREE, 0x8B272D2BC35A99C6),
        (reversed(THREE), 0x8B272D2BC35A99C6),
    ],
)
def test_clusters_have_the_ids_that_etcd_gives_them(members: list[int], expected: int) -> None:
    assert cluster_id(members) == expected


def test_a_member_that_is_added_later_has_another_id() -> None:
    urls = ["http://localhost:2380"]
    assert len({member_id(urls, "t", at) for at in (None, 1, 2)}) == 3
