"""What `rusd --help` says beside the flags: read from top to bottom, it is the manual page."""

from typing import Final

Rows = list[tuple[str, str]]

INTRODUCTION: Final = """\
rusd is etcd in Python: bare it is the server of one member, and serves the etcd v3 API until it
gets SIGTERM or SIGINT. Without flags it listens on localhost:2379 and keeps its data in
./default.etcd.
"""

WITHOUT_EFFECT: Final = "Without effect (accepted, so that etcd's settings can stay as they are)"
"""The section of flags that mean nothing here."""

SECTIONS: Final[dict[str, Rows]] = {
    "How flags are given": [
        ("--name m1, --name=m1, -name m1", "are one; of equal flags the last counts"),
        ("ETCD_NAME=m1", "every flag is an environment variable too; not both at once"),
        (
            "name: m1",
            "every flag is a key of the YAML file of --config-file (ETCD_CONFIG_FILE) too; with a "
            "file, flags and environment are not used",
        ),
        ("bool", "true or false; a bare --flag is true, and false needs --flag=false"),
        ("duration", "as in 1h30m, 10s, 100ms"),
        ("urls, list", "separated by commas"),
        ("ms, n", "a number; ms of milliseconds"),
    ],
    "Files": [
        ("DATA-DIR/member", "log and keyspace; never copy it, make a snapshot"),
        ("DATA-DIR/FORMAT", "which programs can read the data"),
        ("DATA-DIR/lock", "held by the process that uses the data"),
    ],
    "Signals": [
        (
            "SIGTERM, SIGINT",
            "stop in order: hand over leading, finish calls; a second time, at once",
        ),
        ("SIGKILL", "loses nothing that was acknowledged"),
    ],
    "Exit status": [
        ("0", "it was removed from its cluster, or helped with what was asked"),
        ("1", "the configuration cannot be used, or the member could not start or go on"),
        ("2", "the command line cannot be read"),
        ("by signal", "the signal that stopped it"),
    ],
    "Environment": [
        ("ETCD_...", "see above"),
        (
            "NOTIFY_SOCKET",
            "is told when the member serves and when it stops (systemd's Type=notify)",
        ),
    ],
    "Examples": [
        ("rusd --data-dir /var/lib/rusd", "one member, on localhost"),
        (
            "rusd --listen-client-urls http://10.0.0.1:2379 --advertise-client-urls "
            "http://10.0.0.1:2379",
            "one that others can reach",
        ),
        ("rusd healthcheck && etcdctl endpoint status", "whether it serves"),
        ("rusd COMMAND --help", "more about a command"),
    ],
}
