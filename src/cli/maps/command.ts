/** `hyperturtle map ...`: maps of this L1's programs, read and written through the agent. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import type { MapEntry, NotificationParams, ObjectInfo } from '../../wire/schema.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import type { AgentClient } from '../../client/session.ts';
import { formatBytes, formatPerCpu, parseBytes } from '../../client/bytes.ts';
import { integer, printJson } from '../shared/values.ts';

type Form = 'auto' | 'hex' | 'text';
interface MapOptions extends L1Options {
  format: Form;
}
interface SetOptions extends MapOptions {
  create?: boolean;
  exist?: boolean;
}
interface WatchOptions extends MapOptions {
  intervalMs: number;
  key: string[];
}

const VALUES = `
Keys and values: 5 or 0x10 (little-endian, as long as the map says), hex:0a0b0c0d, base64:Cgs=, text:abc.`;

export function registerMaps(program: Command): void {
  const map = program.command('map').description("maps of this machine's programs in the host");
  const sub = (name: string): Command =>
    l1Options(map.command(name))
      .argument('<object>', 'object that the map belongs to')
      .argument('<map>')
      .addOption(
        new Option('--format <form>', 'how bytes are printed')
          .choices(['auto', 'hex', 'text'])
          .default('auto'),
      );

  sub('get')
    .argument('<key>')
    .description('the value of a key; exit status 3 when there is none')
    .addHelpText('after', `${VALUES}\n\nExample:\n  hyperturtle map get npf counters 0`)
    .action(get);
  sub('set')
    .argument('<key>')
    .argument('<value>')
    .description('set the value of a key')
    .option('--create', 'only if there is no such key')
    .option('--exist', 'only if there is such a key')
    .addHelpText('after', `${VALUES}\n\nExample:\n  hyperturtle map set fw rules hex:0a000001 1`)
    .action(set);
  sub('delete').argument('<key>').description('remove a key').action(remove);
  sub('dump').description('all entries; with --json one line for each').action(dump);
  sub('watch')
    .description('print changes as they come, until interrupted; records of a ring buffer')
    .option(
      '--interval-ms <number>',
      'how often the host looks',
      integer('--interval-ms', 100, 3_600_000),
      1000,
    )
    .option('--key <key>', 'only this key; may be repeated', (k: string, all: string[]) => [...all, k], [])
    .action(watch);
}

/** Throws HT_NOT_FOUND, naming the maps there are. */
async function shapeOf(
  { peer, signal, timeoutMs }: AgentClient,
  object: string,
  map: string,
): Promise<ObjectInfo['maps'][number]> {
  const { objects } = await peer.request('list', {}, { signal, timeoutMs });
  const found = objects.find((o) => o.name === object);
  const shape = found?.maps.find((m) => m.name === map);
  if (shape) return shape;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    found
      ? `object '${object}' has no map '${map}'; it has: ${found.maps.map((m) => m.name).join(', ') || 'none'}`
      : `no object '${object}' is loaded: 'hyperturtle list' shows what is`,
  );
}

const b64 = (b: Buffer): string => b.toString('base64');

function valueText(
  e: { value?: string | null | undefined; perCpu?: string[] | undefined },
  form: Form,
): string {
  if (e.perCpu) return formatPerCpu(e.perCpu, form);
  return e.value == null ? 'gone' : formatBytes(e.value, form);
}

async function get(object: string, map: string, key: string, options: MapOptions): Promise<void> {
  const result = await withAgent(options, async (c) => {
    const shape = await shapeOf(c, object, map);
    const params = { object, map, key: b64(parseBytes(key, shape.keyBytes, 'key')) };
    const { signal, timeoutMs } = c;
    return c.peer.request('map.get', params, { signal, timeoutMs });
  });
  if (result.value === null && !result.perCpu) {
    const { HyperturtleError } = await import('../../core/errors.ts');
    throw new HyperturtleError('HT_NOT_FOUND', `map '${map}' has no key ${key}`);
  }
  print(options, result, (r) => valueText(r, options.format));
}

async function set(
  object: string,
  map: string,
  key: string,
  value: string,
  options: SetOptions,
): Promise<void> {
  if (options.create && options.exist) {
    const { HyperturtleError } = await import('../../core/errors.ts');
    throw new HyperturtleError('HT_USAGE', 'give --create or --exist, not both');
  }
  await withAgent(options, async (c) => {
    const shape = await shapeOf(c, object, map);
    const params = {
      object,
      map,
      key: b64(parseBytes(key, shape.keyBytes, 'key')),
      value: b64(parseBytes(value, shape.valueBytes, 'value')),
      mode: options.create ? ('create' as const) : options.exist ? ('exist' as const) : ('any' as const),
    };
    await c.peer.request('map.set', params, { signal: c.signal, timeoutMs: c.timeoutMs });
  });
  print(options, {}, () => '');
}

async function remove(object: string, map: string, key: string, options: MapOptions): Promise<void> {
  const result = await withAgent(options, async (c) => {
    const shape = await shapeOf(c, object, map);
    const params = { object, map, key: b64(parseBytes(key, shape.keyBytes, 'key')) };
    return c.peer.request('map.delete', params, { signal: c.signal, timeoutMs: c.timeoutMs });
  });
  print(options, result, ({ existed }) => (existed ? 'deleted' : 'there was no such key'));
}

async function dump(object: string, map: string, options: MapOptions): Promise<void> {
  await withAgent(options, async (c) => {
    await shapeOf(c, object, map);
    let cursor: string | undefined;
    do {
      const params = { object, map, ...(cursor === undefined ? {} : { cursor }) };
      const page: { entries: MapEntry[]; cursor?: string | undefined } = await c.peer.request(
        'map.dump',
        params,
        {
          signal: c.signal,
          timeoutMs: c.timeoutMs,
        },
      );
      for (const e of page.entries)
        if (options.json) printJson(e);
        else writeOut(`${formatBytes(e.key, options.format)}  ${valueText(e, options.format)}\n`);
      cursor = page.cursor;
    } while (cursor !== undefined);
  });
}

async function watch(object: string, map: string, options: WatchOptions): Promise<void> {
  const tell = (n: NotificationParams<'map.changed'>): void => {
    if (options.json) return printJson(n);
    if (n.dropped > 0) writeOut(`(${n.dropped} changes were left out)\n`);
    for (const change of n.changes) {
      const key = change.key === '' ? '' : `${formatBytes(change.key, options.format)}  `;
      writeOut(`${key}${valueText(change, options.format)}\n`);
    }
  };
  await withAgent(
    options,
    async (c) => {
      const shape = await shapeOf(c, object, map);
      const keys = options.key.map((k) => b64(parseBytes(k, shape.keyBytes, '--key')));
      const params = { object, map, intervalMs: options.intervalMs, ...(keys.length > 0 ? { keys } : {}) };
      await c.peer.request('map.watch', params, { signal: c.signal, timeoutMs: c.timeoutMs });
      await untilInterrupted(c.signal);
    },
    (name, params) => {
      if (name === 'map.changed') tell(params);
    },
  );
}

/** Resolves at SIGINT or SIGTERM, which is how such a command ends; throws any other reason. */
export async function untilInterrupted(signal: AbortSignal): Promise<void> {
  const { isHyperturtleError } = await import('../../core/errors.ts');
  if (!signal.aborted)
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  if (!isHyperturtleError(signal.reason, 'HT_INTERRUPTED')) throw signal.reason;
}
