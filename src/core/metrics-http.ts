/**
 * Measurements over HTTP: OpenMetrics for who asks for it, Prometheus's text format for everybody else. Counters have names
 * that end in `_total` in both.
 */
import http from 'node:http';
import { messageOf } from './errors.ts';

const OPENMETRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8';
const PROMETHEUS = 'text/plain; version=0.0.4; charset=utf-8';

/** What is served at one path. */
export interface Page {
  path: string;
  /** The content for a request; `status` is 200 where left out. */
  answer: (request: http.IncomingMessage) => Promise<{ type: string; body: string; status?: number }>;
}

/** `/metrics`, of a registry whose `text()` gives OpenMetrics, as prom-client writes it. */
export function metricsPage(text: () => Promise<string>): Page {
  return {
    path: '/metrics',
    answer: async (request) => {
      const body = await text();
      return wantsOpenMetrics(request.headers.accept ?? '')
        ? { type: OPENMETRICS, body }
        : { type: PROMETHEUS, body: prometheusText(body) };
    },
  };
}

/** Whether an Accept header names OpenMetrics, and does not prefer the older text. Kinds of all (`*`) name neither. */
function wantsOpenMetrics(accept: string): boolean {
  const asked = accept.split(',').map((range) => {
    const [type = '', ...parameters] = range.split(';').map((part) => part.trim().toLowerCase());
    const q = parameters.find((p) => p.startsWith('q='))?.slice(2) ?? '1';
    return { type, q: Number(q) || 0 };
  });
  const best = (type: string): number => Math.max(0, ...asked.filter((a) => a.type === type).map((a) => a.q));
  const openMetrics = best('application/openmetrics-text');
  return openMetrics > 0 && openMetrics >= best('text/plain');
}

/**
 * The same samples in the older text format: it has no line `# EOF` and no units, and a counter's HELP and TYPE carry the
 * name of its samples.
 */
function prometheusText(openMetrics: string): string {
  const counters = new Set([...openMetrics.matchAll(/^# TYPE (\S+) counter$/gm)].map((m) => m[1] ?? ''));
  return openMetrics
    .split('\n')
    .filter((line) => line !== '# EOF' && !line.startsWith('# UNIT '))
    .map((line) => {
      const [, kind = '', name = '', rest = ''] = /^# (HELP|TYPE) (\S+)( .*)?$/.exec(line) ?? [];
      return counters.has(name) && !name.endsWith('_total') ? `# ${kind} ${name}_total${rest}` : line;
    })
    .join('\n');
}

/** Answers requests for the pages once it listens. */
export function pageServer(pages: readonly Page[]): http.Server {
  const server = http.createServer((request, response) => void servePages(pages, request, response));
  server.requestTimeout = 10_000;
  server.maxConnections = 16;
  return server;
}

/** Ends its connections as well. */
export async function closePageServer(server: http.Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
}

/** Answers GET and HEAD of the pages; other methods are 405, other paths 404, queries are ignored. */
async function servePages(
  pages: readonly Page[],
  request: http.IncomingMessage,
  response: http.ServerResponse,
): Promise<void> {
  const path = (request.url ?? '').split('?')[0];
  const page = pages.find((p) => p.path === path);
  try {
    if (!page) {
      response.writeHead(404).end(`there are ${pages.map((p) => p.path).join(' and ')}\n`);
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end('GET expected\n');
    } else {
      const { type, body, status = 200 } = await page.answer(request);
      response.writeHead(status, { 'content-type': type });
      response.end(request.method === 'HEAD' ? undefined : body);
    }
  } catch (e) {
    if (!response.headersSent) response.writeHead(500);
    response.end(`${messageOf(e)}\n`);
  }
}
