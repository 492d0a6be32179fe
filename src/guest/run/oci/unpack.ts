/** An image's tree as files of this machine: in a new directory that nobody else enters, with no name followed on the way. */
import { chmod, chown, lchown, link, mkdir, rename, symlink, utimes } from 'node:fs/promises';
import path from 'node:path';
import { contentFile } from './layers.ts';
import type { DirectoryNode, FileNode, ImageTree, Meta, SymlinkNode } from './tree.ts';

/** `to` must not be there. Owners are kept by root alone: of an ordinary user all is this user's. */
export async function writeTree(
  tree: ImageTree,
  spool: string,
  to: string,
  signal?: AbortSignal,
): Promise<void> {
  const owners = process.geteuid?.() === 0;
  const placed = new Map<number, string>();

  const finish = async (file: string, { mode, uid, gid, mtimeMs }: Meta): Promise<void> => {
    // before the mode: a change of the owner takes the set-user-ID bit away
    if (owners) await chown(file, uid, gid);
    await chmod(file, mode);
    await utimes(file, mtimeMs / 1000, mtimeMs / 1000);
  };
  const writeFile = async (file: string, node: FileNode): Promise<void> => {
    const first = placed.get(node.content);
    if (first !== undefined) {
      await link(first, file);
      return;
    }
    await rename(contentFile(spool, node.content), file);
    placed.set(node.content, file);
    await finish(file, node.meta);
  };
  const writeLink = async (file: string, { target, meta }: SymlinkNode): Promise<void> => {
    await symlink(target, file);
    if (owners) await lchown(file, meta.uid, meta.gid);
  };
  const writeDirectory = async (file: string, node: DirectoryNode): Promise<void> => {
    signal?.throwIfAborted();
    await mkdir(file, { mode: 0o700 });
    for (const [name, child] of node.entries) {
      const at = path.join(file, name);
      if (child.kind === 'directory') await writeDirectory(at, child);
      else if (child.kind === 'file') await writeFile(at, child);
      else await writeLink(at, child);
    }
    await finish(file, node.meta);
  };
  await writeDirectory(to, tree.root);
}
