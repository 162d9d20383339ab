"""The files for Kubernetes on three rusd members: kubeadm takes its own, rusd serves the others.

No kubeadm runs here. What its file may say is below, from the types of kubeadm.k8s.io/v1beta4; a
field that it does not know stops kubeadm, as it stops this test.
"""

import re
import shlex
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from rusd.config import Config, load
from rusd.supervisor import READY
from tests.members import Member, free_ports, rusd_command

_ROOT = Path(__file__).parents[2]
_FILES = _ROOT / "cluster" / "kubeadm"
_NAMES = ("m1", "m2", "m3")
_ANALYZE = "systemd-analyze"

SCHEMA: dict[str, Any] = {
    "apiVersion": "kubeadm.k8s.io/v1beta4",
    "kind": "ClusterConfiguration",
    "kubernetesVersion": str,
    "controlPlaneEndpoint": str,
    "certificatesDir": str,
    "clusterName": str,
    "imageRepository": str,
    "networking": {"serviceSubnet": str, "podSubnet": str, "dnsDomain": str},
    "etcd": {"external": {"endpoints": [str], "caFile": str, "certFile": str, "keyFile": str}},
}
"""The part of ClusterConfiguration that may be used: a type, a constant, a list's or a field's."""
REQUIRED = {"apiVersion", "kind", "endpoints", "caFile", "certFile", "keyFile"}


def check(value: object, schema: object, where: str) -> None:
    """Fail where a value is not as the schema says."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert not value.keys() - schema.keys(), f"{where}: unknown fields"
        assert not (REQUIRED & schema.keys()) - value.keys(), f"{where}: missing fields"
        for name, each in value.items():
            check(each, schema[name], f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        assert value, where
        for each in value:
            check(each, schema[0], where)
    elif isinstance(schema, type):
        assert type(value) is schema, where
    else:
        assert value == schema, where


def environment(name: str) -> dict[str, str]:
    """A member's settings, read as systemd reads an EnvironmentFile of this kind."""
    found = {}
    for line in (_FILES / f"{name}.env").read_text().splitlines():
        if line and not line.startswith("#"):
            variable, _, value = line.partition("=")
            (found[variable],) = shlex.split(value)
    return found


def config(name: str) -> Config:
    return load([], {**environment(name), "ETCD_DATA_DIR": "/var/lib/rusd"})


@pytest.fixture(scope="module")
def kubeadm() -> dict[str, Any]:
    """What kubeadm is given."""
    document = yaml.safe_load((_FILES / "kubeadm.yaml").read_text())
    assert isinstance(document, dict)
    return document


class Configured(Member):
    """A member that has all its settings from its environment."""

    def arguments(self) -> list[str]:
        """No flags."""
        return list(self.command)


def test_kubeadm_knows_every_field(kubeadm: dict[str, Any]) -> None:
    check(kubeadm, SCHEMA, "ClusterConfiguration")
    for endpoint in kubeadm["etcd"]["external"]["endpoints"]:
        url = urllib.parse.urlsplit(endpoint)
        assert (url.scheme, url.path, bool(url.port)) == ("https", "", True)


@pytest.mark.parametrize(
    "change",
    [
        {"etcd": {"external": {"endpoints": ["https://m1:2379"], "caFile": "a", "certFile": "b"}}},
        {"etcd": {"external": {}, "local": {}}},
        {"etcd": {"external": {"endpoints": []}}},
        {"apiVersion": "kubeadm.k8s.io/v1beta3"},
        {"kubernetesVersion": 1.35},
        {"ETCD": {}},
    ],
)
def test_the_check_finds_what_kubeadm_would(
    kubeadm: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError):
        check({**kubeadm, **change}, SCHEMA, "ClusterConfiguration")


def test_the_members_are_one_cluster_where_kubeadm_looks_for_it(kubeadm: dict[str, Any]) -> None:
    members = {name: config(name) for name in _NAMES}
    endpoints = []
    for name, each in members.items():
        each.check_bootstrap()
        assert each.name == name
        assert (each.notices, each.ignored) == ((), ())
        assert each.client_cert_auth
        assert each.peer_client_cert_auth
        endpoints += [url.text for url in each.advertise_client_urls]
        assert set(each.advertise_client_urls) < set(each.listen_client_urls)
        assert all(url.scheme == "https" for url in each.listen_client_urls)
    assert endpoints == kubeadm["etcd"]["external"]["endpoints"]
    assert len({each.initial_cluster for each in members.values()}) == 1
    common = [
        {k: v for k, v in environment(name).items() if not re.search("URLS|NAME", k)}
        for name in _NAMES
    ]
    assert common[0] == common[1] == common[2]


def test_the_members_serve_whoever_shows_what_kubeadm_shows(
    tmp_path: Path, etcd_programs: Path
) -> None:
    """The files as they are, but for addresses, ports and where the certificates lie."""
    hosts = [f"127.77.0.{number}" for number in (11, 12, 13)]
    arguments = [word for host in hosts for word in ("--host", host)]
    certs = tmp_path / "certs"
    subprocess.run(
        [sys.executable, "-m", "cluster.tls", "--out", certs, *arguments],
        cwd=_ROOT, check=True, capture_output=True,
    )  # fmt: skip
    client, peer, metrics = free_ports(3)
    ports = {"2379": client, "2380": peer, "2381": metrics}
    members = []
    try:
        for number, name in enumerate(_NAMES):
            settings = {}
            for variable, text in environment(name).items():
                moved = text.replace("10.0.0.", "127.77.0.").replace("/etc/rusd/pki", str(certs))
                moved = moved.replace("127.0.0.1:", f"127.77.1.{number + 1}:")
                moved = re.sub(r":(23[78]\d)", lambda found: f":{ports[found[1]]}", moved)
                settings[variable] = moved
            member = Configured(rusd_command(), tmp_path / name, environment=settings)
            members.append(member)
            member.launch()
        shown = ["--cacert", "ca.crt", "--cert", "client.crt", "--key", "client.key"]
        endpoints = ",".join(f"https://{host}:{client}" for host in hosts)
        etcdctl = [str(etcd_programs / "etcdctl"), "--endpoints", endpoints, "--dial-timeout=60s"]
        health = subprocess.run(
            [*etcdctl, *shown, "--command-timeout=60s", "endpoint", "health"],
            cwd=certs, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert health.stderr.count("is healthy") + health.stdout.count("is healthy") == 3, health
        without = subprocess.run(
            [*etcdctl, "--cacert", "ca.crt", "--command-timeout=2s", "get", "a"],
            cwd=certs, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert without.returncode != 0
    finally:
        for member in members:
            member.close()


def test_the_unit_runs_the_server_and_hears_when_it_is_ready() -> None:
    lines = (_ROOT / "cluster" / "rusd.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert unit["Type"] == "notify"
    assert READY == "READY=1"
    assert unit["ExecStart"] == "/opt/rusd/bin/rusd"
    assert unit["User"] != "root"
    variable, _, folder = unit["Environment"].partition("=")
    assert load([], {variable: folder}).data_dir == f"/var/lib/{unit['StateDirectory']}"


def test_systemd_finds_little_to_be_exposed() -> None:
    try:
        found = subprocess.run(
            [_ANALYZE, "security", "--offline=true", "--threshold=25", "rusd.service"],
            cwd=_ROOT / "cluster", capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip(f"{_ANALYZE} is not there")
    assert found.returncode == 0, found.stdout[-300:]
