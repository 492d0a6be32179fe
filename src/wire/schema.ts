/**
 * The methods and notifications between L1 and L0, as data: both ends check what they receive against these
 * schemas, TypeScript takes its types from them, and docs/wire-protocol.md is tested against them. No schema
 * transforms or fills in: what is sent is what is received. Other sockets of this program (`admin.*`, `agent.*`)
 * have tables of their own, of the same form.
 */
import { z } from 'zod';
import {
  ArenaInfo,
  Base64,
  Constants,
  Count,
  EndedLink,
  Finding,
  HookInfo,
  HookStats,
  KeyId,
  L1Report,
  Limits,
  LinkInfo,
  LinkOrder,
  Mac,
  MapChange,
  MapEntry,
  MapName,
  Name,
  NicInfo,
  ObjectInfo,
  Sha256,
  Signature,
  SignaturePolicy,
  Text,
  Used,
  Uuid,
  Word,
} from './fields.ts';
import { HT_CALL_NUMBER_MIN, HT_CALL_RESULTS, HT_CALL_WORDS } from '../kernel/call.ts';
import { LinkOptions } from './link-options.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export * from './fields.ts';
export { LinkOptions } from './link-options.ts';

/** Versions of this protocol that this program speaks. */
export const PROTOCOL = { min: 1, max: 2 } as const;

/** From this one on both sides leave out what they do not know of an answer, and know `epoch`, `since` and `noIndex`. */
export const TOLERANT_PROTOCOL = 2;

/** Name of the virtio-serial port: `/dev/virtio-ports/org.hyperturtle.v1` in L1. */
export const PORT_NAME = 'org.hyperturtle.v1';

export interface MethodSpec {
  readonly params: () => z.ZodType;
  readonly result: () => z.ZodType;
  /** The answer may be megabytes: a session has one such request in progress at a time. */
  readonly large?: true;
}
export type MethodTable = Readonly<Record<string, MethodSpec>>;

const Nothing = lazy(() => z.strictObject({}));
const MapOf = lazy(() => ({ object: Name(), map: MapName() }));
const Elf = lazy(() => ({
  name: Name(),
  elf: Base64(),
  signature: Signature().optional(),
  constants: Constants().optional(),
}));
const Peer = lazy(() => ({ version: z.string().max(64), kernel: z.string().max(256) }));
const Nonce = lazy(() => z.string().min(8).max(64));

export const METHODS = {
  hello: {
    params: lazy(() =>
      z.strictObject({
        protocol: z.strictObject({ min: Count(), max: Count() }),
        agent: z.strictObject(Peer()),
        /** /proc/sys/kernel/random/boot_id of L1: another one means that L1 has booted again. */
        bootId: Uuid(),
        nonce: Nonce(),
      }),
    ),
    result: lazy(() =>
      z.strictObject({
        protocol: Count(),
        daemon: z.strictObject({ ...Peer(), instance: Uuid() }),
        vm: Name(),
        nonce: Nonce(),
        limits: Limits(),
      }),
    ),
  },
  ping: { params: Nothing, result: Nothing },
  limits: {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        limits: Limits(),
        used: Used(),
        hooks: z.array(HookInfo()),
        signature: SignaturePolicy(),
      }),
    ),
  },
  load: {
    params: lazy(() => z.strictObject(Elf())),
    result: lazy(() => z.strictObject({ object: ObjectInfo(), existed: z.boolean() })),
  },
  unload: {
    params: lazy(() => z.strictObject({ name: Name(), force: z.boolean().optional() })),
    result: Nothing,
  },
  replace: {
    params: lazy(() => z.strictObject(Elf())),
    result: lazy(() =>
      z.strictObject({ object: ObjectInfo(), kept: z.array(MapName()), created: z.array(MapName()) }),
    ),
  },
  link: {
    params: lazy(() =>
      z.strictObject({
        object: Name(),
        program: Name().optional(),
        hook: Name(),
        target: Text().optional(),
        order: LinkOrder().optional(),
        options: LinkOptions().optional(),
      }),
    ),
    result: lazy(() => z.strictObject({ link: LinkInfo(), existed: z.boolean() })),
  },
  unlink: { params: lazy(() => z.strictObject({ id: Count() })), result: Nothing },
  /** Runs the program that is linked to the hook `call`, once, in the daemon. */
  call: {
    params: lazy(() =>
      z.strictObject({
        object: Name(),
        program: Name().optional(),
        /** One of the link's; may be left out when it has one. */
        number: z.int().min(HT_CALL_NUMBER_MIN).max(0xffff_ffff).optional(),
        words: z.array(Word()).max(HT_CALL_WORDS).optional(),
      }),
    ),
    result: lazy(() =>
      z.strictObject({
        answered: z.boolean(),
        results: z.array(Word()).length(HT_CALL_RESULTS),
        /** Why it was not, by name. */
        reason: Text().optional(),
      }),
    ),
  },
  list: {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        vm: Name(),
        arena: ArenaInfo(),
        objects: z.array(ObjectInfo()),
        links: z.array(LinkInfo()),
        /** Left out when there is none. */
        ended: z.array(EndedLink()).optional(),
      }),
    ),
    large: true,
  },
  stats: {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        hooks: z.array(HookStats()),
        /** Since when hooks of exits count: at another time than before they have begun at 0 again. From version 2 on. */
        since: z.iso.datetime().optional(),
      }),
    ),
  },
  'map.get': {
    params: lazy(() => z.strictObject({ ...MapOf(), key: Base64() })),
    result: lazy(() => z.strictObject({ value: Base64().nullable(), perCpu: z.array(Base64()).optional() })),
    large: true,
  },
  'map.set': {
    params: lazy(() =>
      z.strictObject({
        ...MapOf(),
        key: Base64(),
        value: Base64(),
        mode: z.enum(['any', 'create', 'exist']).optional(),
      }),
    ),
    result: Nothing,
  },
  'map.delete': {
    params: lazy(() => z.strictObject({ ...MapOf(), key: Base64() })),
    result: lazy(() => z.strictObject({ existed: z.boolean() })),
  },
  'map.dump': {
    params: lazy(() =>
      z.strictObject({
        ...MapOf(),
        cursor: z.string().max(8192).optional(),
        limit: z.int().min(1).max(1024).optional(),
      }),
    ),
    result: lazy(() =>
      z.strictObject({ entries: z.array(MapEntry()).max(1024), cursor: z.string().max(8192).optional() }),
    ),
    large: true,
  },
  'map.watch': {
    params: lazy(() =>
      z.strictObject({
        ...MapOf(),
        intervalMs: z.int().min(100).max(3_600_000),
        keys: z.array(Base64()).max(1024).optional(),
      }),
    ),
    result: lazy(() => z.strictObject({ watch: Count() })),
  },
  'map.unwatch': { params: lazy(() => z.strictObject({ watch: Count() })), result: Nothing },
  events: {
    /** `epoch`: whose numbers `since` is one of; numbers of another epoch begin at 1. */
    params: lazy(() => z.strictObject({ since: Count().optional(), epoch: Uuid().optional() })),
    /** `epoch` from version 2 on. */
    result: lazy(() => z.strictObject({ next: Count(), epoch: Uuid().optional() })),
  },
  'nic.add': {
    params: lazy(() =>
      z.strictObject({ id: Name().optional(), network: Name().optional(), mac: Mac().optional() }),
    ),
    result: lazy(() => z.strictObject({ nic: NicInfo(), existed: z.boolean() })),
  },
  'nic.del': {
    params: lazy(() => z.strictObject({ id: Name() })),
    result: lazy(() => z.strictObject({ existed: z.boolean() })),
  },
  'nic.list': {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        nics: z.array(NicInfo()),
        networks: z.array(z.strictObject({ name: Name(), kind: z.enum(['tap', 'vdpa']), mtu: Count() })),
        /** Ports into which a NIC could be plugged now. */
        free: Count(),
      }),
    ),
  },
  /** For anyone who watches the host; `nextMs`: when another one is of use. */
  report: { params: L1Report, result: lazy(() => z.strictObject({ nextMs: Count() })) },
  doctor: { params: Nothing, result: lazy(() => z.strictObject({ findings: z.array(Finding()) })) },
} as const satisfies MethodTable;

