/**
 * What a HyperupcallSet and a HyperupcallNode hold, as schemas: the custom resource definitions (crd.ts) and the reconciler
 * check by the same ones. Not strict, so that a field that a newer definition allows does no harm here.
 */
import { z } from 'zod';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

/** An object's name in the host is this and the set's. */
export const OBJECT_PREFIX = 'set.';
const NAME_MAX = 63;
/** Names of sets: with the prefix they are names of objects. */
export const SET_NAME_MAX = NAME_MAX - OBJECT_PREFIX.length;

const LINKS_MAX = 16;
const MESSAGE_MAX = 1024;
export const STATUS_SETS_MAX = 64;

/** A name of the wire protocol. */
const Name = lazy(() => z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/));
const Base64 = lazy(() => z.string().regex(/^[A-Za-z0-9+/]*={0,2}$/));
const Sha256 = lazy(() => z.string().regex(/^[0-9a-f]{64}$/));
const KeyId = lazy(() => z.string().regex(/^[0-9a-f]{16}$/));
const Labels = lazy(() => z.record(z.string(), z.string().max(63)));

const ConfigMapSource = lazy(() =>
  z.object({
    name: z
      .string()
      .min(1)
      .max(253)
      .describe('ConfigMap in the namespace of the set; give changed content another name'),
    key: z
      .string()
      .min(1)
      .max(253)
      .describe('key of binaryData that has the object; KEY.sig of data may have its signature'),
  }),
);

const OciSource = lazy(() =>
  z.object({
    image: z
      .string()
      .max(512)
      .regex(/^[a-z0-9.-]+(:[0-9]+)?\/[a-z0-9._/-]+@sha256:[0-9a-f]{64}$/)
      .describe('artifact by digest: registry/name@sha256:...'),
    file: z
      .string()
      .min(1)
      .max(255)
      .describe('title of the layer that is the object; FILE.sig may be its signature'),
  }),
);

const ObjectSpec = lazy(() =>
  z
    .object({
      configMap: ConfigMapSource().optional(),
      oci: OciSource().optional(),
      sha256: Sha256().optional().describe('of the object; another content is refused by the node'),
      signature: z
        .object({ keyId: KeyId(), value: Base64().min(88).max(88) })
        .optional()
        .describe("as 'hyperturtle sign' writes it"),
      constants: z.record(z.string(), Base64().max(8192)).optional().describe('base64, by variable'),
    })
    .refine((o) => (o.configMap === undefined) !== (o.oci === undefined), {
      error: 'one of configMap and oci expected',
    })
    .describe('a compiled hyperupcall'),
);
export type ObjectSpec = Output<typeof ObjectSpec>;

const Options = lazy(() =>
  z
    .object({
      exits: z.array(z.string().max(63)).min(1).max(64).optional(),
      msrs: z.array(z.int().min(0).max(0xffff_ffff)).max(64).optional(),
      after: z.boolean().optional(),
      user: z.boolean().optional(),
      hz: z.int().min(1).max(10_000).optional(),
      depth: z.int().min(1).max(127).optional(),
      clock: z.boolean().optional(),
    })
    .describe('what is asked of the hook: exits, msrs, after, user (exit); hz, depth, clock (sample)'),
);

const LinkSpec = lazy(() =>
  z.object({
    hook: Name(),
    program: Name().optional().describe('needed when several programs of the object fit'),
    target: Name().optional().describe('the NIC, for hooks of NICs'),
    order: z.int().min(0).max(65_535).optional().describe('among programs on one hook of a NIC'),
    options: Options().optional(),
  }),
);
export type LinkSpec = Output<typeof LinkSpec>;

const Rollout = lazy(() =>
  z
    .object({
      object: ObjectSpec().describe("what the nodes below have in place of the set's object"),
      percent: z
        .number()
        .min(0)
        .max(100)
        .optional()
        .describe('of the nodes; chosen by their names, and a larger share has those of a smaller one'),
      labels: Labels().optional().describe('nodes with all of these labels, besides'),
    })
    .describe('another version, on a part of the nodes'),
);

export const SetSpec = lazy(() =>
  z
    .object({
      object: ObjectSpec().optional().describe('what nodes have that no rollout gives another'),
      rollout: Rollout().optional(),
      links: z.array(LinkSpec()).max(LINKS_MAX).optional().describe('hooks that its programs answer'),
      nodeSelector: Labels().optional().describe('labels that a node must have; none: all nodes'),
    })
    .refine((s) => s.object !== undefined || s.rollout !== undefined, {
      error: 'object or rollout expected',
    }),
);
export type SetSpec = Output<typeof SetSpec>;

/** What an object of the API has besides its own fields, as far as it is used here. */
export const Metadata = lazy(() =>
  z.object({
    name: z.string(),
    namespace: z.string().optional(),
    uid: z.string(),
    generation: z.number().optional(),
    resourceVersion: z.string().optional(),
    labels: z.record(z.string(), z.string()).optional(),
  }),
);
export type Metadata = Output<typeof Metadata>;

export const HyperupcallSet = lazy(() => z.object({ metadata: Metadata(), spec: SetSpec() }));
export type HyperupcallSet = Output<typeof HyperupcallSet>;

/**
 * Where a set is on a node. Pending: not tried yet, or what may pass by itself. Admitted: loaded, not all links are there.
 * Linked: all of it is there. Refused: by a rule, the verifier, a signature, a quota. Failed: it cannot be fetched or is no set.
 */
export const PHASES = ['Pending', 'Admitted', 'Linked', 'Refused', 'Failed'] as const;

const SetStatus = lazy(() =>
  z.object({
    name: z.string().max(253),
    generation: z.int().min(0).describe('of the set, that this is about'),
    version: z.enum(['object', 'rollout']).describe('which object of the set this node is to have'),
    phase: z.enum(PHASES),
    kind: z.string().max(64).optional().describe('of what is wrong: REFUSED, VERIFIER, SIGNATURE ...'),
    rule: z.string().max(256).optional().describe('of admission, that was broken'),
    message: z.string().max(MESSAGE_MAX).optional(),
    sha256: Sha256().optional().describe('of the object that the host has now'),
    signedBy: KeyId().optional(),
    links: z.int().min(0).describe('links of it that are there now'),
    since: z.iso.datetime().describe('in this phase'),
  }),
);
export type SetStatus = Output<typeof SetStatus>;

const Counts = lazy(() =>
  z.object({ wanted: z.int().min(0), linked: z.int().min(0), refused: z.int().min(0) }),
);

export const NodeStatus = lazy(() =>
  z.object({
    agent: z.string().max(64).optional().describe('version of the agent; none: it does not answer'),
    connected: z.boolean().describe('the agent is connected to the host'),
    nestedGuests: z.object({ registered: z.int().min(0), notIndexed: z.int().min(0) }),
    summary: Counts().describe('of the sets'),
    sets: z.array(SetStatus()).max(STATUS_SETS_MAX).describe('those that select this node'),
  }),
);
export type NodeStatus = Output<typeof NodeStatus>;

/** As a status may carry it. */
export const shortMessage = (text: string): string =>
  text.length <= MESSAGE_MAX ? text : `${text.slice(0, MESSAGE_MAX - 4)} ...`;
