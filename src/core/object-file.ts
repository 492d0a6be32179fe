/** Reading a compiled object that a command was given. */
import { readInput } from './files.ts';

/** Throws HT_NOT_FOUND, HT_USAGE, HT_KERNEL. */
export const readObjectFile = (file: string): Buffer => readInput(file, 'give a compiled object (.bpf.o)');
