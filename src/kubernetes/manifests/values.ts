/** What can be chosen of manifests and chart, with its defaults and a schema that Helm checks values by. */
import { z } from 'zod';
import { PLACES, PORTS } from '../../core/default-paths.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';
import { AgentConfig } from '../../guest/agent/config.ts';

/** Label of nodes that the DaemonSet runs on, which an operator sets; and the one that says that it works there. */
const NODE_LABEL = 'hyperturtle.io/node';
export const ACCELERATED_LABEL = 'hyperturtle.io/accelerated';
export const RESOURCE = 'hyperturtle.io/nic';

const Text = lazy(() =>
  z
    .string()
    .min(1)
    .max(512)
    .regex(/^[^\0-\x1f]*$/),
);
const AbsolutePath = lazy(() => z.string().regex(/^\/[\w./-]*$/));
const Quantity = lazy(() => z.string().regex(/^\d+(\.\d+)?([kKMGT]i?|m)?$/));
const Amounts = lazy(() => z.strictObject({ cpu: Quantity().optional(), memory: Quantity().optional() }));
const Resources = lazy(() =>
  z.strictObject({ requests: Amounts().optional(), limits: Amounts().optional() }),
);
const Labels = lazy(() => z.record(z.string(), z.string()));

/** /etc/hyperturtle/guest.yaml of every node, whole. */
const AGENT_CONFIG = {
  objects: { npf: { file: `${PLACES.programs.path}/npf.bpf.o` } },
  links: [{ object: 'npf', hook: 'npf' }],
};

const Image = lazy(() =>
  z.strictObject({
    agent: Text().default('hyperturtle-agent'),
    devicePlugin: Text().default('hyperturtle-device-plugin'),
    tag: Text(),
    pullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']).default('IfNotPresent'),
  }),
);

const GuestModule = lazy(() =>
  z.strictObject({
    /** `host`: the node's own (package hyperturtle-dkms); `image`: below /modules/KERNEL; `none`: somebody loads it. */
    source: z.enum(['host', 'image', 'none']).default('host'),
    image: Text().default('hyperturtle-module'),
  }),
);

const Agent = lazy(() =>
  z.strictObject({
    config: z.record(z.string(), z.json()).default(AGENT_CONFIG),
    resources: Resources().prefault({
      requests: { cpu: '20m', memory: '96Mi' },
      limits: { memory: '256Mi' },
    }),
  }),
);

const Cni = lazy(() =>
  z.strictObject({
    enabled: z.boolean().default(true),
    binDir: AbsolutePath().default('/opt/cni/bin'),
  }),
);

const DevicePlugin = lazy(() =>
  z.strictObject({
    enabled: z.boolean().default(true),
    /** NICs for pods on each node; `all` that L0 gives leaves none for the CNI plugin. */
    nics: z.union([z.int().min(0).max(1024), z.literal('all')]).default(2),
    kubeletDir: AbsolutePath().default('/var/lib/kubelet/device-plugins'),
    resources: Resources().prefault({
      requests: { cpu: '10m', memory: '96Mi' },
      limits: { memory: '192Mi' },
    }),
  }),
);

/** Label and condition of the Node while acceleration is in force. */
const NodeStatus = lazy(() =>
  z.strictObject({
    enabled: z.boolean().default(true),
    resources: Resources().prefault({
      requests: { cpu: '5m', memory: '64Mi' },
      limits: { memory: '160Mi' },
    }),
  }),
);

/**
 * HyperupcallSets: custom resources, and who follows them on each node. Off: who may write sets and ConfigMaps in the namespace
 * decides what runs in hosts, and custom resources are the whole cluster's.
 */
const Reconcile = lazy(() =>
  z.strictObject({
    enabled: z.boolean().default(false),
    /** Measurements, at the pod's address. */
    metricsPort: z.int().min(1).max(65_535).default(PORTS.reconcilerMetrics.port),
    resources: Resources().prefault({
      requests: { cpu: '10m', memory: '96Mi' },
      limits: { memory: '256Mi' },
    }),
  }),
);

const RuntimeClass = lazy(() =>
  z.strictObject({
    enabled: z.boolean().default(true),
    name: z
      .string()
      .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
      .default('kata-hyperturtle'),
    /** As containerd or CRI-O has it. */
    handler: z
      .string()
      .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/)
      .default('kata-hyperturtle'),
    /** Kata's own figures, and 10 MiB for the supervisor of `hyperturtle vmm`. */
    overhead: z
      .strictObject({ cpu: Quantity().default('250m'), memory: Quantity().default('170Mi') })
      .prefault({}),
  }),
);

export const ChartValues = lazy(() =>
  z.strictObject({
    image: Image(),
    imagePullSecrets: z.array(z.strictObject({ name: z.string() })).default([]),
    nodeSelector: Labels().default({ [NODE_LABEL]: 'true' }),
    tolerations: z.array(z.record(z.string(), z.json())).default([{ operator: 'Exists' }]),
    priorityClassName: Text().default('system-node-critical'),
    module: GuestModule().prefault({}),
    agent: Agent().prefault({}),
    cni: Cni().prefault({}),
    devicePlugin: DevicePlugin().prefault({}),
    nodeStatus: NodeStatus().prefault({}),
    reconcile: Reconcile().prefault({}),
    runtimeClass: RuntimeClass().prefault({}),
  }),
);
export type ChartValues = Output<typeof ChartValues>;

/** All defaults. `tag` is that of the images. */
export const defaultValues = (tag: string): ChartValues =>
  ChartValues().parse({ image: { tag }, module: { image: `hyperturtle-module:${tag}` } });

/**
 * Defaults with some values in their place, as Helm merges them: maps key by key, anything else as a whole, null takes away.
 * Throws HT_CONFIG with all mistakes, also of the agent's configuration in it.
 */
export function chartValues(tag: string, some: unknown): ChartValues {
  const read = ChartValues().safeParse(merged(defaultValues(tag), some ?? {}));
  const mistakes = (e: z.ZodError, at: readonly string[]): string[] =>
    e.issues.map((i) => `${[...at, ...i.path].join('.')}: ${i.message}`);
  if (!read.success) throw new HyperturtleError('HT_CONFIG', mistakes(read.error, []).join('; '));
  const config = AgentConfig().safeParse(read.data.agent.config);
  if (!config.success)
    throw new HyperturtleError('HT_CONFIG', mistakes(config.error, ['agent', 'config']).join('; '));
  return read.data;
}

const isMap = (v: unknown): v is { [key: string]: unknown } =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

function merged(defaults: unknown, some: unknown): unknown {
  if (!isMap(defaults) || !isMap(some)) return some;
  const all = new Map(Object.entries(defaults));
  for (const [key, v] of Object.entries(some))
    if (v === null) all.delete(key);
    else all.set(key, merged(all.get(key), v));
  return Object.fromEntries(all);
}
