"""Two servers that get the same steps of the same users and must give the same answers."""

from functools import partial

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.compat.auth_steps import FORGED, Act, AuthStep, KeepAliveBy, Login, WatchBy
from tests.compat.client import ANSWER_SECONDS, Answer, Client, Metadata
from tests.compat.pair import DifferenceError, same

_CODES = {
    "auth: user name is empty": "INVALID_ARGUMENT",
    "auth: invalid auth token": "UNAUTHENTICATED",
    "auth: permission denied": "PERMISSION_DENIED",
}
BAD_TOKEN = Answer(None, "UNAUTHENTICATED", "etcdserver: invalid auth token")
OLD_REVISION = Answer(None, "INVALID_ARGUMENT", "etcdserver: revision of auth store is old")
LOGIN_FAILED = Answer(
    None,
    "INVALID_ARGUMENT",
    "etcdserver: authentication failed, invalid user ID or password",
)
TOO_LONG = Answer(None, "UNKNOWN", "bcrypt: password length exceeds 72 bytes")
_NOBODY = "etcdserver: user name is empty"
_OF_TOKENS = (_NOBODY, OLD_REVISION.details)
_NOT_ROOT = (_NOBODY, "etcdserver: permission denied")


def as_newer(act: Act, answer: Answer) -> Answer:
    """Take out of an answer what etcd 3.5 answers otherwise than 3.6: errors of its maintenance
    calls, and the permissions of the role root, which 3.6 shows as a right to everything.
    """
    match act.request, answer.response:
        case rpc.AuthRoleGetRequest(role="root"), rpc.AuthRoleGetResponse() as found:
            del found.perm[:]
    code = _CODES.get(answer.details)
    if answer.code != "UNKNOWN" or code is None:
        return answer
    return Answer(None, code, answer.details.replace("auth: ", "etcdserver: "))


class AuthPair:
    """The reference and the subject, and each user's newest token on both."""

    def __init__(
        self,
        reference: grpc.Channel,
        subject: grpc.Channel,
        seconds: float = ANSWER_SECONDS,
        web_tokens: bool = False,
    ) -> None:
        """Take over channels to two new servers; what is awaited may take `seconds`."""
        self._seconds, self._web_tokens = seconds, web_tokens
        self.revision = 1
        self.compacted = 0
        self.enabled = False
        self._clients = (Client(reference), Client(subject))
        self._tokens: dict[str, tuple[str, str]] = {FORGED: ("x.y", "x.y")}
        self._refused: set[str] = set()
        self._gone: set[str] = set()

    def close(self) -> None:
        """Close the channels."""
        for client in self._clients:
            client.close()

    def settle(self) -> None:
        """Nothing is outstanding between steps."""

    def refused(self, user: str) -> bool:
        """Whether the user's token was refused when it was last used."""
        return user in self._refused

    def watch_ids(self, stream: int) -> list[int]:
        """No stream outlives its step."""
        assert stream >= 0
        return []

    def run(self, step: AuthStep) -> None:
        """Do one step on both servers; raise DifferenceError if they differ."""
        match step:
            case Act():
                self._act(step)
            case Login(user, password):
                reference, subject = self._clients
                expected, first = reference.login(user, password)
                seen, second = subject.login(user, password)
                if user in self._gone and expected.code == "UNKNOWN":
                    # A user without a password that etcd 3.5 deletes right after it was changed
                    # is there for logins until the next write: they read what was buffered.
                    expected = LOGIN_FAILED
                same(expected, seen)
                if first:
                    self._tokens[user] = first, second
                    self._refused.discard(user)
            case KeepAliveBy(user, lease):
                expected, seen = (
                    client.keep_alive(lease, metadata)
                    for client, metadata in zip(self._clients, self._metadata(user), strict=True)
                )
                same(expected, seen)
            case WatchBy():
                self._watch(step)

    def _metadata(self, user: str) -> tuple[Metadata, Metadata]:
        if user not in self._tokens:
            return (), ()
        first, second = self._tokens[user]
        return (("token", first),), (("token", second),)

    def _act(self, act: Act) -> None:
        waiting = [
            client.begin(act.method, act.request, metadata)
            for client, metadata in zip(self._clients, self._metadata(act.user), strict=True)
        ]
        # Of both, so that real etcd is equal to itself; the matrix holds rusd to the newer one.
        expected, seen = (as_newer(act, answer()) for answer in waiting)
        if seen in (BAD_TOKEN, OLD_REVISION):
            self._refused.add(act.user)
        malformed = expected == TOO_LONG or (
            expected.code == "INVALID_ARGUMENT" and expected.details not in _OF_TOKENS
        )
        if seen == BAD_TOKEN and malformed:
            return  # rusd looks at the token first, etcd at the request
        shown = act.method == "AuthStatus" and seen.response is not None
        if shown and expected.details in _NOT_ROOT:
            return  # etcd 3.5 tells root alone whether auth is on
        same(expected, seen)
        if expected.response is None:
            return
        header: rpc.ResponseHeader = getattr(expected.response, "header", rpc.ResponseHeader())
        self.revision = max(self.revision, header.revision)
        match act.request:
            case rpc.CompactionRequest(revision=revision):
                self.compacted = revision
            case rpc.AuthUserAddRequest(name=name):
                self._gone.discard(name)
            case rpc.AuthUserDeleteRequest(name=name):
                self._gone.add(name)
                if self._web_tokens:
                    # To etcd one who is gone is still a user, for calls that any user may make.
                    self._tokens.pop(name, None)
            case rpc.AuthEnableRequest():
                self.enabled = True
            case rpc.AuthDisableRequest():
                self.enabled = False

    def _watch(self, watch: WatchBy) -> None:
        answers = []
        for client, metadata in zip(self._clients, self._metadata(watch.user), strict=True):
            stream = client.watch_stream(self._seconds, metadata)
            stream.send(rpc.WatchRequest(create_request=watch.request))
            stream.wait(partial(_answered, stream.controls, stream.faults))
            answers.append((stream.controls[:1], stream.faults))
            stream.close()
        same(*answers)
        if not any(answers[0]):
            raise DifferenceError(f"no answer to {watch}")


def _answered(controls: list[rpc.WatchResponse], faults: list[str]) -> bool:
    return bool(controls or faults)
