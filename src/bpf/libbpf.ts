/**
 * Raw bindings to the distribution's libbpf.so.1 (1.1 or later), each with its type by hand, and the capture of what
 * libbpf prints. Handles are branded so that a map cannot be passed for a program: libbpf would crash.
 */
import koffi from 'koffi';
import type { LibraryHandle } from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import type { Outcome } from './calls.ts';

declare const kind: unique symbol;
/** Owned: closed by object_close. */
export type ObjectHandle = bigint & { readonly [kind]: 'object' };
/** Both live as long as their object. */
export type ProgramHandle = bigint & { readonly [kind]: 'program' };
export type MapHandle = bigint & { readonly [kind]: 'map' };
/** Memory of koffi.alloc. */
export type Memory = bigint & { readonly [kind]: 'memory' };

function load(): LibraryHandle {
  try {
    return koffi.load('libbpf.so.1');
  } catch (e) {
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      "libbpf.so.1 not found: install it (Debian: 'apt install libbpf1')",
      { cause: e },
    );
  }
}

const OpenOpts = koffi.struct({
  sz: 'size_t',
  object_name: 'const char *',
  relaxed_maps: 'bool',
  pin_root_path: 'const char *',
  unused: 'uint32_t',
  kconfig: 'const char *',
  btf_custom_path: 'const char *',
  kernel_log_buf: 'void *',
  kernel_log_size: 'size_t',
  kernel_log_level: 'uint32_t',
});
koffi.alias('HtOpenOpts', OpenOpts);
export const OPEN_OPTS_BYTES = koffi.sizeof(OpenOpts);

interface OpenOptsValue {
  sz: number;
  object_name: string;
  kernel_log_buf: Memory;
  kernel_log_size: number;
  kernel_log_level: number;
}

/** Objects, and the programs and maps in them; each with its type by hand, as all here. */
const objectsOf = (lib: LibraryHandle) => ({
  object_open_mem: lib.func(
    'void *bpf_object__open_mem(const void *bytes, size_t length, HtOpenOpts *opts)',
  ) as (bytes: Uint8Array, length: number, opts: OpenOptsValue) => ObjectHandle | null,
  object_load: lib.func('int bpf_object__load(void *object)') as (object: ObjectHandle) => number,
  object_close: lib.func('void bpf_object__close(void *object)') as (object: ObjectHandle) => void,
  object_next_program: lib.func('void *bpf_object__next_program(void *object, void *previous)') as (
    object: ObjectHandle,
    previous: ProgramHandle | null,
  ) => ProgramHandle | null,
  object_next_map: lib.func('void *bpf_object__next_map(void *object, void *previous)') as (
    object: ObjectHandle,
    previous: MapHandle | null,
  ) => MapHandle | null,
  object_find_map: lib.func('void *bpf_object__find_map_by_name(void *object, const char *name)') as (
    object: ObjectHandle,
    name: string,
  ) => MapHandle | null,
  program_name: lib.func('const char *bpf_program__name(void *program)') as (p: ProgramHandle) => string,
  program_section: lib.func('const char *bpf_program__section_name(void *program)') as (
    p: ProgramHandle,
  ) => string,
  program_type: lib.func('int bpf_program__type(void *program)') as (p: ProgramHandle) => number,
  program_fd: lib.func('int bpf_program__fd(void *program)') as (p: ProgramHandle) => number,
  map_name: lib.func('const char *bpf_map__name(void *map)') as (m: MapHandle) => string,
  map_fd: lib.func('int bpf_map__fd(void *map)') as (m: MapHandle) => number,
  map_value_size: lib.func('uint32_t bpf_map__value_size(void *map)') as (m: MapHandle) => number,
  map_type: lib.func('int bpf_map__type(void *map)') as (m: MapHandle) => number,
  map_reuse_fd: lib.func('int bpf_map__reuse_fd(void *map, int fd)') as (m: MapHandle, fd: number) => number,
  map_set_initial_value: lib.func(
    'int bpf_map__set_initial_value(void *map, const void *data, size_t length)',
  ) as (m: MapHandle, data: Uint8Array, length: number) => number,
  program_set_type: lib.func('int bpf_program__set_type(void *program, int type)') as (
    p: ProgramHandle,
    type: number,
  ) => number,
  program_set_attach_type: lib.func('int bpf_program__set_expected_attach_type(void *program, int type)') as (
    p: ProgramHandle,
    type: number,
  ) => number,
});

