/** The daemon's configuration file (YAML) as a schema, and what one part of it demands of another. */
import { PLACES } from '../core/default-paths.ts';
import path from 'node:path';
import { z } from 'zod';
import { LOG_LEVELS } from '../core/log-levels.ts';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { verifierOf } from '../core/signature.ts';
import { SOCKET_PATH_LIMIT, isSocketPath } from '../core/sockets.ts';
import { parseYaml, readYaml } from '../core/yaml.ts';
import type { Mistake } from '../core/yaml.ts';
import { arenaSizeProblem } from '../kernel/arena.ts';
import { isIfname } from '../net/ifname.ts';
import { HT_SAMPLE_HZ_MAX } from '../kernel/sample.ts';
import { NAME } from '../wire/fields.ts';
import { HOOK_TABLE } from './hooks.ts';
import type { HookSpec } from './hooks.ts';
import { WITHOUT_DAEMON } from './packets/chain-pins.ts';
import { recordOf } from '../core/record.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export const DEFAULT_BPFFS = PLACES.bpffs.path;

const absolutePath = lazy(() =>
  z
    .string()
    .regex(/^\/[^\0]*$/, 'an absolute path expected')
    .max(4096),
);
const socketPath = lazy(() => absolutePath().refine(isSocketPath, SOCKET_PATH_LIMIT));
const positive = (max: number) => z.int().min(1).max(max);

export const quotasSchema = lazy(() =>
  z.strictObject({
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
    /** Microseconds that a run may take on a slow core, by hook; what the hook itself allows is never exceeded. */
    runUs: z.partialRecord(z.enum(HOOK_TABLE.map((h) => h.name)), positive(100)).optional(),
    /** `map.watch` at a time. */
    watches: positive(256).default(16),
    /** Given at run time. */
    nics: z.int().min(0).max(32).default(4),
    /** Samples a second of the sample hook, for each vCPU. */
    sampleHz: positive(HT_SAMPLE_HZ_MAX).default(4000),
    requestsPerSecond: positive(100_000).default(1000),
  }),
);
export type Quotas = Output<typeof quotasSchema>;

/** Most nanoseconds of a run at a hook, for a VM with these quotas. */
export function runNsOf(hook: Pick<HookSpec, 'name' | 'runNs'>, { runUs }: Pick<Quotas, 'runUs'>): number {
  return Math.min(hook.runNs, 1000 * (runUs?.[hook.name] ?? Infinity));
}

const SIGNATURE_POLICIES = ['none', 'optional', 'required'] as const;

const HOOK_NAMES = HOOK_TABLE.map((h) => h.name);
const HELPER_NAMES = [...new Set(HOOK_TABLE.flatMap((h) => h.helpers.map((x) => x.name)))].sort();

/** A name that is none would forbid, or allow, nothing in silence. */
const oneOf = (what: string, names: readonly string[]): z.ZodType<string> =>
  z.string().refine((name) => names.includes(name), { error: `no ${what}; there are: ${names.join(', ')}` });

const policySchema = lazy(() =>
  z.strictObject({
    /** Hooks that this VM may use; left out: all. */
    hooks: z.array(oneOf('hook', HOOK_NAMES)).optional(),
    /** Further helpers taken away, by name. */
    forbiddenHelpers: z.array(oneOf('helper that a hook lets programs call', HELPER_NAMES)).default([]),
  }),
);

const networkCommon = lazy(() => ({
  /** Left out: the bridge's, or the device's. */
  mtu: z.int().min(68).max(65_521).optional(),
  /** NICs that one VM may have there; left out: as many as its quota allows. */
  maxPerVm: z.int().min(1).max(32).optional(),
}));
const networkSchema = lazy(() =>
  z.union(
    [
      z.strictObject({
        /** Bridge of the host that NICs become ports of; nobody here makes it. */
        bridge: z.string().refine(isIfname, 'the name of a bridge expected, at most 15 bytes'),
        /** Move frames in the kernel where it has vhost_net, not in QEMU. */
        vhost: z.boolean().default(true),
        ...networkCommon(),
      }),
      z.strictObject({
        /** NICs are vDPA devices, made on this management device (`vdpa mgmtdev show`). */
        vdpa: z.strictObject({
          management: z
            .string()
            .regex(/^([^/\s]+\/)?[^/\s-][^/\s]*$/, 'a management device such as pci/0000:65:00.2 expected'),
        }),
        ...networkCommon(),
      }),
    ],
    {
      error:
        'either bridge: NAME or vdpa: {management: DEVICE} expected, with mtu, vhost (of a bridge) and maxPerVm',
    },
  ),
);

