"""Options and fixtures shared by the tests that run whole servers."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.members import Member, running, rusd_command


def pytest_addoption(parser: pytest.Parser) -> None:
    """The knobs of the random tests; each test prints what it ran with."""
    group = parser.getgroup("rusd")
    group.addoption(
        "--subject",
        choices=("rusd", "etcd"),
        default="rusd",
        help="the server that is held against real etcd; etcd checks the tests themselves",
    )
    group.addoption(
        "--seed",
        type=int,
        action="append",
        help="seed of a random test; more than once for more runs",
    )
    group.addoption("--steps", type=int, help="steps of a side-by-side run")
    group.addoption("--kills", type=int, default=15, help="kill -9s of a crash run")
    group.addoption(
        "--objects", type=int, default=2000, help="Kubernetes objects of a busy cluster"
    )


@pytest.fixture(scope="session")
def etcd_programs() -> Path:
    """The folder of etcd, etcdctl and etcdutl; in CI they must be there, elsewhere they may not."""
    script = Path(__file__).with_name("fetch-etcd")
    found = subprocess.run([script], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return Path(found.stdout.strip())
    reason = f"{script.name}: {found.stderr.strip()}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def etcd_command(etcd_programs: Path) -> tuple[str, ...]:
    """How to start real etcd."""
    return (str(etcd_programs / "etcd"),)


@pytest.fixture(scope="session")
def subject_command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """How to start the server under test."""
    if request.config.getoption("--subject") == "etcd":
        command: tuple[str, ...] = request.getfixturevalue("etcd_command")
        return command
    return rusd_command()


StartMember = Callable[..., Member]


@pytest.fixture
def start_member(tmp_path: Path) -> Iterator[StartMember]:
    """Starts members that end with the test: `start_member(command, *flags)`."""
    with ExitStack() as members:
        count = 0

        def start(command: Sequence[str], *flags: str) -> Member:
            nonlocal count
            count += 1
            return members.enter_context(running(command, tmp_path / f"member{count}", flags))

        yield start


@pytest.fixture(scope="module")
def reference(
    etcd_command: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Member]:
    """One real etcd for all tests of a module."""
    with running(etcd_command, tmp_path_factory.mktemp("etcd")) as member:
        yield member


@pytest.fixture(scope="module")
def subject(
    subject_command: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Member]:
    """One server under test for all tests of a module."""
    with running(subject_command, tmp_path_factory.mktemp("subject")) as member:
        yield member


@pytest.fixture(params=["reference", "subject"], name="server")
def each_server(request: pytest.FixtureRequest) -> Member:
    """Real etcd, which checks the test itself, then the server under test."""
    member: Member = request.getfixturevalue(request.param)
    return member
