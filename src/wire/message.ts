/**
 * One line as a JSON-RPC 2.0 message, and back. What is refused here has cost one pass over its bytes: depth and
 * number of values are counted before anything is built from them.
 */
import { wireError } from './errors.ts';
import { WireError } from './errors.ts';

export type RpcId = number | string;

export type Incoming =
  | { kind: 'request'; id: RpcId; method: string; params: unknown }
  | { kind: 'notification'; method: string; params: unknown }
  | { kind: 'result'; id: RpcId; result: unknown }
  | { kind: 'error'; id: RpcId | null; error: WireError }
  /** Not a message; `id` is the sender's where one can be made out. */
  | { kind: 'bad'; id: RpcId | null; error: WireError };

const MAX_DEPTH = 32;
const MAX_ID_LENGTH = 64;
const MAX_METHOD_LENGTH = 64;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function decode(line: Uint8Array, maxValues: number): Incoming {
  const shape = shapeError(line, maxValues);
  if (shape !== undefined) return bad(null, 'PARSE_ERROR', shape);
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(line));
  } catch {
    return bad(null, 'PARSE_ERROR', 'one JSON text in UTF-8 is expected in each line');
  }
  return classify(value);
}

/** Counts brackets and commas outside strings. */
function shapeError(line: Uint8Array, maxValues: number): string | undefined {
  let depth = 0;
  let values = 0;
  let inString = false;
  for (let i = 0; i < line.length; i++) {
    const c = line[i];
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x5b || c === 0x7b) {
      if (++depth > MAX_DEPTH) return `at most ${MAX_DEPTH} levels of nesting are taken`;
      values++;
    } else if (c === 0x5d || c === 0x7d) depth--;
    else if (c === 0x2c && ++values > maxValues) return `at most ${maxValues} values are taken in a message`;
  }
  return undefined;
}

function classify(value: unknown): Incoming {
  if (Array.isArray(value)) return bad(null, 'INVALID_REQUEST', 'batches are not taken: one message a line');
  if (typeof value !== 'object' || value === null)
    return bad(null, 'INVALID_REQUEST', 'a JSON object is expected');
  const message = value as Readonly<Record<string, unknown>>;
  const has = (key: string): boolean => Object.hasOwn(message, key);
  const id = isId(message['id']) ? message['id'] : null;
  if (message['jsonrpc'] !== '2.0') return bad(id, 'INVALID_REQUEST', '"jsonrpc": "2.0" is expected');
  const known = has('method') ? REQUEST_KEYS : RESPONSE_KEYS;
  if (Object.keys(message).some((key) => !known.has(key)))
    return bad(id, 'INVALID_REQUEST', `no members but ${[...known].join(', ')} are expected`);
  if (has('method')) {
    const { method, params = {} } = message;
    if (typeof method !== 'string' || method.length > MAX_METHOD_LENGTH)
      return bad(id, 'INVALID_REQUEST', `"method" as a string of up to ${MAX_METHOD_LENGTH} is expected`);
    if (!has('id')) return { kind: 'notification', method, params };
    if (id === null)
      return bad(
        null,
        'INVALID_REQUEST',
        `"id" as an integer or a string of up to ${MAX_ID_LENGTH} is expected`,
      );
    return { kind: 'request', id, method, params };
  }
  if (has('error')) {
    const error = WireError().safeParse(message['error']);
    if (error.success && !has('result')) return { kind: 'error', id, error: error.data };
  } else if (has('result') && id !== null) return { kind: 'result', id, result: message['result'] };
  return bad(id, 'INVALID_REQUEST', '"method", or "id" with "result" or "error", is expected');
}

const REQUEST_KEYS = new Set(['jsonrpc', 'id', 'method', 'params']);
const RESPONSE_KEYS = new Set(['jsonrpc', 'id', 'result', 'error']);

function isId(v: unknown): v is RpcId {
  return typeof v === 'string' ? v.length <= MAX_ID_LENGTH : Number.isSafeInteger(v);
}

function bad(id: RpcId | null, kind: 'PARSE_ERROR' | 'INVALID_REQUEST', message: string): Incoming {
  return { kind: 'bad', id, error: wireError(kind, message) };
}

/** A message as the bytes of its line, newline included. JSON.stringify escapes newlines inside. */
export function encode(
  message:
    | { id: RpcId; method: string; params: unknown }
    | { method: string; params: unknown }
    | { id: RpcId; result: unknown }
    | { id: RpcId | null; error: WireError },
): Buffer {
  return Buffer.from(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`, 'utf8');
}
