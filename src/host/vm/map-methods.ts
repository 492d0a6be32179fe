/** `map.get/set/delete/dump`: a VM's access to the maps of its own objects. */
import { MapAccess, possibleCpus } from '../../bpf/map-ops.ts';
import type { MapEntry } from '../../bpf/map-ops.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { wireFailure } from '../../wire/errors.ts';
import type { MapEntry as WireEntry, Params, Result } from '../../wire/schema.ts';
import type { VmObjects } from './objects.ts';
import type { Budget } from './budget.ts';

/** In one answer, before base64: a frame holds 4 MiB. */
const MAX_ANSWER_BYTES = 2 << 20;
const DUMP_LIMIT = 256;

export const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');

/** A key as `map` needs it. Throws HT_USAGE. */
export function keyOf(map: MapAccess, text: string): Uint8Array {
  const key = Buffer.from(text, 'base64');
  if (key.length !== map.info.keyBytes)
    throw new HyperturtleError('HT_USAGE', `key: ${map.info.keyBytes} bytes expected, ${key.length} given`);
  return key;
}

/** A ring buffer has no keys, and the arena is L1's own memory: both are refused. */
export function tableOf(objects: VmObjects, at: { object: string; map: string }): MapAccess {
  const { file, arena } = objects.map(at.object, at.map);
  if (arena)
    throw new HyperturtleError(
      'HT_USAGE',
      `map '${at.map}' is the VM's arena: L1 has it as memory, read it there`,
    );
  const map = new MapAccess(file);
  if (map.info.keyBytes === 0)
    throw new HyperturtleError(
      'HT_USAGE',
      `map '${at.map}' is a ${map.info.typeName}: it has no keys, watch it (map.watch)`,
    );
  return map;
}

function wireEntry(map: MapAccess, entry: MapEntry): WireEntry {
  const key = base64(entry.key);
  if (map.info.perCpu) return { key, perCpu: entry.values.map(base64) };
  return { key, value: base64(entry.values[0] ?? new Uint8Array()) };
}

/** Bytes of one entry, with its values of all CPUs. Throws HT_USAGE when no answer can hold one. */
function entryBytes(map: MapAccess): number {
  const { valueBytes, perCpu } = map.info;
  const bytes = map.info.keyBytes + valueBytes * (perCpu ? possibleCpus() : 1);
  if (bytes > MAX_ANSWER_BYTES)
    throw new HyperturtleError(
      'HT_USAGE',
      `an entry of this map has ${bytes} bytes, at most ${MAX_ANSWER_BYTES} can be transferred`,
    );
  return bytes;
}

export async function mapGet(
  objects: VmObjects,
  work: Budget,
  params: Params<'map.get'>,
  signal: AbortSignal,
): Promise<Result<'map.get'>> {
  await work.take(1, signal);
  const map = tableOf(objects, params);
  entryBytes(map);
  const key = keyOf(map, params.key);
  const values = map.get(key);
  if (!values) return { value: null };
  if (map.info.perCpu) return { value: null, perCpu: values.map(base64) };
  return { value: base64(values[0] ?? new Uint8Array()) };
}

export async function mapSet(
  objects: VmObjects,
  work: Budget,
  params: Params<'map.set'>,
  signal: AbortSignal,
): Promise<Result<'map.set'>> {
  await work.take(1, signal);
  const map = tableOf(objects, params);
  try {
    map.set(keyOf(map, params.key), Buffer.from(params.value, 'base64'), params.mode ?? 'any');
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NO_SPACE') || isHyperturtleError(e, 'HT_NO_MEMORY'))
      throw wireFailure('QUOTA', e.message);
    throw e;
  }
  return {};
}

export async function mapDelete(
  objects: VmObjects,
  work: Budget,
  params: Params<'map.delete'>,
  signal: AbortSignal,
): Promise<Result<'map.delete'>> {
  await work.take(1, signal);
  const map = tableOf(objects, params);
  return { existed: map.delete(keyOf(map, params.key)) };
}

/** The cursor is the last key that was given, in base64. */
export async function mapDump(
  objects: VmObjects,
  work: Budget,
  params: Params<'map.dump'>,
  signal: AbortSignal,
): Promise<Result<'map.dump'>> {
  const first = tableOf(objects, params);
  const fitting = Math.max(1, Math.floor(MAX_ANSWER_BYTES / entryBytes(first)));
  const limit = Math.min(params.limit ?? DUMP_LIMIT, fitting);
  await work.take(limit, signal);
  // it may have been unloaded meanwhile
  const map = tableOf(objects, params);
  const page = map.page(limit, params.cursor === undefined ? undefined : keyOf(map, params.cursor));
  return {
    entries: page.entries.map((e) => wireEntry(map, e)),
    ...(page.next ? { cursor: base64(page.next) } : {}),
  };
}
