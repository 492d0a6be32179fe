/**
 * The one error type that users see. Expected failures carry a stable code, one line that says what was
 * expected, what was found and what to do; anything else that reaches the top is a bug and prints its stack.
 */

/** Stable codes: programs switch on these, never on the text. */
export const ERROR_CODES = {
  HT_USAGE: 2,
  HT_NOT_FOUND: 3,
  HT_UNSUPPORTED: 4,
  HT_NO_SPACE: 5,
  HT_NO_MEMORY: 5,
  HT_BUSY: 6,
  HT_TIMEOUT: 7,
  HT_PACKAGES: 8,
  HT_BUILD: 9,
  HT_BOOT_FAILED: 10,
  HT_CHANNEL: 11,
  HT_QMP: 12,
  HT_KERNEL: 13,
  HT_VERIFIER_REJECTED: 14,
  HT_BPF: 15,
  HT_COMMAND_FAILED: 16,
  HT_INTEGRITY: 17,
  /** The other side does not speak the protocol as documented, or a message is too long. */
  HT_WIRE: 18,
  /** Admission: an object breaks a rule. */
  HT_REFUSED: 19,
  HT_QUOTA: 20,
  HT_SIGNATURE: 21,
  HT_EXISTS: 22,
  HT_IN_USE: 23,
  /** The other side is not there, or is shutting down. */
  HT_UNAVAILABLE: 24,
  /** One of our helper processes ended without an answer. */
  HT_CRASHED: 25,
  HT_CONFIG: 26,
  HT_INTERRUPTED: 130,
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

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
  return e instanceof HyperturtleError ? ERROR_CODES[e.code] : 1;
}

/** The `code` of a Node system error (`ENOENT`), or undefined. */
export function errnoCode(e: unknown): string | undefined {
  return e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : undefined;
}

export function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
