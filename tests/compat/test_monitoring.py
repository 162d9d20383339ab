"""cluster/monitoring: whatever the dashboard and the rules name is served, with those labels."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rusd.pb import rpc_pb2 as rpc
from tests.compat.scrape import SECONDS, Scrape, of
from tests.conftest import StartMember
from tests.members import running_cluster, rusd_command

FOLDER = Path(__file__).parents[2] / "cluster/monitoring"
RULES, DASHBOARD = FOLDER / "rules.yml", FOLDER / "dashboard.json"
RULES_TEST = FOLDER / "rules_test.yml"
PROMTOOL = shutil.which("promtool")

_NAME = re.compile(
    r"\b((?:etcd|rusd|grpc|process|os|python)_[a-z0-9_]+)(?:\{([^}]*)\})?(?=[^a-z0-9_]|$)"
)
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_TARGET = frozenset(("job", "instance"))
"""Labels that Prometheus adds."""


def expressions() -> list[str]:
    """All that is asked of Prometheus."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        found += [target["expr"] for target in panel.get("targets", ())]
    found += [each["query"]["query"] for each in dashboard["templating"]["list"][1:]]
    return found


def selections() -> Iterator[tuple[str, frozenset[str]]]:
    """Each metric that is named, and the labels that it is selected by."""
    for expression in expressions():
        names = list(_NAME.finditer(expression))
        assert names or "up{" in expression, expression
        for match in names:
            if match[1] not in _LABELS:
                yield match[1], frozenset(_LABEL.findall(match[2] or ""))


_LABELS = frozenset(("grpc_type", "grpc_service", "grpc_method", "grpc_code"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """Of one of two members that measure all there is."""
    folder = tmp_path_factory.mktemp("monitored")
    with running_cluster(rusd_command(), folder, 2, ("--metrics", "extensive")) as cluster:
        member = cluster.members[0]
        with member.channel() as channel:
            channel.unary_unary("/etcdserverpb.KV/Put")(
                rpc.PutRequest(key=b"k").SerializeToString(), timeout=SECONDS
            )
        return of(member)


def test_what_is_asked_for_is_there(served: Scrape) -> None:
    asked = list(selections())
    assert len({name for name, _ in asked}) > 40
    for name, labels in asked:
        found = served.labels(name)
        assert found, f"{name} is not served"
        assert all(labels - _TARGET <= has for has in found), f"{name} has no labels {labels}"


def test_what_is_grouped_by_is_there(served: Scrape) -> None:
    for expression in expressions():
        names = {match[1] for match in _NAME.finditer(expression)} - _LABELS
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            wanted = {label.strip() for label in grouped.split(",")} - _TARGET
            for name in names:
                assert all(wanted <= has for has in served.labels(name)), (wanted, name)


def test_rules_say_what_is_wrong_and_how_bad_it_is() -> None:
    rules: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_panels_lie_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH")
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "--lint=all", "--lint-fatal", RULES), ("test", "rules", RULES_TEST)],
    ids=["check", "test"],
)
def test_promtool_takes_the_rules_and_they_fire(arguments: tuple[str | Path, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH")
def test_promtool_finds_no_fault_with_names_of_rusds_own(start_member: StartMember) -> None:
    """Of etcd's it does: some counters have no `_total`, and some gauges have one."""
    assert PROMTOOL is not None
    member = start_member(rusd_command(), "--metrics", "extensive")
    with urllib.request.urlopen(f"{member.client_url}/metrics", timeout=SECONDS) as answer:
        text = answer.read()
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False
    )
    faults = (done.stdout + done.stderr).decode().splitlines()
    assert faults, "etcd's names are among them"
    assert all(fault.startswith("etcd_") for fault in faults), faults