const nicsSchema = lazy(() =>
  z.strictObject({
    /** Networks that this VM may ask for NICs in; the first is the default. */
    networks: z.array(z.string().regex(NAME)).default([]),
    /** Ids of PCIe root ports for NICs, or how many there are of those that `host args` prints. */
    ports: z.union([z.int().min(0).max(32), z.array(z.string().min(1).max(64)).max(32)]).default(4),
    /** The addresses that its NICs may have, the first free one by default; left out: made up, or as it asks. */
    macs: z
      .array(
        z
          .string()
          .regex(
            /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/,
            'the MAC address of a NIC expected, as 02:00:00:00:00:01',
          ),
      )
      .min(1)
      .max(64)
      .optional(),
    /** What becomes of frames that programs on NICs see, while no daemon runs. */
    withoutDaemon: z.enum(WITHOUT_DAEMON).default('keep'),
  }),
);

const agentSchema = lazy(() =>
  z.union(
    [
      z.strictObject({
        /** Unix socket at which this VM's QEMU listens for its port org.hyperturtle.v1. */
        socket: socketPath(),
      }),
      z.strictObject({
        /** The port is plugged into the running VM. `bus`: id of its virtio-serial controller. */
        hotplug: z.union([z.literal(true), z.strictObject({ bus: z.string().min(1).max(64) })]),
      }),
    ],
    { error: 'either socket: PATH or hotplug: true expected' },
  ),
);

const userName = lazy(() =>
  z
    .string()
    .regex(/^([a-z_][a-z0-9_.-]{0,31}|\+\d{1,9})$/i, "the name of a user, or '+' and its number, expected"),
);

const vmSchema = lazy(() =>
  z.strictObject({
    qmp: socketPath(),
    agent: agentSchema(),
    arenaMib: z
      .int()
      .default(16)
      .superRefine((mib, context) => {
        const problem = arenaSizeProblem(mib * (1 << 20));
        if (problem) context.addIssue({ code: 'custom', message: problem });
      }),
    /** Root port into which the arena is plugged when the VM runs without it; left out: it is never plugged. */
    bus: z.string().min(1).max(64).optional(),
    /** User that its QEMU runs as, who then may open the arena; left out: root alone. */
    owner: userName().optional(),
    nics: nicsSchema().prefault({}),
    quotas: quotasSchema().prefault({}),
    /** Public keys of those whose objects this VM may load. */
    keys: z.array(absolutePath()).default([]),
    signature: z.enum(SIGNATURE_POLICIES).default('none'),
    policy: policySchema().prefault({}),
  }),
);
export type VmSpec = Output<typeof vmSchema>;

/** Root ports for NICs, by QEMU's ids. */
export function nicPorts(vm: Pick<VmSpec, 'nics'>): string[] {
  const { ports } = vm.nics;
  return typeof ports === 'number' ? Array.from({ length: ports }, (_, n) => `hyperturtle-nic${n}`) : ports;
}

