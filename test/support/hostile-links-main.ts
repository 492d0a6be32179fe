/**
 * An L1 that links and unlinks as fast as it can, in a process of its own so that it takes nobody's time but its daemon's:
 * `node hostile-links-main.js GUEST-SOCKET BOOT-ID`. Lines on its input: `go`, and `stop`, which it answers with how many
 * links it has made.
 */
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { hello } from '../../src/wire/hello.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';

/** Requests at a time. */
const WORKERS = 8;

const [guest = '', bootId = ''] = process.argv.slice(2);
const socket = net.connect(guest);
await once(socket, 'connect');
const peer = new RpcPeer(socket, { calls: METHODS });
const agent = { version: '0.1.0', kernel: '6.1.0' };
for (let greeted = false; !greeted; )
  greeted = await hello(peer, { agent, bootId }, { timeoutMs: 1000 }).then(
    () => true,
    () => false,
  );
process.stdout.write('ready\n');

let going = false;
let made = 0;
let workers: Promise<void>[] = [];

async function work(): Promise<void> {
  while (going) {
    const { link } = await peer.request('link', { object: 'counter', hook: 'npf' });
    made++;
    // another one of these may have been first
    await peer.request('unlink', { id: link.id }).catch(() => {});
  }
}

createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'go') {
    going = true;
    workers = Array.from({ length: WORKERS }, work);
  } else {
    going = false;
    void Promise.all(workers).then(() => process.stdout.write(`${made}\n`));
  }
});
