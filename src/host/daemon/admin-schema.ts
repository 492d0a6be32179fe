/** The methods of the operator's socket (`host.sock`), as data; both ends check against them. */
import { z } from 'zod';
import type { MethodTable } from '../../wire/schema.ts';
import {
  ArenaInfo,
  Count,
  EndedLink,
  Event,
  Finding,
  HookStats,
  L1Report,
  Limits,
  LinkInfo,
  METHODS,
  NicInfo,
  ObjectInfo,
  SignaturePolicy,
  Text,
  Used,
} from '../../wire/schema.ts';
import { EXIT_STATUS } from '../../core/exit-status.ts';
import type { ErrorCode } from '../../core/errors.ts';
import { recordOf } from '../../core/record.ts';
import { NIC_POLICIES } from '../vm/still.ts';
import { STILL_STATES } from '../vm/still-record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const Nothing = lazy(() => z.strictObject({}));
const VmName = lazy(() => z.string().max(63));

const MoveName = lazy(() => z.enum(['quiesce', 'migrate', 'save', 'restore']));
const ErrorCodeName = lazy(() => z.enum(Object.keys(EXIT_STATUS) as ErrorCode[]));

/** For the guest to let go of what it was given: a daemon's request to QEMU and its repetitions end with it. */
const guestMs = () => z.int().min(100).max(600_000);
const leave = () => ({
  name: VmName(),
  /** NICs of the host that the VM has: refuse, or take them back first. */
  nics: z.enum(NIC_POLICIES),
  guestMs: guestMs(),
  /** For the migration. */
  deadlineMs: z
    .int()
    .min(1000)
    .max(7 * 86_400_000),
  downtimeMs: z.int().min(1).max(2_000_000).optional(),
  mibPerS: z
    .int()
    .min(1)
    .max(1 << 20)
    .optional(),
  quit: z.boolean(),
});

const VmStatusSchema = lazy(() =>
  z.strictObject({
    name: VmName(),
    /** `config`: from the file; `runtime`: added by command; `libvirt`: a domain that is enabled for it. */
    from: z.enum(['config', 'runtime', 'libvirt']),
    phase: z.enum(['starting', 'waiting', 'attached', 'still', 'stopped']),
    problem: Text().nullable(),
    pid: Count().nullable(),
    qmp: z.strictObject({ path: Text(), problem: Text().nullable() }),
    arena: ArenaInfo(),
    agent: z.strictObject({
      socket: Text(),
      connected: z.boolean(),
      hello: z.strictObject({ version: Text(), kernel: Text(), at: z.iso.datetime() }).nullable(),
    }),
    used: Used().nullable(),
    links: z.array(LinkInfo()),
    /** By the host, as runs took too long. */
    ended: z.array(EndedLink()),
    /** Programs on NICs that are off since an earlier daemon ended: frames pass without them. */
    leftOff: z.array(EndedLink()).default([]),
    stats: z.array(HookStats()),
    /** Hooks of exits count since then: at another time than before they have begun at 0 again. */
    countedSince: z.iso.datetime().nullable().optional(),
    /** What L1 said of itself, and when. */
    l1: L1Report().extend({ at: z.iso.datetime() }).nullable(),
    /** With the network device in L0. */
    nics: z.array(NicInfo().extend({ ifname: Text() })),
    nicMachine: z.strictObject({ ports: Count(), iommu: z.boolean() }).nullable(),
    /** Made quiet, moved or saved by a command: nothing of the host acts on it. */
    still: z
      .strictObject({ state: z.enum(STILL_STATES), since: z.iso.datetime(), to: Text().nullable() })
      .nullable()
      .optional(),
    /** The command that is at it now, and how the last one ended. */
    move: z
      .strictObject({ what: MoveName(), phase: Text(), leftMib: Count(), totalMib: Count() })
      .nullable()
      .optional(),
    lastMove: z
      .strictObject({
        what: MoveName(),
        at: z.iso.datetime(),
        problem: z.strictObject({ code: ErrorCodeName(), message: z.string() }).nullable(),
        downtimeMs: Count().nullable(),
        totalMs: Count().nullable(),
        sentMib: Count().nullable(),
      })
      .nullable()
      .optional(),
  }),
);
export type VmReport = Output<typeof VmStatusSchema>;

const DaemonStatus = lazy(() =>
  z.strictObject({
    version: Text(),
    instance: z.guid(),
    pid: Count(),
    startedAt: z.iso.datetime(),
    config: Text(),
    vms: Count(),
    attached: Count(),
    memoryBytes: Count(),
    loader: z.strictObject({
      busy: Count(),
      waiting: Count(),
      loads: Count(),
      killed: Count(),
      crashed: Count(),
      workers: Count(),
    }),
  }),
);

const FollowedDomain = lazy(() =>
  z.strictObject({
    uuid: Text(),
    domain: Text(),
    vm: Text(),
    problem: Text().nullable(),
    releasedUntil: z.iso.datetime().nullable(),
  }),
);

