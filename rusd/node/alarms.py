"""Alarms: conditions of a member that the whole cluster knows about and acts on."""

from typing import Final

from rusd.pb.rpc_pb2 import NONE, AlarmMember, AlarmRequest, AlarmResponse, AlarmType


class Alarms:
    """The alarms that are raised, in the order in which they were."""

    ROW: Final = b"alarms"

    def __init__(self, row: bytes | None) -> None:
        stored = AlarmResponse.FromString(row or b"")
        self._raised = [(alarm.memberID, alarm.alarm) for alarm in stored.alarms]

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
        """Raises or clears alarms. Returns a response's body: those that it raised or cleared."""
        named = [
            (member, kind)
            for member, kind in (
                [(request.memberID, request.alarm)]
                if request.memberID
                else [raised for raised in self._raised if raised[1] == request.alarm]
            )
            if kind != NONE
        ]
        if request.action == AlarmRequest.ACTIVATE:
            self._raised += [alarm for alarm in named if alarm not in self._raised]
        elif request.action == AlarmRequest.DEACTIVATE:
            named = [alarm for alarm in named if alarm in self._raised]
            self._raised = [alarm for alarm in self._raised if alarm not in named]
        return self._response(named).SerializeToString()

    @staticmethod
    def _response(alarms: list[tuple[int, AlarmType]]) -> AlarmResponse:
        return AlarmResponse(
            alarms=[AlarmMember(memberID=member, alarm=kind) for member, kind in alarms]
        )
