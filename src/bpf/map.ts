/** eBPF array maps: creating them, single values by key, and their memory. */
import { HyperturtleError } from '../core/errors.ts';
import {
  BPF_F_MMAPABLE,
  BPF_MAP_CREATE_OPTS,
  BPF_MAP_INFO,
  BPF_MAP_TYPE_ARRAY,
  BPF_NAME_MAX,
} from '../kernel/bpf.ts';
import type { ValueOf } from '../kernel/struct.ts';
import { u32, viewOf } from '../kernel/struct.ts';
import { OwnedFd } from './fds.ts';
import { failureOf, libbpf, takePrinted } from './libbpf.ts';
import { SharedMemory, kernelError } from './sys.ts';

const EXPLAIN = {
  EPERM: ['HT_BPF', 'not permitted: run as root (CAP_BPF), where the kernel allows bpf()'],
  ENOMEM: ['HT_NO_MEMORY', 'the kernel has not enough memory'],
  ENOSYS: ['HT_UNSUPPORTED', 'this kernel has no bpf()'],
} as const;

/** Reads a struct bpf_*_info of a program's or map's descriptor. Fields that this kernel does not know are zero. */
export function infoOf(what: string, fd: number, bytes: number): Uint8Array {
  const info = new Uint8Array(bytes);
  const length = new Uint8Array(4);
  u32.write(viewOf(length), 0, bytes);
  // SAFETY: the kernel writes at most the `length` bytes that `info` has.
  const r = libbpf().obj_get_info(fd, info, length);
  if (r < 0) throw kernelError(`information on ${what}`, failureOf(r), EXPLAIN);
  return info;
}

/** A map of one key, 0, whose value is shared memory: BPF_MAP_TYPE_ARRAY with BPF_F_MMAPABLE (Linux 5.5). */
export class SharedArray implements Disposable {
  readonly file: OwnedFd;
  readonly valueBytes: number;

  private constructor(file: OwnedFd, valueBytes: number) {
    this.file = file;
    this.valueBytes = valueBytes;
  }

  static create(name: string, valueBytes: number): SharedArray {
    if (name.length > BPF_NAME_MAX)
      throw new RangeError(`map name '${name}': at most ${BPF_NAME_MAX} characters`);
    const opts = BPF_MAP_CREATE_OPTS.encode({ sz: BPF_MAP_CREATE_OPTS.size, map_flags: BPF_F_MMAPABLE });
    // SAFETY: `opts` begins with its own size, which libbpf honours.
    const fd = libbpf().map_create(BPF_MAP_TYPE_ARRAY, name, 4, valueBytes, 1, opts);
    if (fd < 0) throw kernelError(`creating map '${name}' of ${valueBytes} bytes`, failureOf(fd), EXPLAIN);
    takePrinted();
    return new SharedArray(new OwnedFd(fd, `map '${name}'`), valueBytes);
  }

  /** Takes over the descriptor of such a map that exists. Throws HT_BPF, and closes it, when it is another kind of map. */
  static adopt(file: OwnedFd): SharedArray {
    try {
      const i = BPF_MAP_INFO.decode(infoOf(file.what, file.fd, BPF_MAP_INFO.size));
      if (i.type !== BPF_MAP_TYPE_ARRAY || i.max_entries !== 1 || (i.map_flags & BPF_F_MMAPABLE) === 0)
        throw new HyperturtleError('HT_BPF', `${file.what}: an mmapable array of one value expected`);
      return new SharedArray(file, i.value_size);
    } catch (e) {
      file.close();
      throw e;
    }
  }

  info(): ValueOf<typeof BPF_MAP_INFO> {
    return BPF_MAP_INFO.decode(infoOf(this.file.what, this.file.fd, BPF_MAP_INFO.size));
  }

  /** A copy of the value as the system call gives it. */
  lookup(): Uint8Array {
    const value = new Uint8Array(this.valueBytes);
    // SAFETY: the kernel writes value_size bytes, with which this map was created.
    const r = libbpf().map_lookup(this.file.fd, new Uint8Array(4), value);
    if (r < 0) throw kernelError(`reading ${this.file.what}`, failureOf(r), EXPLAIN);
    return value;
  }

  update(value: Uint8Array): void {
    if (value.length !== this.valueBytes)
      throw new RangeError(
        `${this.file.what}: a value of ${this.valueBytes} bytes expected, ${value.length} given`,
      );
    // SAFETY: the kernel reads value_size bytes, and `value` has that many.
    const r = libbpf().map_update(this.file.fd, new Uint8Array(4), value, 0);
    if (r < 0) throw kernelError(`writing ${this.file.what}`, failureOf(r), EXPLAIN);
  }

  /** The value's memory itself, as programs see it. To be closed by the caller; outlives the map's descriptor. */
  map(): SharedMemory {
    return new SharedMemory(this.file, this.valueBytes);
  }

  close(): void {
    this.file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