const eventBase = lazy(() => ({ seq: Count(), time: z.iso.datetime() }));
const event = <T extends string, S extends z.ZodRawShape>(type: T, shape: S) =>
  z.strictObject({ ...eventBase(), type: z.literal(type), ...shape });

/** What happened to a VM. `seq` counts up by one for each, from 1, for as long as the daemon runs. */
export const Event = lazy(() =>
  z.discriminatedUnion('type', [
    event('object.loaded', { object: Name(), sha256: Sha256(), signedBy: KeyId().nullable() }),
    event('object.unloaded', { object: Name() }),
    event('object.replaced', {
      object: Name(),
      sha256: Sha256(),
      kept: z.array(MapName()),
      created: z.array(MapName()),
    }),
    event('object.refused', { object: Name(), kind: Text(), rule: Text().optional(), message: Text() }),
    event('link.made', { link: LinkInfo() }),
    event('link.ended', { link: LinkInfo(), reason: Text() }),
    event('nic.added', { nic: NicInfo() }),
    event('nic.removed', { nic: NicInfo(), reason: Text() }),
    event('arena.state', { arena: ArenaInfo() }),
    event('quota.refused', { quota: Text(), limit: Count(), method: Text() }),
    event('vm.reset', { reason: Text() }),
    event('daemon.stopping', {}),
  ]),
);
export type Event = Output<typeof Event>;
/** An event before it has a number and a time. */
export type EventBody = Event extends infer E ? (E extends Event ? Omit<E, 'seq' | 'time'> : never) : never;

export type NotificationTable = Readonly<Record<string, () => z.ZodType>>;

/** From L0 to L1. */
export const NOTIFICATIONS = {
  /** The daemon has (re)opened the connection and knows nothing of an earlier session. */
  'hello.wanted': Nothing,
  'map.changed': lazy(() =>
    z.strictObject({
      watch: Count(),
      changes: z.array(MapChange()),
      /** Changes that were left out since the last notification of this watch, as L1 did not read fast enough. */
      dropped: Count(),
    }),
  ),
  event: Event,
  /** So many events are missing before the next one. */
  'events.lost': lazy(() => z.strictObject({ count: Count() })),
} as const satisfies NotificationTable;

/** From the side that made a request. Handled inside RpcPeer. */
export const CANCEL = '$/cancelRequest';
export const CancelParams = lazy(() => z.strictObject({ id: z.union([z.int(), z.string().max(64)]) }));

export type MethodName = keyof typeof METHODS;
export type NotificationName = keyof typeof NOTIFICATIONS;

export type ParamsOf<T extends MethodTable, M extends keyof T> = Output<T[M]['params']>;
export type ResultOf<T extends MethodTable, M extends keyof T> = Output<T[M]['result']>;
export type Params<M extends MethodName> = ParamsOf<typeof METHODS, M>;
export type Result<M extends MethodName> = ResultOf<typeof METHODS, M>;
export type NotificationParams<N extends NotificationName> = Output<(typeof NOTIFICATIONS)[N]>;
export type NotificationArguments = {
  [N in NotificationName]: [name: N, params: NotificationParams<N>];
}[NotificationName];
