/**
 * The daemon's configuration file: YAML checked against a schema. Each problem names file, line and column, what was
 * expected and what stands there; all are told at once.
 */
import { readFileSync } from 'node:fs';
import { LineCounter, isMap, isNode, isPair, parseDocument } from 'yaml';
import type { Document } from 'yaml';
import { z } from 'zod';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { arenaSizeProblem } from '../../kernel/arena.ts';

const VM_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/;

const absolutePath = z
  .string()
  .regex(/^\/[^\0]*$/, 'an absolute path expected')
  .max(4096);
/** sun_path has 108 bytes, with the NUL. */
const socketPath = absolutePath.refine((p) => Buffer.byteLength(p) < 108, 'at most 107 bytes for a socket');
const positive = (max: number) => z.int().min(1).max(max);

export const quotasSchema = z.strictObject({
  /** Loaded at a time. */
  objects: positive(1024).default(16),
  programs: positive(4096).default(64),
  links: positive(1024).default(16),
  maps: positive(4096).default(64),
  /** All maps together, as the kernel counts them. */
  mapBytes: positive(2 ** 36).default(64 << 20),
  /** One object file. */
  elfBytes: positive(3 << 20).default(1 << 20),
  /** Instructions that the verifier may walk for one program. */
  instructions: positive(1_000_000).default(250_000),
  /** `map.watch` at a time. */
  watches: positive(256).default(16),
  requestsPerSecond: positive(100_000).default(1000),
});
export type Quotas = z.infer<typeof quotasSchema>;

export const SIGNATURE_POLICIES = ['none', 'optional', 'required'] as const;

const policySchema = z.strictObject({
  /** Hooks that this VM may use; left out: all. */
  hooks: z.array(z.string().min(1).max(64)).optional(),
  /** Further helpers taken away, by name. */
  forbiddenHelpers: z.array(z.string().min(1).max(64)).default([]),
});

const agentSchema = z.union(
  [
    z.strictObject({
      /** Unix socket at which this VM's QEMU listens for its port org.hyperturtle.v1. */
      socket: socketPath,
    }),
    z.strictObject({
      /** The port is plugged into the running VM. `bus`: id of its virtio-serial controller. */
      hotplug: z.union([z.literal(true), z.strictObject({ bus: z.string().min(1).max(64) })]),
    }),
  ],
  { error: 'either socket: PATH or hotplug: true expected' },
);

export const vmSchema = z.strictObject({
  qmp: socketPath,
  agent: agentSchema,
  arenaMib: z
    .int()
    .default(16)
    .superRefine((mib, context) => {
      const problem = arenaSizeProblem(mib * (1 << 20));
      if (problem) context.addIssue({ code: 'custom', message: problem });
    }),
  /** Root port into which the arena is plugged when the VM runs without it; left out: it is never plugged. */
  bus: z.string().min(1).max(64).optional(),
  quotas: quotasSchema.prefault({}),
  /** Public keys of those whose objects this VM may load. */
  keys: z.array(absolutePath).default([]),
  signature: z.enum(SIGNATURE_POLICIES).default('none'),
  policy: policySchema.prefault({}),
});
export type VmSpec = z.infer<typeof vmSchema>;

const configSchema = z.strictObject({
  vms: z.record(z.string(), vmSchema).prefault({}),
  admin: z.strictObject({ socket: socketPath.optional() }).prefault({}),
  metrics: z
    .union([z.strictObject({ socket: socketPath }), z.strictObject({ port: positive(65535) })], {
      error: 'either socket: PATH or port: NUMBER (on the loopback address) expected',
    })
    .optional(),
  log: z
    .strictObject({
      level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info'),
      /** Left out: standard output, which systemd keeps. */
      file: absolutePath.optional(),
    })
    .prefault({}),
  loader: z
    .strictObject({
      /** Worker processes at a time, for all VMs together. */
      workers: positive(64).default(2),
      /** For one object to be loaded, with verification. */
      timeoutMs: z.int().min(100).max(600_000).default(30_000),
    })
    .prefault({}),
  state: absolutePath.default('/var/lib/hyperturtle'),
  run: absolutePath.default('/run/hyperturtle'),
  bpffs: absolutePath.default('/sys/fs/bpf'),
});

export type HostConfig = z.infer<typeof configSchema>;

/** Where the admin socket is: given, or in the run directory. */
export function adminSocketOf(config: HostConfig): string {
  return config.admin.socket ?? `${config.run}/host.sock`;
}

