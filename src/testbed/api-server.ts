/**
 * A stand-in of the API server of Kubernetes for reconcilers: objects in memory with one counter of versions, lists, watches with
 * bookmarks, "410 Gone" for versions that are forgotten, server-side apply with a status of its own, and throttling with
 * Retry-After. It knows what reconcilers ask for and nothing else; who asks is not checked.
 */
import { randomUUID } from 'node:crypto';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface ApiObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    generation?: number;
    resourceVersion?: string;
    labels?: Record<string, string>;
  };
  [field: string]: unknown;
}

interface Change {
  version: number;
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  /** Path of the collection. */
  path: string;
  object: ApiObject;
}

interface Watcher {
  path: string;
  name: string | undefined;
  metadataOnly: boolean;
  response: http.ServerResponse;
}

export interface ApiServerOptions {
  /** Changes that watches can begin at; older versions are gone. */
  history?: number;
  /** Requests that are answered a second, all others get 429; watches count when they begin. */
  requestsPerS?: number;
  retryAfterS?: number;
  bookmarkMs?: number;
  /** 410 as the status of the answer, as some servers do, and not as an event. */
  goneByStatus?: boolean;
}

/** What a request gets in place of its answer. */
export type Fault = { status: number; retryAfterS?: number } | 'hang' | 'cut' | { list: ApiObject[] };

export interface SeenRequest {
  verb: 'list' | 'watch' | 'get' | 'apply';
  path: string;
  query: URLSearchParams;
}

