"""etcd-client-py (Rust's, on tonic and hyper): status 0 if all went well; argument: the port.

Its HTTP/2 is neither grpcio's nor Go's, which is why it is here.
"""

import asyncio
import sys

from etcd_client import Client, Communicator, Compare, CompareOp, CondVar, Txn, TxnOp


async def keys(client: Communicator) -> None:
    """Put, get, prefixes, delete."""
    await client.put(b"rust/a", b"1")
    await client.put(b"rust/b", b"2")
    assert bytes(await client.get(b"rust/a")) == b"1"
    assert await client.get(b"rust/none") is None
    pairs = [tuple(map(bytes, pair)) for pair in await client.get_prefix(b"rust/")]
    assert pairs == [(b"rust/a", b"1"), (b"rust/b", b"2")], pairs
    await client.delete_prefix(b"rust/")
    assert await client.get(b"rust/a") is None


async def transactions(client: Communicator) -> None:
    """Both branches of a transaction."""
    await client.put(b"rust/t", b"1")
    for expected in (True, False):
        txn = (
            Txn()
            .when([Compare.value(b"rust/t", CompareOp.EQUAL, b"1")])
            .and_then([TxnOp.put(b"rust/t", b"2")])
            .or_else([TxnOp.put(b"rust/t", b"3")])
        )
        assert (await client.txn(txn)).succeeded() is expected
    assert bytes(await client.get(b"rust/t")) == b"3"


async def watches(client: Communicator) -> None:
    """Live events of a prefix."""
    ready = CondVar()
    seen: list[tuple[bytes, bytes]] = []

    async def watch() -> None:
        async for event in client.watch_prefix(b"rust/w/", ready_event=ready):
            seen.append((bytes(event.key), bytes(event.value)))
            if len(seen) == 3:
                return

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(ready.wait(), 30)
    await client.put(b"rust/w/1", b"1")
    await client.put(b"rust/w/2", b"2")
    await client.delete(b"rust/w/1")
    await asyncio.wait_for(watching, 30)
    assert seen == [(b"rust/w/1", b"1"), (b"rust/w/2", b"2"), (b"rust/w/1", b"")], seen


async def main() -> None:
    """Do it all."""
    async with Client([f"http://127.0.0.1:{sys.argv[1]}"]).connect() as client:
        await keys(client)
        await transactions(client)
        await watches(client)
        await client.lease_grant(600)  # it tells no id, so nothing can be done with the lease


asyncio.run(main())
