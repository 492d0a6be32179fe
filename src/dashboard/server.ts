/**
 * The page's server: on the loopback interface only, read-only, with nothing from elsewhere. What it tells needs the token,
 * which the browser has from the address's fragment (never sent, never logged) and sends in a header, so that no other page and no
 * other user of this machine can ask. A request under another name than loopback's is a rebound one and refused.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { visibleLine } from '../core/visible.ts';
import type { Collector } from './collect.ts';
import type { State } from './model.ts';
import type { Asset } from './assets.ts';

const LOOPBACK = new Set(['127.0.0.1', 'localhost', '[::1]']);

const HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    // what would read text as HTML throws
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), microphone=(), geolocation=()',
  'cache-control': 'no-store',
};

export interface ServerOptions {
  port: number;
  collector: Pick<Collector, 'state'>;
  assets: ReadonlyMap<string, Asset>;
  /** Default: a new one of 256 bits. */
  token?: string;
}

export class DashboardServer {
  readonly token: string;
  readonly #digest: Buffer;
  readonly #options: ServerOptions;
  readonly #server: http.Server;

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.token = options.token ?? randomBytes(32).toString('base64url');
    this.#digest = digestOf(this.token);
    this.#server = http.createServer(
      { maxHeaderSize: 16 << 10, requestTimeout: 30_000 },
      (request, response) => {
        void this.#answer(request, response);
      },
    );
    this.#server.maxConnections = 64;
  }

  /** Throws HT_IN_USE when the port is taken. */
  static async listen(options: ServerOptions): Promise<DashboardServer> {
    const dashboard = new DashboardServer(options);
    const server = dashboard.#server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (e) =>
        reject(
          errnoCode(e) === 'EADDRINUSE'
            ? new HyperturtleError('HT_IN_USE', `port ${options.port} is taken: give another one with --port`)
            : e,
        ),
      );
      server.listen(options.port, '127.0.0.1', resolve);
    });
    return dashboard;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** To be opened in a browser of this machine. */
  get url(): string {
    return `http://127.0.0.1:${this.port}/#t=${this.token}`;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const send = (status: number, type: string, body: string): void => {
      response.writeHead(status, { ...HEADERS, 'content-type': type });
      response.end(request.method === 'HEAD' ? undefined : body);
    };
    const refuse = (status: number, why: string): void =>
      send(status, 'text/plain; charset=utf-8', `${why}\n`);
    request.resume();
    if (!fromLoopback(request)) return refuse(421, 'this page is served under 127.0.0.1 and localhost only');
    if (request.method !== 'GET' && request.method !== 'HEAD') return refuse(405, 'read-only: GET');
    const url = new URL(request.url ?? '/', 'http://localhost');
    const asset = this.#options.assets.get(url.pathname);
    if (asset) return send(200, asset.type, asset.body);
    if (url.pathname !== '/api/state') return refuse(404, 'there is no such page');
    const site = request.headers['sec-fetch-site'];
    if (site !== undefined && site !== 'same-origin') return refuse(403, 'not for other pages');
    if (!this.#hasToken(request))
      return refuse(401, "the token that 'hyperturtle host dashboard' printed is expected");
    const pid = url.searchParams.get('l2') ?? '';
    const state = await this.#options.collector.state(
      url.searchParams.get('vm') ?? undefined,
      /^\d{1,10}$/.test(pid) ? Number(pid) : undefined,
    );
    send(200, 'application/json; charset=utf-8', stateJson(state));
  }

  #hasToken(request: http.IncomingMessage): boolean {
    const [, given] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? '') ?? [];
    return given !== undefined && timingSafeEqual(digestOf(given), this.#digest);
  }
}

/** Names and messages of guests cannot turn the order of letters around, or hide, on the page. */
const stateJson = (state: State): string =>
  JSON.stringify(state, (_, v: unknown) => (typeof v === 'string' ? visibleLine(v) : v));

const digestOf = (token: string): Buffer => createHash('sha256').update(token).digest();

/** By name: a name that an attacker has made to point here is another one. Any port: tunnels have others. */
function fromLoopback(request: http.IncomingMessage): boolean {
  const name = (request.headers.host ?? '').replace(/:\d{1,5}$/, '');
  return LOOPBACK.has(name.toLowerCase());
}
