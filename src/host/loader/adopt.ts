/**
 * What a worker has loaded becomes the loader's own: its descriptors are copied, and only what the kernel says about
 * them is believed, for the worker has had a hostile object in its hands.
 */
import type { OwnedFd } from '../../bpf/fds.ts';
import { mapInfo, mapMemoryBytes } from '../../bpf/map-ops.ts';
import type { MapInfo } from '../../bpf/map-ops.ts';
import { programInfo } from '../../bpf/object.ts';
import type { ProgramInfo } from '../../bpf/object.ts';
import { refusalError } from '../admission/verdict.ts';
import { hookOfSection } from '../hooks.ts';
import type { HookSpec } from '../hooks.ts';
import type { WorkerAnswer } from './messages.ts';
import type { WorkerProcess } from './worker-process.ts';

export interface LoadedProgram {
  name: string;
  section: string;
  hook: HookSpec['name'];
  file: OwnedFd;
  info: ProgramInfo;
}

export interface LoadedMap {
  /** As in the object (the kernel's is cut at 15 characters). */
  name: string;
  file: OwnedFd;
  info: MapInfo;
  /** Kernel memory that it takes (fdinfo's memlock). */
  bytes: number;
  /** It is one of `reuse`. */
  reused: boolean;
}

/** Owns the descriptors of its programs and maps. */
export interface LoadedObject extends Disposable {
  name: string;
  programs: LoadedProgram[];
  maps: LoadedMap[];
  /** Closes all descriptors; closing twice is fine. */
  close(): void;
}

/** To be filled with programs and maps, whose descriptors are its own then. */
export function emptyObject(name: string): LoadedObject {
  return {
    name,
    programs: [],
    maps: [],
    close() {
      for (const x of [...this.programs, ...this.maps]) x.file.close();
    },
    [Symbol.dispose]() {
      this.close();
    },
  };
}

/** What `use` makes of a descriptor; when it throws, the descriptor is closed. */
export function closedOnError<T>(file: OwnedFd, use: (file: OwnedFd) => T): T {
  try {
    return use(file);
  } catch (e) {
    file.close();
    throw e;
  }
}

/** Throws HT_REFUSED for a program of another type than its hook's, or above the hook's budget; then nothing is kept. */
export function adopt(
  worker: Pick<WorkerProcess, 'copyFd'>,
  answer: WorkerAnswer & { kind: 'loaded' },
  request: { name: string; reuse?: Readonly<Record<string, OwnedFd>> },
  hooks: readonly HookSpec[],
): LoadedObject {
  const object = emptyObject(request.name);
  const take = <T>(fd: number, what: string, use: (file: OwnedFd) => T): T =>
    closedOnError(worker.copyFd(fd, what), use);
  try {
    for (const p of answer.programs)
      object.programs.push(
        take(p.fd, `program '${p.name}'`, (file) => ({
          ...p,
          ...admitLoaded(request.name, p, file, hooks),
          file,
        })),
      );
    for (const m of answer.maps)
      object.maps.push(
        take(m.fd, `map '${m.name}'`, (file) => ({
          name: m.name,
          file,
          info: mapInfo(file),
          bytes: mapMemoryBytes(file),
          reused: Object.hasOwn(request.reuse ?? {}, m.name),
        })),
      );
    return object;
  } catch (e) {
    object.close();
    throw e;
  }
}

function admitLoaded(
  objectName: string,
  program: { name: string; section: string },
  file: OwnedFd,
  hooks: readonly HookSpec[],
): { hook: HookSpec['name']; info: ProgramInfo } {
  const hook = hookOfSection(program.section, hooks);
  const info = programInfo(file);
  if (hook?.programType.number !== info.type)
    throw refusalError(objectName, [
      {
        rule: 'hook',
        program: program.name,
        message: `the kernel loaded type ${info.type} from section '${program.section}'`,
        mend: 'put it into the section of a hook',
      },
    ]);
  if (info.verifiedInstructions > hook.verifiedInstructions)
    throw refusalError(objectName, [
      {
        rule: 'verified-instructions',
        program: program.name,
        message: `the verifier walked ${info.verifiedInstructions} instructions, hook ${hook.name} allows ${hook.verifiedInstructions}`,
        mend: 'fewer or shorter loops: a run may take as long as that',
      },
    ]);
  return { hook: hook.name, info };
}
