"""What is written is read again, and takes the pages that it needs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.bbolt import BboltError, Database, Writer
from rusd.bbolt.layout import MAX_KEY, PAGE_SIZES, fnv1a
from tests.unit.bbolt.files import SMALL, Buckets, read, written

_VALUES = st.one_of(
    st.binary(max_size=40), st.integers(0, 5000).map(lambda size: bytes([size % 251]) * size)
)
_ITEMS = st.dictionaries(st.binary(min_size=1, max_size=60), _VALUES, max_size=80)
_BUCKETS = st.dictionaries(st.binary(min_size=1, max_size=20), _ITEMS, max_size=5)


@given(_BUCKETS, st.sampled_from(PAGE_SIZES))
def test_every_bucket_is_read_as_it_was_written(buckets: Buckets, page_size: int) -> None:
    """Whatever keys and values, and whatever the size of pages."""
    with TemporaryDirectory() as folder:
        path = written(Path(folder) / "db", buckets, page_size)
        assert read(path) == buckets


def test_a_deep_tree_is_in_order(tmp_path: Path) -> None:
    """Long keys in small pages make several levels of branches."""
    items = {b"%06d" % number + b"k" * 200: b"%d" % number for number in range(3000)}
    path = written(tmp_path / "db", {b"deep": items, b"beside": {b"a": b"b"}})
    with Database(path) as database:
        assert list(database.items(b"deep")) == sorted(items.items())
        assert list(database.items(b"missing")) == []
    assert read(path) == {b"deep": items, b"beside": {b"a": b"b"}}


def test_a_value_larger_than_a_page_runs_on_over_the_next_ones(tmp_path: Path) -> None:
    """As a page of its own, and as the second of two."""
    items = {b"a": b"x" * 100_000, b"b": b"y", b"c": b"z" * 3_000_000, b"d": b""}
    path = written(tmp_path / "db", {b"large": items}, 4096)
    assert read(path) == {b"large": items}


def test_a_file_without_buckets_is_whole(tmp_path: Path) -> None:
    """Nothing is something, too."""
    assert read(written(tmp_path / "db", {})) == {}


@pytest.mark.parametrize(
    "keys",
    [[b"b", b"a"], [b"a", b"a"], [b""], [b"k" * (MAX_KEY + 1)]],
    ids=lambda keys: str(len(keys[0])),
)
def test_keys_that_bbolt_cannot_have_are_refused(keys: list[bytes], tmp_path: Path) -> None:
    """Out of order, twice, empty, or too long."""
    with (tmp_path / "db").open("wb") as file, pytest.raises(ValueError, match="key"):
        Writer(file, SMALL).bucket(b"name", [(key, b"") for key in keys])


def test_a_bucket_is_written_once(tmp_path: Path) -> None:
    """A second one of the same name would hide the first."""
    with (tmp_path / "db").open("wb") as file:
        writer = Writer(file)
        writer.bucket(b"name", [])
        with pytest.raises(ValueError, match="is there already"):
            writer.bucket(b"name", [])


def test_an_unfinished_file_is_none(tmp_path: Path) -> None:
    """Before `finish`, nothing takes it for a database."""
    path = tmp_path / "db"
    with path.open("wb") as file:
        Writer(file).bucket(b"name", [(b"a", b"b" * 5000)])
    with pytest.raises(BboltError, match="page 0: no bbolt database"):
        Database(path)


def test_the_hash_of_a_meta_page_is_fnv_1a() -> None:
    """Its authors' test values."""
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8
