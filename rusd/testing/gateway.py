"""The few calls that `rusd.testing` needs of a member, over its JSON gateway: no client library."""

import json
from typing import Any, Self


class CallFailedError(Exception):
    """A member answered with an error."""


class Gateway:
    """A connection to one member, for a `with` block."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        import http.client  # here, so that the plugin costs little where it has nothing to do

        self._broken = http.client.HTTPException
        self._connection = http.client.HTTPConnection(host, port, timeout=seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, path: str, **request: object) -> dict[str, Any]:
        """One call of `/v3/<path>`. Raises CallFailedError and OSError."""
        try:
            self._connection.request("POST", f"/v3/{path}", json.dumps(request))
            response = self._connection.getresponse()
            body = response.read()
        except self._broken as error:
            raise CallFailedError(f"{path}: {error!r}") from None
        if response.status != 200:
            raise CallFailedError(f"{path}: {response.status} {body.decode(errors='replace')}")
        answer = json.loads(body)
        assert isinstance(answer, dict)
        return answer

    def empty(self) -> bool:
        """Deletes all keys, and revokes all leases. Returns whether the store is as a new one but
        for its revision: False where there are users, roles or alarms too.
        """
        self.call("kv/deleterange", key="AA==", range_end="AA==")  # from b"\0" on: all
        for lease in self.call("lease/leases").get("leases", ()):
            self.call("lease/revoke", ID=lease["ID"])
        return not (
            self.call("maintenance/status").get("errors")
            or self.call("auth/user/list").get("users")
            or self.call("auth/role/list").get("roles")
        )

    def leads(self) -> bool:
        """Whether the member is the leader."""
        status = self.call("maintenance/status")
        return bool(status.get("leader") == status["header"]["member_id"])