const configSchema = lazy(() =>
  z
    .strictObject({
      vms: recordOf(z.string(), vmSchema()).prefault({}).superRefine(crossChecks),
      networks: recordOf(z.string().regex(NAME), networkSchema()).prefault({}),
      /** Domains of this libvirt that are enabled for it are served as well; left out: none. */
      libvirt: z
        .strictObject({
          uri: z
            .string()
            .regex(/^[a-z][a-z+]*:\/\/[^\s]*$/, "libvirt's URI expected, as qemu:///system")
            .default('qemu:///system'),
          /** User that its QEMUs run as. */
          owner: userName().default('libvirt-qemu'),
        })
        .optional(),
      admin: z.strictObject({ socket: socketPath().optional() }).prefault({}),
      metrics: z
        .union([z.strictObject({ socket: socketPath() }), z.strictObject({ port: positive(65535) })], {
          error: 'either socket: PATH or port: NUMBER (on the loopback address) expected',
        })
        .optional(),
      log: z
        .strictObject({
          level: z.enum(LOG_LEVELS).default('info'),
          /** Left out: standard output, which systemd keeps. */
          file: absolutePath().optional(),
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
      state: absolutePath().default(PLACES.state.path),
      run: absolutePath().default(PLACES.run.path),
      bpffs: absolutePath().default(DEFAULT_BPFFS),
    })
    .superRefine(checkNetworks)
    .superRefine(checkOwnSockets),
);

export type HostConfig = Output<typeof configSchema>;

/** Where the admin socket is: given, or in the run directory. */
export function adminSocketOf(
  config: Pick<HostConfig, 'run'> & { admin: { socket?: string | undefined } },
): string {
  return config.admin.socket ?? `${config.run}/host.sock`;
}

/** Throws HT_NOT_FOUND without the file, HT_CONFIG with all problems, also with public keys that cannot be read. */
export function readConfig(file: string): HostConfig {
  return readYaml(file, configSchema(), keyMistakes);
}

function keyMistakes({ vms }: HostConfig): Mistake[] {
  return Object.entries(vms).flatMap(([name, vm]) =>
    vm.keys.flatMap((key, i): Mistake[] => {
      try {
        verifierOf([key]);
        return [];
      } catch (e) {
        return [{ path: ['vms', name, 'keys', i], message: messageOf(e) }];
      }
    }),
  );
}

/** `file` is for messages. */
export function parseConfig(text: string, file: string): HostConfig {
  return parseYaml(text, file, configSchema());
}

/** The daemon's own sockets are as long as one may be, each another, and none of a VM's, whose QEMU makes it. */
function checkOwnSockets(
  config: {
    run: string;
    admin: { socket?: string | undefined };
    metrics?: { socket: string } | { port: number } | undefined;
    vms: Readonly<Record<string, VmSpec>>;
  },
  context: z.RefinementCtx,
): void {
  const fail = (setting: string[], message: string): void =>
    context.addIssue({ code: 'custom', path: setting, message });
  const admin = adminSocketOf(config);
  const at = config.admin.socket === undefined ? ['run'] : ['admin', 'socket'];
  if (config.admin.socket === undefined && !isSocketPath(admin))
    fail(at, `its socket ${admin} is too long: ${SOCKET_PATH_LIMIT}`);
  const own = new Map([[admin, at]]);
  if (config.metrics && 'socket' in config.metrics) {
    const { socket } = config.metrics;
    if (own.has(socket)) fail(['metrics', 'socket'], `${socket} is ${at.join('.')} already`);
    own.set(socket, ['metrics', 'socket']);
  }
  for (const [name, vm] of Object.entries(config.vms))
    for (const [path, socket] of socketsOf(name, vm)) {
      const taken = own.get(socket);
      if (taken) fail(['vms', ...path], `${socket} is ${taken.join('.')} already`);
    }
}

/** Every network that a VM may use is there. */
function checkNetworks(
  config: { vms: Readonly<Record<string, VmSpec>>; networks: Readonly<Record<string, unknown>> },
  context: z.RefinementCtx,
): void {
  for (const [name, vm] of Object.entries(config.vms))
    vm.nics.networks.forEach((network, i) => {
      if (Object.hasOwn(config.networks, network)) return;
      context.addIssue({
        code: 'custom',
        path: ['vms', name, 'nics', 'networks', i],
        message: `there is no network '${network}'; there are: ${Object.keys(config.networks).join(', ') || 'none'}`,
      });
    });
}

/** What one part of the file says about another. */
function crossChecks(vms: Readonly<Record<string, VmSpec>>, context: z.RefinementCtx): void {
  const fail = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message });
  const sockets = new Map<string, string>();
  for (const [name, vm] of Object.entries(vms)) {
    if (!NAME.test(name)) fail([name], `a name of letters, digits, '.', '_' and '-', at most 63, expected`);
    if (vm.signature === 'required' && vm.keys.length === 0)
      fail([name, 'signature'], 'signatures are required, but there are no keys: list some');
    for (const [setting, socket] of socketsOf(name, vm)) {
      const place = path.resolve(socket);
      const other = sockets.get(place);
      // one VM would speak with the rights of the other
      if (other !== undefined) fail(setting, `${socket} is vms.${other} already`);
      sockets.set(place, setting.join('.'));
    }
  }
}

/** The sockets that must be this VM's alone, with where each is written. */
export function socketsOf(name: string, vm: VmSpec): [path: string[], socket: string][] {
  const own: [string[], string][] = [[[name, 'qmp'], vm.qmp]];
  if ('socket' in vm.agent) own.push([[name, 'agent', 'socket'], vm.agent.socket]);
  return own;
}

/** A VM given on the command line, checked like one of the file. */
export function checkVm(name: string, value: unknown): VmSpec {
  if (!NAME.test(name))
    throw new HyperturtleError(
      'HT_USAGE',
      `VM '${name.slice(0, 80)}': a name of letters, digits, '.', '_' and '-', at most 63, expected`,
    );
  const checked = vmSchema().safeParse(value);
  if (checked.success) return checked.data;
  const problems = checked.error.issues.map(
    (i) => `${i.path.map(String).join('.')}: ${i.message.replace(/^Invalid input: /, '')}`,
  );
  throw new HyperturtleError('HT_USAGE', `VM '${name}': ${problems.join('; ')}`, { detail: { problems } });
}
