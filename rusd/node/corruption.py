"""Comparisons of the members' data: who has other data than the rest is found, and all are told.

What is compared is the hash of the history up to a revision, which is the same on all members that
applied the same log. The leader compares, and raises the CORRUPT alarm, which ends all changes; a
member that is about to serve can be asked to compare first.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from rusd.log import Logger
from rusd.mvcc.errors import KeyspaceError
from rusd.mvcc.hashing import HashResult, hash_history
from rusd.mvcc.tables import DamagedTableError
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.node.peer_wire import Method
from rusd.node.peers import PeerCallError, Peers, PeerUnreachableError
from rusd.node.pipeline import Pipeline
from rusd.node.reads import UNCONFIRMED, Reads
from rusd.pb.rpc_pb2 import CORRUPT, AlarmRequest

UNKNOWN: Final = 0
"""The member in an alarm where no majority agrees: etcd's."""

_REVISION: Final = struct.Struct(">q")
_RESULT: Final = struct.Struct(">Iqq")
_PATIENCE: Final = 600.0
"""Seconds for another member's hash: ten million keys take half a minute."""

_ATTEMPTS: Final = 3
"""How often a starting member compares again when a compaction came between."""


class CorruptDataError(Exception):
    """This member's data are not those of the others."""


class Corruption:
    """Compares this member with the others."""

    def __init__(
        self, pipeline: Pipeline, reads: Reads, peers: Peers, compactor: Compactor, log: Logger
    ) -> None:
        self._pipeline, self._replica = pipeline, pipeline.replica
        self._keyspace, self._membership = pipeline.keyspace, pipeline.applier.membership
        self._reads, self._peers, self._compactor, self._log = reads, peers, compactor, log
        self._compared = 0
        """The compaction that was compared last."""
        self._tasks: list[asyncio.Task[None]] = []
        peers.serve(Method.HASH, self._serve)

    def start(self, interval: float, compaction_interval: float) -> None:
        """Compares now and then, as long as this member leads: all data every `interval` seconds,
        and what was left of each compaction every `compaction_interval`; 0 for never.
        """
        for seconds, compare in (
            (interval, self.compare),
            (compaction_interval, self.compare_compaction),
        ):
            if seconds:
                self._tasks.append(asyncio.create_task(self._repeat(seconds, compare)))

    def stop(self) -> None:
        """Ends what `start` began."""
        for task in self._tasks:
            task.cancel()

    async def check_before_serving(self) -> None:
        """Raises CorruptDataError when more of the others have other data than have these."""
        for _ in range(_ATTEMPTS):
            own = await self._hash(0)
            found = await self._hashes(own)
            if found:
                differing = sum(each != own.hash for each in found.values())
                if differing > len(found) - differing:
                    raise CorruptDataError(
                        f"the data of this member are not those of the others at revision"
                        f" {own.revision}: {_shown({self._membership.local_id: own.hash, **found})}"
                    )
                return
        self._log.warn("no other member could be compared with before serving")

    async def compare(self) -> None:
        """Compares all that there is, if this member leads."""
        await self._compare(0)

    async def compare_compaction(self) -> None:
        """Compares what the last compaction left, once, if this member leads."""
        compacted = self._keyspace.compacted
        if compacted > self._compared and await self._compare(compacted):
            self._compared = compacted

    async def _repeat(self, seconds: float, compare: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await compare()
            except DamagedTableError as error:
                self._keyspace.on_damage(error)
            except KeyspaceError as error:
                self._log.warn("members could not be compared", error=error)

    async def _compare(self, revision: int) -> bool:
        """Whether there was somebody to compare with."""
        if not self._replica.in_charge or self._membership.is_alone:
            return False
        own = await self._hash(revision)
        hashes = await self._hashes(own)
        if not hashes:
            return False
        hashes[self._membership.local_id] = own.hash
        for member in corrupt(hashes, len(self._membership.members)):
            self._log.error(
                "found data that differ between members",
                **{"member-id": f"{member:x}", "revision": own.revision, "hashes": _shown(hashes)},
            )
            self._raise_alarm(member)
        return True

    def _raise_alarm(self, member: int) -> None:
        request = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=member, alarm=CORRUPT)
        self._pipeline.propose(Kind.ALARM, request.SerializeToString(), request, None, 0)

    async def _hashes(self, own: HashResult) -> dict[int, int]:
        """The hashes of the others, of those that can be compared: they answer, and have compacted
        as far.
        """
        others = [member for member in self._membership.members if not self._is_local(member)]
        answers = await asyncio.gather(*[self._ask(member, own.revision) for member in others])
        return {
            member: answer.hash
            for member, answer in zip(others, answers, strict=True)
            if answer is not None and answer[1:] == own[1:]
        }

    def _is_local(self, member: int) -> bool:
        return member == self._membership.local_id

    async def _ask(self, member: int, revision: int) -> HashResult | None:
        body = _REVISION.pack(revision)
        try:
            answer = await self._peers.call(member, Method.HASH, body, _PATIENCE)
            return HashResult(*_RESULT.unpack(answer))
        except (PeerCallError, PeerUnreachableError, TimeoutError, struct.error) as error:
            self._log.info(
                "a member could not be compared",
                **{"remote-peer-id": f"{member:x}", "error": str(error)},
            )
            return None

    async def _serve(self, _member: int, body: bytes) -> bytes:
        try:
            (revision,) = _REVISION.unpack(body)
            # What is asked for is applied at who asks, and so will be here.
            await self._reads.confirm()
            return _RESULT.pack(*await self._hash(revision))
        except DamagedTableError as error:
            self._keyspace.on_damage(error)
            raise PeerCallError(str(error)) from None
        except (struct.error, KeyspaceError, *UNCONFIRMED) as error:
            raise PeerCallError(str(error) or type(error).__name__) from None

    async def _hash(self, revision: int) -> HashResult:
        """In slices, once nothing is left to sweep. Raises KeyspaceError."""
        swept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._compactor.when_swept(lambda: None if swept.done() else swept.set_result(None))
        await swept
        hashing = hash_history(self._keyspace, revision)
        while True:
            try:
                next(hashing)
            except StopIteration as finished:
                result: HashResult = finished.value
                return result
            await asyncio.sleep(0)


def corrupt(hashes: Mapping[int, int], members: int) -> list[int]:
    """Whose data are corrupt, of members with their hashes: those that have other data than more
    than half of all `members`. UNKNOWN where they differ, and none are those of so many.
    """
    ((most, count), *others) = Counter(hashes.values()).most_common()
    if not others:
        return []
    if 2 * count <= members:
        return [UNKNOWN]
    return sorted(member for member, value in hashes.items() if value != most)


def _shown(hashes: Mapping[int, int]) -> dict[str, int]:
    return {f"{member:x}": value for member, value in sorted(hashes.items())}
