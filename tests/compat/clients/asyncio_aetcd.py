"""aetcd (asyncio, grpcio): `python asyncio_aetcd.py PORT` ends with status 0 if all went well."""

import asyncio
import sys

import aetcd


async def keys(client: aetcd.Client) -> None:
    """Put, get, ranges, delete."""
    await client.put(b"aetcd/a", b"1")
    replaced = await client.put(b"aetcd/a", b"2", prev_kv=True)
    assert replaced.prev_kv.value == b"1", replaced
    got = await client.get(b"aetcd/a")
    assert (got.value, got.version) == (b"2", 2), got
    assert await client.get(b"aetcd/none") is None
    await client.put(b"aetcd/b", b"3")
    found = await client.get_prefix(b"aetcd/", sort_order="descend", sort_target="key")
    assert [each.key for each in found] == [b"aetcd/b", b"aetcd/a"], found
    deleted = await client.delete_prefix(b"aetcd/")
    assert deleted.deleted == 2, deleted


async def transactions(client: aetcd.Client) -> None:
    """Both branches of a transaction, and compare-and-replace."""
    tx = client.transactions
    await client.put(b"aetcd/t", b"1")
    for expected, value in ((True, b"1"), (False, b"x")):
        succeeded, answers = await client.transaction(
            compare=[tx.value(b"aetcd/t") == value, tx.version(b"aetcd/t") > 0],
            success=[tx.put(b"aetcd/t", b"2"), tx.get(b"aetcd/t")],
            failure=[tx.get(b"aetcd/t")],
        )
        assert succeeded is expected, answers
        assert answers[-1][0][0] == b"2", answers
    assert await client.replace(b"aetcd/t", b"2", b"3")
    assert not await client.replace(b"aetcd/t", b"2", b"4")


async def watches(client: aetcd.Client) -> None:
    """History from a revision, then live events, then cancel."""
    first = await client.put(b"aetcd/w", b"0")
    watch = await client.watch(b"aetcd/w", start_revision=first.header.revision, prev_kv=True)
    await client.put(b"aetcd/w", b"1")
    await client.delete(b"aetcd/w")
    seen = []
    async for event in watch:
        seen.append((str(event.kind), event.kv.value))
        if len(seen) == 3:
            break
    await watch.cancel()
    assert seen == [("PUT", b"0"), ("PUT", b"1"), ("DELETE", b"")], seen


async def leases(client: aetcd.Client) -> None:
    """A key lives as long as its lease."""
    lease = await client.lease(600)
    await client.put(b"aetcd/l", b"1", lease=lease)
    assert (await lease.refresh()).TTL == 600
    info = await client.get_lease_info(lease.id)
    assert (list(info.keys), info.grantedTTL) == ([b"aetcd/l"], 600), info
    await lease.revoke()
    assert await client.get(b"aetcd/l") is None
    async with client.lock(b"aetcd/lock", ttl=60):
        pass


async def main() -> None:
    """Do it all."""
    async with aetcd.Client(host="127.0.0.1", port=int(sys.argv[1])) as client:
        await keys(client)
        await transactions(client)
        await watches(client)
        await leases(client)
        assert (await client.status()).version.startswith("3.")
        assert [member.name async for member in client.members()] == ["default"]


asyncio.run(main())
