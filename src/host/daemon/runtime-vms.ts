/** VMs that were added by command: kept in the state directory, so that they are there after a restart. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { replaceFile } from '../../core/files.ts';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { checkVm } from './config.ts';
import type { VmSpec } from './config.ts';

export class RuntimeVms {
  readonly #file: string;
  readonly #vms: Map<string, VmSpec>;

  /** Throws HT_CONFIG when the file is not what we wrote. */
  constructor(stateDirectory: string) {
    this.#file = path.join(stateDirectory, 'vms.json');
    this.#vms = read(this.#file);
  }

  all(): ReadonlyMap<string, VmSpec> {
    return this.#vms;
  }

  add(name: string, spec: VmSpec): void {
    this.#vms.set(name, spec);
    this.#write();
  }

  remove(name: string): void {
    if (this.#vms.delete(name)) this.#write();
  }

  #write(): void {
    const text = JSON.stringify(Object.fromEntries(this.#vms), null, 2);
    replaceFile(this.#file, `${text}\n`, { mode: 0o600, directoryMode: 0o700, sync: true });
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
