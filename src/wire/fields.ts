/**
 * The shapes that several methods of the wire protocol share. All objects are strict: a key that is not in the
 * schema is refused in a request, and left out of an answer (tolerant.ts). Binary data are base64 strings; sizes are bytes.
 */
import { z } from 'zod';
import { EXIT_KINDS } from '../kernel/exit.ts';
import { LinkOptions } from './link-options.ts';
import { recordOf } from '../core/record.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

/** Objects, programs, maps, hooks: a name of the tenant's choice that is safe in a path, a log and a metric. */
export const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/;
export const Name = lazy(() =>
  z.string().regex(NAME, {
    error: 'a name of 1 to 63 letters, digits, ., _ or - is expected, beginning with a letter, digit or _',
  }),
);

/** Maps also have names like `.rodata.x`, which libbpf takes from sections. */
export const MapName = lazy(() =>
  z.string().regex(/^\.?[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/, {
    error: 'the name of a map is expected: 1 to 63 letters, digits, ., _ or -',
  }),
);

// one search for a character that does not belong, instead of zod's grouped pattern, whose stack grows with the text
const isBase64 = (s: string): boolean =>
  s.length % 4 === 0 && !/[^A-Za-z0-9+/]/.test(s.slice(0, s.length - padding(s)));
const padding = (s: string): number => (s.endsWith('==') ? 2 : s.endsWith('=') ? 1 : 0);

/** Standard base64 with padding, of any length that a frame holds. */
export const Base64 = lazy(() => z.string().refine(isBase64, { error: 'base64 is expected' }));

export const Count = lazy(() => z.int().nonnegative());

/** 64 bits, which a number of JSON has no room for. */
export const Word = lazy(() =>
  z.string().regex(/^0x[0-9a-f]{1,16}$/, {
    error: 'a word of 64 bits in lower-case hex is expected, such as 0x1f',
  }),
);
const Text = lazy(() => z.string().max(4096));
const Uuid = lazy(() => z.guid());
const Sha256 = lazy(() =>
  z.string().regex(/^[0-9a-f]{64}$/, { error: 'a SHA-256 in lower-case hex is expected' }),
);

/** Ed25519 key: the first 16 hex digits of the SHA-256 of the public key. */
export const KeyId = lazy(() =>
  z.string().regex(/^[0-9a-f]{16}$/, { error: 'a key id of 16 hex digits is expected' }),
);
export const Signature = lazy(() => z.strictObject({ keyId: KeyId(), value: Base64() }));
export const SignaturePolicy = lazy(() => z.enum(['none', 'optional', 'required']));

/** Values of an object's read-only variables, set before the verifier sees it; by variable name. */
export const Constants = lazy(() => recordOf(Name(), Base64()));

export const ObjectInfo = lazy(() =>
  z.strictObject({
    name: Name(),
    sha256: Sha256(),
    loadedAt: z.iso.datetime(),
    signedBy: KeyId().nullable(),
    programs: z.array(
      z.strictObject({
        name: Name(),
        section: Text(),
        hook: Name(),
        /** As the kernel names it: `raw_tracepoint_writable`. */
        type: Text(),
        /** Kernel's id of the program. */
        id: Count(),
        /** In the ELF file. */
        instructions: Count(),
        /** How many the verifier went through, all paths counted. */
        verifiedInstructions: Count(),
        jitedBytes: Count(),
      }),
    ),
    maps: z.array(
      z.strictObject({
        name: MapName(),
        type: Text(),
        keyBytes: Count(),
        valueBytes: Count(),
        maxEntries: Count(),
        /** What the kernel takes for it, as counted against the quota. */
        bytes: Count(),
        /** True for the VM's arena, which belongs to the VM and not to this object. */
        arena: z.boolean(),
      }),
    ),
  }),
);

/** Where a program runs among others on one hook of a NIC: lower earlier. */
export const LinkOrder = lazy(() => z.int().min(0).max(65_535));

export const LinkInfo = lazy(() =>
  z.strictObject({
    id: Count(),
    object: Name(),
    program: Name(),
    hook: Name(),
    /** The NIC, for hooks of NICs. */
    target: Text().nullable(),
    order: LinkOrder().optional(),
    options: LinkOptions().optional(),
    since: z.iso.datetime(),
  }),
);

/** A link that the host has ended because runs of its program took too long, until something else takes its place. */
export const EndedLink = lazy(() =>
  z.strictObject({ link: LinkInfo(), reason: Text(), at: z.iso.datetime() }),
);

/** What a VM may have; also what `hello` tells. */
export const Limits = lazy(() =>
  z.strictObject({
    objects: Count(),
    programs: Count(),
    links: Count(),
    maps: Count(),
    mapBytes: Count(),
    elfBytes: Count(),
    /** Verified instructions of one program. */
    instructions: Count(),
    /** Microseconds of a run, for hooks where that is less than the hook allows. */
    runUs: recordOf(Name(), Count()).optional(),
    watches: Count(),
    /** NICs given at run time. */
    nics: Count(),
    /** Samples a second of each vCPU. */
    sampleHz: Count().optional(),
    requestsPerSecond: Count(),
  }),
);

export const Used = lazy(() =>
  z.strictObject({
    objects: Count(),
    programs: Count(),
    links: Count(),
    maps: Count(),
    mapBytes: Count(),
    watches: Count(),
    nics: Count(),
  }),
);

/** One row of the table of hooks: what a program for it may be and use. */
export const HookInfo = lazy(() =>
  z.strictObject({
    name: Name(),
    instructions: Count(),
    /** Most nanoseconds of a run on a slow core, as the host reckons before it loads a program. */
    runNs: Count().optional(),
    programTypes: z.array(Text()),
    mapTypes: z.array(Text()),
    helpers: z.array(Text()),
  }),
);

/**
 * Counts of the npf hook: further faults of a group that were handled in the exit of the first one; exits in which the rest
 * was left out, and why; pages left out; the time that it took, the longest of an exit, and the budget.
 */
const FillCounts = lazy(() =>
  z.strictObject({
    done: Count(),
    budget: Count(),
    pending: Count(),
    failed: Count(),
    absent: Count(),
    ns: Count(),
    maxNs: Count(),
    limitNs: Count(),
  }),
);

/** Counts of the exit hook, by kind. */
const ExitCounts = lazy(() =>
  z.partialRecord(
    z.enum(EXIT_KINDS),
    z.strictObject({
      seen: Count(),
      handled: Count(),
      /** Went to L1 and came back, and how long L1 had them, together. */
      returned: Count(),
      l1Ns: Count(),
      /** How long the handled ones took in L0, together. */
      l0Ns: Count(),
    }),
  ),
);

/**
 * Counts of the sample hook: by which source, of what, addresses of all stacks, time spent; interrupts that hit no
 * L2.
 */
const SampleCounts = lazy(() =>
  z.strictObject({
    cycles: Count(),
    clock: Count(),
    kernel: Count(),
    user: Count(),
    frames: Count(),
    ns: Count(),
    outside: Count(),
    broken: Count(),
  }),
);

/** Counts of the call hook: calls that were answered, by who called. */
const CallCounts = lazy(() => z.strictObject({ l1: Count(), l2: Count(), channel: Count() }));

export const HookStats = lazy(() =>
  z.strictObject({
    hook: Name(),
    linked: z.boolean(),
    object: Name().optional(),
    program: Name().optional(),
    /** NIC of the row: for hooks of NICs there is a row for each link. */
    target: Text().optional(),
    link: Count().optional(),
    /** Events that the program saw: faults, frames. */
    runs: Count(),
    /** Decided by the program: faults answered, frames dropped. */
    handled: Count(),
    /** Page table entries it wrote. */
    entries: Count(),
    learned: Count(),
    /** Not decided by the program: faults that were there already or that reached L1 (figures.ts), frames that went on. */
    passed: Count(),
    /** Why it did, by name. */
    reasons: recordOf(Name(), Count()),
    /** Runs of hooks of exits that took longer than allowed, and the longest run of the program linked last. */
    overruns: Count().optional(),
    maxNs: Count().optional(),
    fills: FillCounts().optional(),
    exits: ExitCounts().optional(),
    samples: SampleCounts().optional(),
    calls: CallCounts().optional(),
  }),
);

export const ArenaInfo = lazy(() =>
  z.strictObject({
    bytes: Count(),
    state: z.enum(['plugged', 'offered', 'absent']),
    device: Text().optional(),
  }),
);

export const Mac = lazy(() =>
  z.string().regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/, {
    error: 'a MAC address such as 52:54:00:12:34:56 is expected',
  }),
);

