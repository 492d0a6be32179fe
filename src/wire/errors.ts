/**
 * Errors on the wire: `{code, message, data: {kind, ...}}`, and how they become HyperturtleErrors and back. The
 * one mapper in each direction.
 */
import { z } from 'zod';
import { HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { asFileError } from '../core/files.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

/** By `kind`: the number on the wire, and the error's class in this program. */
export const WIRE_ERRORS = {
  PARSE_ERROR: { code: -32700, class: 'HT_WIRE' },
  INVALID_REQUEST: { code: -32600, class: 'HT_WIRE' },
  METHOD_NOT_FOUND: { code: -32601, class: 'HT_UNSUPPORTED' },
  INVALID_PARAMS: { code: -32602, class: 'HT_USAGE' },
  INTERNAL: { code: -32603, class: 'HT_WIRE' },
  NO_HELLO: { code: -32001, class: 'HT_WIRE' },
  UNSUPPORTED_PROTOCOL: { code: -32002, class: 'HT_UNSUPPORTED' },
  CANCELLED: { code: -32003, class: 'HT_INTERRUPTED' },
  DEADLINE: { code: -32004, class: 'HT_TIMEOUT' },
  BUSY: { code: -32005, class: 'HT_BUSY' },
  NOT_FOUND: { code: -32010, class: 'HT_NOT_FOUND' },
  EXISTS: { code: -32011, class: 'HT_EXISTS' },
  IN_USE: { code: -32012, class: 'HT_IN_USE' },
  QUOTA: { code: -32013, class: 'HT_QUOTA' },
  REFUSED: { code: -32020, class: 'HT_REFUSED' },
  VERIFIER: { code: -32021, class: 'HT_VERIFIER_REJECTED' },
  SIGNATURE: { code: -32022, class: 'HT_SIGNATURE' },
  HOOK_BUSY: { code: -32023, class: 'HT_BUSY' },
  /** The host cannot do this at all: its kernel or its module lacks something. */
  UNSUPPORTED: { code: -32024, class: 'HT_UNSUPPORTED' },
  UNAVAILABLE: { code: -32030, class: 'HT_UNAVAILABLE' },
} as const satisfies Record<string, { code: number; class: ErrorCode }>;

export type ErrorKind = keyof typeof WIRE_ERRORS;

/** The kind an error of this program has on the wire when it does not say so itself in `detail.kind`. */
const KIND_OF: Partial<Record<ErrorCode, ErrorKind>> = {
  HT_USAGE: 'INVALID_PARAMS',
  HT_NOT_FOUND: 'NOT_FOUND',
  HT_UNSUPPORTED: 'UNSUPPORTED',
  HT_BUSY: 'BUSY',
  HT_TIMEOUT: 'DEADLINE',
  HT_INTERRUPTED: 'CANCELLED',
  HT_VERIFIER_REJECTED: 'VERIFIER',
  HT_REFUSED: 'REFUSED',
  HT_QUOTA: 'QUOTA',
  HT_SIGNATURE: 'SIGNATURE',
  HT_EXISTS: 'EXISTS',
  HT_IN_USE: 'IN_USE',
  HT_UNAVAILABLE: 'UNAVAILABLE',
};

/**
 * Failures of this side's own machine. A side that trusts the other one tells it which: a full disk of the agent's is no fault
 * of the protocol.
 */
const OWN_FAILURES: ReadonlySet<string> = new Set<ErrorCode>([
  ...['HT_NO_SPACE', 'HT_NO_MEMORY', 'HT_KERNEL', 'HT_CONFIG', 'HT_QMP', 'HT_CHANNEL', 'HT_BPF'],
  ...['HT_COMMAND_FAILED', 'HT_CRASHED', 'HT_INTEGRITY'],
] as ErrorCode[]);

const MAX_MESSAGE_LENGTH = 2048;
/** Most bytes of the verifier's log, in UTF-8: its tail says what was refused. */
const MAX_LOG_BYTES = 16 << 10;

const isOwnFailure = (v: string): v is ErrorCode => OWN_FAILURES.has(v);

const isKind = (v: unknown): v is ErrorKind => typeof v === 'string' && Object.hasOwn(WIRE_ERRORS, v);

export const ErrorData = lazy(() =>
  z.object({
    kind: z.string().max(64),
    /** Rule of admission that was broken. */
    rule: z.string().max(256).optional(),
    program: z.string().max(256).optional(),
    /** Index of the instruction in its program. */
    instruction: z.int().nonnegative().optional(),
    /** Tail of the verifier's log. */
    log: z.string().max(MAX_LOG_BYTES).optional(),
    retryAfterMs: z.int().nonnegative().optional(),
    /** Class of what failed, of INTERNAL on a machine's own sockets. */
    class: z.string().max(64).optional(),
  }),
);
export type ErrorData = Output<typeof ErrorData>;
const Data = lazy(() => ErrorData().omit({ kind: true }));

/** Not strict: a newer side may tell more. */
export const WireError = lazy(() =>
  z.object({
    code: z.int(),
    message: z.string(),
    data: ErrorData().optional().catch(undefined),
  }),
);
export type WireError = Output<typeof WireError>;

/** A HyperturtleError of a given kind, for handlers whose error has no class of its own: HOOK_BUSY, UNSUPPORTED. */
export function wireFailure(
  kind: ErrorKind,
  message: string,
  data: Omit<ErrorData, 'kind'> = {},
): HyperturtleError {
  return new HyperturtleError(WIRE_ERRORS[kind].class, message, { detail: { ...data, kind } });
}

export function wireError(kind: ErrorKind, message: string, data: Omit<ErrorData, 'kind'> = {}): WireError {
  return {
    code: WIRE_ERRORS[kind].code,
    message: message.slice(0, MAX_MESSAGE_LENGTH),
    data: { kind, ...data },
  };
}

/**
 * What the other side is told of `e`. Errors that it caused carry their message; those of the host's own (system
 * calls, processes, bugs) carry only `reference`, under which the log has them, unless the other side is trusted.
 */
export function toWireError(e: unknown, options: { trusted?: boolean; reference?: string } = {}): WireError {
  const kind = kindOf(e);
  if (kind === 'INTERNAL' && options.trusted) {
    const expected = asFileError(e) ?? e;
    const told = isHyperturtleError(expected) && isOwnFailure(expected.code);
    return wireError(kind, messageOf(expected), told ? { class: expected.code } : {});
  }
  if (kind === 'INTERNAL')
    return wireError(
      kind,
      `the other side failed: its log says why${options.reference ? `, reference ${options.reference}` : ''}`,
    );
  return wireError(kind, messageOf(e), isHyperturtleError(e) ? dataOf(e.detail) : {});
}

/** The kind under which the wire carries `e`. */
export function kindOf(e: unknown): ErrorKind {
  if (isHyperturtleError(e)) {
    const own = e.detail['kind'];
    return isKind(own) ? own : (KIND_OF[e.code] ?? 'INTERNAL');
  }
  return e instanceof Error && e.name === 'AbortError' ? 'CANCELLED' : 'INTERNAL';
}

/** The other side's error, as this program's own. `detail` has `kind` and the data. */
export function fromWireError(e: WireError): HyperturtleError {
  const kind = isKind(e.data?.kind)
    ? e.data.kind
    : ((Object.keys(WIRE_ERRORS) as ErrorKind[]).find((k) => WIRE_ERRORS[k].code === e.code) ?? 'INTERNAL');
  const own = e.data?.class;
  const code = kind === 'INTERNAL' && own !== undefined && isOwnFailure(own) ? own : WIRE_ERRORS[kind].class;
  return new HyperturtleError(code, e.message, { detail: { ...e.data, kind } });
}

function dataOf(detail: Readonly<Record<string, unknown>>): Omit<ErrorData, 'kind'> {
  const log = detail['log'];
  const parsed = Data().safeParse({
    ...detail,
    ...(typeof log === 'string' ? { log: tail(log, MAX_LOG_BYTES) } : {}),
  });
  return parsed.success ? parsed.data : {};
}

function tail(text: string, bytes: number): string {
  const all = Buffer.from(text, 'utf8');
  // a character cut in half at the front decodes to U+FFFD, up to three of them
  return all.length <= bytes
    ? text
    : all
        .subarray(all.length - bytes)
        .toString('utf8')
        .replace(/^\uFFFD{1,3}/, '');
}

/** The connection, or the session on it, is over: whether what was asked for was done is not known. */
export function unavailable(message: string, cause?: unknown): HyperturtleError {
  return new HyperturtleError('HT_UNAVAILABLE', message, { cause });
}
