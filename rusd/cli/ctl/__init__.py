"""`rusd ctl`: what etcdctl does, for people who have Python and no etcdctl.

Commands, flags, ETCDCTL_* variables, output and exit codes are etcdctl 3.5's; commands and flags
that 3.6 and 3.7 have beside these are here too. What a command needs is imported when it runs: the
server starts without any of it.
"""

from rusd.cli.ctl.commands import Group

_ROOMS = {
    "alarm": "maintenance",
    "auth": "auth",
    "compaction": "kv",
    "completion": "completion",
    "defrag": "maintenance",
    "del": "kv:delete",
    "downgrade": "downgrade",
    "elect": "locks",
    "endpoint": "endpoint",
    "get": "kv",
    "help": "manual:show_help",
    "lease": "lease",
    "lock": "locks",
    "make-mirror": "mirror",
    "member": "member",
    "move-leader": "maintenance",
    "options": "manual",
    "put": "kv",
    "role": "roles",
    "snapshot": "snapshot",
    "txn": "txn",
    "user": "users",
    "version": "version",
    "watch": "watch",
}

check = Group(
    "check",
    "See whether a cluster is fast enough.",
    {"perf": "performance", "datascale": "performance"},
)
ctl = Group("ctl", "Do what etcdctl does, with its flags, variables and outputs.", _ROOMS)
ctl.add_command(check)
