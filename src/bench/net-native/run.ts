/**
 * What the network programs cost on this kernel: nanoseconds of a run (BPF_PROG_TEST_RUN), and what a frame written to a
 * real tap takes without and with each of them. Rounds take turns.
 */
import { readFile } from 'node:fs/promises';
import { writeSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { here } from '../../bpf/calls.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { localMaps } from '../../bpf/local-maps.ts';
import { addClsact, removeClsact, setFilter } from '../../bpf/net.ts';
import { BpfObject } from '../../bpf/object.ts';
import { runProgram } from '../../bpf/test-run.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { packetProgramTypes } from '../../host/hooks.ts';
import { makeTap } from '../../host/nics/tap.ts';
import { TC_ACT_UNSPEC, XDP_PASS } from '../../kernel/packet.ts';
import { applyFirewall } from '../../net/firewall.ts';
import { NETWORK_PROGRAMS } from '../../net/programs.ts';
import { applyRateLimit } from '../../net/rate-limit.ts';
import { machineEnvironment } from '../shared/machine-environment.ts';
import { RESULT_SCHEMA_VERSION, environmentSchema } from '../shared/environment-schema.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export interface NetNativeSpec {
  /** Compiled objects. */
  folder: string;
  rounds: number;
  /** Runs of a program in a round. */
  repeat: number;
  /** Frames written to the tap in a round; 0: no tap is made. */
  frames: number;
  rules: number;
}

const ns = lazy(() => z.number().nonnegative());
export const netNativeSchema = lazy(() =>
  z.object({
    schema: z.literal(RESULT_SCHEMA_VERSION),
    benchmark: z.literal('net-native'),
    environment: environmentSchema()
      .pick({ hyperturtleVersion: true, startedAt: true, durationSeconds: true })
      .loose(),
    parameters: z.object({
      rounds: z.int(),
      repeat: z.int(),
      frames: z.int(),
      rules: z.int(),
      frameBytes: z.int(),
    }),
    /** Per round, in order. */
    runs: z.array(
      z.object({ program: z.string(), hook: z.string(), packet: z.string(), nanoseconds: z.array(ns()) }),
    ),
    /** At tc-ingress: time of one write of a frame, system call and all. */
    tap: z.array(z.object({ program: z.string(), nanoseconds: z.array(ns()) })),
  }),
);
export type NetNativeResult = Output<typeof netNativeSchema>;

const UDP4 = Buffer.from(
  '0200000000010200000000020800' +
    '4500002e000040004011000' +
    '0' +
    '0a000002c0000201' +
    '9c40138800' +
    '1a0000',
  'hex',
);
const FRAME4 = Buffer.concat([UDP4, Buffer.alloc(60 - UDP4.length)]);
const FRAME6 = Buffer.concat([
  Buffer.from('02000000000102000000000286dd' + '60000000' + '00081140', 'hex'),
  Buffer.from('fd000000000000000000000000000002' + '20010db8000000000000000000000001', 'hex'),
  Buffer.from('9c401388' + '00080000', 'hex'),
]);
/** struct virtio_net_hdr before each frame that is written. */
const VNET_HEADER = Buffer.alloc(10);

/** The last rule is the one that matches. */
function policy(rules: number): { default: 'deny'; rules: string[] } {
  const filler = Array.from(
    { length: rules - 1 },
    (_, i) =>
      `deny both ${i % 2 === 0 ? 'tcp' : 'udp'} from 10.${i}.0.0/16,fd00:${i}::/32 to 198.51.${i}.0/24,2001:db8:${i}::/48 port ${i + 1}-${i + 9}`,
  );
  return { default: 'deny', rules: [...filler, 'allow both udp from any to any port 5000'] };
}

interface Loaded {
  program: string;
  object: BpfObject;
}
type Runs = NetNativeResult['runs'];
type Taps = NetNativeResult['tap'];

/** Needs root. Throws what loading says, HT_KERNEL. */
export async function runNetNative(
  spec: NetNativeSpec,
  options: { version: string; progress: Progress; signal?: AbortSignal | undefined },
): Promise<NetNativeResult> {
  const startedAt = new Date();
  const undo = new CleanupStack();
  try {
    const objects = await loadAll(spec, undo);
    checkAnswers(objects);
    const runs = measureRuns(spec, objects, options);
    const tap = spec.frames === 0 ? [] : await measureTap(spec, objects, undo, options);
    return {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: 'net-native',
      environment: machineEnvironment(options.version, startedAt),
      parameters: {
        rounds: spec.rounds,
        repeat: spec.repeat,
        frames: spec.frames,
        rules: spec.rules,
        frameBytes: FRAME4.length,
      },
      runs,
      tap,
    };
  } finally {
    await undo.run();
  }
}

