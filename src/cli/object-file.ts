/** Reading a compiled object that a command was given. */
import { readFileSync } from 'node:fs';
import { HyperturtleError, errnoCode } from '../core/errors.ts';

/** Throws HT_NOT_FOUND, HT_USAGE. */
export function readObject(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (e) {
    if (errnoCode(e) === 'ENOENT')
      throw new HyperturtleError('HT_NOT_FOUND', `${file}: no such file: give a compiled .bpf.o`, {
        cause: e,
      });
    if (errnoCode(e) === 'EISDIR')
      throw new HyperturtleError('HT_USAGE', `${file} is a directory: give a compiled .bpf.o`, { cause: e });
    throw e;
  }
}
