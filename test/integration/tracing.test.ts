/** Traces of control requests, as a collector gets them. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { openTracing } from '../../src/core/tracing.ts';
import type { Tracing } from '../../src/core/tracing.ts';
import { wireFailure } from '../../src/wire/errors.ts';
import { serve } from '../../src/wire/handlers.ts';
import type { CallContext } from '../../src/wire/handlers.ts';
import { METHODS } from '../../src/wire/schema.ts';
import { traced } from '../../src/wire/traced.ts';

interface Span {
  name: string;
  kind: number;
  spanId: string;
  parentSpanId?: string;
  attributes: { key: string; value: { stringValue?: string } }[];
  status: { code?: number; message?: string };
}

/** A collector: what it got, and its address. */
async function collector(): Promise<{
  url: string;
  spans: () => Span[];
  resource: () => string;
  close: () => Promise<void>;
}> {
  const bodies: string[] = [];
  const server = http.createServer((request, response) => {
    void text(request).then((body) => {
      bodies.push(body);
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  interface Body {
    resourceSpans: { resource: object; scopeSpans: { spans: Span[] }[] }[];
  }
  const parts = (): Body['resourceSpans'] => bodies.flatMap((b) => (JSON.parse(b) as Body).resourceSpans);
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans: () => parts().flatMap((r) => r.scopeSpans.flatMap((s) => s.spans)),
    resource: () => JSON.stringify(parts()[0]?.resource),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const attribute = (span: Span | undefined, key: string): string | undefined =>
  span?.attributes.find((a) => a.key === key)?.value.stringValue;

const context = (method: string): CallContext => ({
  method,
  signal: new AbortController().signal,
  session: { signal: new AbortController().signal, notify: () => true },
});

afterEach(() => vi.unstubAllEnvs());

describe('tracing', () => {
  test('is off, and nothing of it is loaded, unless its variables name an exporter', async () => {
    for (const name of ['OTEL_TRACES_EXPORTER', 'OTEL_EXPORTER_OTLP_ENDPOINT']) vi.stubEnv(name, undefined);
    expect(await openTracing('test', '0')).toBeUndefined();
    const methods = {};
    expect(traced(methods, undefined, {})).toBe(methods);
    vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', 'http://127.0.0.1:1');
    vi.stubEnv('OTEL_TRACES_EXPORTER', 'none');
    expect(await openTracing('test', '0')).toBeUndefined();
    vi.stubEnv('OTEL_TRACES_EXPORTER', 'otlp');
    vi.stubEnv('OTEL_SDK_DISABLED', 'true');
    expect(await openTracing('test', '0')).toBeUndefined();
  });

  test.each([
    ['OTEL_TRACES_EXPORTER', 'zipkin', "otlp or none expected, found 'zipkin'"],
    ['OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc', "http/json expected, found 'grpc'"],
  ])('says what is expected of %s', async (name, value, message) => {
    vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', 'http://127.0.0.1:1');
    vi.stubEnv(name, value);
    await expect(openTracing('test', '0')).rejects.toThrow(message);
  });

  test('tells a collector each request, what is inside it, names, and errors; never content', async () => {
    const { url, spans, resource, close } = await collector();
    vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', url);
    vi.stubEnv('OTEL_RESOURCE_ATTRIBUTES', 'host.name=h1');
    const tracing = (await openTracing('hyperturtle-test', '1.2.3')) as Tracing;
    const { load, unload, ping } = METHODS;
    const methods = traced(
      serve(
        { load, unload, ping },
        {
          load: () =>
            tracing.span({ name: 'host load', kind: 'client', attributes: {} }, () =>
              Promise.reject(wireFailure('REFUSED', 'no', { rule: 'helper.forbidden' })),
            ),
          unload: () => ({}),
          ping: () => ({}),
        },
      ),
      tracing,
      { 'hyperturtle.vm': 'build1' },
    );
    const call = (name: string, params: unknown): unknown => methods[name]?.call(params, context(name));
    await expect(call('load', { name: 'npf', elf: 'AAAA' })).rejects.toThrow('no');
    await call('unload', { name: 'npf' });
    await call('ping', {});
    await tracing.close();
    await close();
    expect(
      spans()
        .map((s) => s.name)
        .sort(),
    ).toEqual(['host load', 'load', 'unload']);
    const [outer, inner] = ['load', 'host load'].map((name) => spans().find((s) => s.name === name));
    expect(inner?.parentSpanId).toBe(outer?.spanId);
    expect(attribute(outer, 'hyperturtle.vm')).toBe('build1');
    expect(attribute(outer, 'hyperturtle.name')).toBe('npf');
    expect(attribute(outer, 'error.type')).toBe('REFUSED');
    expect(outer?.status).toEqual({ code: 2, message: 'no' });
    expect(JSON.stringify(spans())).not.toContain('AAAA');
    expect(resource()).toContain('hyperturtle-test');
    expect(resource()).toContain('h1');
  });

  test('ends in time when the collector does not answer', async () => {
    const server = http.createServer(() => {});
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const tracing = (await openTracing('test', '0')) as Tracing;
    await tracing.span({ name: 'x', kind: 'internal', attributes: {} }, () => Promise.resolve());
    const begin = performance.now();
    await tracing.close();
    expect(performance.now() - begin).toBeLessThan(10_000);
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
});
