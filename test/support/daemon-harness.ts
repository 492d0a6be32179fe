/** A real daemon process with the fake kernel, processes that play QEMU, and the test itself as the agent inside L1. */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { ensureBpffs, openPinned } from '../../src/bpf/pins.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { messageOf } from '../../src/core/errors.ts';
import { waitFor } from '../../src/core/wait.ts';
import { ADMIN_METHODS } from '../../src/host/daemon/admin-schema.ts';
import type { VmReport } from '../../src/host/daemon/admin-schema.ts';
import { hello } from '../../src/wire/hello.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type { Event, NotificationParams, ParamsOf, Result, ResultOf } from '../../src/wire/schema.ts';
import { compiledSupport } from './compiled-support.ts';
import { readJournal } from './fake-kernel.ts';
import type { KernelEvent } from './fake-kernel.ts';

/** Beside other work a start can take half of it. */
const STARTS_MS = 60_000;

export interface FakeVm {
  pid: number;
  reset(): void;
  /** As by kill -9. */
  end(): Promise<void>;
}

export interface L1 {
  peer: RpcPeer<typeof METHODS>;
  greeting: Result<'hello'>;
  events: Event[];
  changes: NotificationParams<'map.changed'>[];
  close(): void;
}

/** `bpf`, `kill` ...: what the daemon's systemd unit lets it have. */
function unitCapabilities(): string[] {
  const unit = readFileSync(
    path.resolve(import.meta.dirname, '../../dist-files/systemd/hyperturtled.service'),
    'utf8',
  );
  const line = /^CapabilityBoundingSet=(.+)$/m.exec(unit)?.[1] ?? '';
  return line.split(' ').map((c) => c.replace(/^CAP_/, '').toLowerCase());
}

export class DaemonHarness {
  readonly dir = mkdtempSync(path.join(os.tmpdir(), 'ht-daemon-'));
  readonly bpffs = path.join(this.dir, 'bpf');
  readonly config = path.join(this.dir, 'host.yaml');
  /** Where the daemon is started: a command that goes before its own, and what it may do there besides. */
  #place: { enter: readonly string[]; capabilities: readonly string[] } = { enter: [], capabilities: [] };
  /** What the daemon wrote to its log. */
  log = '';
  #daemon: ChildProcess | undefined;
  readonly #vms = new Set<ChildProcess>();
  readonly #closers = new Set<() => void>();

  constructor() {
    ensureBpffs(this.bpffs);
    mkdirSync(path.join(this.dir, 'kernel'));
  }

  startIn(enter: readonly string[], capabilities: readonly string[]): void {
    this.#place = { enter, capabilities };
  }

  at(...parts: string[]): string {
    return path.join(this.dir, ...parts);
  }

  /** `vms` is YAML below `vms:`; sockets are named by `vm()`. */
  writeConfig(vms: Record<string, Record<string, unknown>>, more: Record<string, unknown> = {}): void {
    const all = {
      vms: Object.fromEntries(
        Object.entries(vms).map(([name, spec]) => [name, { ...this.sockets(name), arenaMib: 1, ...spec }]),
      ),
      run: this.at('run'),
      state: this.at('state'),
      bpffs: this.bpffs,
      log: { level: 'debug' },
      ...more,
    };
    // JSON is YAML
    writeFileSync(this.config, JSON.stringify(all, null, 2));
  }

  sockets(name: string): { qmp: string; agent: { socket: string } } {
    return { qmp: this.at(`${name}.qmp`), agent: { socket: this.at(`${name}.port`) } };
  }

  /** The page of its measurements, from the socket `metrics` of the configuration. */
  async measured(): Promise<string> {
    const [response] = (await once(
      http.get({ socketPath: this.at('metrics'), path: '/metrics' }),
      'response',
    )) as [http.IncomingMessage];
    return text(response);
  }

  get journal(): KernelEvent[] {
    return readJournal(this.at('kernel'));
  }

  get daemonPid(): number {
    return this.#daemon?.pid ?? 0;
  }

  async startVm(name: string, options: { arenaOnCommandLine?: boolean } = {}): Promise<FakeVm> {
    const { qmp, agent } = this.sockets(name);
    const guest = this.at(`${name}.guest`);
    for (const f of [qmp, agent.socket, guest]) rmSync(f, { force: true });
    const args = [
      compiledSupport('fake-qemu-main.ts', 'fake-qmp.ts', 'qemu-model.ts'),
      qmp,
      agent.socket,
      guest,
    ];
    if (options.arenaOnCommandLine ?? true) args.push(this.at('run/vms', name, 'arena'));
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#vms.add(child);
    await once(child.stdout, 'data');
    child.stdout.resume();
    return {
      pid: child.pid ?? 0,
      reset: () => void child.stdin.write('reset\n'),
      end: async () => {
        const ended = once(child, 'exit');
        child.kill('SIGKILL');
        await ended;
        this.#vms.delete(child);
      },
    };
  }