/** Maps by their file descriptor. */
const mapsOf = (lib: LibraryHandle) => ({
  map_create: lib.func(
    'int bpf_map_create(int type, const char *name, uint32_t key, uint32_t value, uint32_t entries, const void *opts)',
  ) as (
    type: number,
    name: string,
    keyBytes: number,
    valueBytes: number,
    entries: number,
    opts: Uint8Array,
  ) => number,
  map_lookup: lib.func('int bpf_map_lookup_elem(int fd, const void *key, void *value)') as (
    fd: number,
    key: Uint8Array,
    value: Uint8Array,
  ) => number,
  map_update: lib.func(
    'int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)',
  ) as (fd: number, key: Uint8Array, value: Uint8Array, flags: number) => number,
  map_delete: lib.func('int bpf_map_delete_elem(int fd, const void *key)') as (
    fd: number,
    key: Uint8Array,
  ) => number,
  map_next_key: lib.func('int bpf_map_get_next_key(int fd, const void *key, void *next)') as (
    fd: number,
    key: Uint8Array | null,
    next: Uint8Array,
  ) => number,
});

/** Links of network programs, and the traffic control filters of older kernels. */
const linksOf = (lib: LibraryHandle) => ({
  link_create: lib.func('int bpf_link_create(int program, int target, int type, const void *opts)') as (
    program: number,
    target: number,
    type: number,
    opts: null,
  ) => number,
  link_update: lib.func('int bpf_link_update(int link, int program, const void *opts)') as (
    link: number,
    program: number,
    opts: null,
  ) => number,
  link_detach: lib.func('int bpf_link_detach(int link)') as (link: number) => number,
  tc_query: lib.func('int bpf_tc_query(const void *hook, void *opts)') as (
    hook: Uint8Array,
    opts: Uint8Array,
  ) => number,
  tc_hook_create: lib.func('int bpf_tc_hook_create(void *hook)') as (hook: Uint8Array) => number,
  tc_hook_destroy: lib.func('int bpf_tc_hook_destroy(void *hook)') as (hook: Uint8Array) => number,
  tc_attach: lib.func('int bpf_tc_attach(const void *hook, void *opts)') as (
    hook: Uint8Array,
    opts: Uint8Array,
  ) => number,
  tc_detach: lib.func('int bpf_tc_detach(const void *hook, const void *opts)') as (
    hook: Uint8Array,
    opts: Uint8Array,
  ) => number,
});

/** What is loaded, pinned or found without an object. */
const kernelOf = (lib: LibraryHandle) => ({
  prog_load: lib.func(
    'int bpf_prog_load(int type, const char *name, const char *license, const void *code, size_t count, void *opts)',
  ) as (
    type: number,
    name: string,
    license: string,
    code: Uint8Array,
    instructions: number,
    opts: Uint8Array | null,
  ) => number,
  test_run: lib.func('int bpf_prog_test_run_opts(int fd, _Inout_ void *opts)') as (
    program: number,
    opts: Uint8Array,
  ) => number,
  btf_load: lib.func('int bpf_btf_load(const void *data, size_t length, void *opts)') as (
    data: Uint8Array,
    length: number,
    opts: null,
  ) => number,
  map_fd_by_id: lib.func('int bpf_map_get_fd_by_id(uint32_t id)') as (id: number) => number,
  prog_fd_by_id: lib.func('int bpf_prog_get_fd_by_id(uint32_t id)') as (id: number) => number,
  obj_pin: lib.func('int bpf_obj_pin(int fd, const char *path)') as (fd: number, path: string) => number,
  obj_get: lib.func('int bpf_obj_get(const char *path)') as (path: string) => number,
  obj_get_info: lib.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *length)') as (
    fd: number,
    info: Uint8Array,
    length: Uint8Array,
  ) => number,
});

