/** A node of a fleet: a reconciler, the agent beside it and its host, against a stand-in of the API server. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connectSocket } from '../../src/core/sockets.ts';
import { waitFor } from '../../src/core/wait.ts';
import { clusterOf } from '../../src/fleet/cluster.ts';
import { KubeApi } from '../../src/fleet/kube.ts';
import { Reconciler } from '../../src/fleet/reconciler.ts';
import type { ReconcileTimes } from '../../src/fleet/reconciler.ts';
import { ociFetcher } from '../../src/fleet/oci.ts';
import type { NodeStatus } from '../../src/fleet/spec.ts';
import { Agent } from '../../src/guest/agent/agent.ts';
import { AgentConfig } from '../../src/guest/agent/config.ts';
import { LOCAL_METHODS } from '../../src/guest/agent/schema.ts';
import { ApiServer, kubeconfigOf } from '../../src/testbed/api-server.ts';
import type { ApiServerOptions } from '../../src/testbed/api-server.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { FakeHost } from './fake-host.ts';

const NAMESPACE = 'hyperturtle';
export const SETS = `/apis/hyperturtle.io/v1alpha1/namespaces/${NAMESPACE}/hyperupcallsets`;
export const STATUSES = `/apis/hyperturtle.io/v1alpha1/namespaces/${NAMESPACE}/hyperupcallnodes`;
export const CONFIG_MAPS = `/api/v1/namespaces/${NAMESPACE}/configmaps`;
export const NODES = '/api/v1/nodes';

/** Short ones; a test that counts on another one gives it. */
const TIMES: ReconcileTimes = {
  retryMinMs: 20,
  retryMaxMs: 100,
  watchS: 60,
  countsMs: 100,
  settleMs: 5,
  spreadMs: 5,
  localMs: 150,
  refusedMs: 100,
};

export class Fleet implements AsyncDisposable {
  readonly dir = mkdtempSync(path.join(tmpdir(), 'ht-fleet-'));
  readonly api: ApiServer;
  readonly host: FakeHost;
  /** What reconcilers logged. */
  readonly log: string[] = [];
  readonly reconcilers: Reconciler[] = [];
  #agent: Agent | undefined;
  readonly #running: { stop: AbortController; end: Promise<void> }[] = [];
  url = '';

  private constructor(options: ApiServerOptions) {
    this.api = new ApiServer(options);
    this.host = new FakeHost(this.at('port'));
  }

  static async start(options: ApiServerOptions = {}): Promise<Fleet> {
    const fleet = new Fleet(options);
    fleet.url = await fleet.api.listen();
    writeFileSync(fleet.at('kubeconfig'), kubeconfigOf(fleet.url, NAMESPACE));
    await fleet.host.start();
    await fleet.startAgent();
    return fleet;
  }

  at(name: string): string {
    return path.join(this.dir, name);
  }

  async startAgent(): Promise<void> {
    const config = AgentConfig().parse({
      port: this.host.socket,
      socket: this.at('agent.sock'),
      state: this.at('state'),
    });
    const none = (): void => {};
    const log = { debug: none, info: none, warn: none, error: none };
    this.#agent = await Agent.start({ config, version: '0.0.0', log, module: false });
  }

  /** One connection to the agent, as commands have it. */
  async withAgent<T>(
    use: (peer: RpcPeer<typeof LOCAL_METHODS>) => Promise<T>,
    signal = AbortSignal.timeout(10_000),
  ): Promise<T> {
    const stream = await connectSocket(this.at('agent.sock'), signal);
    const peer = new RpcPeer(stream, { calls: LOCAL_METHODS, session: 'connection' });
    try {
      return await use(peer);
    } finally {
      peer.close();
    }
  }

  async stopAgent(): Promise<void> {
    await this.#agent?.stop();
    this.#agent = undefined;
  }

  /** A set and the ConfigMap of its object, whose content is its name. */
  set(name: string, content: string, spec: object = {}): void {
    this.configMap(content);
    const object = { configMap: { name: content, key: 'o' } };
    this.api.put(SETS, { metadata: { name }, spec: { object, ...spec } });
  }

  configMap(name: string, content = name): void {
    this.api.put(CONFIG_MAPS, {
      metadata: { name },
      binaryData: { o: Buffer.from(content).toString('base64') },
    });
  }

  node(name: string, labels: Record<string, string> = {}): void {
    this.api.put(NODES, { metadata: { name, labels } });
  }

  /** A reconciler in this process; returns what stops it. */
  async reconcile(
    node = 'n1',
    times: Partial<ReconcileTimes> = {},
    plain: readonly string[] = [],
  ): Promise<() => Promise<void>> {
    const api = new KubeApi(await clusterOf(this.at('kubeconfig')));
    const say = (fields: object, message: string): void => {
      this.log.push(`${message} ${JSON.stringify(fields)}`);
    };
    const reconciler = new Reconciler({
      ...{ api, node, namespace: NAMESPACE, times: { ...TIMES, ...times } },
      log: { info: say, warn: say },
      withAgent: (use, signal) => this.withAgent((peer) => use(peer, signal), signal),
      oci: ociFetcher({ plain }),
    });
    this.reconcilers.push(reconciler);
    const stop = new AbortController();
    const running = { stop, end: reconciler.run(stop.signal) };
    this.#running.push(running);
    return async () => {
      stop.abort(new Error('the test stops it'));
      await running.end;
      api[Symbol.dispose]();
    };
  }

  status(node = 'n1'): NodeStatus | undefined {
    return this.api.get(STATUSES, node)?.['status'] as NodeStatus | undefined;
  }

  /** `npf Linked` of each set, and what is in the host. */
  get state(): string {
    const sets = (this.status()?.sets ?? []).map((s) => `${s.name} ${s.phase}`);
    const { objects, links } = this.host;
    const loaded = [...objects].map(([name]) => `${name}${links.some((l) => l.object === name) ? '*' : ''}`);
    return [...sets, ':', ...loaded].join(' ');
  }

  /** Waits until the state is this one. */
  async becomes(state: string, what?: () => boolean): Promise<void> {
    await waitFor(`state '${state}'`, () => (this.state === state && (what?.() ?? true) ? true : undefined), {
      timeoutMs: 10_000,
      intervalMs: 10,
    }).catch((e: unknown) => {
      throw new Error(`${String(e)}; it is '${this.state}'; log:\n${this.log.slice(-20).join('\n')}`);
    });
  }

  /** Bytes that the host has for an object. */
  has(object: string): string | undefined {
    return this.host.objects.get(object)?.info.sha256;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { stop, end } of this.#running) {
      stop.abort(new Error('the test is over'));
      await end;
    }
    await this.stopAgent();
    await this.host.kill();
    await this.api.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
