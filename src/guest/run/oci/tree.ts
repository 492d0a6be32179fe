/**
 * The root file system of an image as it grows layer by layer, in memory: no name in a layer ever meets the file system of
 * this machine, where a link could lead it elsewhere. Pure. File contents are in files with numbers, which the one that unpacks has.
 */
import { HyperturtleError } from '../../../core/errors.ts';

export interface Meta {
  mode: number;
  uid: number;
  gid: number;
  /** Milliseconds since 1970. */
  mtimeMs: number;
}

export interface DirectoryNode {
  kind: 'directory';
  layer: number;
  meta: Meta;
  entries: Map<string, TreeNode>;
}
export interface FileNode {
  kind: 'file';
  layer: number;
  meta: Meta;
  /** Number of its content. Hard links are nodes with the same. */
  content: number;
}
export interface SymlinkNode {
  kind: 'symlink';
  layer: number;
  meta: Meta;
  target: string;
}
export type TreeNode = DirectoryNode | FileNode | SymlinkNode;

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const NAME_BYTES_MAX = 255;
const PATH_BYTES_MAX = 4096;
const LINKS_MAX = 40;
const IMPLIED: Meta = { mode: 0o755, uid: 0, gid: 0, mtimeMs: 0 };

const refuse = (name: string, what: string): HyperturtleError =>
  new HyperturtleError('HT_UNSUPPORTED', `layer entry ${JSON.stringify(name.slice(0, 200))}: ${what}`);

export class ImageTree {
  readonly root: DirectoryNode = directory(0, IMPLIED);
  #layer = 0;

  /** What comes next is of a layer above all before. */
  nextLayer(): void {
    this.#layer++;
  }

  /** True when the name was a whiteout, which is done then. */
  whiteout(name: string): boolean {
    const parts = partsOf(name);
    const last = parts.pop();
    if (last === undefined || !last.startsWith(WHITEOUT)) return false;
    const parent = this.#directory(parts, name);
    if (last === OPAQUE) {
      for (const child of [...parent.entries.keys()]) this.#removeLower(parent, child);
      return true;
    }
    const hidden = last.slice(WHITEOUT.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw refuse(name, 'a whiteout of no name');
    this.#removeLower(parent, hidden);
    return true;
  }

  addDirectory(name: string, meta: Meta): void {
    const parts = partsOf(name);
    const last = parts.pop();
    if (last === undefined) {
      this.root.meta = meta;
      return;
    }
    const parent = this.#directory(parts, name);
    const there = parent.entries.get(last);
    if (there?.kind === 'directory') {
      there.meta = meta;
      there.layer = this.#layer;
    } else parent.entries.set(last, directory(this.#layer, meta));
  }

  addFile(name: string, meta: Meta, content: number): void {
    this.#put(name, { kind: 'file', layer: this.#layer, meta, content });
  }

  addSymlink(name: string, meta: Meta, target: string): void {
    if (target === '' || target.includes('\0') || Buffer.byteLength(target) >= PATH_BYTES_MAX)
      throw refuse(name, 'the target of a symbolic link expected');
    this.#put(name, { kind: 'symlink', layer: this.#layer, meta, target });
  }

  /** `target`: a name in the image. */
  addHardLink(name: string, target: string): void {
    const parts = partsOf(target);
    const last = parts.pop();
    const node = last === undefined ? this.root : this.#directory(parts, target, false).entries.get(last);
    if (node === undefined) throw refuse(name, `a link to ${JSON.stringify(target)}, which is not there`);
    if (node.kind === 'directory') throw refuse(name, 'a hard link to a directory');
    this.#put(name, { ...node, layer: this.#layer });
  }

  /** Makes what is missing, as a container's working directory is made. Gives its path with no link on the way. */
  ensureDirectory(name: string): string {
    const names: string[] = [];
    this.#directory(partsOf(name), name, true, names);
    return `/${names.join('/')}`;
  }

  /** By a name, on whose way links are followed; undefined: there is no such file, or it is a link itself. */
  file(name: string): FileNode | undefined {
    const parts = partsOf(name);
    const last = parts.pop() ?? '';
    try {
      const node = this.#directory(parts, name, false).entries.get(last);
      return node?.kind === 'file' ? node : undefined;
    } catch {
      return undefined;
    }
  }

  #put(name: string, node: FileNode | SymlinkNode): void {
    const parts = partsOf(name);
    const last = parts.pop();
    if (last === undefined) throw refuse(name, 'the root must be a directory');
    this.#directory(parts, name).entries.set(last, node);
  }

  /**
   * Symbolic links on the way are followed inside the image; missing directories are made where that is wanted. `names` gets
   * those of the directories on the way that was taken.
   */
  #directory(parts: readonly string[], name: string, make = true, names: string[] = []): DirectoryNode {
    const left = [...parts];
    let at: DirectoryNode[] = [this.root];
    let links = 0;
    while (left.length > 0) {
      const part = left.shift()!;
      const here = at[at.length - 1]!;
      if (part === '..') {
        if (at.length > 1) at.pop();
        names.pop();
        continue;
      }
      let next = here.entries.get(part);
      if (next === undefined) {
        if (!make) throw refuse(name, 'its directory is not there');
        next = directory(this.#layer, IMPLIED);
        here.entries.set(part, next);
      }
      if (next.kind === 'file') throw refuse(name, `${JSON.stringify(part)} is no directory`);
      if (next.kind === 'directory') {
        at.push(next);
        names.push(part);
      } else {
        if (++links > LINKS_MAX) throw refuse(name, `more than ${LINKS_MAX} symbolic links on the way`);
        if (next.target.startsWith('/')) {
          at = [this.root];
          names.length = 0;
        }
        // here `..` is the link's, and ends at the root of the image
        left.unshift(...next.target.split('/').filter((p) => p !== '' && p !== '.'));
      }
    }
    return at[at.length - 1]!;
  }

  /** What lower layers have there; what this layer has put there stays. */
  #removeLower(parent: DirectoryNode, name: string): void {
    const node = parent.entries.get(name);
    if (node === undefined) return;
    if (node.kind === 'directory') {
      for (const child of [...node.entries.keys()]) this.#removeLower(node, child);
      if (node.entries.size > 0) return;
    }
    if (node.layer < this.#layer) parent.entries.delete(name);
  }
}

const directory = (layer: number, meta: Meta): DirectoryNode => ({
  kind: 'directory',
  layer,
  meta,
  entries: new Map(),
});

/** Throws HT_UNSUPPORTED for a name that would lead out of the image, or that no file system has. */
function partsOf(name: string): string[] {
  if (name.includes('\0')) throw refuse(name, 'a name without zero bytes expected');
  if (Buffer.byteLength(name) > PATH_BYTES_MAX)
    throw refuse(name, `at most ${PATH_BYTES_MAX} bytes of name expected`);
  const parts = name.split('/').filter((p) => p !== '' && p !== '.');
  for (const part of parts) {
    if (part === '..') throw refuse(name, "a name without '..' expected");
    if (Buffer.byteLength(part) > NAME_BYTES_MAX)
      throw refuse(name, `at most ${NAME_BYTES_MAX} bytes for each part of a name expected`);
  }
  return parts;
}
