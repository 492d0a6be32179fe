/** Numbers of ioctls as <asm-generic/ioctl.h> makes them: direction, size of the argument, type, number. */

export interface IoctlRequest {
  /** For messages: `HT_ATTACH_VM`. */
  readonly name: string;
  readonly code: number;
  readonly size: number;
}

const NONE = 0;
const WRITE = 1;
const READ = 2;

function request(name: string, direction: number, type: number, nr: number, size: number): IoctlRequest {
  if (size >= 1 << 14) throw new RangeError(`${name}: an argument of ${size} bytes does not fit the number`);
  return { name, code: ((direction << 30) | (size << 16) | (type << 8) | nr) >>> 0, size };
}

/** No argument. */
export const io = (name: string, type: number, nr: number): IoctlRequest => request(name, NONE, type, nr, 0);
/** The kernel writes the argument. */
export const ior = (name: string, type: number, nr: number, of: { size: number }): IoctlRequest =>
  request(name, READ, type, nr, of.size);
/** The kernel reads the argument. */
export const iow = (name: string, type: number, nr: number, of: { size: number }): IoctlRequest =>
  request(name, WRITE, type, nr, of.size);
export const iowr = (name: string, type: number, nr: number, of: { size: number }): IoctlRequest =>
  request(name, READ | WRITE, type, nr, of.size);
