"""Certificates for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.tls.authority import Authority
from tests.unit.tls.site import Lines, Site


@pytest.fixture
def authority() -> Authority:
    """One that signs what a test needs."""
    return Authority.create("test CA")


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    """A log, and what was logged."""
    lines = Lines(tmp_path / "log")
    yield lines
    lines.log.close()


@pytest.fixture
def site(tmp_path: Path, authority: Authority) -> Site:
    """A folder with certificates."""
    return Site(tmp_path, authority)
