/** A profile for `pprof` and what reads its format (profile.proto, gzipped). */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import {
  Function as PprofFunction,
  Line,
  Location,
  Profile,
  Sample,
  StringTable,
  ValueType,
} from 'pprof-format';
import type { NamedStack } from './symbolize.ts';

export interface ProfileFacts {
  startedAt: Date;
  durationMs: number;
  hz: number;
}

export async function pprofOf(stacks: readonly NamedStack[], facts: ProfileFacts): Promise<Uint8Array> {
  const strings = new StringTable();
  const functions = new Map<string, PprofFunction>();
  const locations = new Map<string, Location>();
  const periodNs = Math.round(1e9 / facts.hz);
  const locationOf = ({ name, module, address }: NamedStack['frames'][number]): number => {
    const key = `${module} ${name}`;
    let fn = functions.get(key);
    if (!fn) {
      const text = strings.dedup(name);
      fn = new PprofFunction({
        id: functions.size + 1,
        name: text,
        systemName: text,
        filename: strings.dedup(module),
      });
      functions.set(key, fn);
    }
    const at = `${key} ${address}`;
    let location = locations.get(at);
    if (!location) {
      location = new Location({ id: locations.size + 1, address, line: [new Line({ functionId: fn.id })] });
      locations.set(at, location);
    }
    return Number(location.id);
  };
  const sample = stacks
    .filter((s) => s.frames.length > 0)
    .map(
      (s) =>
        // innermost first here
        new Sample({
          locationId: [...s.frames].reverse().map(locationOf),
          value: [s.samples, s.samples * periodNs],
        }),
    );
  const type = (name: string, unit: string): ValueType =>
    new ValueType({ type: strings.dedup(name), unit: strings.dedup(unit) });
  const profile = new Profile({
    sampleType: [type('samples', 'count'), type('cpu', 'nanoseconds')],
    sample,
    location: [...locations.values()],
    function: [...functions.values()],
    stringTable: strings,
    timeNanos: BigInt(facts.startedAt.getTime()) * 1_000_000n,
    durationNanos: Math.round(facts.durationMs * 1e6),
    periodType: type('cpu', 'nanoseconds'),
    period: periodNs,
  });
  return promisify(gzip)(profile.encode());
}
