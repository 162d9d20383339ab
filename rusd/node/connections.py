"""Whether this member has had the others that it needs, since a moment."""

from rusd.node.peers import Peers
from rusd.node.replica import Replica


class Connections:
    """This member's connections to the other voters."""

    def __init__(self, replica: Replica, peers: Peers) -> None:
        self._replica, self._peers = replica, peers

    def is_reachable(self, member: int) -> bool:
        """Whether messages pass both ways."""
        return self._peers.active_since(member) is not None

    def since(self, moment: float) -> bool:
        """Whether a follower was connected to its leader, and a leader to a quorum, at all times
        since a moment of the loop's clock. Without a leader nothing is to blame on connections.
        """
        replica = self._replica
        if not replica.leader:
            return True
        if not replica.is_leader:
            return self._connected(replica.leader, moment)
        voters = replica.raw.conf_state.voters
        connected = sum(voter == replica.id or self._connected(voter, moment) for voter in voters)
        return 2 * connected > len(voters)

    def _connected(self, member: int, moment: float) -> bool:
        since = self._peers.active_since(member)
        return since is not None and since <= moment
