/** Errors of the Container Network Interface: numbers that runtimes know, and the one mapper to them. */
import { HyperturtleError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';

/** Below 100: as the specification has them. */
export const CNI_ERRORS = {
  INCOMPATIBLE_VERSION: 1,
  UNSUPPORTED_FIELD: 2,
  UNKNOWN_CONTAINER: 3,
  INVALID_ENVIRONMENT: 4,
  IO_FAILURE: 5,
  UNDECODABLE: 6,
  INVALID_CONFIG: 7,
  TRY_AGAIN: 11,
  /** STATUS: no more containers can be connected. */
  NOT_AVAILABLE: 50,
  /** STATUS: as before, and those that are may have lost their connection. */
  NOT_AVAILABLE_LIMITED: 51,
  FAILED: 100,
  /** The host gives no further NIC. */
  NO_NIC: 101,
  /** The network policy is not possible. */
  POLICY: 102,
  /** What CHECK found is not what ADD had made. */
  CHANGED: 103,
} as const;
export type CniErrorName = keyof typeof CNI_ERRORS;

export class CniError extends Error {
  readonly code: number;
  readonly details: string;
  constructor(name: CniErrorName | number, message: string, details = '') {
    super(message);
    this.name = 'CniError';
    this.code = typeof name === 'number' ? name : CNI_ERRORS[name];
    this.details = details;
  }
}

const OF: Partial<Record<ErrorCode, CniErrorName>> = {
  HT_CONFIG: 'INVALID_CONFIG',
  HT_USAGE: 'INVALID_CONFIG',
  HT_UNAVAILABLE: 'TRY_AGAIN',
  HT_BUSY: 'TRY_AGAIN',
  HT_TIMEOUT: 'TRY_AGAIN',
  HT_INTERRUPTED: 'TRY_AGAIN',
  HT_QUOTA: 'NO_NIC',
  HT_NO_SPACE: 'IO_FAILURE',
};

/** Any failure as a CNI error. */
export function cniError(e: unknown): CniError {
  if (e instanceof CniError) return e;
  if (e instanceof HyperturtleError) return new CniError(OF[e.code] ?? 'FAILED', e.message, e.code);
  return new CniError(
    'FAILED',
    'bug in hyperturtle-cni',
    e instanceof Error ? (e.stack ?? e.message) : String(e),
  );
}
