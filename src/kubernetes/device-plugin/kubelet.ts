/** Kubelet's end: registering with it, and seeing that it is another one. */
import { lstatSync } from 'node:fs';
import path from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { HyperturtleError } from '../../core/errors.ts';
import { API_VERSION, KUBELET_SOCKET, serviceOf } from './api.ts';
import type { RegisterRequest } from './api.ts';
import { OPTIONS } from './service.ts';

const REGISTER_MS = 10_000;

export class Kubelet {
  readonly #socket: string;

  /** `dir`: of its sockets and its plugins'. */
  constructor(dir: string) {
    this.#socket = path.join(dir, KUBELET_SOCKET);
  }

  /** Another after each start of kubelet; undefined while it has no socket. */
  get instance(): string | undefined {
    try {
      const found = lstatSync(this.#socket, { bigint: true, throwIfNoEntry: false });
      return found?.isSocket() ? `${found.ino}:${found.ctimeNs}` : undefined;
    } catch {
      return undefined;
    }
  }

  /** Throws HT_UNAVAILABLE with what kubelet says, or that it does not answer. */
  async register(endpoint: string, resource: string): Promise<void> {
    const method = serviceOf('Registration')['Register'];
    if (!method) throw new Error('no such method');
    const request: RegisterRequest = {
      version: API_VERSION,
      endpoint,
      resource_name: resource,
      options: OPTIONS,
    };
    const client = new Client(`unix:${this.#socket}`, credentials.createInsecure());
    try {
      await new Promise<void>((resolve, reject) =>
        client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
          { deadline: Date.now() + REGISTER_MS },
          (e: ServiceError | null) => (e ? reject(e) : resolve()),
        ),
      );
    } catch (e) {
      const { details } = e as ServiceError;
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        `${this.#socket}: kubelet does not take ${resource}: ${details}`,
        {
          cause: e,
        },
      );
    } finally {
      client.close();
    }
  }
}
