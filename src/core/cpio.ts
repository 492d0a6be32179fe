/** Writes cpio archives of the kind the kernel takes as initramfs (`newc`), with nothing in them that varies. */

export interface CpioEntry {
  /** Without leading slash; directories before what is in them. */
  path: string;
  /** File type and permissions, as in stat(2). */
  mode: number;
  data?: Buffer;
  /** Device number, for character devices. */
  device?: { major: number; minor: number };
}

export const cpioDir = (path: string, permissions = 0o755): CpioEntry => ({
  path,
  mode: 0o040000 | permissions,
});

export const cpioFile = (path: string, data: Buffer | string, permissions = 0o644): CpioEntry => ({
  path,
  mode: 0o100000 | permissions,
  data: typeof data === 'string' ? Buffer.from(data) : data,
});

export const cpioLink = (path: string, target: string): CpioEntry => ({
  path,
  mode: 0o120777,
  data: Buffer.from(target),
});

export const cpioDevice = (path: string, major: number, minor: number): CpioEntry => ({
  path,
  mode: 0o020600,
  device: { major, minor },
});

export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const pad = (bytes: number): void => {
    if (bytes % 4 !== 0) parts.push(Buffer.alloc(4 - (bytes % 4)));
  };
  [...entries, { path: 'TRAILER!!!', mode: 0 }].forEach((e: CpioEntry, i) => {
    const name = Buffer.from(`${e.path}\0`);
    const data = e.data ?? Buffer.alloc(0);
    const fields = [
      i + 1, // inode: any, but different ones, or the kernel sees hard links
      e.mode,
      0, // uid
      0, // gid
      1, // links
      0, // mtime
      data.length,
      0, // device of the file system
      0,
      e.device?.major ?? 0,
      e.device?.minor ?? 0,
      name.length,
      0, // checksum, not of this format
    ];
    const header = Buffer.from(`070701${fields.map((f) => f.toString(16).padStart(8, '0')).join('')}`);
    parts.push(header, name);
    pad(header.length + name.length);
    parts.push(data);
    pad(data.length);
  });
  return Buffer.concat(parts);
}