  /** What the daemon writes comes by a pipe: later, maybe, than its answer to a request. */
  async logged(what: RegExp): Promise<void> {
    await waitFor(`${what} in the daemon's log`, () => what.test(this.log) || undefined, {
      timeoutMs: 10_000,
      intervalMs: 20,
    }).catch((e: unknown) => {
      throw new Error(`${messageOf(e)}:\n${this.log.slice(-3000)}`, { cause: e });
    });
  }

  /** Returns when it serves. Throws what it printed when it ends instead. */
  async startDaemon(env: NodeJS.ProcessEnv = {}): Promise<void> {
    const main = compiledSupport('daemon-main.ts', 'fake-kernel.ts');
    // with the capabilities of its unit and no others; setpriv becomes the daemon
    const bounds = [
      '--bounding-set',
      `-all,${[...unitCapabilities(), ...this.#place.capabilities].map((c) => `+${c}`).join(',')}`,
    ];
    const [program = '', ...args] = [...this.#place.enter, 'setpriv', ...bounds];
    const child = spawn(program, [...args, process.execPath, main, this.config, this.at('kernel')], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    this.#daemon = child;
    let errors = '';
    let last: unknown;
    child.stdout.on('data', (c: Buffer) => (this.log += c.toString()));
    child.stderr.on('data', (c: Buffer) => (errors += c.toString()));
    await waitFor(
      'daemon serving',
      async () => {
        if (child.exitCode !== null) throw new Error(`the daemon ended: ${errors}${this.log}`);
        return this.admin('admin.status', {}).catch((e: unknown) => {
          last = e;
          return undefined;
        });
      },
      { timeoutMs: STARTS_MS },
    ).catch((e: unknown) => {
      throw new Error(`${messageOf(e)}: ${messageOf(last)}; ${errors}${this.log}`, { cause: e });
    });
  }

  /** Another daemon with the same configuration: what it prints when it gives up. */
  async startSecond(): Promise<string> {
    const main = compiledSupport('daemon-main.ts', 'fake-kernel.ts');
    const child = spawn(process.execPath, [main, this.config, this.at('kernel')], {
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: STARTS_MS,
    });
    let errors = '';
    child.stderr.on('data', (c: Buffer) => (errors += c.toString()));
    await once(child, 'close');
    return errors;
  }

  async endDaemon(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#daemon;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exit = once(child, 'close');
    child.kill(signal);
    await exit;
    return child.exitCode;
  }

  hangUp(): void {
    this.#daemon?.kill('SIGHUP');
  }

  async admin<M extends keyof typeof ADMIN_METHODS>(
    method: M,
    params: ParamsOf<typeof ADMIN_METHODS, M>,
  ): Promise<ResultOf<typeof ADMIN_METHODS, M>> {
    const socket = net.connect(this.at('run/host.sock'));
    await once(socket, 'connect');
    const peer = new RpcPeer(socket, { calls: ADMIN_METHODS, session: 'connection' });
    try {
      return await peer.request(method, params, { timeoutMs: 10_000 });
    } finally {
      peer.close();
    }
  }

  async vm(name: string): Promise<VmReport> {
    const found = (await this.admin('admin.vm.list', {})).vms.find((v) => v.name === name);
    if (!found) throw new Error(`no VM ${name}`);
    return found;
  }

  /** Waits until the VM looks as wanted; says how it looks when it never does. */
  async whenVm(name: string, wanted: (vm: VmReport) => boolean): Promise<VmReport> {
    let last: VmReport | undefined;
    try {
      return await waitFor(
        `VM ${name}`,
        async () => {
          last = await this.vm(name);
          return wanted(last) ? last : undefined;
        },
        { timeoutMs: 15_000 },
      );
    } catch (e) {
      throw new Error(`${messageOf(e)}; it is ${JSON.stringify(last)}; log:\n${this.log.slice(-3000)}`, {
        cause: e,
      });
    }
  }

  /** The agent inside L1: connects to its end of the port and says hello until somebody answers. */
  async agent(name: string, bootId: string): Promise<L1> {
    const socket = net.connect(this.at(`${name}.guest`));
    await once(socket, 'connect');
    const events: Event[] = [];
    const changes: NotificationParams<'map.changed'>[] = [];
    const peer = new RpcPeer(socket, {
      calls: METHODS,
      onNotify: (method, params) => {
        if (method === 'event') events.push(params);
        if (method === 'map.changed') changes.push(params);
      },
    });
    const close = (): void => {
      peer.close();
      this.#closers.delete(close);
    };
    this.#closers.add(close);
    const greeting = await waitFor(
      'answer to hello',
      () =>
        hello(peer, { agent: { version: '0.1.0', kernel: '6.1.0' }, bootId }, { timeoutMs: 1000 }).catch(
          () => undefined,
        ),
      { timeoutMs: 15_000 },
    );
    return { peer, greeting, events, changes, close };
  }

  /** The VM's pinned arena; to be closed by the caller. */
  arena(name: string): SharedArray {
    return SharedArray.adopt(openPinned(path.join(this.bpffs, 'hyperturtle', name, 'arena')));
  }

  async close(): Promise<void> {
    for (const close of [...this.#closers]) close();
    await this.endDaemon('SIGKILL');
    for (const child of this.#vms) {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }
    execFileSync('umount', [this.bpffs]);
    rmSync(this.dir, { recursive: true });
  }
}
