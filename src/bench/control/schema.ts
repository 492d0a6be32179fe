/** The result file of `hyperturtle bench control`: parameters, environment, raw samples, and a summary of them. */
import { z } from 'zod';
import { RESULT_SCHEMA_VERSION, machineEnvironmentSchema } from '../shared/environment-schema.ts';
import type { Environment } from '../shared/environment-schema.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const count = lazy(() => z.int().nonnegative());
const number = lazy(() => z.number().nonnegative());

/** What one VM does while the other one is measured. */
export const LOADS = ['quiet', 'requests', 'garbage'] as const;
const loadSchema = lazy(() => z.enum(LOADS));
/**
 * `quiet`: nothing. `requests`: as many valid requests as the daemon takes. `garbage`: lines that are no messages,
 * as fast as its socket takes them.
 */
export type Load = Output<typeof loadSchema>;

/** Methods whose round trip is measured, one request after the other. */
export const ROUND_TRIPS = ['ping', 'stats', 'list'] as const;
/** In microseconds, in order. */
const roundTripsSchema = lazy(() => z.record(z.enum(ROUND_TRIPS), z.array(number())));
export type RoundTrips = Output<typeof roundTripsSchema>;

const memorySchema = lazy(() =>
  z.object({
    when: z.string(),
    /** Resident memory of the daemon's process, in KiB, and what of it is its own (not shared with others). */
    rssKib: count(),
    privateKib: count(),
    /** Its children: a loading process waits ready. */
    workersPrivateKib: count(),
    openFiles: count(),
  }),
);
export type MemorySample = Output<typeof memorySchema>;

const phaseSchema = lazy(() =>
  z.object({
    round: count(),
    load: loadSchema(),
    seconds: z.number().positive(),
    /** Round trips of the other VM's `ping`s, sent one at a time at `probeIntervalMs`, in microseconds, in order. */
    probeUs: z.array(number()),
    /** Answered requests of the loading VM in each full second; for `garbage`, refused lines. */
    answeredPerSecond: z.array(count()),
    /** Requests of either VM that failed. */
    failures: count(),
    /** CPU time of the daemon. */
    daemonCpuSeconds: number(),
  }),
);
export type PhaseSample = Output<typeof phaseSchema>;

const changeSchema = lazy(() =>
  z.object({
    /** `apart`: after a pause in which the next loading process gets ready; `next`: right after the one before. */
    pace: z.enum(['apart', 'next']),
    loadMs: number(),
    linkMs: number(),
    unlinkMs: number(),
    unloadMs: number(),
  }),
);
export type ChangeSample = Output<typeof changeSchema>;

export const controlSummarySchema = lazy(() =>
  z.object({
    roundTripP50Us: z.record(z.enum(ROUND_TRIPS), number()),
    roundTripP99Us: z.record(z.enum(ROUND_TRIPS), number()),
    /** Loads that find a loading process ready. */
    loadP50Ms: number(),
    linkP50Ms: number(),
    loadAndLinkP50Ms: number(),
    loadAndLinkMaxMs: number(),
    /** Loads one after the other, each of which waits for a new loading process. */
    loadNextP50Ms: number(),
    /** Least of all full seconds of all phases. */
    sustainedPerSecondMin: count(),
    sustainedPerSecondMean: number(),
    probeP50Us: z.record(loadSchema(), number()),
    probeP99Us: z.record(loadSchema(), number()),
    daemonCpuShare: z.record(loadSchema(), number()),
    daemonPrivateMib: number(),
    daemonPrivateMibAtEnd: number(),
    openFilesGrowth: z.int(),
    failures: count(),
  }),
);
export type ControlSummary = Output<typeof controlSummarySchema>;

/** What a client in an L1 sees of its agent and, through that, of the daemon (`hyperturtle bench agent`). */
export const agentResultSchema = lazy(() =>
  z.object({
    schema: z.literal(RESULT_SCHEMA_VERSION),
    benchmark: z.literal('agent'),
    startedAt: z.string(),
    objectBytes: count(),
    roundTripsUs: roundTripsSchema(),
    changes: z.array(changeSchema()),
  }),
);

export const controlResultSchema = lazy(() =>
  z.object({
    schema: z.literal(RESULT_SCHEMA_VERSION),
    benchmark: z.literal('control'),
    environment: machineEnvironmentSchema(),
    parameters: z.object({
      roundTrips: count(),
      /** Changes made at each pace. */
      changes: count(),
      changePauseMs: number(),
      rounds: count(),
      phaseSeconds: number(),
      probeIntervalMs: number(),
      requestsPerSecond: count(),
      /** Requests of the loading VM that wait for an answer at a time. */
      window: count(),
      objectBytes: count(),
      objectInstructions: count(),
      objectVerifiedInstructions: count(),
    }),
    roundTripsUs: roundTripsSchema(),
    changes: z.array(changeSchema()),
    phases: z.array(phaseSchema()),
    memory: z.array(memorySchema()),
    summary: controlSummarySchema(),
  }),
);
export type ControlResult = Output<typeof controlResultSchema>;

/** `hyperturtle bench control --lab`. */
export interface ControlLabResult {
  schema: typeof RESULT_SCHEMA_VERSION;
  benchmark: 'control-lab';
  environment: Environment;
  parameters: { roundTrips: number; changes: number; commands: number; objectBytes: number };
  client: Output<typeof agentResultSchema>;
  /** From the command's start to its end. */
  loadCommandMs: number[];
}
