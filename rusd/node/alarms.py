"""Alarms: conditions of a member that the whole cluster knows about and acts on."""

from typing import Final

from rusd.pb.rpc_pb2 import (
    CORRUPT,
    NONE,
    NOSPACE,
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    AlarmType,
)

_KINDS: Final = (NOSPACE, CORRUPT)


class AlarmError(Exception):
    """A request that an alarm forbids."""


class NoSpaceError(AlarmError):
    """A member's quota is used up: what adds to the data is refused, what frees it is not."""


class CorruptError(AlarmError):
    """Members' data differ: all that changes it is refused."""


class Alarms:
    """The alarms that are raised, in the order in which they were."""

    ROW: Final = b"alarms"

    def __init__(self, row: bytes | None) -> None:
        stored = AlarmResponse.FromString(row or b"")
        self._raised = [(alarm.memberID, alarm.alarm) for alarm in stored.alarms]
        self.refusal: type[AlarmError] | None = None
        """What requests that an alarm forbids are refused with; None when none is forbidden."""
        self._decide()

    def __contains__(self, alarm: int) -> bool:
        return any(kind == alarm for _, kind in self._raised)

    def __len__(self) -> int:
        return len(self._raised)

    def listing(self, alarm: int = NONE) -> bytes:
        """Body of an AlarmResponse with the alarms of a kind, or all of them."""
        return self._response(
            [raised for raised in self._raised if alarm in (NONE, raised[1])]
        ).SerializeToString()

    def row(self) -> bytes:
        """What is stored of the alarms."""
        return self._response(self._raised).SerializeToString()

    def apply(self, request: AlarmRequest) -> bytes:
        """Raises or clears an alarm. Returns a response's body: the alarm, if it is raised now or
        was until now.
        """
        alarm = (request.memberID, request.alarm)
        raised = alarm in self._raised
        if request.action == AlarmRequest.ACTIVATE and request.alarm in _KINDS:
            if not raised:
                self._raised.append(alarm)
        elif request.action == AlarmRequest.DEACTIVATE and raised:
            self._raised.remove(alarm)
        else:
            return b""
        self._decide()
        return self._response([alarm]).SerializeToString()

    def texts(self) -> list[str]:
        """The alarms as etcd shows them among a member's errors."""
        return [
            (f"memberID:{member} " if member else "") + f"alarm:{AlarmType.Name(kind)} "
            for member, kind in self._raised
        ]

    def _decide(self) -> None:
        self.refusal = (
            CorruptError if CORRUPT in self else NoSpaceError if NOSPACE in self else None
        )

    @staticmethod
    def _response(alarms: list[tuple[int, AlarmType]]) -> AlarmResponse:
        return AlarmResponse(
            alarms=[AlarmMember(memberID=member, alarm=kind) for member, kind in alarms]
        )
