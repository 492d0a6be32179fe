/** Two ends of a connection in this process, and a small server with the wire's own methods. */
import type { Duplex } from 'node:stream';
import { duplexPair } from 'node:stream';
import { setTimeout as wait } from 'node:timers/promises';
import { serve } from '../../src/wire/handlers.ts';
import type { Handlers, ServedMethods } from '../../src/wire/handlers.ts';
import { negotiate } from '../../src/wire/hello.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import type { RpcPeerOptions } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type { Limits, LinkInfo, NicInfo, ObjectInfo, Params } from '../../src/wire/schema.ts';

export const LIMITS: Limits = {
  objects: 16,
  programs: 32,
  links: 16,
  maps: 64,
  mapBytes: 16777216,
  elfBytes: 2097152,
  instructions: 1000000,
  watches: 16,
  nics: 4,
  requestsPerSecond: 1000,
};
export const INSTANCE = '7b0f4d5e-58d1-4f3b-9c55-0f6a3c1f2a10';
export const BOOT_ID = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';

export const HELLO: Params<'hello'> = {
  protocol: { min: 1, max: 1 },
  agent: { version: '0.1.0', kernel: '6.1.0-42-amd64' },
  bootId: BOOT_ID,
  nonce: '5f2c9e0b71aa43d8',
};

export type MethodHandlers = Handlers<typeof METHODS>;

const no = (): never => {
  throw new Error('not in this test');
};

/** All methods; those not given fail, except hello and ping. */
export function methods(some: Partial<MethodHandlers> = {}): ServedMethods {
  const all = Object.fromEntries(Object.keys(METHODS).map((m) => [m, no])) as unknown as MethodHandlers;
  return serve(METHODS, {
    ...all,
    hello: ({ protocol, nonce }) => ({
      protocol: negotiate(protocol),
      daemon: { version: '0.1.0', kernel: '6.1.0-42-amd64', instance: INSTANCE },
      vm: 'tenant1',
      nonce,
      limits: LIMITS,
    }),
    ping: () => ({}),
    ...some,
  });
}

export interface Ends {
  server: RpcPeer<Record<string, never>>;
  client: RpcPeer<typeof METHODS>;
  /** The server's and the client's stream. */
  streams: [Duplex, Duplex];
}

type Options = Partial<RpcPeerOptions<Record<string, never>>>;

/** A server and a client that have said nothing yet. */
export function ends(options: Options = {}, client: Partial<RpcPeerOptions<typeof METHODS>> = {}): Ends {
  const streams = duplexPair();
  return {
    server: new RpcPeer(streams[0], { calls: {}, methods: methods(), ...options }),
    client: new RpcPeer(streams[1], { calls: METHODS, ...client }),
    streams: [streams[0], streams[1]],
  };
}

/** The other end of a server as bare bytes. */
export class RawClient {
  readonly stream: Duplex;
  #text = '';
  readonly received: Record<string, unknown>[] = [];
  readonly #changed = new Set<() => void>();
  ended = false;

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('utf8');
      const lines = this.#text.split('\n');
      this.#text = lines.pop()!;
      for (const line of lines)
        if (line !== '') this.received.push(JSON.parse(line) as Record<string, unknown>);
      this.#tell();
    });
    stream.on('error', () => {});
    stream.on('close', () => {
      this.ended = true;
      this.#tell();
    });
  }

  #tell(): void {
    for (const f of [...this.#changed]) f();
  }

  send(message: unknown): void {
    this.sendText(`${JSON.stringify(message)}\n`);
  }

  sendText(text: string | Buffer): void {
    this.stream.write(text);
  }

  request(id: unknown, method: string, params: unknown = {}): void {
    this.send({ jsonrpc: '2.0', id, method, params });
  }

  /** The first message that fits, from now or before; it is taken out. */
  async next(
    matches: (m: Record<string, unknown>) => boolean = () => true,
    timeoutMs = 5000,
  ): Promise<Record<string, unknown>> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const i = this.received.findIndex(matches);
      if (i >= 0) return this.received.splice(i, 1)[0]!;
      const left = end - performance.now();
      if (left <= 0 || this.ended)
        throw new Error(
          `no such message${this.ended ? ' before the end' : ''}; there are ${JSON.stringify(this.received).slice(0, 500)}`,
        );
      const stop = new AbortController();
      await Promise.race([
        new Promise<void>((resolve) => {
          const done = (): void => {
            this.#changed.delete(done);
            stop.abort();
            resolve();
          };
          this.#changed.add(done);
        }),
        wait(left, undefined, { signal: stop.signal }).catch(() => {}),
      ]);
    }
  }

  answerTo(id: unknown): Promise<Record<string, unknown>> {
    return this.next((m) => m['id'] === id);
  }

  /** Kind of the error that answers `id`. */
  async kindOf(id: unknown): Promise<string | undefined> {
    const { error } = (await this.answerTo(id)) as { error?: { data?: { kind?: string } } };
    return error?.data?.kind;
  }
}

/** A server whose other end is bare bytes. */
export function rawEnds(options: Options = {}): {
  server: RpcPeer<Record<string, never>>;
  raw: RawClient;
} {
  const streams = duplexPair();
  return {
    server: new RpcPeer(streams[0], { calls: {}, methods: methods(), ...options }),
    raw: new RawClient(streams[1]),
  };
}

export const OBJECT: ObjectInfo = {
  name: 'npf',
  sha256: '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',
  loadedAt: '2026-11-22T10:00:00.000Z',
  signedBy: null,
  programs: [
    {
      name: 'npf',
      section: 'raw_tp.w/hyperturtle_npf',
      hook: 'npf',
      type: 'raw_tracepoint_writable',
      id: 41,
      instructions: 1180,
      verifiedInstructions: 20871,
      jitedBytes: 6204,
    },
  ],
  maps: [
    {
      name: 'state',
      type: 'array',
      keyBytes: 4,
      valueBytes: 64,
      maxEntries: 8,
      bytes: 1088,
      arena: false,
    },
  ],
};

export const LINK: LinkInfo = {
  id: 1,
  object: 'npf',
  program: 'npf',
  hook: 'npf',
  target: null,
  since: '2026-11-22T10:00:01.000Z',
};

export const NIC: NicInfo = {
  id: 'web',
  mac: '02:1f:63:a8:7c:05',
  network: 'lan',
  kind: 'tap',
  slot: 16,
  mtu: 1500,
  hooks: ['xdp', 'tc-ingress', 'tc-egress'],
  since: '2026-11-22T10:00:03.000Z',
};
