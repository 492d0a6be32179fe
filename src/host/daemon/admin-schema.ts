/** The methods of the operator's socket (`host.sock`), as data; both ends check against them. */
import { z } from 'zod';
import type { MethodTable } from '../../wire/schema.ts';
import { ArenaInfo, Count, Finding, HookStats, LinkInfo, NicInfo, Text, Used } from '../../wire/schema.ts';

const Nothing = z.strictObject({});
const VmName = z.string().max(63);

export const VmStatusSchema = z.strictObject({
  name: VmName,
  /** `config`: from the file; `runtime`: added by command. */
  from: z.enum(['config', 'runtime']),
  phase: z.enum(['starting', 'waiting', 'attached', 'stopped']),
  problem: Text.nullable(),
  pid: Count.nullable(),
  qmp: z.strictObject({ path: Text, problem: Text.nullable() }),
  arena: ArenaInfo,
  agent: z.strictObject({
    socket: Text,
    connected: z.boolean(),
    hello: z.strictObject({ version: Text, kernel: Text, at: z.iso.datetime() }).nullable(),
  }),
  used: Used.nullable(),
  links: z.array(LinkInfo),
  stats: z.array(HookStats),
  /** With the network device in L0. */
  nics: z.array(NicInfo.extend({ ifname: Text })),
  nicMachine: z.strictObject({ ports: Count, iommu: z.boolean() }).nullable(),
});
export type VmReport = z.output<typeof VmStatusSchema>;

const DaemonStatus = z.strictObject({
  version: Text,
  instance: z.guid(),
  pid: Count,
  startedAt: z.iso.datetime(),
  config: Text,
  vms: Count,
  attached: Count,
  memoryBytes: Count,
  loader: z.strictObject({
    busy: Count,
    waiting: Count,
    loads: Count,
    killed: Count,
    crashed: Count,
    workers: Count,
  }),
});

export const ADMIN_METHODS = {
  'admin.status': { params: Nothing, result: DaemonStatus },
  'admin.health': {
    params: Nothing,
    result: z.strictObject({ healthy: z.boolean(), problems: z.array(Text) }),
  },
  'admin.doctor': { params: Nothing, result: z.strictObject({ findings: z.array(Finding) }) },
  'admin.vm.list': { params: Nothing, result: z.strictObject({ vms: z.array(VmStatusSchema) }) },
  'admin.vm.add': {
    /** `spec` as under `vms` in the configuration file. */
    params: z.strictObject({ name: VmName, spec: z.record(z.string(), z.unknown()) }),
    result: Nothing,
  },
  'admin.vm.remove': { params: z.strictObject({ name: VmName }), result: Nothing },
  'admin.args': {
    params: z.strictObject({ name: VmName }),
    result: z.strictObject({ qemu: z.array(z.string()), libvirt: z.string() }),
  },
  'admin.reload': {
    params: Nothing,
    result: z.strictObject({
      added: z.array(VmName),
      removed: z.array(VmName),
      restarted: z.array(VmName),
      updated: z.array(VmName),
      unchanged: z.array(VmName),
      /** Settings that take effect only when the daemon starts. */
      needRestart: z.array(Text),
    }),
  },
} as const satisfies MethodTable;

export type ReloadResult = z.output<(typeof ADMIN_METHODS)['admin.reload']['result']>;