/** A NIC that this VM was given at run time. */
export const NicInfo = lazy(() =>
  z.strictObject({
    /** Name of the VM's choice. */
    id: Name(),
    mac: Mac(),
    /** Name of the network of the host's configuration that it is in. */
    network: Name(),
    kind: z.enum(['tap', 'vdpa']),
    /** Physical slot of the PCIe root port: in L1 /sys/bus/pci/slots/SLOT/address is where the NIC is. */
    slot: Count(),
    mtu: Count(),
    /** Hooks that programs of this VM may be linked to. */
    hooks: z.array(Name()),
    since: z.iso.datetime(),
  }),
);

/**
 * What an L1 says of itself, for people who watch the host. Nothing is decided by it, and it is as true as L1 is:
 * numbers and text of a stranger.
 */
export const L1Report = lazy(() =>
  z.strictObject({
    /** Null without a guest module or an arena. */
    pool: z
      .strictObject({
        /** Programs may answer faults. */
        enabled: z.boolean(),
        /** Frames ready, and between which numbers they are kept. */
        level: Count(),
        low: Count(),
        high: Count(),
        entries: Count(),
        refills: Count(),
        shrunk: Count(),
        /** Words of the page index, and how many of them stand for L2s. */
        indexWords: Count(),
        indexUsed: Count(),
      })
      .nullable(),
    /** Registered nested guests in all; `l2s` has the first 64 of them. */
    l2Count: Count(),
    l2s: z
      .array(
        z.strictObject({
          /** Process of its VMM in L1. */
          pid: Count(),
          name: z.string().max(64),
          /** By which the arena and programs tell it; an older agent does not say. */
          number: Count().optional(),
          since: z.iso.datetime(),
          pages: Count(),
          framesTaken: Count(),
          faults: Count(),
          mappedNew: Count(),
          mappedExisting: Count(),
          mappedAhead: Count(),
          passes: Count(),
          /** Why none of its faults is answered in L0; left out when they may be. From version 2 on. */
          noIndex: z.string().max(512).optional(),
        }),
      )
      .max(64),
  }),
);

