"""Who is in the cluster, and which of them this member is."""

from dataclasses import dataclass
from typing import Final

from rusd.pb.rpc_pb2 import Member

_PREFIX: Final = b"member/"
CLUSTER_ROW: Final = b"cluster"


@dataclass(slots=True)
class Membership:
    """The cluster's members by id."""

    cluster_id: int
    local_id: int
    members: dict[int, Member]

    @staticmethod
    def row_name(member: int) -> bytes:
        return _PREFIX + member.to_bytes(8, "big")

    @staticmethod
    def row_range() -> tuple[bytes, bytes]:
        """Bounds of the members' rows in the state table."""
        return _PREFIX, _PREFIX + b"\xff" * 9

    def cluster_row(self) -> bytes:
        """What is stored of the cluster: its id, and this member's."""
        return self.cluster_id.to_bytes(8, "big") + self.local_id.to_bytes(8, "big")
