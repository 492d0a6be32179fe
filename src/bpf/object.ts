/**
 * Loading an eBPF object from memory. The object owns its programs and maps: closing it closes their descriptors,
 * and what the kernel uses (a linked program) lives on there.
 */
import { HyperturtleError } from '../core/errors.ts';
import { BPF_PROG_INFO } from '../kernel/bpf.ts';
import { errnoName, errnoText } from '../kernel/errno.ts';
import { parseElf, patchConstants } from './elf.ts';
import type { Elf } from './elf.ts';
import type { OwnedFd } from './fds.ts';
import {
  OPEN_OPTS_BYTES,
  allocMemory,
  failureOf,
  freeMemory,
  libbpf,
  takePrinted,
  textOf,
} from './libbpf.ts';
import type { MapHandle, ObjectHandle, ProgramHandle } from './libbpf.ts';
import { infoOf } from './map.ts';
import { own } from '../core/own.ts';

export interface ObjectSpec {
  /** For messages; also the name that the kernel shows. */
  name: string;
  elf: Uint8Array;
  /** Maps of the object, by name, that use an existing map instead of a new one. The descriptors stay the caller's. */
  reuse?: Readonly<Record<string, OwnedFd>>;
  /** Values for `const volatile` variables. The verifier knows them. */
  constants?: Readonly<Record<string, bigint | number>>;
  /** What programs of these sections are, whatever libbpf takes them for: the kernel's number of the type. */
  types?: Readonly<Record<string, number>>;
}

export interface ProgramInfo {
  id: number;
  type: number;
  name: string;
  /** Bytes of native code; 0 when interpreted. */
  jitedBytes: number;
  /** Instructions that the verifier walked; 0 before Linux 5.16. */
  verifiedInstructions: number;
}

/** Programs that the verifier refuses can log many MiB; the pages are only touched when written. */
const LOG_BYTES = 16 << 20;
const VARIABLES = /^\.(rodata|data|bss)(\.|$)/;

export class BpfProgram {
  readonly name: string;
  readonly section: string;
  readonly type: number;
  readonly #object: BpfObject;
  readonly #handle: ProgramHandle;

  /** @internal made by BpfObject */
  constructor(object: BpfObject, handle: ProgramHandle) {
    this.#object = object;
    this.#handle = handle;
    // SAFETY: the handle comes from object_next_program of an open object.
    this.name = libbpf().program_name(handle);
    this.section = libbpf().program_section(handle);
    this.type = libbpf().program_type(handle);
  }

  /** Belongs to the object: never close it, and use it only while the object is open. */
  get fd(): number {
    this.#object.assertOpen();
    // SAFETY: the object is open, so the handle is alive.
    return libbpf().program_fd(this.#handle);
  }

  info(): ProgramInfo {
    return programInfo({ fd: this.fd, what: `program '${this.name}'` });
  }
}

/** What the kernel says about a program. */
export function programInfo(file: { fd: number; what: string }): ProgramInfo {
  const i = BPF_PROG_INFO.decode(infoOf(file.what, file.fd, BPF_PROG_INFO.size));
  return {
    id: i.id,
    type: i.type,
    name: i.name,
    jitedBytes: i.jited_prog_len,
    verifiedInstructions: i.verified_insns,
  };
}

export class BpfObject implements Disposable {
  readonly name: string;
  readonly programs: readonly BpfProgram[];
  /** Sections of global variables, each a map of the section's name. */
  readonly #variables: readonly string[];
  #handle: ObjectHandle | undefined;

  private constructor(name: string, handle: ObjectHandle, elf: Elf) {
    this.name = name;
    this.#variables = elf.sections.map((s) => s.name).filter((s) => VARIABLES.test(s));
    this.#handle = handle;
    const programs: BpfProgram[] = [];
    for (let p = libbpf().object_next_program(handle, null); p; p = libbpf().object_next_program(handle, p))
      programs.push(new BpfProgram(this, p));
    this.programs = programs;
  }

  /**
   * Opens, prepares and loads. Throws HT_VERIFIER_REJECTED with the verifier's log as `detail.log`, or HT_BPF. Blocks the
   * thread while the verifier works (some ms natively).
   */
  static load(spec: ObjectSpec): BpfObject {
    const elf = parseElf(spec.elf);
    const { constants = {} } = spec;
    const rodata = Object.keys(constants).length > 0 ? patchConstants(spec.elf, elf, constants) : undefined;
    const log = allocMemory(LOG_BYTES);
    try {
      takePrinted();
      // SAFETY: parseElf has checked that all tables lie inside the bytes; libbpf copies what it keeps of them before
      // it returns; `log` outlives the load. Level 0 makes libbpf use the log only for a second try after a failure.
      const handle = libbpf().object_open_mem(spec.elf, spec.elf.length, {
        sz: OPEN_OPTS_BYTES,
        object_name: spec.name,
        kernel_log_buf: log,
        kernel_log_size: LOG_BYTES,
        kernel_log_level: 0,
      });
      if (handle === null) throw refused(spec, 'cannot be opened', failureOf(null));
      try {
        reuseMaps(handle, spec);
        setTypes(handle, spec);
        if (rodata) setRodata(handle, spec, rodata);
        const r = libbpf().object_load(handle);
        if (r < 0) throw refused(spec, 'cannot be loaded', failureOf(r), textOf(log, LOG_BYTES));
        takePrinted();
        return new BpfObject(spec.name, handle, elf);
      } catch (e) {
        libbpf().object_close(handle);
        throw e;
      }
    } finally {
      // after load libbpf writes no log any more
      freeMemory(log);
    }
  }

