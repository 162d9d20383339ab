"""What passes between this member and the others."""

from collections.abc import Callable, Mapping

from rusd.metrics.family import Family, Reading, Value, counter, gauge, histogram
from rusd.node.peer_traffic import Traffic, Transfers
from rusd.node.peers import Peers
from rusd.node.snapshots import Snapshots


def peer_families(peers: Peers, snapshots: Snapshots, local: int) -> list[Family]:
    """`local` is this member's id."""

    def of_peers(read: Callable[[int, Traffic], Value]) -> Callable[[], Reading]:
        return lambda: {
            (f"{member:x}",): read(member, traffic) for member, traffic in peers.traffic.items()
        }

    def of_pairs(read: Callable[[int, Traffic], Value]) -> Callable[[], Reading]:
        return lambda: {
            (f"{local:x}", f"{member:x}"): read(member, traffic)
            for member, traffic in peers.traffic.items()
        }

    pair, to, sender = ("Local", "Remote"), ("To",), ("From",)
    return [
        gauge(
            "etcd_network_known_peers",
            "1 for each other member.",
            of_pairs(lambda *_: 1),
            pair,
        ),
        gauge(
            "etcd_network_active_peers",
            "Whether messages pass both ways between this member and another: 1, or 0.",
            of_pairs(lambda member, _: peers.active_since(member) is not None),
            pair,
        ),
        counter(
            "etcd_network_disconnected_peers_total",
            "How often the connection to a member was lost.",
            of_pairs(lambda _, traffic: traffic.losses),
            pair,
        ),
        counter(
            "etcd_network_peer_sent_bytes_total",
            "Bytes sent to a member, but for snapshots.",
            of_peers(lambda _, traffic: traffic.sent),
            to,
        ),
        counter(
            "etcd_network_peer_received_bytes_total",
            "Bytes received from a member, but for snapshots.",
            of_peers(lambda _, traffic: traffic.received),
            sender,
        ),
        counter(
            "etcd_network_peer_sent_failures_total",
            "Messages to a member that could not be sent.",
            of_peers(lambda _, traffic: traffic.dropped),
            to,
        ),
        histogram(
            "etcd_network_peer_round_trip_time_seconds",
            "Time from a ping of a member to its answer.",
            of_peers(lambda _, traffic: traffic.round_trips),
            to,
        ),
        gauge(
            "rusd_peer_waiting_bytes",
            "Bytes that wait to be sent to a member.",
            of_peers(lambda member, _: peers.unsent(member)),
            to,
        ),
        *_transfers("send", snapshots.sent, to),
        *_transfers("receive", snapshots.received, sender),
    ]


def _transfers(
    way: str, transfers: Mapping[int, Transfers], labels: tuple[str, ...]
) -> list[Family]:
    def of(read: Callable[[Transfers], Value]) -> Callable[[], Reading]:
        return lambda: {(f"{member:x}",): read(each) for member, each in transfers.items()}

    name = f"etcd_network_snapshot_{way}"
    return [
        counter(
            f"{name}_success",
            f"Snapshots of which the {way} succeeded.",
            of(lambda each: each.succeeded),
            labels,
        ),
        counter(
            f"{name}_failures",
            f"Snapshots of which the {way} failed.",
            of(lambda each: each.failed),
            labels,
        ),
        gauge(
            f"{name}_inflights_total",
            f"Snapshots of which the {way} is under way.",
            of(lambda each: each.under_way),
            labels,
        ),
        histogram(
            f"{name}_total_duration_seconds",
            f"Time of the {way} of a snapshot.",
            of(lambda each: each.seconds),
            labels,
        ),
    ]