async function loadAll(spec: NetNativeSpec, undo: CleanupStack): Promise<Loaded[]> {
  const objects: Loaded[] = [];
  for (const { name, file } of [...NETWORK_PROGRAMS].reverse()) {
    const elf = await readFile(path.join(spec.folder, file));
    const object = BpfObject.load({ name, elf, types: packetProgramTypes() });
    undo.add(name, () => Promise.resolve(object.close()));
    objects.push({ program: name, object });
    const maps = localMaps(object);
    if (name === 'firewall') await applyFirewall(maps, policy(spec.rules));
    // so much that nothing is ever dropped, and every bucket is looked at
    const much = { bytesPerSecond: 1e12, packetsPerSecond: 1e12 };
    if (name === 'rate-limiter') await applyRateLimit(maps, { out: much, in: much });
  }
  return objects;
}

/** A program that drops is measured on another path than the one that counts. Throws HT_INTEGRITY. */
function checkAnswers(objects: readonly Loaded[]): void {
  for (const { program, object } of objects)
    for (const p of object.programs)
      for (const frame of [FRAME4, FRAME6]) {
        const { result } = runProgram(p.fd, frame);
        if (result !== (p.section === 'xdp' ? XDP_PASS : TC_ACT_UNSPEC))
          throw new HyperturtleError('HT_INTEGRITY', `${program} (${p.section}) answers ${result}, not pass`);
      }
}

interface MeasureOptions {
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** By the kernel's own test run. */
function measureRuns(
  spec: NetNativeSpec,
  objects: readonly Loaded[],
  { progress, signal }: MeasureOptions,
): Runs {
  const runs: Runs = objects.flatMap(({ program, object }) =>
    object.programs.flatMap(({ section }) =>
      ['UDP, IPv4', 'UDP, IPv6'].map((packet) => ({ program, hook: section, packet, nanoseconds: [] })),
    ),
  );
  const step = progress.step(`${spec.rounds} rounds of ${runs.length} x ${spec.repeat} runs`);
  for (let round = 0; round < spec.rounds; round++)
    for (const r of runs) {
      signal?.throwIfAborted();
      const object = objects.find((o) => o.program === r.program)!.object;
      const { fd } = object.programs.find((p) => p.section === r.hook)!;
      const frame = r.packet === 'UDP, IPv4' ? FRAME4 : FRAME6;
      r.nanoseconds.push(runProgram(fd, frame, spec.repeat).nanoseconds);
    }
  step.done();
  return runs;
}

/** Frames written into a tap of a bridge, with each program on it and without. */
async function measureTap(
  spec: NetNativeSpec,
  objects: readonly Loaded[],
  undo: CleanupStack,
  { progress, signal }: MeasureOptions,
): Promise<Taps> {
  const bridge = `htb${process.pid % 1_000_000}`;
  await exec('ip', ['link', 'add', bridge, 'type', 'bridge']);
  undo.add('bridge', async () => void (await exec('ip', ['link', 'del', bridge])));
  await exec('ip', ['link', 'set', bridge, 'up']);
  const tap = await makeTap(here, { bridge });
  undo.add('tap', () => Promise.resolve(tap.file.close()));
  const results: { program: string; object?: BpfObject; nanoseconds: number[] }[] = [
    { program: 'none', nanoseconds: [] },
    ...objects.map((o) => ({ ...o, nanoseconds: [] })),
  ];
  const bytes = Buffer.concat([VNET_HEADER, FRAME4]);
  const step = progress.step(`${spec.rounds} rounds of ${results.length} x ${spec.frames} frames into a tap`);
  for (let round = 0; round < spec.rounds; round++)
    for (const r of results) {
      signal?.throwIfAborted();
      const program = r.object?.programs.find((p) => p.section === 'tc/ingress');
      if (program) {
        await addClsact(here, tap.ifindex);
        await setFilter(here, { fd: program.fd, what: program.name } as OwnedFd, tap.ifindex, 'ingress');
      }
      try {
        const begun = process.hrtime.bigint();
        for (let i = 0; i < spec.frames; i++) writeSync(tap.file.fd, bytes);
        r.nanoseconds.push(Number(process.hrtime.bigint() - begun) / spec.frames);
      } finally {
        if (program) await removeClsact(here, tap.ifindex);
      }
    }
  step.done();
  return results.map(({ program, nanoseconds }) => ({ program, nanoseconds }));
}

/** The middle of the rounds, and the least and the greatest. */
function spread(all: readonly number[]): string[] {
  const sorted = [...all].sort((a, b) => a - b);
  return [sorted[sorted.length >> 1], sorted[0], sorted.at(-1)].map((n) => (n ?? 0).toFixed(0));
}

export function netNativeTable(r: NetNativeResult): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [
    line(['program', 'hook', 'packet', 'ns, median', 'least', 'most']),
    line(['---', '---', '---', '---', '---', '---']),
    ...r.runs.map((x) => line([x.program, x.hook, x.packet, ...spread(x.nanoseconds)])),
    ...r.tap.map((x) =>
      line([x.program, 'tap, tc-ingress', 'one write, UDP, IPv4', ...spread(x.nanoseconds)]),
    ),
    '',
  ].join('\n');
}
