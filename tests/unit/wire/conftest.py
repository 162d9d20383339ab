"""Fixtures for the tests of rusd/wire."""

from collections.abc import Iterator

import pytest

from .peer import RawClient, Serving, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Serving]:
    """One server with the default limits for all tests of a module."""
    with serving() as started:
        yield started


@pytest.fixture
def shared(running: Serving) -> Serving:
    """The module's server, without what earlier tests left in its service."""
    running.service.forget()
    return running


@pytest.fixture
def client(shared: Serving) -> Iterator[RawClient]:
    """A fresh connection to it; afterwards the server must still serve others."""
    with RawClient(shared.port) as raw:
        yield raw
    with RawClient(shared.port) as other:
        other.works()
