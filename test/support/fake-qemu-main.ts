/**
 * A process that looks to the daemon like L1's QEMU: `node fake-qemu-main.js QMP PORT GUEST`. PORT is the chardev's
 * socket on the host, GUEST is where the test stands for the agent inside L1; bytes go between them as through a
 * virtio port, and are lost while the host side is not connected. Lines on its input: `reset` makes a RESET event.
 * A fourth argument is the file that its arena was made with on the command line.
 */
// cspell:ignore uery
import net from 'node:net';
import { createInterface } from 'node:readline';
import { fakeQmp } from './fake-qmp.ts';
import { QemuModel } from './qemu-model.ts';

const [qmpPath = '', portPath = '', guestPath = '', arenaPath] = process.argv.slice(2);
const model = new QemuModel();
if (arenaPath !== undefined)
  model.objects.set('hyperturtle-memory', {
    type: 'memory-backend-file',
    properties: { 'mem-path': arenaPath },
  });

const qmp = await fakeQmp(qmpPath, (call) => {
  if (!/^q(om|uery)-/.test(call.execute)) process.stdout.write(`qmp ${call.execute}\n`);
  return model.answer(call);
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