export const ADMIN_METHODS = {
  'admin.status': { params: Nothing, result: DaemonStatus },
  'admin.health': {
    params: Nothing,
    result: lazy(() => z.strictObject({ healthy: z.boolean(), problems: z.array(Text()) })),
  },
  'admin.doctor': { params: Nothing, result: lazy(() => z.strictObject({ findings: z.array(Finding()) })) },
  'admin.vm.list': {
    params: Nothing,
    result: lazy(() => z.strictObject({ vms: z.array(VmStatusSchema()) })),
  },
  'admin.vm.add': {
    /** `spec` as under `vms` in the configuration file. */
    params: lazy(() => z.strictObject({ name: VmName(), spec: recordOf(z.string(), z.unknown()) })),
    result: Nothing,
  },
  'admin.vm.remove': { params: lazy(() => z.strictObject({ name: VmName() })), result: Nothing },
  /** What a VM has loaded and may have; asking for it makes its agent report more often for a while. */
  'admin.vm.detail': {
    params: lazy(() => z.strictObject({ name: VmName() })),
    result: lazy(() =>
      z.strictObject({
        objects: z.array(ObjectInfo()),
        limits: Limits(),
        signature: SignaturePolicy(),
        hooks: z.array(z.strictObject({ name: Text(), purpose: Text() })),
      }),
    ),
  },
  /** What happened, of one VM or of all, newest first. */
  'admin.events': {
    params: lazy(() => z.strictObject({ name: VmName().optional(), limit: z.int().min(1).max(1000) })),
    result: lazy(() => z.strictObject({ events: z.array(z.strictObject({ vm: VmName(), event: Event() })) })),
  },
  /** As `map.get` and `map.dump` of the VM itself. */
  'admin.map.get': {
    params: lazy(() => METHODS['map.get'].params().extend({ vm: VmName() })),
    result: METHODS['map.get'].result,
    large: true,
  },
  'admin.map.dump': {
    params: lazy(() => METHODS['map.dump'].params().extend({ vm: VmName() })),
    result: METHODS['map.dump'].result,
    large: true,
  },
  'admin.args': {
    /** `arena` false: for a QEMU that takes a VM over, whose arena the daemon plugs when it has arrived. */
    params: lazy(() => z.strictObject({ name: VmName(), arena: z.boolean().optional() })),
    result: lazy(() => z.strictObject({ qemu: z.array(z.string()), libvirt: z.string() })),
  },
  /** What the daemon knows of libvirt; null: it follows none. */
  'admin.libvirt.status': {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        libvirt: z
          .strictObject({ uri: Text(), problem: Text().nullable(), domains: z.array(FollowedDomain()) })
          .nullable(),
      }),
    ),
  },
  /** The hook script's word of an operation on a domain, with its XML. Null: not one that is enabled. */
  'admin.libvirt.hook': {
    params: lazy(() => z.strictObject({ operation: z.string().max(63), xml: z.string().max(1 << 20) })),
    result: lazy(() => z.strictObject({ vm: Text().nullable(), problem: Text().nullable() })),
  },
  'admin.libvirt.release': {
    params: lazy(() => z.strictObject({ domain: z.string().max(1024), seconds: z.int().min(1).max(86_400) })),
    result: lazy(() => z.strictObject({ domain: FollowedDomain() })),
  },
  'admin.libvirt.take': {
    params: lazy(() => z.strictObject({ domain: z.string().max(1024) })),
    result: lazy(() => z.strictObject({ domain: FollowedDomain() })),
  },
  /** Commands that take longer than a request may are begun; `admin.vm.list` tells how far they are and how they ended. */
  'admin.vm.quiesce': {
    params: lazy(() => z.strictObject({ name: VmName(), nics: z.enum(NIC_POLICIES), guestMs: guestMs() })),
    result: Nothing,
  },
  'admin.vm.resume': { params: lazy(() => z.strictObject({ name: VmName() })), result: Nothing },
  'admin.vm.migrate': {
    params: lazy(() => z.strictObject({ ...leave(), uri: z.string().max(4096) })),
    result: Nothing,
  },
  /** The state comes over the socket, to the first one that connects; then `admin.vm.saved` is expected. */
  'admin.vm.save': {
    params: lazy(() => z.strictObject({ ...leave(), goOn: z.boolean() })),
    result: lazy(() => z.strictObject({ socket: Text() })),
  },
  'admin.vm.saved': {
    params: lazy(() => z.strictObject({ name: VmName(), whole: z.boolean() })),
    result: Nothing,
  },
  /** The state is to be written to the socket. */
  'admin.vm.restore': {
    params: lazy(() => z.strictObject({ name: VmName(), deadlineMs: leave().deadlineMs })),
    result: lazy(() => z.strictObject({ socket: Text() })),
  },
  'admin.vm.cancel': { params: lazy(() => z.strictObject({ name: VmName() })), result: Nothing },
  'admin.reload': {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        added: z.array(VmName()),
        removed: z.array(VmName()),
        restarted: z.array(VmName()),
        updated: z.array(VmName()),
        unchanged: z.array(VmName()),
        /** Settings that take effect only when the daemon starts. */
        needRestart: z.array(Text()),
      }),
    ),
  },
} as const satisfies MethodTable;

export type ReloadResult = Output<(typeof ADMIN_METHODS)['admin.reload']['result']>;
