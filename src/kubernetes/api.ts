/** Requests to the API of the cluster that a pod is in, as its service account: the few that this package makes. */
import { readFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import { HyperturtleError, messageOf } from '../core/errors.ts';

/** Where kubelet puts token and certificates; the token is another one each hour. */
const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
const ANSWER_MS = 30_000;
const BODY_MAX = 8 << 20;
/** Who owns the fields that are applied. */
const FIELD_MANAGER = 'hyperturtle-node-status';

export interface ClusterPlace {
  host: string;
  port: string;
  /** Directory with `token` and `ca.crt`. */
  account: string;
}

/** Throws HT_UNSUPPORTED outside a pod. */
export function placeInPod(env: NodeJS.ProcessEnv = process.env): ClusterPlace {
  const [host, port] = [env['KUBERNETES_SERVICE_HOST'], env['KUBERNETES_SERVICE_PORT_HTTPS']];
  if (!host || !port)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      'this is no pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT_HTTPS expected',
    );
  return { host, port, account: ACCOUNT };
}

export class ClusterApi {
  readonly #place: ClusterPlace;

  constructor(place: ClusterPlace) {
    this.#place = place;
  }

  /** Throws HT_UNAVAILABLE with what the API says. */
  get(at: string, signal: AbortSignal): Promise<unknown> {
    return this.#request('GET', at, undefined, signal);
  }

  /** Server-side apply. Throws as get does. */
  async apply(at: string, object: object, signal: AbortSignal): Promise<void> {
    await this.#request(
      'PATCH',
      `${at}?fieldManager=${FIELD_MANAGER}&force=true`,
      JSON.stringify(object),
      signal,
    );
  }

  async #request(
    method: string,
    at: string,
    body: string | undefined,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { host, port, account } = this.#place;
    try {
      const read = (name: string): string => readFileSync(path.join(account, name), 'utf8');
      const { status, text } = await send(
        {
          method,
          host,
          port,
          path: at,
          ca: read('ca.crt'),
          agent: false,
          headers: {
            authorization: `Bearer ${read('token').trim()}`,
            accept: 'application/json',
            // JSON is YAML
            ...(body === undefined ? {} : { 'content-type': 'application/apply-patch+yaml' }),
          },
        },
        body,
        signal,
      );
      const answer = JSON.parse(text) as { message?: string };
      if (status < 200 || status > 299)
        throw new Error(`status ${status}: ${answer.message ?? text.slice(0, 200)}`);
      return answer;
    } catch (e) {
      if (signal.aborted) throw e;
      throw new HyperturtleError('HT_UNAVAILABLE', `${method} ${at}: ${messageOf(e)}`, { cause: e });
    }
  }
}

function send(
  options: https.RequestOptions,
  body: string | undefined,
  signal: AbortSignal,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const sent = https.request(options, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        if (text.length > BODY_MAX) sent.destroy(new Error(`an answer of over ${BODY_MAX} bytes`));
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    const stop = (): void => void sent.destroy(signal.reason instanceof Error ? signal.reason : undefined);
    const late = setTimeout(
      () => sent.destroy(new Error(`no answer within ${ANSWER_MS / 1000} s`)),
      ANSWER_MS,
    );
    signal.addEventListener('abort', stop, { once: true });
    sent.on('error', reject);
    sent.on('close', () => {
      clearTimeout(late);
      signal.removeEventListener('abort', stop);
      reject(new Error('the connection was closed'));
    });
    sent.end(body);
  });
}
