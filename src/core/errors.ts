/**
 * The one error type that users see. Expected failures carry a stable code, one line that says what was
 * expected, what was found and what to do; anything else that reaches the top is a bug and prints its stack.
 */
import { EXIT_STATUS } from './exit-status.ts';

/** Stable codes: programs switch on these, never on the text. */
export type ErrorCode = keyof typeof EXIT_STATUS;

export class HyperturtleError extends Error {
  readonly code: ErrorCode;
  /** Typed facts for programs (paths, numbers, log tails); never needed to understand the message. */
  readonly detail: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; detail?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'HyperturtleError';
    this.code = code;
    this.detail = options.detail ?? {};
  }
}

export function isHyperturtleError(e: unknown, code?: ErrorCode): e is HyperturtleError {
  return e instanceof HyperturtleError && (code === undefined || e.code === code);
}

/** Process exit status for an error: its class's number, or 1 for a bug. */
export function exitStatus(e: unknown): number {
  return e instanceof HyperturtleError ? EXIT_STATUS[e.code].status : 1;
}

/** The `code` of a Node system error (`ENOENT`), or undefined. */
export function errnoCode(e: unknown): string | undefined {
  return e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : undefined;
}

export function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
