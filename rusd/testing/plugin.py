"""The pytest plugin: the fixtures `rusd_server`, `rusd_shared_server` and `rusd_cluster`.

    @pytest.mark.rusd("--max-txn-ops=10", size=5, fsync=True)

gives etcd's flags, and a cluster's size, to the members that a test starts. When a test fails, the
report shows the end of its members' logs.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from rusd.testing import Cluster, Member, cluster, fork_server, server

_FIXTURES: Final = frozenset(("rusd_server", "rusd_shared_server", "rusd_cluster"))
_SHOWN: Final = 4000
"""Characters of a log in the report of a test that failed."""


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line(
        "markers",
        "rusd(*flags, size=3, fsync=False): etcd's flags for the members of rusd_server and "
        "rusd_cluster, and how many a cluster has",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Lets rusd load while other tests run, if a test of this session wants a member."""
    if session.config.option.collectonly:
        return
    if any(not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) for item in session.items):
        fork_server()


@pytest.fixture
def rusd_server(request: pytest.FixtureRequest) -> Iterator[Member]:
    """One member for this test alone. It may be stopped, killed, restarted and filled."""
    flags, wanted = _wanted(request)
    wanted.pop("size", None)
    with server(*flags, **wanted) as member:
        yield member


@pytest.fixture(scope="session")
def _rusd_session_server() -> Iterator[Member]:
    with server() as member:
        yield member


@pytest.fixture
def rusd_shared_server(_rusd_session_server: Member) -> Member:
    """One member for all tests of the session, without keys, leases, users and alarms when a test
    begins. Revisions go on from test to test.
    """
    _rusd_session_server.reset()
    return _rusd_session_server


@pytest.fixture
def rusd_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three members, or as many as the marker says, for this test alone."""
    flags, wanted = _wanted(request)
    with cluster(wanted.pop("size", 3), *flags, **wanted) as members:
        yield members


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Adds what the members said to the report of a failure."""
    report: pytest.TestReport = yield
    if report.failed:
        used: dict[str, Any] = getattr(item, "funcargs", {})
        for name in sorted(_FIXTURES & used.keys()):
            found = used[name]
            for member in found.members if isinstance(found, Cluster) else [found]:
                report.sections.append((f"log of {name} {member.name}", member.log[-_SHOWN:]))
    return report


def _wanted(request: pytest.FixtureRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the closest marker says."""
    marker = request.node.get_closest_marker("rusd")
    return (marker.args, dict(marker.kwargs)) if marker else ((), {})
