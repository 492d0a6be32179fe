/** Arguments of QEMU that all nested guests of this machine share: their RAM, and how many ports they have. Pure. */
import { PLACES } from '../../core/default-paths.ts';

/**
 * Where L2's RAM comes from:
 *   tmpfs           a file in /dev/shm, shared, as Kata has it; L1 gives pages when they are touched
 *   tmpfs-prealloc  the same, with every page touched by the VMM before the start
 *   turtlefs        a file of turtlefs: pages may come from L1's program in L0; at a multiple of 2 MiB in the VMM, without
 *                   which KVM uses no large pages
 *   hugetlbfs       2 MiB pages that L1 has set aside
 *   anonymous       plain memory of the VMM
 */
export const RAM_KINDS = ['tmpfs', 'tmpfs-prealloc', 'turtlefs', 'hugetlbfs', 'anonymous'] as const;
export type RamKind = (typeof RAM_KINDS)[number];

export const TURTLEFS_DIR = PLACES.turtlefs.path;
export const HUGETLBFS_DIR = '/dev/hugepages';

/** What of a guest says where its RAM is. */
interface RamSpec {
  memMib: number;
  ram: RamKind;
  /** Keep RAM in a file with this name, so that another process can map it too. */
  ramFileName?: string | undefined;
}

const RAM_DIR: Readonly<Record<Exclude<RamKind, 'anonymous'>, string>> = {
  tmpfs: '/dev/shm',
  'tmpfs-prealloc': '/dev/shm',
  turtlefs: TURTLEFS_DIR,
  hugetlbfs: HUGETLBFS_DIR,
};
const RAM_OPTIONS: Readonly<Record<RamKind, string>> = {
  tmpfs: '',
  'tmpfs-prealloc': ',prealloc=on',
  turtlefs: ',align=2M',
  hugetlbfs: '',
  anonymous: '',
};

/** The directory or file for memory-backend-file; undefined for anonymous memory. */
export function ramPath(spec: Omit<RamSpec, 'memMib'>): string | undefined {
  if (spec.ram === 'anonymous') return undefined;
  const dir = RAM_DIR[spec.ram];
  // QEMU unlinks its file in a directory at once: nothing can be left behind
  return spec.ramFileName === undefined ? dir : `${dir}/${spec.ramFileName}`;
}

/** By default a guest's driver sets up queues of 31 ports, some 20 exits to the VMM for each: seconds of a nested boot. */
export const MAX_PORTS = 2;

/**
 * QEMU's `-machine` of a nested guest with `ramObject()`. Without an HPET: Linux uses another timer and only masks the
 * HPET's, and QEMU 10 goes on waking up for it 250 times a second. In an L1 each of these is several exits.
 */
export function machineOption(type: string): string {
  return `${type}${type === 'microvm' ? '' : ',hpet=off'},memory-backend=ram`;
}

/** The object of QEMU that is L2's RAM: `ram`. */
export function ramObject(spec: RamSpec): string {
  const file = ramPath(spec);
  return file === undefined
    ? `memory-backend-ram,id=ram,size=${spec.memMib}M`
    : fileObject('ram', spec.ram, file, spec.memMib);
}

/** An object of QEMU for memory that comes or grows later, as RAM of that kind does: without a name, whatever RAM's has. */
export function pluggedObject(id: string, ram: RamKind, mib: number): string {
  const file = ramPath({ ram });
  return file === undefined ? `memory-backend-ram,id=${id},size=${mib}M` : fileObject(id, ram, file, mib);
}

function fileObject(id: string, ram: RamKind, file: string, mib: number): string {
  return `memory-backend-file,id=${id},mem-path=${file},size=${mib}M,share=on${RAM_OPTIONS[ram]}`;
}
