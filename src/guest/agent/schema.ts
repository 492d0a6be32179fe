/**
 * What the agent's local socket serves: the methods between L1 and L0, of which it passes on most, and its own
 * `agent.*`. Same protocol, no hello: the connection is the session.
 */
import { z } from 'zod';
import { ObjectPolicy } from '../../net/policy.ts';
import { Constants, Count, KeyId, LinkOptions, METHODS, Name, Sha256 } from '../../wire/schema.ts';
import type { MethodTable, ResultOf } from '../../wire/schema.ts';
import { omit } from './omit.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const Text = lazy(() => z.string());
const Nothing = lazy(() => z.strictObject({}));
const Time = lazy(() => z.iso.datetime());
/** Whether it is from the configuration file or came by a command. */
const Origin = lazy(() => z.enum(['config', 'command']));

/** Something that is wanted and is not so. */
export const Problem = lazy(() =>
  z.strictObject({
    /** `load npf`. */
    step: Text(),
    /** As on the wire: `REFUSED`. */
    kind: Text(),
    message: Text(),
    since: Time(),
  }),
);
export type Problem = Output<typeof Problem>;

export const L2Info = lazy(() =>
  z.strictObject({
    pid: Count(),
    name: Text(),
    /** In the arena. */
    number: Count(),
    /** Registered, and all counted, since then: another time than before says that counting has begun again. */
    since: Time(),
    /** Pages that programs know. */
    pages: Count(),
    /** Pages among these that have a frame now. */
    pagesHeld: Count(),
    /** Pages among those that were given ahead of their fault while it was to be exact, and not seen to be used since. */
    pagesUnused: Count(),
    framesTaken: Count(),
    /** Charged to its memory cgroup, for all turtlefs files and credits of that; 0: nobody counts. */
    framesCharged: Count(),
    /** Frames among these that are charged ahead of a program that takes them. */
    framesCredit: Count(),
    /** Path of that cgroup in its hierarchy; empty: none, or the root. */
    cgroup: Text(),
    faults: Count(),
    /** Faults answered with a frame that was there, with a new one; pages that got one ahead of their fault, besides. */
    mappedExisting: Count(),
    mappedNew: Count(),
    mappedAhead: Count(),
    passes: Count(),
    slotChanges: Count(),
    /** Ranges of its RAM that programs know; an older agent does not say. */
    slots: Count().optional(),
    /** Why there are none, so that no fault of it is answered in L0. */
    noIndex: Text().optional(),
    /** 2 MiB frames that are to be looked at for what of them is used, that have been, and of these those that are. */
    largeWaiting: Count().optional(),
    largeSeen: Count().optional(),
    largeKept: Count().optional(),
    /** Pages of those that nobody used then; pages of the others that nobody used, given back. */
    pagesVain: Count().optional(),
    pagesBack: Count().optional(),
    /** Why it gets no 2 MiB frames for a while. */
    small: Text().optional(),
  }),
);
export type L2Info = Output<typeof L2Info>;

const ModuleInfo = lazy(() =>
  z.strictObject({
    /** `absent`: no device; `released`: let go of by command; `mismatch`: another ABI. */
    state: z.enum(['present', 'absent', 'released', 'mismatch', 'off']),
    turtlefs: Text().nullable(),
    arenaBound: z.boolean(),
    arenaBytes: Count(),
    enabled: z.boolean(),
    groupMax: Count(),
    pool: z.strictObject({
      level: Count(),
      low: Count(),
      high: Count(),
      entries: Count(),
      refills: Count(),
      shrunk: Count(),
      /** Each NUMA node's pool; an older agent does not say. */
      nodes: z
        .array(z.strictObject({ node: Count(), level: Count(), low: Count(), high: Count() }))
        .optional(),
    }),
    index: z.strictObject({ words: Count(), used: Count() }),
    frames: z.strictObject({ allocated: Count(), freed: Count() }),
    faults: z.strictObject({ total: Count(), found: Count(), lost: Count() }),
    gracePeriods: Count(),
  }),
);
export type ModuleInfo = Output<typeof ModuleInfo>;

