/**
 * Requests to the API of Kubernetes; cluster.ts has where it is and who asks. They are few and our own, as Retry-After, the
 * reason of a failure and the size of a line matter here.
 */
import http from 'node:http';
import https from 'node:https';
import { z } from 'zod';
import { HyperturtleError, errnoCode, isHyperturtleError, messageOf } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { lazy } from '../core/lazy.ts';
import { abortReason } from '../core/wait.ts';
import type { Cluster } from './cluster.ts';

/** Until the head of an answer, and for the body of one that is no watch. */
const ANSWER_MS = 30_000;
const BODY_MAX = 32 << 20;
/** A line of a watch has one object, which has 1.5 MiB at most in etcd. */
const LINE_MAX = 4 << 20;
/** Finds out about a dead peer during a silent watch. */
const KEEP_ALIVE_MS = 30_000;

/** A GET, or a PATCH where something is applied. */
export interface KubeRequest {
  /** `/api/v1/nodes`. */
  path: string;
  query?: Readonly<Record<string, string>>;
  /** Sent as JSON, to be applied by the server. */
  apply?: unknown;
  accept?: string;
}

/** An API's error: `Status`. */
const Status = lazy(() =>
  z.object({
    message: z.string().optional(),
    reason: z.string().optional(),
    code: z.number().optional(),
    details: z.object({ retryAfterSeconds: z.number().nonnegative().optional() }).optional(),
  }),
);

export class KubeApi implements Disposable {
  readonly #cluster: Cluster;
  #agent: { of: string; agent: http.Agent } | undefined;
  /** Requests by the status of their answer, or `failed`. */
  readonly counts = new Map<string, number>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** Closes idle connections. */
  [Symbol.dispose](): void {
    this.#agent?.agent.destroy();
  }

  /**
   * The answer's JSON. Throws HT_NOT_FOUND (404, 410), HT_BUSY (409, 429), HT_REFUSED (401, 403), HT_USAGE (other 4xx),
   * HT_UNAVAILABLE (5xx, no connection, no JSON), HT_TIMEOUT, or the signal's reason. `detail` has `status` and `retryAfterMs`.
   */
  async request(request: KubeRequest, signal: AbortSignal): Promise<unknown> {
    const response = await this.#send(request, signal);
    const text = await bodyOf(request.path, response, signal);
    try {
      return JSON.parse(text) as unknown;
    } catch (e) {
      throw new HyperturtleError(
        'HT_UNAVAILABLE',
        `${request.path}: JSON expected, found '${text.slice(0, 80)}'`,
        { cause: e },
      );
    }
  }

  /** Server-side apply; `owner` has the fields then, also those that another had. Throws as `request` does. */
  async apply(path: string, object: object, owner: string, signal: AbortSignal): Promise<void> {
    await this.request({ path, query: { fieldManager: owner, force: 'true' }, apply: object }, signal);
  }

  /**
   * The lines of a watch, without what is left of one when the connection ends; `onOpen`: the API has let it begin. Throws as
   * `request` does.
   */
  async *lines(request: KubeRequest, signal: AbortSignal, onOpen: () => void): AsyncGenerator<string> {
    const response = await this.#send(request, signal);
    onOpen();
    response.socket?.setKeepAlive(true, KEEP_ALIVE_MS);
    const stop = (): void => void response.destroy(abortReason(signal));
    signal.addEventListener('abort', stop, { once: true });
    let rest = '';
    try {
      response.setEncoding('utf8');
      for await (const chunk of response as AsyncIterable<string>) {
        const lines = (rest + chunk).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) if (line !== '') yield line;
        if (rest.length > LINE_MAX)
          throw new HyperturtleError('HT_UNAVAILABLE', `${request.path}: a line of over ${LINE_MAX} bytes`);
      }
    } catch (e) {
      throw asOurs(e, request.path, signal);
    } finally {
      signal.removeEventListener('abort', stop);
      response.destroy();
    }
  }

  async #send(request: KubeRequest, signal: AbortSignal): Promise<http.IncomingMessage> {
    let response: http.IncomingMessage;
    try {
      response = await this.#once(request, signal).catch((e: unknown) => {
        // the server had closed a connection that was kept for this
        if (!(e instanceof Reused) || signal.aborted) throw e;
        return this.#once(request, signal);
      });
    } catch (e) {
      this.#count('failed');
      throw asOurs(e, request.path, signal);
    }
    const { statusCode = 0 } = response;
    this.#count(String(statusCode));
    if (statusCode >= 200 && statusCode < 300) return response;
    throw statusError(request.path, response, await bodyOf(request.path, response, signal).catch(messageOf));
  }

  async #once(request: KubeRequest, signal: AbortSignal): Promise<http.IncomingMessage> {
    signal.throwIfAborted();
    const { url, headers, agent } = await this.#target(request);
    const body = request.apply === undefined ? undefined : JSON.stringify(request.apply);
    const of = url.protocol === 'https:' ? https : http;
    return new Promise((resolve, reject) => {
      const sent = of.request(url, {
        method: body === undefined ? 'GET' : 'PATCH',
        agent,
        headers: {
          ...headers,
          accept: request.accept ?? 'application/json',
          ...(body === undefined
            ? {}
            : {
                'content-type': 'application/apply-patch+yaml',
                'content-length': String(Buffer.byteLength(body)),
              }),
        },
      });
      const end = (e: Error): void => void sent.destroy(e);
      const stop = (): void => end(abortReason(signal));
      const timer = setTimeout(
        () =>
          end(new HyperturtleError('HT_TIMEOUT', `${request.path}: no answer within ${ANSWER_MS / 1000} s`)),
        ANSWER_MS,
      );
      const settle = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', stop);
      };
      signal.addEventListener('abort', stop, { once: true });
      sent.on('response', (response) => {
        settle();
        resolve(response);
      });
      sent.on('error', (e) => {
        settle();
        reject(sent.reusedSocket && errnoCode(e) === 'ECONNRESET' ? new Reused(e.message) : e);
      });
      sent.end(body);
    });
  }

  async #target(
    request: KubeRequest,
  ): Promise<{ url: URL; headers: http.OutgoingHttpHeaders; agent: http.Agent }> {
    const url = new URL(this.#cluster.server + request.path);
    for (const [name, value] of Object.entries(request.query ?? {})) url.searchParams.set(name, value);
    const options = await this.#cluster.options();
    return {
      url,
      headers: { ...(options.headers as http.OutgoingHttpHeaders) },
      agent: this.#agentFor(options),
    };
  }

  /** One that keeps connections, until certificates change: each request comes with another. */
  #agentFor({ agent, ca, cert, key, servername, rejectUnauthorized }: https.RequestOptions): http.Agent {
    const of = JSON.stringify([ca, cert, key, servername, rejectUnauthorized]);
    if (this.#agent?.of === of) return this.#agent.agent;
    this.#agent = { of, agent: keeping(agent as http.Agent) };
    return this.#agent.agent;
  }

  #count(outcome: string): void {
    this.counts.set(outcome, (this.counts.get(outcome) ?? 0) + 1);
  }
}

