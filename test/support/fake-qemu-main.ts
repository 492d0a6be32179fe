/**
 * A process that looks to the daemon like L1's QEMU: `node fake-qemu-main.js QMP PORT GUEST`. PORT is the chardev's
 * socket on the host, GUEST is where the test stands for the agent inside L1; bytes go between them as through a
 * virtio port, and are lost while the host side is not connected. Lines on its input: `reset` makes a RESET event.
 * A fourth argument is the file that its arena was made with on the command line.
 */
import net from 'node:net';
import { createInterface } from 'node:readline';
import { fakeQmp } from './fake-qmp.ts';
import type { FakeAnswer } from './fake-qmp.ts';

const [qmpPath = '', portPath = '', guestPath = '', arenaPath] = process.argv.slice(2);
const backends = new Map<string, string>();
if (arenaPath !== undefined) backends.set('hyperturtle-memory', arenaPath);

const qmp = await fakeQmp(qmpPath, ({ execute, arguments: a }): FakeAnswer | undefined => {
  if (execute === 'qom-list')
    return {
      result: Array.from(backends.keys(), (name) => ({ name, type: 'child<memory-backend-file>' })),
    };
  if (execute === 'qom-get') return { result: backends.get(String(a['path']).replace('/objects/', '')) };
  if (execute === 'object-add') backends.set(String(a['id']), String(a['mem-path']));
  if (execute === 'object-del') backends.delete(String(a['id']));
  if (execute === 'device_del') return { events: [{ event: 'DEVICE_DELETED', data: { device: a['id'] } }] };
  process.stdout.write(`qmp ${execute}\n`);
  return undefined;
});

let host: net.Socket | undefined;
let guest: net.Socket | undefined;
const serve = (
  take: (s: net.Socket) => void,
  end: (s: net.Socket) => void,
  other: () => net.Socket | undefined,
) =>
  net.createServer((socket) => {
    take(socket);
    socket.on('error', () => {});
    socket.on('data', (bytes) => other()?.write(bytes));
    socket.on('close', () => end(socket));
  });
serve(
  (s) => (host = s),
  (s) => (host = host === s ? undefined : host),
  () => guest,
).listen(portPath);
serve(
  (s) => (guest = s),
  (s) => (guest = guest === s ? undefined : guest),
  () => host,
).listen(guestPath, () => process.stdout.write('ready\n'));

createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'reset') qmp.emit('RESET', { guest: true, reason: 'guest-reset' });
});
