// What a user's program does with npm's etcd3: `node etcd3.mjs PORT` ends with status 0 if all
// went well. The working directory is the one where `npm ci` has put etcd3.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const { Etcd3 } = createRequire(join(process.cwd(), 'package.json'))('etcd3');
const client = new Etcd3({ hosts: `127.0.0.1:${process.argv[2]}` });

async function keys() {
  await client.put('npm/a').value('1');
  assert.equal(await client.get('npm/a').string(), '1');
  assert.equal(await client.get('npm/none').string(), null);
  await client.put('npm/b').value('2');
  const all = client.getAll().prefix('npm/');
  assert.deepEqual(await all.sort('Key', 'Descend').keys(), ['npm/b', 'npm/a']);
  assert.equal(await client.getAll().prefix('npm/').count(), 2);
  assert.equal((await client.delete().prefix('npm/')).deleted, '2');
}

async function transactions() {
  await client.put('npm/t').value('1');
  for (const expected of [true, false]) {
    const answer = await client
      .if('npm/t', 'Value', '==', '1')
      .then(client.put('npm/t').value('2'))
      .else(client.get('npm/t'))
      .commit();
    assert.equal(answer.succeeded, expected);
  }
}

async function watches() {
  const first = await client.put('npm/w').value('0');
  const watcher = await client.watch().key('npm/w').startRevision(first.header.revision).create();
  const seen = [];
  const done = new Promise((resolve) => {
    const see = (kind) => (kv) => {
      seen.push([kind, kv.value.toString()]);
      if (seen.length === 3) resolve();
    };
    watcher.on('put', see('put')).on('delete', see('delete'));
  });
  await client.put('npm/w').value('1');
  await client.delete().key('npm/w');
  await done;
  assert.deepEqual(seen, [['put', '0'], ['put', '1'], ['delete', '']]);
  await watcher.cancel();
}

async function leases() {
  const lease = client.lease(600);
  await lease.put('npm/l').value('1');
  assert.equal((await lease.keepaliveOnce()).TTL, '600');
  const found = await client.leaseClient.leaseTimeToLive({ ID: await lease.grant(), keys: true });
  assert.deepEqual(found.keys.map(String), ['npm/l']);
  await lease.revoke();
  assert.equal(await client.get('npm/l').string(), null);
  assert.equal(await client.lock('npm/lock').do(() => 'held'), 'held');
}

await keys();
await transactions();
await watches();
await leases();
client.close();