class Reused extends Error {}

/** The same but with connections that are kept; that of a proxy is left as it is. */
function keeping(agent: http.Agent): http.Agent {
  const options = { ...(agent as https.Agent).options, keepAlive: true };
  if (agent.constructor === https.Agent) return new https.Agent(options);
  return agent.constructor === http.Agent ? new http.Agent(options) : agent;
}

async function bodyOf(path: string, response: http.IncomingMessage, signal: AbortSignal): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  const timer = setTimeout(
    () =>
      response.destroy(new HyperturtleError('HT_TIMEOUT', `no whole answer within ${ANSWER_MS / 1000} s`)),
    ANSWER_MS,
  );
  const stop = (): void => void response.destroy(abortReason(signal));
  signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > BODY_MAX)
        throw new HyperturtleError('HT_UNAVAILABLE', `an answer of over ${BODY_MAX} bytes`);
      parts.push(chunk);
    }
  } catch (e) {
    throw asOurs(e, path, signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
  return Buffer.concat(parts).toString('utf8');
}

const CODES: Readonly<Record<number, ErrorCode>> = {
  401: 'HT_REFUSED',
  403: 'HT_REFUSED',
  404: 'HT_NOT_FOUND',
  409: 'HT_BUSY',
  410: 'HT_NOT_FOUND',
  429: 'HT_BUSY',
};

function statusError(path: string, response: http.IncomingMessage, body: string): HyperturtleError {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    json = {};
  }
  return kubeError(path, json, response.statusCode ?? 0, Number(response.headers['retry-after']));
}

/** From a `Status`: the body of an answer, or an ERROR of a watch, which has its code in itself. */
export function kubeError(path: string, status: unknown, code = 0, afterS = NaN): HyperturtleError {
  const told = Status().safeParse(status).data ?? {};
  const number = code === 0 ? (told.code ?? 500) : code;
  const seconds = Number.isFinite(afterS) ? afterS : told.details?.retryAfterSeconds;
  return new HyperturtleError(
    CODES[number] ?? (number >= 400 && number < 500 ? 'HT_USAGE' : 'HT_UNAVAILABLE'),
    `${path}: ${number}${told.message === undefined ? '' : `: ${told.message.slice(0, 500)}`}`,
    { detail: { status: number, ...(seconds === undefined ? {} : { retryAfterMs: seconds * 1000 }) } },
  );
}

/** The status of the API's answer, if it gave one. */
export function statusOf(e: unknown): number | undefined {
  const status = isHyperturtleError(e) ? e.detail['status'] : undefined;
  return typeof status === 'number' ? status : undefined;
}

/** How long the API asks to wait, in ms, at most 5 minutes. */
export function retryAfterMs(e: unknown): number {
  const ms = isHyperturtleError(e) ? e.detail['retryAfterMs'] : undefined;
  return typeof ms === 'number' ? Math.min(ms, 300_000) : 0;
}

function asOurs(e: unknown, path: string, signal: AbortSignal): Error {
  if (signal.aborted) return abortReason(signal);
  if (isHyperturtleError(e)) return e;
  return new HyperturtleError('HT_UNAVAILABLE', `${path}: ${messageOf(e)}`, { cause: e });
}