const functionsOf = (lib: LibraryHandle) => ({
  ...objectsOf(lib),
  ...mapsOf(lib),
  ...linksOf(lib),
  ...kernelOf(lib),
});
type Libbpf = ReturnType<typeof functionsOf>;

let bound: Libbpf | undefined;

/**
 * The library's functions. It is loaded when they are first asked for: most of what knows of eBPF objects runs where there
 * is none. Throws HT_NOT_FOUND without it.
 */
export function libbpf(): Libbpf {
  if (bound !== undefined) return bound;
  const lib = load();
  // first what may fail, in a library that is too old: it is asked for again then, and printTo can be called once only
  const functions = functionsOf(lib);
  printTo(lib);
  return (bound = functions);
}

/** errno of a libbpf call that just failed: its result when negative (libbpf 1.x gives -errno), else errno. */
export function failureOf(result: number | null): number {
  return result !== null && result < -1 ? -result : koffi.errno();
}

/** The same of one that was made by a `Caller`; 0 when it did not fail. */
export function failureIn({ result, errno }: Outcome): number {
  if (result >= 0) return 0;
  return result < -1 ? -result : errno;
}

const LINE_BYTES = 8192;
const LIBBPF_INFO = 1;
let lines: string[] = [];

/** What it prints is kept for `takePrinted`. */
function printTo(lib: LibraryHandle): void {
  const vsnprintf = koffi
    .load('libc.so.6')
    .func('int vsnprintf(void *out, size_t size, const void *format, void *arguments)') as (
    out: Uint8Array,
    size: number,
    format: bigint,
    args: bigint,
  ) => number;
  const lineBuffer = Buffer.alloc(LINE_BYTES);
  const PrintFn = koffi.proto('int HtPrintFn(int level, const void *format, void *arguments)');
  const print = koffi.register((level: number, format: bigint, args: bigint): number => {
    if (level > LIBBPF_INFO) return 0;
    // SAFETY: libbpf calls this on the thread that called it, with a va_list that nobody else reads afterwards (koffi
    // runs it here and lets that thread wait, when it is one of the pool's);
    // vsnprintf writes at most LINE_BYTES, with the NUL.
    const n = vsnprintf(lineBuffer, LINE_BYTES, format, args);
    if (n > 0)
      lines.push(lineBuffer.toString('utf8', 0, Math.min(n, LINE_BYTES - 1)).replace(/^libbpf: |\n+$/g, ''));
    return n;
  }, koffi.pointer(PrintFn));
  // SAFETY: `print` stays registered as long as the process lives.
  (lib.func('void *libbpf_set_print(void *print)') as (print: bigint) => bigint)(print);
}

/** What libbpf has printed (warnings and information) since the last call. */
export function takePrinted(): string[] {
  const taken = lines;
  lines = [];
  return taken;
}

/** Zeroed memory outside the JavaScript heap, for buffers that libbpf keeps pointers to. Freed by freeMemory. */
export function allocMemory(bytes: number): Memory {
  return koffi.alloc('uint8_t', bytes) as Memory;
}

/** The same with these bytes in it. */
export function memoryWith(bytes: Uint8Array): Memory {
  const memory = allocMemory(bytes.length);
  // SAFETY: the view covers exactly the allocation and does not outlive this function.
  new Uint8Array(koffi.view(memory, bytes.length)).set(bytes);
  return memory;
}

export function freeMemory(memory: Memory): void {
  koffi.free(memory);
}

/** The NUL-ended text at `memory`, which holds `bytes` bytes. */
export function textOf(memory: Memory, bytes: number): string {
  // SAFETY: `memory` is a live allocation of `bytes` bytes, and the view does not outlive this function.
  const view = Buffer.from(koffi.view(memory, bytes));
  const end = view.indexOf(0);
  return view.toString('utf8', 0, end < 0 ? bytes : end);
}
