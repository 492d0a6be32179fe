/** What the loader and its workers say to each other over Node's IPC (JSON). Descriptors go beside it. */
import { z } from 'zod';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

/** Descriptor number of a worker at which the loader's descriptors arrive. */
export const CHANNEL_FD = 4;

export interface WorkerRequest {
  name: string;
  /** base64 */
  elf: string;
  /** Decimal numbers: JSON has no 64-bit ones. */
  constants: Record<string, string>;
  /** Names of the maps to reuse, in the order of the descriptors that wait in the channel. */
  reuse: string[];
}

/** A worker has had a hostile object in its hands: its answers are checked as well. */
export const WorkerAnswer = lazy(() =>
  z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('ready') }),
    z.object({
      kind: z.literal('loaded'),
      /** Descriptor numbers in the worker. */
      programs: z.array(z.object({ name: z.string(), section: z.string(), fd: z.int().min(0) })).max(1024),
      maps: z.array(z.object({ name: z.string(), fd: z.int().min(0) })).max(1024),
    }),
    z.object({
      kind: z.literal('failed'),
      code: z.string(),
      message: z.string().max(65_536),
      /** Tail of the verifier's log. */
      log: z.string().max(65_536),
      errno: z.int().optional(),
    }),
  ]),
);
export type WorkerAnswer = Output<typeof WorkerAnswer>;
