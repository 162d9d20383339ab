"""What `make dist` builds, installed where nothing else is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import rusd
from tests.conftest import StartMember

_ROOT = Path(__file__).parents[2]
_SECONDS = 110.0


def run(*command: str | Path, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end, away from the checkout; return what it wrote."""
    ended = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution and the wheel, which is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, _ROOT)
    run(*build, folder=folder)
    return folder


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    uv = Path(sys.executable).with_name("uv")
    environment = {"VIRTUAL_ENV": str(folder / "venv")}
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv", folder=folder)
    (wheel,) = built.glob("*.whl")
    install = (uv, "pip", "install", "--constraint", _ROOT / "requirements.lock", wheel)
    run(*install, folder=folder, environment=environment)
    return folder / "venv" / "bin"


def test_the_wheel_is_typed_and_has_the_program_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        info = f"rusd-{rusd.__version__}.dist-info"
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        entries = wheel.read(f"{info}/entry_points.txt").decode().split("\n")
    assert {name.partition("/")[0] for name in names} == {"rusd", info}
    assert {"rusd/py.typed", f"{info}/licenses/LICENSE"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"rusd = rusd.cli:main", "rusd = rusd.testing.plugin"} <= set(entries)
    needed = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert not [each for each in needed if each.startswith(("pytest", "grpcio"))]


def test_the_source_distribution_has_what_its_tests_read(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("no checkout to compare with")
    assert {each for each in tracked.stdout.splitlines() if (_ROOT / each).exists()} <= names


def test_it_tells_its_versions_and_its_flags(clean: Path, tmp_path: Path) -> None:
    lines = run(clean / "rusd", "--version", folder=tmp_path).splitlines()
    assert lines[:2] == [f"rusd {rusd.__version__}", f"etcd Version: {rusd.ETCD_VERSION}"]
    assert "--initial-cluster" in run(clean / "rusd", "--help", folder=tmp_path)


def test_it_serves_etcdctl(
    clean: Path, etcd_programs: Path, start_member: StartMember, tmp_path: Path
) -> None:
    member = start_member([str(clean / "rusd")])
    etcdctl: Sequence[str | Path] = (etcd_programs / "etcdctl", "--endpoints", member.target)
    assert run(*etcdctl, "put", "greeting", "hello", folder=tmp_path) == "OK\n"
    assert run(*etcdctl, "get", "greeting", folder=tmp_path) == "greeting\nhello\n"
    assert "is healthy" in run(
        clean / "rusd", "healthcheck", "--endpoint", member.client_url, folder=tmp_path
    )
    member.stop()


def test_it_is_a_tests_server_without_pytest(clean: Path, tmp_path: Path) -> None:
    assert not (clean / "pytest").exists()
    program = "import rusd.testing\nwith rusd.testing.server() as m: print(m.is_running)"
    assert run(clean / "python", "-c", program, folder=tmp_path) == "True\n"


def test_what_needs_an_extra_names_it(clean: Path, tmp_path: Path) -> None:
    save = [str(clean / "rusd"), "snapshot", "save", "backup.db", "--endpoints", "127.0.0.1:1"]
    ended = subprocess.run(save, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "rusd[client]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_make_dist_is_what_is_tested_here() -> None:
    assert shutil.which("make")
    recipe = subprocess.run(
        ["make", "--dry-run", "dist"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert "python -m build --no-isolation" in recipe.stdout
