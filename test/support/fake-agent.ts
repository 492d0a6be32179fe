/** A guest agent on a pair of named pipes, as QEMU's pipe backend would connect it: real pipes, made-up answers. */
import { execFileSync } from 'node:child_process';
import { constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

export interface Request {
  execute: string;
  arguments: Record<string, unknown>;
  id?: string;
}

export interface FakeAgent {
  base: string;
  requests: Request[];
  /** Sends bytes that nobody asked for. */
  send(text: string | Buffer): void;
  /** As if QEMU ended. */
  end(): void;
  close(): void;
}

/** `answer` gives `return`'s value, an Error for a refusal, or undefined for silence. */
export function fakeAgent(answer: (r: Request) => unknown): FakeAgent {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-agent-'));
  const base = path.join(dir, 'l0');
  execFileSync('mkfifo', [`${base}.in`, `${base}.out`]);
  const open = (file: string): number => openSync(file, constants.O_RDWR | constants.O_NONBLOCK);
  const input = new net.Socket({ fd: open(`${base}.in`), readable: true, writable: false });
  const output = new net.Socket({ fd: open(`${base}.out`), readable: false, writable: true });
  const requests: Request[] = [];
  const send = (text: string | Buffer): void => void output.write(text);
  let partial = Buffer.alloc(0);
  input.on('data', (chunk: Buffer) => {
    partial = Buffer.concat([partial, chunk]);
    for (let nl = partial.indexOf(10); nl >= 0; nl = partial.indexOf(10)) {
      const line = partial.subarray(0, nl);
      partial = partial.subarray(nl + 1);
      // 0xff begins a message again, whatever came before
      receive(line.subarray(line.lastIndexOf(0xff) + 1).toString());
    }
  });
  const receive = (line: string): void => {
    let r: Request;
    try {
      r = JSON.parse(line) as Request;
    } catch {
      return send('{"error": {"desc": "Invalid JSON"}}\n');
    }
    if (r.execute === 'guest-sync-delimited') {
      send(Buffer.from([0xff]));
      return send(`${JSON.stringify({ return: r.arguments['id'] })}\n`);
    }
    requests.push(r);
    const value = answer(r);
    if (value === undefined) return;
    const body = value instanceof Error ? { error: { desc: value.message } } : { return: value };
    send(`${JSON.stringify({ ...body, id: r.id })}\n`);
  };
  const end = (): void => {
    input.destroy();
    output.destroy();
  };
  return {
    base,
    requests,
    send,
    end,
    close: () => {
      end();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