/** Throws HT_NOT_FOUND without the file, HT_CONFIG with all problems. */
export function readConfig(file: string): HostConfig {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (e) {
    if (errnoCode(e) === 'ENOENT')
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `configuration ${file}: no such file: write one (docs/host-daemon.md has an example), or give --config`,
        { cause: e },
      );
    throw new HyperturtleError('HT_CONFIG', `configuration ${file}: ${messageOf(e)}`, { cause: e });
  }
  return parseConfig(text, file);
}

/** `file` is for messages. */
export function parseConfig(text: string, file: string): HostConfig {
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  if (doc.errors.length > 0)
    throw configError(doc.errors.map((e) => `${at(e.pos[0])}: ${e.message.split('\n')[0]}`));

  let value: unknown;
  try {
    // aliases of aliases may stand for a document of any size
    value = doc.toJS({ maxAliasCount: 100 });
  } catch (e) {
    throw configError([`${file}:1:1: ${messageOf(e)}`]);
  }
  const checked = configSchema.safeParse(value ?? {});
  const problems: string[] = [];
  if (!checked.success)
    for (const issue of checked.error.issues.flatMap(leaves))
      problems.push(
        `${at(offsetOf(doc, issue))}: ${issue.path.map(String).join('.') || 'the file'}: ${issue.message}`,
      );
  else
    for (const [path, problem] of crossChecks(checked.data))
      problems.push(`${at(offsetOf(doc, { path }))}: ${path.join('.')}: ${problem}`);
  if (problems.length > 0 || !checked.success) throw configError(problems);
  return checked.data;
}

/** What one part of the file says about another. */
function crossChecks(config: HostConfig): [path: string[], problem: string][] {
  const found: [string[], string][] = [];
  const sockets = new Map<string, string>();
  for (const [name, vm] of Object.entries(config.vms)) {
    if (!VM_NAME.test(name))
      found.push([['vms', name], `a name of letters, digits, '.', '_' and '-', at most 63, expected`]);
    if (vm.signature === 'required' && vm.keys.length === 0)
      found.push([['vms', name, 'signature'], 'signatures are required, but there are no keys: list some']);
    const own: [string[], string][] = [[['vms', name, 'qmp'], vm.qmp]];
    if ('socket' in vm.agent) own.push([['vms', name, 'agent', 'socket'], vm.agent.socket]);
    for (const [path, socket] of own) {
      const other = sockets.get(socket);
      // one VM would speak with the rights of the other
      if (other !== undefined) found.push([path, `${socket} is ${other} already`]);
      sockets.set(socket, path.join('.'));
    }
  }
  return found;
}

interface Issue {
  code?: string;
  path: readonly PropertyKey[];
  message: string;
  keys?: readonly string[];
}

/** An unknown key is told at its own place. */
function leaves(issue: z.core.$ZodIssue): Issue[] {
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => ({ path: [...issue.path, key], message: 'there is no such setting' }));
  return [{ path: issue.path, message: issue.message.replace(/^Invalid input: /, '') }];
}

/** Byte offset of what stands at a path, or of the nearest thing around it. */
function offsetOf(doc: Document, issue: Pick<Issue, 'path'>): number {
  for (let n = issue.path.length; n > 0; n--) {
    const parent: unknown = n === 1 ? doc.contents : doc.getIn(issue.path.slice(0, n - 1), true);
    const last = String(issue.path[n - 1]);
    if (isMap(parent)) {
      const pair = parent.items.find((p) => isPair(p) && String(p.key) === last);
      const key = pair?.key;
      if (isNode(key) && key.range) return key.range[0];
    }
    const node: unknown = doc.getIn(issue.path.slice(0, n), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return 0;
}

function configError(problems: readonly string[]): HyperturtleError {
  return new HyperturtleError('HT_CONFIG', problems.join('\n'), { detail: { problems } });
}

/** A VM given on the command line, checked like one of the file. */
export function checkVm(name: string, value: unknown): VmSpec {
  if (!VM_NAME.test(name))
    throw new HyperturtleError(
      'HT_USAGE',
      `VM '${name.slice(0, 80)}': a name of letters, digits, '.', '_' and '-', at most 63, expected`,
    );
  const checked = vmSchema.safeParse(value);
  if (checked.success) return checked.data;
  const problems = checked.error.issues
    .flatMap(leaves)
    .map((i) => `${i.path.map(String).join('.')}: ${i.message}`);
  throw new HyperturtleError('HT_USAGE', `VM '${name}': ${problems.join('; ')}`, { detail: { problems } });
}