/** One entry of a map: `value`, or `perCpu` for per-CPU maps (one value for each possible CPU). */
export const MapEntry = lazy(() =>
  z.strictObject({
    key: Base64(),
    value: Base64().optional(),
    perCpu: z.array(Base64()).optional(),
  }),
);

export const MapChange = lazy(() =>
  z.strictObject({
    /** Empty for a record of a ring buffer. */
    key: Base64(),
    /** Null: the key is gone. */
    value: Base64().nullable(),
    perCpu: z.array(Base64()).optional(),
  }),
);

export const Finding = lazy(() =>
  z.strictObject({
    level: z.enum(['ok', 'warn', 'fail']),
    what: Text(),
    mend: Text().optional(),
  }),
);

export { Sha256, Text, Uuid };

export type ObjectInfo = Output<typeof ObjectInfo>;
export type LinkInfo = Output<typeof LinkInfo>;
export type EndedLink = Output<typeof EndedLink>;
export type Limits = Output<typeof Limits>;
export type Used = Output<typeof Used>;
export type HookInfo = Output<typeof HookInfo>;
export type HookStats = Output<typeof HookStats>;
export type ArenaInfo = Output<typeof ArenaInfo>;
export type L1Report = Output<typeof L1Report>;
export type NicInfo = Output<typeof NicInfo>;
export type MapEntry = Output<typeof MapEntry>;
export type MapChange = Output<typeof MapChange>;
export type Finding = Output<typeof Finding>;
export type Signature = Output<typeof Signature>;
export type SignaturePolicy = Output<typeof SignaturePolicy>;
