"""The pytest plugin, in sessions of pytest of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_CALLS = """
    import base64
    import pytest

    def put(member, key):
        with member.gateway() as gateway:
            gateway.call("kv/put", key=base64.b64encode(key).decode(), value="")

    def keys(member):
        with member.gateway() as gateway:
            found = gateway.call("kv/range", key="AA==", range_end="AA==")
            return [base64.b64decode(each["key"]) for each in found.get("kvs", ())]
"""


def run(pytester: pytest.Pytester, tests: str, *arguments: str) -> pytest.RunResult:
    """A session of these tests."""
    pytester.makepyfile(f"{_CALLS}{tests}")
    return pytester.run(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *arguments, timeout=100
    )


def test_each_test_has_a_server_of_its_own(pytester: pytest.Pytester) -> None:
    tests = """
    @pytest.mark.parametrize("number", [1, 2])
    def test_it(rusd_server, number):
        assert keys(rusd_server) == []
        put(rusd_server, b"a")
        rusd_server.kill()
        rusd_server.start()
        assert keys(rusd_server) == [b"a"]
    """
    run(pytester, tests).assert_outcomes(passed=2)


def test_the_shared_server_is_one_and_empty_for_each_test(pytester: pytest.Pytester) -> None:
    tests = """
    pids = set()

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_it(rusd_shared_server, number):
        pids.add(rusd_shared_server.pid)
        assert len(pids) == 1
        assert keys(rusd_shared_server) == []
        put(rusd_shared_server, b"a")
    """
    run(pytester, tests).assert_outcomes(passed=3)


def test_a_marker_gives_flags_and_a_size(pytester: pytest.Pytester) -> None:
    tests = """
    pytestmark = pytest.mark.rusd("--max-txn-ops=7", size=1)

    def test_one(rusd_server):
        assert "--max-txn-ops=7" in rusd_server.arguments()
        assert "--unsafe-no-fsync" in rusd_server.arguments()

    def test_some(rusd_cluster):
        (member,) = rusd_cluster.members
        assert "--max-txn-ops=7" in member.arguments()

    @pytest.mark.rusd(fsync=True)
    def test_nearest(rusd_server):
        assert "--unsafe-no-fsync" not in rusd_server.arguments()
    """
    run(pytester, tests, "--strict-markers").assert_outcomes(passed=3)


def test_a_cluster_has_three_members(pytester: pytest.Pytester) -> None:
    tests = """
    def test_it(rusd_cluster):
        put(rusd_cluster.leader(), b"a")
        assert [keys(member) for member in rusd_cluster.members] == [[b"a"]] * 3
    """
    run(pytester, tests).assert_outcomes(passed=1)


def test_a_failure_shows_what_the_members_said(pytester: pytest.Pytester) -> None:
    tests = """
    def test_it(rusd_server):
        assert False
    """
    result = run(pytester, tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*log of rusd_server default*", "*ready to serve client requests*"]
    )


def test_the_readmes_example_runs(pytester: pytest.Pytester) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", readme, flags=re.M | re.S)
    plugins, others = (each for each in examples if "rusd" in each)
    pytester.makepyfile(test_plugin=plugins, test_others=f"{others}\n    test_it = setUp\n")
    pytester.run(sys.executable, "-m", "pytest", timeout=100).assert_outcomes(passed=3)


def test_two_sessions_at_once_do_not_meet(pytester: pytest.Pytester) -> None:
    """As pytest-xdist's workers are."""
    pytester.makepyfile(
        f"""{_CALLS}
    @pytest.mark.parametrize("number", range(8))
    def test_it(rusd_server, number):
        put(rusd_server, b"a")
        assert keys(rusd_server) == [b"a"]
        rusd_server.restart()
        assert keys(rusd_server) == [b"a"]
    """
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    sessions = [pytester.popen(command, stdin=subprocess.DEVNULL) for _ in range(3)]
    for session in sessions:
        output, _ = session.communicate(timeout=100)
        assert session.returncode == 0, output.decode()


def test_a_session_without_members_starts_nothing(pytester: pytest.Pytester) -> None:
    tests = """
    def test_it():
        import sys
        from rusd.testing import processes
        assert processes._current is None
        assert "rusd.server" not in sys.modules
        assert "http.client" not in sys.modules
    """
    run(pytester, tests).assert_outcomes(passed=1)


def test_members_are_ready_before_they_are_wanted(pytester: pytest.Pytester) -> None:
    tests = """
    def test_first():
        from rusd.testing import processes
        assert processes._current is not None

    def test_second(rusd_shared_server):
        pass
    """
    run(pytester, tests).assert_outcomes(passed=2)
    run(pytester, tests, "--collect-only").stdout.fnmatch_lines(["*2 tests collected*"])
