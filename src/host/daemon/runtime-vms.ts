/** VMs that no configuration has: kept in the state directory, so that they are there after a restart. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { replaceFile } from '../../core/files.ts';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { checkVm } from '../config.ts';
import type { VmSpec } from '../config.ts';

export class RuntimeVms {
  readonly #file: string;
  #vms: ReadonlyMap<string, VmSpec>;

  /** Throws HT_CONFIG when the file is not what we wrote. */
  constructor(stateDirectory: string, name = 'vms.json') {
    this.#file = path.join(stateDirectory, name);
    this.#vms = read(this.#file);
  }

  all(): ReadonlyMap<string, VmSpec> {
    return this.#vms;
  }

  /** Throws HT_NO_SPACE and HT_KERNEL; then nothing is changed, here and on the disk. So does remove(). */
  add(name: string, spec: VmSpec): void {
    this.#write(new Map(this.#vms).set(name, spec));
  }

  remove(name: string): void {
    const others = new Map(this.#vms);
    if (others.delete(name)) this.#write(others);
  }

  /** All at once; nothing is written when they are the same. Throws likewise. */
  replace(vms: ReadonlyMap<string, VmSpec>): void {
    if (!isDeepStrictEqual(vms, this.#vms)) this.#write(new Map(vms));
  }

  #write(vms: ReadonlyMap<string, VmSpec>): void {
    const text = JSON.stringify(Object.fromEntries(vms), null, 2);
    replaceFile(this.#file, `${text}\n`, { mode: 0o600, directoryMode: 0o700, sync: true });
    this.#vms = vms;
  }
}

function read(file: string): Map<string, VmSpec> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return new Map();
    throw e;
  }
  try {
    const all = JSON.parse(text) as Record<string, unknown>;
    return new Map(Object.entries(all).map(([name, spec]) => [name, checkVm(name, spec)]));
  } catch (e) {
    throw new HyperturtleError(
      'HT_CONFIG',
      `${file}: ${messageOf(e)}: correct it, or remove it and add the VMs again ('hyperturtle host vm add')`,
      { cause: e },
    );
  }
}
