/** A QMP server that answers as it is told: for tests whose subject is our side of the conversation. */
import net from 'node:net';

export interface QmpCall {
  execute: string;
  arguments: Record<string, unknown>;
}

export interface FakeAnswer {
  /** Default: `{}`. */
  result?: unknown;
  error?: { class: string; desc: string };
  /** Sent after the answer. */
  events?: { event: string; data: Record<string, unknown> }[];
}

export interface FakeQmp {
  /** All commands but qmp_capabilities, in order. */
  calls: QmpCall[];
  /** Tells all clients of an event that nobody asked for. */
  emit(event: string, data: Record<string, unknown>, atMs?: number): void;
  close(): Promise<void>;
}

/** Listens at `socketPath`; `answer` decides what each command gets (undefined: success). */
export async function fakeQmp(
  socketPath: string,
  answer: (call: QmpCall) => FakeAnswer | undefined,
): Promise<FakeQmp> {
  const calls: QmpCall[] = [];
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    const send = (message: unknown): boolean => socket.write(`${JSON.stringify(message)}\r\n`);
    send({ QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } }, capabilities: [] } });
    let partial = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      const lines = (partial + text).split('\n');
      partial = lines.pop() ?? '';
      for (const line of lines) {
        const { id, ...call } = JSON.parse(line) as QmpCall & { id: string };
        if (call.execute === 'qmp_capabilities') {
          send({ return: {}, id });
          continue;
        }
        calls.push(call);
        const a = answer(call) ?? {};
        send(a.error ? { error: a.error, id } : { return: a.result ?? {}, id });
        for (const e of a.events ?? []) send({ ...e, timestamp: { seconds: 0, microseconds: 0 } });
      }
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  return {
    calls,
    emit: (event, data, atMs = Date.now()) => {
      const timestamp = { seconds: Math.floor(atMs / 1000), microseconds: Math.round((atMs % 1000) * 1000) };
      for (const s of sockets) s.write(`${JSON.stringify({ event, data, timestamp })}\r\n`);
    },
    close: () =>
      new Promise((resolve) => {
        for (const s of sockets) s.destroy();
        server.close(() => resolve());
      }),
  };
}