const WantedLink = lazy(() =>
  z.strictObject({
    object: Name(),
    program: Name().nullable(),
    hook: Name(),
    target: Text().nullable(),
    order: Count().optional(),
    options: LinkOptions().optional(),
    origin: Origin(),
  }),
);
export type WantedLink = Output<typeof WantedLink>;

const PolicyState = lazy(() =>
  z.strictObject({ policy: ObjectPolicy().nullable(), revision: Text().nullable() }),
);

export const AGENT_METHODS = {
  'agent.status': {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        version: Text(),
        /** Numbers of events and counters of the agent began at 0 then. */
        startedAt: Time().optional(),
        port: Text(),
        host: z.strictObject({
          state: z.enum(['connected', 'connecting', 'waiting']),
          since: Time(),
          /** Sessions since the agent started. */
          sessions: Count(),
          /** Why it is not connected, or was not the last time. */
          lastError: Text().nullable(),
          vm: Text().nullable(),
          daemon: z.strictObject({ version: Text(), kernel: Text(), instance: Text() }).nullable(),
        }),
        desired: z.strictObject({
          objects: Count(),
          links: Count(),
          /** Host and desired state agree. */
          reached: z.boolean(),
          checked: Time().nullable(),
          problems: z.array(Problem()),
        }),
        module: ModuleInfo().nullable(),
        l2s: z.array(L2Info()),
        /** Problems of the module and its nested guests. */
        l2Problems: z.array(Problem()),
      }),
    ),
  },
  /** What is wanted, of the configuration file and of commands together. */
  'agent.desired': {
    params: Nothing,
    result: lazy(() =>
      z.strictObject({
        objects: z.array(
          z.strictObject({
            name: Name(),
            sha256: Sha256(),
            signedBy: KeyId().nullable(),
            constants: Constants().optional(),
            policy: ObjectPolicy().optional(),
            origin: Origin(),
          }),
        ),
        links: z.array(WantedLink()),
        /** Entries of the configuration file that commands have removed. */
        removed: z.array(Text()),
      }),
    ),
  },
  /** What is kept for the maps of an object, and put in force again before it is linked again. */
  'agent.policy': { params: lazy(() => z.strictObject({ object: Name() })), result: PolicyState },
  /** Puts a policy in force at once and keeps it; BUSY when `revision` is given and is not the kept one's. */
  'agent.policy.set': {
    params: lazy(() =>
      z.strictObject({ object: Name(), policy: ObjectPolicy(), revision: Text().nullable().optional() }),
    ),
    result: PolicyState,
  },
  /** No longer wants links to that NIC, nor the network programs that are its own (`firewall.NIC`). */
  'agent.unwant': {
    params: lazy(() => z.strictObject({ target: Name() })),
    result: lazy(() => z.strictObject({ links: z.array(WantedLink()), objects: z.array(Name()) })),
  },
  /** Forgets what commands changed: the configuration file alone says what is wanted. */
  'agent.forget': { params: Nothing, result: Nothing },
  /** Reads the configuration file again, compares with the host and fixes what differs. */
  'agent.reload': { params: Nothing, result: lazy(() => z.strictObject({ problems: z.array(Problem()) })) },
  /** Lets go of the kernel module, so that it can be unloaded; takes it up again when it is back, or after the time. */
  'agent.release': {
    params: lazy(() => z.strictObject({ seconds: z.int().min(1).max(3600) })),
    result: Nothing,
  },
} as const satisfies MethodTable;

/** Methods between L1 and L0 that the local socket has as well. */
export const PASSED_ON = omit(METHODS, 'hello', 'report');

/** All that the local socket serves. */
export const LOCAL_METHODS = { ...PASSED_ON, ...AGENT_METHODS } as const satisfies MethodTable;

export type AgentResult<M extends keyof typeof AGENT_METHODS> = ResultOf<typeof AGENT_METHODS, M>;
