/** QEMU's monitor of a VM with NICs, as much of it as the daemon asks for when it takes NICs up again. */
import net from 'node:net';

/** Answers at `socketPath` that these devices are there. */
export async function listenAsQemu(socketPath: string, devices: readonly string[]): Promise<net.Server> {
  const list = devices.map((name) => ({ name, type: 'child<virtio-net-pci>' }));
  const answers: Record<string, unknown> = {
    'qom-list': list,
    'human-monitor-command': '',
    'query-version': { qemu: { major: 7, minor: 2, micro: 0 } },
    'query-chardev': [],
  };
  const server = net.createServer((socket) => {
    const send = (message: object): boolean => socket.write(`${JSON.stringify(message)}\r\n`);
    socket.on('error', () => {});
    send({ QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 } }, capabilities: [] } });
    let partial = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      const lines = (partial + text).split('\n');
      partial = lines.pop() ?? '';
      for (const line of lines) {
        const { id, execute } = JSON.parse(line) as { id: unknown; execute: string };
        const found = Object.entries(answers).find(([name]) => name === execute)?.[1];
        if (execute === 'closefd') send({ error: { class: 'GenericError', desc: 'not found' }, id });
        else send({ return: found ?? {}, id });
      }
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  return server;
}
