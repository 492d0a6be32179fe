/**
 * Traces of control requests, by OpenTelemetry: off unless its standard variables name an exporter, and nothing of it is loaded
 * then. What is inside of another piece of work of this process is its child; nothing is told to other machines.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Context } from '@opentelemetry/api';
import { HyperturtleError, isHyperturtleError, messageOf } from './errors.ts';

export type Attributes = Readonly<Record<string, string | number | boolean>>;

export interface Tracing {
  /** Runs it as a span. Its error is the span's, and thrown on. */
  span<T>(
    what: { name: string; kind: 'server' | 'client' | 'internal'; attributes: Attributes },
    run: () => Promise<T>,
  ): Promise<T>;
  /** Sends what is left, for a few seconds at most. */
  close(): Promise<void>;
}

/** Standard variables that are read here; others are the library's. docs/fleet.md */
type Environment = Readonly<Record<string, string | undefined>>;

const CLOSE_MS = 3000;

/** What the variables ask for. Throws HT_CONFIG for an exporter or a protocol that there is not. */
function wantedExporter(env: Environment): 'otlp' | undefined {
  if (env['OTEL_SDK_DISABLED']?.toLowerCase() === 'true') return undefined;
  const named = env['OTEL_TRACES_EXPORTER'] ?? '';
  const endpoint = env['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'] ?? env['OTEL_EXPORTER_OTLP_ENDPOINT'] ?? '';
  if (named === 'none' || (named === '' && endpoint === '')) return undefined;
  if (named !== '' && named !== 'otlp')
    throw new HyperturtleError('HT_CONFIG', `OTEL_TRACES_EXPORTER: otlp or none expected, found '${named}'`);
  const protocol =
    env['OTEL_EXPORTER_OTLP_TRACES_PROTOCOL'] ?? env['OTEL_EXPORTER_OTLP_PROTOCOL'] ?? 'http/json';
  if (protocol !== 'http/json')
    throw new HyperturtleError(
      'HT_CONFIG',
      `OTEL_EXPORTER_OTLP_PROTOCOL: http/json expected, found '${protocol}'`,
    );
  return 'otlp';
}

/** Undefined: nobody asked for traces. `service`: its name, unless OTEL_SERVICE_NAME gives another. Throws HT_CONFIG. */
export async function openTracing(service: string, version: string): Promise<Tracing | undefined> {
  if (wantedExporter(process.env) === undefined) return undefined;
  const [api, { BatchSpanProcessor, TracerProvider }, { OTLPTraceExporter }, resources] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ]);
  const fromEnvironment = resources.detectResources({ detectors: [resources.envDetector] });
  const provider = new TracerProvider({
    resource: resources
      .resourceFromAttributes({ 'service.name': service, 'service.version': version })
      .merge(fromEnvironment),
    spanProcessors: [new BatchSpanProcessor({ exporter: new OTLPTraceExporter() })],
  });
  const tracer = provider.getTracer('hyperturtle', version);
  const contexts = new AsyncLocalStorage<Context>();
  const kinds = { server: api.SpanKind.SERVER, client: api.SpanKind.CLIENT, internal: api.SpanKind.INTERNAL };
  return {
    async span({ name, kind, attributes }, run) {
      const around = contexts.getStore() ?? api.ROOT_CONTEXT;
      const span = tracer.startSpan(name, { kind: kinds[kind], attributes: { ...attributes } }, around);
      try {
        return await contexts.run(api.trace.setSpan(around, span), run);
      } catch (e) {
        span.setStatus({ code: api.SpanStatusCode.ERROR, message: messageOf(e) });
        const kind = isHyperturtleError(e) ? e.detail['kind'] : undefined;
        const code = isHyperturtleError(e) ? e.code : 'BUG';
        span.setAttribute('error.type', typeof kind === 'string' ? kind : code);
        throw e;
      } finally {
        span.end();
      }
    },
    async close() {
      let timer: NodeJS.Timeout | undefined;
      const over = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_MS)));
      await Promise.race([provider.shutdown().catch(() => {}), over]);
      clearTimeout(timer);
    },
  };
}
