"""A running member's backups: whole, bounded in number, and gone when nobody wants them."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rusd.backup.reading import Backup
from rusd.backup.source import BackupError, Backups, TooManyBackupsError, size_of
from tests.unit.asynchronous import asynchronous
from tests.unit.node.running import SECONDS, until
from tests.unit.node.transferring import SENDER, Site, site

Test = Callable[[Site, Backups], Awaitable[None]]


async def with_backups(directory: Path, test: Test) -> None:
    """Run a test with a member that has something to back up."""
    async with site(directory / "member", SENDER) as member:
        member.fill(100)
        backups = Backups(member.engine)
        kept = member.folders()
        try:
            await test(member, backups)
        finally:
            backups.stop()
        assert member.folders() == kept


@asynchronous
async def test_a_backup_has_what_the_member_had_and_no_name(tmp_path: Path) -> None:
    """What is written later is not in it; its space is free again when it is closed."""

    async def test(member: Site, backups: Backups) -> None:
        revision = member.applier.keyspace.revision
        async with backups.open() as file:
            member.put(b"later", b"")
            assert not [name for name in member.folders() if name.startswith("checkpoint")]
            data = file.read()
            assert len(data) == size_of(file)
        assert file.closed
        copy = tmp_path / "copy"
        copy.write_bytes(data)
        with Backup(copy) as backup:
            backup.verify(lambda _: None)
            assert backup.status(lambda _: None).revision == revision

    await with_backups(tmp_path, test)


@asynchronous
async def test_the_loop_does_not_wait_for_a_large_file_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close it is to free the space of a whole database."""
    work: list[object] = []

    async def test(_: Site, backups: Backups) -> None:
        run = backups.run

        def noted(each: Callable[[], object]) -> Awaitable[object]:
            work.append(each)
            return run(each)

        monkeypatch.setattr(backups, "run", noted)
        async with backups.open() as file:
            pass
        assert file.closed
        assert work[-1] == file.close, "on a thread"

    await with_backups(tmp_path, test)


@asynchronous
async def test_who_does_not_wait_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed, its files are removed, and the next one gets its turn."""
    endless, started = tmp_path / "endless", tmp_path / "started"
    endless.write_text(f"#!/bin/sh\n: >{started}\nexec sleep 1000\n")
    endless.chmod(0o700)

    async def test(member: Site, backups: Backups) -> None:
        async def wait() -> None:
            async with backups.open():
                raise AssertionError("it was to be cancelled")

        def has_begun() -> bool:
            return any(name.startswith("checkpoint") for name in member.folders())

        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(endless))
            for begun, what in ((has_begun, "a checkpoint"), (started.exists, "the process")):
                started.unlink(missing_ok=True)
                task = asyncio.create_task(wait())
                await until(begun, what)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, SECONDS)
                assert not has_begun()
        async with backups.open() as file:
            assert size_of(file)

    await with_backups(tmp_path, test)


@asynchronous
async def test_a_failure_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the process, and of the database."""

    async def test(member: Site, backups: Backups) -> None:
        async def expect(reason: str) -> None:
            with pytest.raises(BackupError, match=reason):
                async with backups.open():
                    pass

        def refuse(_: Path) -> None:
            raise OSError("no space")

        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            await expect("could not be converted: it ended with 1")
        with monkeypatch.context() as patch:
            patch.setattr(member.engine, "checkpoint", refuse)
            await expect("no space")

    await with_backups(tmp_path, test)


@asynchronous
async def test_only_so_many_are_open_and_wait(tmp_path: Path) -> None:
    """Who comes when the line is full is refused; a closed one lets the next in."""

    async def test(_: Site, backups: Backups) -> None:
        opened = [0]

        async def hold(until_: asyncio.Event) -> None:
            async with backups.open():
                opened[0] += 1
                await until_.wait()

        done = asyncio.Event()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(backups.open())
            tasks = [asyncio.create_task(hold(done)) for _ in range(3 + 16)]
            await until(lambda: opened[0] == 3, "three more")
            with pytest.raises(TooManyBackupsError):
                async with backups.open():
                    pass
            assert opened[0] == 3
        assert first.closed
        await until(lambda: opened[0] == 4, "the next in line")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    await with_backups(tmp_path, test)
