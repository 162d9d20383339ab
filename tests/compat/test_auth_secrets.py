"""No password and no token is in what a member writes: not in its log, its data or its answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusd.pb import rpc_pb2 as rpc
from rusd.storage.engine import tables_of
from tests.compat.client import Client
from tests.compat.gateway import ask
from tests.conftest import StartMember
from tests.members import Member, rusd_command

CANARY = "a-value-that-must-be-found"
PASSWORDS = ("first-Secret-of-root", "second-Secret-of-root", "wrong-Secret", "json-Secret-of-ann")
SIGNING_SECRET = "signing-Secret" * 5


def _post(member: Member, path: str, body: dict[str, str], token: str = "") -> None:
    ask(member, "POST", path, json.dumps(body), {"Authorization": token} if token else {})


def _live(member: Member) -> list[str]:
    """Log in, also with what is wrong, over gRPC and HTTP; return all tokens that came."""
    with member.channel() as channel:
        client = Client(channel)
        client.add_user("root", PASSWORDS[0])
        assert client.call("AuthEnable", rpc.AuthEnableRequest()).code == "OK"
        tokens = [client.login("root", PASSWORDS[0])[1]]
        first = (("token", tokens[0]),)
        assert client.call("Put", rpc.PutRequest(key=b"k", value=CANARY.encode()), first)
        change = rpc.AuthUserChangePasswordRequest(name="root", password=PASSWORDS[1])
        assert client.call("UserChangePassword", change, first).code == "OK"
        client.call("UserChangePassword", change, first)
        assert client.login("root", PASSWORDS[2])[0].code == "INVALID_ARGUMENT"
        client.login(PASSWORDS[2], PASSWORDS[2])
        for _ in range(3):
            tokens.append(client.login("root", PASSWORDS[1])[1])
        newest = (("token", tokens[-1]),)
        add = rpc.AuthUserAddRequest(name="ann", password=PASSWORDS[3])
        assert client.call("UserAdd", add, newest).code == "OK"
        assert client.call("UserAdd", add, newest).code == "FAILED_PRECONDITION"
        for changed in (tokens[-1] + "1", tokens[-1].swapcase(), f"Bearer {tokens[-1]}"):
            client.call("Range", rpc.RangeRequest(key=b"k"), (("token", changed),))
            client.call("Range", rpc.RangeRequest(key=b"k"), (("authorization", changed),))
        stream = client.watch_stream(metadata=newest)
        stream.send(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k")))
        stream.await_controls(0, 1)
        stream.close()
        tokens.append(client.login("ann", PASSWORDS[3])[1])
        assert all(tokens)
    for password in (PASSWORDS[2], PASSWORDS[3]):
        _post(member, "/v3/auth/authenticate", {"name": "ann", "password": password})
    _post(member, "/v3/auth/user/add", {"name": "bob", "password": PASSWORDS[1]}, tokens[3])
    _post(member, "/v3/auth/user/add", {"name": "bob", "password": PASSWORDS[1]}, "no token")
    _post(member, f"/v3/{PASSWORDS[2]}", {"password": PASSWORDS[2]})
    return tokens


def _stored(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All bytes of all files, and, as they may be compressed there, all rows of the database."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for database in {path.parent for path in folder.rglob("CURRENT")}:
        with tables_of(database) as tables:
            for table in (tables.state, tables.latest, tables.events, tables.history):
                for key, value in table.items():
                    assert isinstance(key, bytes)
                    assert isinstance(value, bytes)
                    yield f"{database} {key!r}", key + value


def _parts(tokens: list[str]) -> list[bytes]:
    """What must not be found: of a simple token its letters, of a signed one its signature."""
    return [
        *(password.encode() for password in PASSWORDS),
        SIGNING_SECRET.encode(),
        *(token.split(".")[0 if token.count(".") == 1 else 2].encode() for token in tokens),
    ]


@pytest.mark.parametrize("kind", ["simple", "jwt"])
def test_no_secret_is_written_anywhere(
    kind: str, start_member: StartMember, tmp_path: Path
) -> None:
    option = kind
    if kind == "jwt":
        (tmp_path / "key").write_text(SIGNING_SECRET)
        option = f"jwt,sign-method=HS256,priv-key={tmp_path / 'key'},ttl=5m"
    member = start_member(
        rusd_command(), "--auth-token", option, "--bcrypt-cost", "4", "--log-level", "debug"
    )
    secrets = _parts(_live(member))
    member.kill()
    killed = list(_stored(member.data_dir))
    secrets += _parts_after_restart(member)
    member.stop()
    for where, content in (*killed, *_stored(member.data_dir), ("log", member.log.encode())):
        for secret in secrets:
            assert secret not in content, where
    assert any(CANARY.encode() in content for where, content in killed if "/wal" in where)
    assert any(CANARY.encode() in content for _, content in _stored(member.data_dir))


def _parts_after_restart(member: Member) -> list[bytes]:
    """The log is applied again, and written to the database when the member ends."""
    member.start()
    with member.channel() as channel:
        token = Client(channel).login("root", PASSWORDS[1])[1]
    assert token
    return _parts([token])