  /** Throws HT_NOT_FOUND that names what there is. */
  program(name: string): BpfProgram {
    const found = this.programs.find((p) => p.name === name);
    if (found) return found;
    const have = this.programs.map((p) => p.name).join(', ');
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `object '${this.name}' has no program '${name}'; it has: ${have || 'none'}`,
    );
  }

  /** Descriptor of a map by its name; belongs to the object. */
  mapFd(name: string): number {
    return libbpf().map_fd(findMap(this.assertOpen(), this.name, name));
  }

  /** All maps, with their names in the object: `.rodata` where libbpf says `npf.rodata`. Descriptors as in mapFd. */
  maps(): { name: string; fd: number }[] {
    const handle = this.assertOpen();
    const named = new Map<MapHandle, string>();
    for (const name of this.#variables) {
      const map = libbpf().object_find_map(handle, name);
      if (map) named.set(map, name);
    }
    const maps: { name: string; fd: number }[] = [];
    for (let m = libbpf().object_next_map(handle, null); m; m = libbpf().object_next_map(handle, m))
      maps.push({ name: named.get(m) ?? libbpf().map_name(m), fd: libbpf().map_fd(m) });
    return maps;
  }

  /** @internal the live handle */
  assertOpen(): ObjectHandle {
    if (this.#handle === undefined)
      throw new HyperturtleError('HT_BPF', `object '${this.name}' used after it was closed`);
    return this.#handle;
  }

  close(): void {
    if (this.#handle === undefined) return;
    const handle = this.#handle;
    this.#handle = undefined;
    // SAFETY: closed once; programs check that the object is open before they use their handles.
    libbpf().object_close(handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function findMap(object: ObjectHandle, objectName: string, name: string): MapHandle {
  const map = libbpf().object_find_map(object, name);
  if (map) return map;
  const have: string[] = [];
  for (let m = libbpf().object_next_map(object, null); m; m = libbpf().object_next_map(object, m))
    have.push(libbpf().map_name(m));
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `object '${objectName}' has no map '${name}'; it has: ${have.join(', ') || 'none'}`,
  );
}

function reuseMaps(handle: ObjectHandle, spec: ObjectSpec): void {
  for (const [name, file] of Object.entries(spec.reuse ?? {})) {
    // SAFETY: both calls get a map of this open object; reuse_fd asks the kernel about the descriptor and copies it.
    const r = libbpf().map_reuse_fd(findMap(handle, spec.name, name), file.fd);
    if (r < 0) throw refused(spec, `cannot use ${file.what} as its map '${name}'`, failureOf(r));
  }
}

/** Also forgets for which way of attaching: libbpf's idea of that differs between its versions. */
function setTypes(handle: ObjectHandle, spec: ObjectSpec): void {
  for (let p = libbpf().object_next_program(handle, null); p; p = libbpf().object_next_program(handle, p)) {
    const type = own(spec.types ?? {}, libbpf().program_section(p));
    if (type === undefined) continue;
    // SAFETY: the program is one of this open object, which is not loaded yet.
    const r = libbpf().program_set_type(p, type) || libbpf().program_set_attach_type(p, 0);
    if (r < 0) throw refused(spec, `cannot have a program of type ${type}`, failureOf(r));
  }
}

function setRodata(handle: ObjectHandle, spec: ObjectSpec, rodata: Uint8Array): void {
  const map = findMap(handle, spec.name, '.rodata');
  if (libbpf().map_value_size(map) !== rodata.length)
    throw new HyperturtleError(
      'HT_BPF',
      `object '${spec.name}': .rodata has ${rodata.length} bytes, libbpf sees ${libbpf().map_value_size(map)}`,
    );
  // SAFETY: libbpf copies exactly value_size bytes, which `rodata` has.
  const r = libbpf().map_set_initial_value(map, rodata, rodata.length);
  if (r < 0) throw refused(spec, 'does not let its constants be set', failureOf(r));
}

/** The verifier's log, when there is one, says more than the errno. */
function refused(spec: ObjectSpec, what: string, errno: number, log = ''): HyperturtleError {
  const printed = takePrinted();
  const detail = { errno, errnoName: errnoName(errno), printed, log };
  if (log.trimEnd() !== '')
    return new HyperturtleError(
      'HT_VERIFIER_REJECTED',
      `object '${spec.name}': the kernel's verifier refused a program (${errnoName(errno)})`,
      { detail },
    );
  const why =
    errnoName(errno) === 'EPERM'
      ? 'not permitted: run as root, where the kernel allows bpf()'
      : errnoText(errno);
  return new HyperturtleError(
    'HT_BPF',
    `object '${spec.name}' ${what}: ${why}${printed.length > 0 ? `; libbpf says: ${printed.slice(-3).join('; ')}` : ''}`,
    { detail },
  );
}
