"""The container image and the compose file, held to what rusd itself makes of them.

No container runs here: that the files agree with the server, its flags and each other is checked.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rusd.cli.healthcheck import healthcheck
from rusd.config import Config, load

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "cluster" / "requirements.lock"

Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml, with its anchors resolved."""
    content = yaml.safe_load((_ROOT / "docker-compose.yml").read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions, stage by stage."""
    text = re.sub(r"^#.*\n", "", (_ROOT / "cluster" / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found: list[list[Instruction]] = [[]]
    for line in filter(None, lines):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def only(stage: list[Instruction], name: str) -> str:
    """What follows an instruction that stands there once."""
    (found,) = (rest for each, rest in stage if each == name)
    return found


def health_endpoint(command: list[str]) -> str:
    """Where `rusd healthcheck ...` asks."""
    assert command[:2] == ["rusd", "healthcheck"]
    context = healthcheck.make_context("healthcheck", command[2:])
    endpoint = context.params["endpoint"]
    assert isinstance(endpoint, str)
    return endpoint


def configs(compose: Mapping[str, Any]) -> dict[str, Config]:
    """What each service's environment means to rusd."""
    return {name: load([], service["environment"]) for name, service in compose["services"].items()}


def test_compose_has_three_members_that_agree_on_their_cluster(compose: dict[str, Any]) -> None:
    members = configs(compose)
    assert len(members) == 3
    for name, config in members.items():
        assert config.notices == ()
        assert config.name == name
        assert compose["services"][name]["hostname"] == name
        own = {each.name: each.peer_urls for each in config.initial_cluster}
        assert own[name] == config.initial_advertise_peer_urls
        assert own == {each: other.initial_advertise_peer_urls for each, other in members.items()}
    assert len({config.initial_cluster_token for config in members.values()}) == 1


def test_compose_reaches_the_members_where_they_listen(compose: dict[str, Any]) -> None:
    outside = set()
    for name, config in configs(compose).items():
        service = compose["services"][name]
        (listened,) = config.listen_client_urls
        (advertised,) = config.advertise_client_urls
        (mapping,) = service["ports"]
        host, port, inside = mapping.split(":")
        outside.add(int(port))
        assert host == "127.0.0.1"
        assert (listened.host, listened.port) == ("0.0.0.0", int(inside))
        assert (advertised.host, advertised.port) == (name, listened.port)
        assert config.listen_peer_urls[0].port == config.initial_advertise_peer_urls[0].port
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        assert health_endpoint(command) == f"http://127.0.0.1:{listened.port}"
    assert outside == {2379, 22379, 32379}


def test_compose_keeps_each_members_data_in_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    volumes = []
    for name, config in configs(compose).items():
        (volume,) = compose["services"][name]["volumes"]
        source, target = volume.split(":")
        volumes.append(source)
        assert target == config.data_dir
    assert sorted(volumes) == sorted(compose["volumes"])


def test_compose_says_nothing_that_conflicts_with_the_environment(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["command"] == []
        assert "entrypoint" not in service
        assert (_ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_image_serves_as_a_user_of_its_own_and_hears_sigterm(
    stages: list[list[Instruction]],
) -> None:
    final = stages[-1]
    command = [*json.loads(only(final, "ENTRYPOINT")), *json.loads(only(final, "CMD"))]
    assert command[0] == "rusd"
    config = load(command[1:], {})
    assert config.data_dir == only(final, "VOLUME") == only(final, "WORKDIR")
    assert only(final, "USER") == "rusd"
    assert f"install -d -o rusd -g rusd -m 0700 {config.data_dir}" in only(final, "RUN")
    names = [name for name, _ in final]
    assert names.index("RUN") < names.index("USER") < names.index("VOLUME")
    exposed = set(map(int, only(final, "EXPOSE").split()))
    assert exposed == {
        *(url.port for url in config.listen_client_urls),
        *(url.port for url in config.listen_peer_urls),
    }
    assert only(final, "STOPSIGNAL") == "SIGTERM"
    health = json.loads(only(final, "HEALTHCHECK").partition("CMD ")[2])
    assert health_endpoint(health) == f"http://127.0.0.1:{config.listen_client_urls[0].port}"


def test_the_image_is_made_of_files_that_reach_the_build(stages: list[list[Instruction]]) -> None:
    rules = (_ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    let_through = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for stage in stages:
        for name, rest in stage:
            if name != "COPY" or rest.startswith("--from="):
                continue
            for source in shlex.split(rest)[:-1]:
                assert (_ROOT / source).exists()
                assert source in let_through
    read = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    assert {read["readme"], *read["license-files"], "pyproject.toml", "rusd"} <= set(let_through)


def pins(lock: Path) -> dict[str, str]:
    """Versions by package; each has hashes."""
    parts = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.M)[1:]
    assert all("--hash=sha256:" in part for part in parts)
    return dict(part.split()[0].split("==") for part in parts)


def test_the_image_installs_what_is_tested_and_all_that_rusd_imports() -> None:
    image, tested = pins(_LOCK), pins(_ROOT / "requirements.lock")
    assert image.items() <= tested.items()
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^a-z0-9-]", each.lower())[0] for each in project["dependencies"]}
    assert needed <= set(image)
    assert "pytest" not in image