export class ApiServer implements AsyncDisposable {
  readonly #o: Required<ApiServerOptions>;
  readonly #server = http.createServer((request, response) => {
    this.#serve(request, response).catch(() => response.destroy());
  });
  /** By path of the collection, then by name. */
  readonly #objects = new Map<string, Map<string, ApiObject>>();
  readonly #history: Change[] = [];
  readonly #watchers = new Set<Watcher>();
  #version = 1;
  #forgotten = 0;
  #second = { begin: 0, served: 0 };
  readonly #bookmarks: NodeJS.Timeout;
  /** Answers by verb and status: `apply 200`. */
  readonly answers = new Map<string, number>();
  /** Asked for each request. */
  fault: (request: SeenRequest) => Fault | undefined = () => undefined;
  /** Told of each status that was applied. */
  onApply: (name: string, object: ApiObject) => void = () => {};

  constructor(options: ApiServerOptions = {}) {
    this.#o = {
      ...{ history: 1000, requestsPerS: Infinity, retryAfterS: 1, bookmarkMs: 60_000, goneByStatus: false },
      ...options,
    };
    this.#bookmarks = setInterval(() => this.#bookmark(), this.#o.bookmarkMs);
    this.#bookmarks.unref();
    this.#server.keepAliveTimeout = 120_000;
  }

  /** Its address. */
  async listen(port = 0): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, host: '127.0.0.1', backlog: 4096 }, resolve);
    });
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    clearInterval(this.#bookmarks);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get watches(): number {
    return this.#watchers.size;
  }

  get(path: string, name: string): ApiObject | undefined {
    return this.#objects.get(path)?.get(name);
  }

  list(path: string): ApiObject[] {
    return [...(this.#objects.get(path)?.values() ?? [])];
  }

  /** Makes or changes an object, as a client with all rights would. */
  put(path: string, object: ApiObject): ApiObject {
    const known = this.get(path, object.metadata.name);
    const version = ++this.#version;
    const spec = JSON.stringify(object['spec']) !== JSON.stringify(known?.['spec']);
    const { generation = 0 } = known?.metadata ?? {};
    const made = {
      ...object,
      metadata: {
        ...object.metadata,
        uid: known?.metadata.uid ?? object.metadata.uid ?? randomUUID(),
        generation: known && !spec ? generation : generation + 1,
        resourceVersion: String(version),
      },
    };
    const all = this.#objects.get(path) ?? new Map<string, ApiObject>();
    this.#objects.set(path, all.set(object.metadata.name, made));
    this.#tell({ version, type: known ? 'MODIFIED' : 'ADDED', path, object: made });
    return made;
  }

  delete(path: string, name: string): void {
    const known = this.get(path, name);
    if (!known) return;
    this.#objects.get(path)?.delete(name);
    const version = ++this.#version;
    const metadata = { ...known.metadata, resourceVersion: String(version) };
    this.#tell({ version, type: 'DELETED', path, object: { ...known, metadata } });
  }

  /** Nobody can watch on from where it is any more. */
  forget(): void {
    this.#history.length = 0;
    this.#forgotten = ++this.#version;
  }

  /** Ends all watches in the middle of a line. */
  cutWatches(): void {
    for (const { response } of this.#watchers) {
      response.write('{"type":"MODIFIED","object":{"metadata":{"name":"half');
      setImmediate(() => response.destroy());
    }
    this.#watchers.clear();
  }

  /** Sends all watches an event as it is, which changes nothing here. */
  sendWatches(event: unknown): void {
    for (const { response } of this.#watchers) response.write(`${JSON.stringify(event)}\n`);
  }

  #tell(change: Change): void {
    this.#history.push(change);
    while (this.#history.length > this.#o.history) this.#forgotten = this.#history.shift()?.version ?? 0;
    const lines = new Map<boolean, string>();
    for (const w of this.#watchers) {
      if (!concerns(change, w)) continue;
      const line = lines.get(w.metadataOnly) ?? eventLine(change, w.metadataOnly);
      lines.set(w.metadataOnly, line);
      w.response.write(line);
    }
  }

  #bookmark(): void {
    const line = `${JSON.stringify({ type: 'BOOKMARK', object: { metadata: { resourceVersion: String(this.#version) } } })}\n`;
    for (const { response } of this.#watchers) response.write(line);
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://api');
    const { collection, name, sub } = parts(url.pathname);
    const watch = url.searchParams.get('watch') === 'true';
    const verb = request.method === 'PATCH' ? 'apply' : name !== undefined ? 'get' : watch ? 'watch' : 'list';
    response.on('finish', () => this.#count(`${verb} ${response.statusCode}`));
    const fault = this.fault({ verb, path: url.pathname, query: url.searchParams });
    if (fault === 'hang') return;
    if (fault === 'cut') return void response.destroy();
    if (fault !== undefined && 'list' in fault)
      return answer(response, 200, listOf(fault.list, this.#version));
    if (fault !== undefined) return refuse(response, fault.status, 'a fault of the test', fault.retryAfterS);
    if (this.#throttled()) return refuse(response, 429, 'too many requests', this.#o.retryAfterS);
    const metadataOnly = request.headers.accept?.includes('as=PartialObjectMetadata') ?? false;
    if (verb === 'apply')
      return this.#apply(collection, name ?? '', sub, JSON.parse(await text(request)) as ApiObject, response);
    if (verb === 'get') {
      const found = this.get(collection, name ?? '');
      return found ? answer(response, 200, found) : refuse(response, 404, `${url.pathname} not found`);
    }
    const selected = /^metadata\.name=(.*)$/.exec(url.searchParams.get('fieldSelector') ?? '')?.[1];
    if (verb === 'watch')
      return this.#watch({ path: collection, name: selected, metadataOnly, response }, url.searchParams);
    const items = this.list(collection).filter((o) => selected === undefined || o.metadata.name === selected);
    answer(response, 200, listOf(metadataOnly ? items.map(metadataOf) : items, this.#version));
  }

  #watch(watcher: Watcher, query: URLSearchParams): void {
    const { response } = watcher;
    const from = Number(query.get('resourceVersion') ?? 0);
    if (from < this.#forgotten) {
      const gone = status(410, `too old resource version: ${from} (${this.#forgotten})`);
      if (this.#o.goneByStatus) return answer(response, 410, gone);
      response.writeHead(200, { 'content-type': 'application/json' });
      return void response.end(`${JSON.stringify({ type: 'ERROR', object: gone })}\n`);
    }
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    this.#count('watch begun');
    for (const change of this.#history)
      if (change.version > from && concerns(change, watcher))
        response.write(eventLine(change, watcher.metadataOnly));
    this.#watchers.add(watcher);
    const timer = setTimeout(() => response.end(), Number(query.get('timeoutSeconds') ?? 1800) * 1000);
    timer.unref();
    response.on('close', () => {
      clearTimeout(timer);
      this.#watchers.delete(watcher);
    });
  }

  #apply(
    path: string,
    name: string,
    sub: string | undefined,
    body: ApiObject,
    response: http.ServerResponse,
  ): void {
    const known = this.get(path, name);
    if (sub === 'status' && !known) return refuse(response, 404, `${path}/${name} not found`);
    const next = sub === 'status' && known ? { ...known, status: body['status'] } : { ...known, ...body };
    const changed = JSON.stringify({ ...next, metadata: 0 }) !== JSON.stringify({ ...known, metadata: 0 });
    const object =
      changed || !known
        ? this.put(path, { ...next, metadata: { ...known?.metadata, ...body.metadata } })
        : known;
    if (sub === 'status') this.onApply(name, object);
    answer(response, known ? 200 : 201, object);
  }

  #throttled(): boolean {
    const now = Math.floor(performance.now() / 1000);
    if (this.#second.begin !== now) this.#second = { begin: now, served: 0 };
    return ++this.#second.served > this.#o.requestsPerS;
  }

  #count(what: string): void {
    this.answers.set(what, (this.answers.get(what) ?? 0) + 1);
  }
}

const concerns = (c: Change, w: Watcher): boolean =>
  c.path === w.path && (w.name === undefined || w.name === c.object.metadata.name);

const metadataOf = ({ metadata }: ApiObject): ApiObject => ({ metadata });

const eventLine = ({ type, object }: Change, metadataOnly: boolean): string =>
  `${JSON.stringify({ type, object: metadataOnly ? metadataOf(object) : object })}\n`;

const listOf = (items: ApiObject[], version: number): object => ({
  kind: 'List',
  metadata: { resourceVersion: String(version) },
  items,
});

const status = (code: number, message: string): object => ({
  kind: 'Status',
  status: 'Failure',
  code,
  message,
});

/** `/api/v1/nodes/n1`, `/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/status`. */
function parts(pathname: string): { collection: string; name: string | undefined; sub: string | undefined } {
  const all = pathname.split('/').slice(1).map(decodeURIComponent);
  const from = all[0] === 'api' ? 2 : 3;
  const plural = all[from] === 'namespaces' && all.length > from + 2 ? from + 2 : from;
  return {
    collection: `/${all.slice(0, plural + 1).join('/')}`,
    name: all[plural + 1],
    sub: all[plural + 2],
  };
}

function answer(response: http.ServerResponse, code: number, body: object): void {
  const json = JSON.stringify(body);
  response.writeHead(code, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(json) });
  response.end(json);
}

function refuse(response: http.ServerResponse, code: number, message: string, retryAfterS?: number): void {
  if (retryAfterS !== undefined) response.setHeader('retry-after', String(retryAfterS));
  answer(response, code, status(code, message));
}

/** A kubeconfig, as text, of a client of this server. */
export function kubeconfigOf(server: string, namespace = 'hyperturtle'): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'u', user: { token: 'a token of the stand-in' } }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u', namespace } }],
    'current-context': 'x',
  });
}
