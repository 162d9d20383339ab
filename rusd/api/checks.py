"""/health, /livez and /readyz: whether this member can do its work, told by doing some of it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from rusd.api import errors
from rusd.api.http import get_only
from rusd.node.damage import Damage
from rusd.node.pipeline import Pipeline
from rusd.node.reads import Reads
from rusd.pb.rpc_pb2 import CORRUPT, NOSPACE
from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse

Done = Callable[[str], None]
"""Called once with why a check failed, "" when it did not."""

Check = Callable[[Done], None]

_ALARMS: Final = ((NOSPACE, "NOSPACE"), (CORRUPT, "CORRUPT"))


class Checks:
    """The checks of one member, and how they went."""

    def __init__(self, pipeline: Pipeline, reads: Reads, damage: Damage) -> None:
        self._pipeline, self._reads, self._damage = pipeline, reads, damage
        self.answers: Counter[bool] = Counter()
        """Of /health: how often it was true, and false."""
        self.results: dict[tuple[str, str], bool] = {}
        """By path without the slash, and check: whether it succeeded the last time."""
        self.outcomes: Counter[tuple[str, str, bool]] = Counter()
        """How often a check had which result."""

    def routes(self) -> dict[str, HttpHandler]:
        """Who answers which path."""
        serializable: tuple[str, Check] = ("serializable_read", self._serializable_read)
        checks: dict[str, tuple[tuple[str, Check], ...]] = {
            "livez": (serializable,),
            "readyz": (
                ("data_corruption", self._data_corruption),
                serializable,
                ("linearizable_read", self._linearizable_read),
                ("non_learner", self._non_learner),
            ),
        }
        routes: dict[str, HttpHandler] = {"/health": self._health}
        for path, of_path in checks.items():
            routes[f"/{path}"] = partial(self._checks, path, of_path)
            for check in of_path:
                # On a path of its own, `exclude` leaves nothing out.
                routes[f"/{path}/{check[0]}"] = partial(self._run, path, (check,))
        return {path: get_only(handle) for path, handle in routes.items()}

    # /health.

    def _health(self, request: HttpRequest, exchange: HttpExchange) -> None:
        query = parse_qs(request.query)
        excluded = query.get("exclude", ())
        alarms = self._pipeline.applier.alarms
        serializable = query.get("serializable", ["false"])[0] == "true"

        def done(reason: str) -> None:
            self.answers[not reason] += 1
            body = {"health": "false" if reason else "true", "reason": reason}
            text = json.dumps(body, separators=(",", ":")).encode()
            exchange.respond(HttpResponse(503, text + b"\n") if reason else HttpResponse(200, text))

        for alarm, name in _ALARMS:
            if alarm in alarms and name not in excluded:
                done(f"ALARM {name}")
                return
        if self._pipeline.replica.no_room is not None:
            done("NO ROOM FOR THE LOG")
        elif serializable:
            self._serializable_read(lambda reason: done(reason and f"RANGE ERROR:{reason}"))
        elif not self._pipeline.replica.leader:
            done("RAFT NO LEADER")
        else:
            self._linearizable_read(lambda reason: done(reason and f"RANGE ERROR:{reason}"))

    # /livez and /readyz.

    def _checks(
        self,
        path: str,
        checks: Sequence[tuple[str, Check]],
        request: HttpRequest,
        exchange: HttpExchange,
    ) -> None:
        excluded = parse_qs(request.query).get("exclude", ())
        chosen = [check for check in checks if check[0] not in excluded]
        self._run(path, chosen, request, exchange)

    def _run(
        self,
        path: str,
        checks: Sequence[tuple[str, Check]],
        request: HttpRequest,
        exchange: HttpExchange,
    ) -> None:
        reasons: dict[str, str] = {}

        def done(name: str, reason: str) -> None:
            reasons[name] = reason
            self.results[path, name] = not reason
            self.outcomes[path, name, not reason] += 1
            if len(reasons) == len(checks):
                exchange.respond(_report(reasons, request))

        if not checks:
            exchange.respond(_report(reasons, request))
        for name, check in checks:
            check(partial(done, name))

    # The checks.

    def _serializable_read(self, done: Done) -> None:
        keyspace = self._pipeline.keyspace
        first = next(keyspace.live(b"", None), None)
        if first is not None:
            keyspace.get(first)
        done("")

    def _linearizable_read(self, done: Done) -> None:
        self._reads.wait(
            lambda error: done("" if error is None else errors.status_of(error).message)
        )

    def _data_corruption(self, done: Done) -> None:
        if self._damage.found:
            done("a damaged file was read")
        else:
            corrupt = CORRUPT in self._pipeline.applier.alarms
            done("alarm activated: CORRUPT" if corrupt else "")

    def _non_learner(self, done: Done) -> None:
        done("not supported for learner" if self._pipeline.applier.membership.is_learner else "")


def _report(reasons: dict[str, str], request: HttpRequest) -> HttpResponse:
    failed = any(reasons.values())
    lines = [
        f"[-]{name} failed: {reason}\n" if reason else f"[+]{name} ok\n"
        for name, reason in reasons.items()
    ]
    if failed:
        return HttpResponse(503, "".join((*lines, "\n")).encode())
    verbose = "verbose" in parse_qs(request.query, keep_blank_values=True)
    return HttpResponse(200, "".join((*(lines if verbose else ()), "ok\n")).encode())
