/** A registry of OCI artifacts that asks for a token, with one artifact of files. */
import { createHash } from 'node:crypto';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

const TOKEN = 'a token of the test';

export class Registry implements AsyncDisposable {
  readonly #server = http.createServer((request, response) => this.#serve(request, response));
  /** By digest. */
  readonly content = new Map<string, Buffer>();
  /** `token SCOPE`, and paths that were answered. */
  readonly seen: string[] = [];
  host = '';
  image = '';

  static async start(files: Record<string, string>): Promise<Registry> {
    const registry = new Registry();
    const layers = Object.entries(files).map(([title, text]) => ({
      mediaType: 'application/octet-stream',
      digest: registry.#add(text),
      size: Buffer.byteLength(text),
      annotations: { 'org.opencontainers.image.title': title },
    }));
    const manifest = registry.#add(JSON.stringify({ schemaVersion: 2, layers }));
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    registry.host = `localhost:${(registry.#server.address() as AddressInfo).port}`;
    registry.image = `${registry.host}/turtle/npf@${manifest}`;
    return registry;
  }

  digestOf(text: string): string {
    return `sha256:${createHash('sha256').update(text).digest('hex')}`;
  }

  #add(text: string): string {
    this.content.set(this.digestOf(text), Buffer.from(text));
    return this.digestOf(text);
  }

  #serve(request: http.IncomingMessage, response: http.ServerResponse): void {
    const url = new URL(request.url ?? '/', `http://${this.host}`);
    if (url.pathname === '/token') {
      this.seen.push(`token ${url.searchParams.get('scope') ?? ''}`);
      response.end(JSON.stringify({ token: TOKEN }));
      return;
    }
    if (request.headers.authorization !== `Bearer ${TOKEN}`) {
      const challenge = `Bearer realm="http://${this.host}/token",service="test",scope="repository:turtle/npf:pull"`;
      response.writeHead(401, { 'www-authenticate': challenge }).end();
      return;
    }
    const digest = /^\/v2\/turtle\/npf\/(?:manifests|blobs)\/(.*)$/.exec(url.pathname)?.[1] ?? '';
    const found = this.content.get(digest);
    if (found) this.seen.push(url.pathname);
    response.writeHead(found ? 200 : 404).end(found);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
