"""A data directory says which programs can read it: newer programs open older ones, and no older
program touches a newer one.
"""

import base64
import os
import tarfile
from pathlib import Path

import pytest

import rusd
from rusd.storage import format as formats
from rusd.storage.format import FORMAT, claim
from rusd.testing import Member, NotReadyError

_OLDEST = Path(__file__).with_name("data") / "format-0.tar.xz"
"""Written by the first rusd that could recover, before Raft and before formats had numbers, and
killed: k1 v1, k2 v2, k3 v3, k1 again, k2 deleted, leased x with a lease; compacted at 4.
"""


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def test_a_new_directory_gets_this_programs_format(tmp_path: Path) -> None:
    assert claim(tmp_path) is None
    text = (tmp_path / "FORMAT").read_text()
    assert text == f"format {FORMAT}\nprogram rusd {rusd.__version__}\n"
    before = tree(tmp_path)
    assert claim(tmp_path) is None
    assert tree(tmp_path) == before


def test_one_without_a_number_is_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    assert claim(tmp_path) == 0
    assert claim(tmp_path) is None


def test_a_newer_program_takes_over_and_shuts_out_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(tmp_path)
    with monkeypatch.context() as newer:
        newer.setattr(formats, "FORMAT", FORMAT + 1)
        newer.setattr(rusd, "__version__", "7.8.9")
        assert claim(tmp_path) == FORMAT
        assert claim(tmp_path) is None
    before = tree(tmp_path)
    with pytest.raises(OSError, match=f"has format {FORMAT + 1}, made by rusd 7.8.9; this is rusd"):
        claim(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "1", "format x\n", "format -1\n", "\0" * 40, "format 1"])
def test_a_number_that_cannot_be_read_is_not_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(OSError, match="does not say which format"):
        claim(tmp_path)
    assert (tmp_path / "FORMAT").read_text() == text


@pytest.mark.parametrize(("where", "lost"), [(os, "fsync"), (Path, "rename")])
def test_a_crash_leaves_the_old_number_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, lost: str
) -> None:
    (tmp_path / "FORMAT").write_text("format 0\nprogram rusd 0\n")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(where, lost, crash)
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path)
    assert claim(tmp_path) == 0
    assert claim(tmp_path) is None


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A member that is not started."""
    return Member(tmp_path)


def start(member: Member) -> None:
    """Start it, and leave nothing behind where that fails."""
    try:
        member.start()
    except NotReadyError:
        member.close()
        raise


def test_the_oldest_data_is_opened_and_served(member: Member) -> None:
    with tarfile.open(_OLDEST) as archive:
        archive.extractall(member.folder, filter="data")
    try:
        for _ in range(2):
            start(member)
            with member.gateway() as gateway:
                found = gateway.call("kv/range", key="AA==", range_end="AA==")
                assert [
                    (base64.b64decode(kv["key"]), base64.b64decode(kv["value"]), kv["mod_revision"])
                    for kv in found["kvs"]
                ] == [(b"k1", b"again", "5"), (b"k3", b"v3", "4"), (b"leased", b"x", "7")]
                (lease,) = gateway.call("lease/leases")["leases"]
                left = gateway.call("lease/timetolive", ID=lease["ID"], keys=True)
                assert int(left["TTL"]) > 1_900_000_000
                assert [*map(base64.b64decode, left["keys"])] == [b"leased"]
                assert found["header"]["revision"] == "7"
            member.stop()
        assert member.log.count("took over data of an older format") == 1
        assert (member.data_dir / "FORMAT").read_text().startswith(f"format {FORMAT}\n")
    finally:
        member.close()


def test_a_newer_programs_data_is_refused_and_left_alone(member: Member) -> None:
    try:
        start(member)
        member.stop()
        (member.data_dir / "FORMAT").write_text("format 99\nprogram rusd 9.0.0\n")
        before = tree(member.data_dir)
        with pytest.raises(NotReadyError, match="has format 99, made by rusd 9"):
            member.start()
        assert tree(member.data_dir) == before
    finally:
        member.close()


def test_etcds_own_data_is_refused_and_left_alone(member: Member) -> None:
    snap = member.data_dir / "member" / "snap"
    snap.mkdir(parents=True)
    (snap / "db").write_bytes(b"")
    with pytest.raises(NotReadyError, match="data directory of an etcd"):
        start(member)
    assert {*tree(member.data_dir)} == {"lock", "member", "member/snap", "member/snap/db"}
