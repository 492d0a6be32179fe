/** The thread of checker.ts: checks one object after the other. Runs no FFI, opens nothing. */
import { isMainThread, parentPort } from 'node:worker_threads';
import { writeErr } from '../../core/output.ts';
import { checkObject } from '../admission/check.ts';
import type { CheckAnswer, CheckRequest } from './checker.ts';

if (isMainThread || !parentPort) {
  writeErr("this is a part of 'hyperturtle host daemon' and not for use by hand\n");
  process.exit(2);
}
const port = parentPort;
port.on('message', ({ elf, options }: CheckRequest) => port.postMessage(answerTo(elf, options)));

function answerTo(elf: Uint8Array, options: CheckRequest['options']): CheckAnswer {
  try {
    return { verdict: checkObject(elf, options) };
  } catch (e) {
    return { bug: e instanceof Error ? (e.stack ?? e.message) : String(e) };
  }
}
