/**
 * Kubelet as a device plugin sees it: its Registration service, and its device manager as a client of plugins. Made of a
 * .proto file, by nothing of what is tested. As kubelet does, it empties the directory when it starts, keeps who has which
 * device over its restarts, and gives what is healthy and free.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { waitFor } from '../../src/core/wait.ts';

const definition = loadSync(path.join(import.meta.dirname, 'kubelet/api.proto'), {
  keepCase: true,
  longs: Number,
  defaults: true,
  arrays: true,
  objects: true,
});
const service = (name: string): grpc.ServiceDefinition =>
  definition[`v1beta1.${name}`] as grpc.ServiceDefinition;

export interface Device {
  ID: string;
  health: string;
  topology: { nodes: { ID: number }[] } | null;
}

export interface Given {
  envs: Record<string, string>;
  devices: { container_path: string; host_path: string; permissions: string }[];
}

interface Registered {
  version: string;
  endpoint: string;
  resource_name: string;
  options: { pre_start_required: boolean; get_preferred_allocation_available: boolean };
}

/** What kubelet keeps in its checkpoint. */
export class Checkpoint {
  readonly has = new Map<string, { ids: string[]; given: Given }>();
}

export class FakeKubelet {
  readonly registered: Registered[] = [];
  devices: Device[] = [];
  /** Lists that the plugin has sent. */
  lists = 0;
  readonly #dir: string;
  readonly #checkpoint: Checkpoint;
  #server = new grpc.Server();
  #client: grpc.Client | undefined;
  #stream: grpc.ClientReadableStream<{ devices: Device[] }> | undefined;

  constructor(dir: string, checkpoint = new Checkpoint()) {
    this.#dir = dir;
    this.#checkpoint = checkpoint;
  }

  /** `refuse`: what it says to who registers. */
  async start(refuse?: string): Promise<void> {
    mkdirSync(this.#dir, { recursive: true });
    for (const name of readdirSync(this.#dir)) rmSync(path.join(this.#dir, name));
    this.#server.addService(service('Registration'), {
      Register: (
        call: grpc.ServerUnaryCall<Registered, object>,
        answer: (e: Partial<grpc.ServiceError> | null, value?: object) => void,
      ) => {
        if (refuse !== undefined) return answer({ code: grpc.status.UNKNOWN, details: refuse });
        this.registered.push(call.request);
        answer(null, {});
        this.#watch(call.request.endpoint);
      },
    });
    await new Promise<void>((resolve, reject) =>
      this.#server.bindAsync(
        `unix:${path.join(this.#dir, 'kubelet.sock')}`,
        grpc.ServerCredentials.createInsecure(),
        (e) => (e ? reject(e) : resolve()),
      ),
    );
  }

  /** As if killed: its socket stays. */
  stop(): void {
    this.hangUp();
    this.#server.forceShutdown();
  }

  /** Ends the connection to the plugin alone. */
  hangUp(): void {
    const client = this.#client;
    this.#client = undefined;
    this.#stream?.cancel();
    client?.close();
  }

  healthy(): string[] {
    return this.devices.filter((d) => d.health === 'Healthy').map((d) => d.ID);
  }

  untilHealthy(count: number, timeoutMs = 20_000): Promise<true> {
    return waitFor(`${count} healthy devices`, () => (this.healthy().length === count ? true : undefined), {
      timeoutMs,
      intervalMs: 20,
    });
  }

  /** A pod is admitted: it has these devices until it is removed, and its container is started. */
  async admit(pod: string, count: number): Promise<Given> {
    const taken = new Set([...this.#checkpoint.has.values()].flatMap((h) => h.ids));
    const free = this.healthy().filter((id) => !taken.has(id));
    if (free.length < count) throw new Error(`insufficient devices: ${count} of ${free.length}`);
    let ids = free.slice(0, count);
    const { options } = this.registered.at(-1) ?? {};
    if (options?.get_preferred_allocation_available) {
      const asked = { available_deviceIDs: free, must_include_deviceIDs: [], allocation_size: count };
      const { container_responses } = await this.call<{ container_responses: { deviceIDs: string[] }[] }>(
        'GetPreferredAllocation',
        { container_requests: [asked] },
      );
      ids = container_responses[0]?.deviceIDs ?? [];
    }
    if (ids.length !== count || ids.some((id) => !free.includes(id)))
      throw new Error(`preferred ${ids.join()} of ${free.join()}`);
    const { container_responses } = await this.call<{ container_responses: Given[] }>('Allocate', {
      container_requests: [{ devices_ids: ids }],
    });
    const [given] = container_responses;
    if (!given) throw new Error('no answer for the container');
    this.#checkpoint.has.set(pod, { ids, given });
    await this.startContainer(pod);
    return given;
  }

  async startContainer(pod: string): Promise<void> {
    if (this.registered.at(-1)?.options.pre_start_required)
      await this.call('PreStartContainer', { devices_ids: this.#checkpoint.has.get(pod)?.ids ?? [] });
  }

  remove(pod: string): void {
    this.#checkpoint.has.delete(pod);
  }

  /** Calls the plugin, as whichever client. */
  call<T>(name: string, request: object): Promise<T> {
    const method = service('DevicePlugin')[name];
    const client = this.#client;
    if (!method || !client) return Promise.reject(new Error('no plugin'));
    return new Promise((resolve, reject) =>
      client.makeUnaryRequest<object, T>(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        { deadline: Date.now() + 30_000 },
        (e, value) => (e ? reject(e) : resolve(value as T)),
      ),
    );
  }

  #watch(endpoint: string): void {
    this.hangUp();
    const client = new grpc.Client(
      `unix:${path.join(this.#dir, endpoint)}`,
      grpc.credentials.createInsecure(),
      {
        'grpc.use_local_subchannel_pool': 1,
      },
    );
    this.#client = client;
    const method = service('DevicePlugin')['ListAndWatch'];
    if (!method) return;
    const stream = client.makeServerStreamRequest<object, { devices: Device[] }>(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      {},
    );
    this.#stream = stream;
    stream.on('data', ({ devices }: { devices: Device[] }) => {
      if (this.#client !== client) return;
      this.lists++;
      this.devices = devices;
    });
    stream.on('error', () => {
      // all are unhealthy until the plugin is back
      if (this.#client === client) this.devices = this.devices.map((d) => ({ ...d, health: 'Unhealthy' }));
    });
    stream.on('end', () => {});
  }
}
