import { describe, expect, it } from 'vitest';
import { ImageTree } from '../../../../../src/guest/run/oci/tree.ts';
import type { DirectoryNode, TreeNode } from '../../../../../src/guest/run/oci/tree.ts';

const meta = { mode: 0o644, uid: 0, gid: 0, mtimeMs: 0 };

/** `a/`, `a/file`, `a/link -> target`. */
function listed(tree: ImageTree): string[] {
  const found: string[] = [];
  const visit = (dir: DirectoryNode, prefix: string): void => {
    for (const [name, node] of dir.entries) {
      const at = `${prefix}${name}`;
      found.push(shown(at, node));
      if (node.kind === 'directory') visit(node, `${at}/`);
    }
  };
  visit(tree.root, '');
  return found.sort();
}

function shown(at: string, node: TreeNode): string {
  if (node.kind === 'directory') return `${at}/`;
  return node.kind === 'file' ? `${at}=${node.content}` : `${at} -> ${node.target}`;
}

function layers(...each: ((t: ImageTree) => void)[]): ImageTree {
  const tree = new ImageTree();
  for (const add of each) {
    tree.nextLayer();
    add(tree);
  }
  return tree;
}

describe("an image's tree", () => {
  it('has what the layers above have put there, and keeps a directory that comes again', () => {
    const tree = layers(
      (t) => {
        t.addDirectory('a/', meta);
        t.addFile('./a/one', meta, 0);
        t.addFile('/a/two', meta, 1);
      },
      (t) => {
        t.addDirectory('a', { ...meta, mode: 0o700 });
        t.addFile('a/two', meta, 2);
      },
    );
    expect(listed(tree)).toEqual(['a/', 'a/one=0', 'a/two=2']);
    expect(tree.root.entries.get('a')?.meta.mode).toBe(0o700);
  });

  it('loses what a whiteout names, of lower layers alone, whatever the order in a layer is', () => {
    const lower = (t: ImageTree): void => {
      t.addFile('a/old', meta, 0);
      t.addFile('a/both', meta, 1);
      t.addFile('b/deep/file', meta, 2);
      t.addFile('c/old', meta, 3);
    };
    const tree = layers(lower, (t) => {
      expect(t.whiteout('a/.wh.old')).toBe(true);
      t.addFile('a/both', meta, 4);
      expect(t.whiteout('a/.wh.both')).toBe(true);
      expect(t.whiteout('.wh.b')).toBe(true);
      t.addFile('c/new', meta, 5);
      expect(t.whiteout('c/.wh..wh..opq')).toBe(true);
      expect(t.whiteout('a/plain')).toBe(false);
      expect(t.whiteout('.wh.not-there')).toBe(true);
    });
    expect(listed(tree)).toEqual(['a/', 'a/both=4', 'c/', 'c/new=5']);
  });

  it('says where a directory is when links on its way are followed', () => {
    const tree = layers((t) => {
      t.addSymlink('app', meta, '/opt/app');
      t.addSymlink('opt/app/now', meta, '../v2');
    });
    expect(tree.ensureDirectory('/app')).toBe('/opt/app');
    expect(tree.ensureDirectory('/app/now/bin')).toBe('/opt/v2/bin');
    expect(tree.ensureDirectory('/')).toBe('/');
    expect(listed(tree)).toContain('opt/v2/bin/');
  });

  it('keeps a directory that the layer of its whiteout has made again', () => {
    const tree = layers(
      (t) => t.addFile('d/old', meta, 0),
      (t) => {
        t.addDirectory('d', meta);
        t.whiteout('.wh.d');
      },
    );
    expect(listed(tree)).toEqual(['d/']);
  });

  it('follows links on the way inside the image, and never out of it', () => {
    const tree = layers(
      (t) => {
        t.addDirectory('usr/lib', meta);
        t.addSymlink('lib', meta, 'usr/lib');
        t.addSymlink('out', meta, '../../../etc');
        t.addSymlink('abs', meta, '/usr/./lib');
      },
      (t) => {
        t.addFile('lib/x', meta, 0);
        t.addFile('out/passwd', meta, 1);
        t.addFile('abs/y', meta, 2);
      },
    );
    expect(listed(tree)).toEqual([
      ...['abs -> /usr/./lib', 'etc/', 'etc/passwd=1', 'lib -> usr/lib', 'out -> ../../../etc'],
      ...['usr/', 'usr/lib/', 'usr/lib/x=0', 'usr/lib/y=2'],
    ]);
    expect(tree.file('/lib/x')?.content).toBe(0);
    expect(tree.file('/nowhere/x')).toBeUndefined();
  });

  it('has hard links as one content, which a layer above may replace under one name', () => {
    const tree = layers(
      (t) => {
        t.addFile('a', meta, 0);
        t.addHardLink('b', 'a');
      },
      (t) => {
        t.addFile('b', meta, 1);
        t.addHardLink('c', '/a');
        t.whiteout('.wh.a');
      },
    );
    expect(listed(tree)).toEqual(['b=1', 'c=0']);
  });

  it('refuses names that lead out, through files, in circles, or that no file system has', () => {
    const tree = layers((t) => {
      t.addFile('file', meta, 0);
      t.addSymlink('loop', meta, 'loop');
    });
    const bad: [() => void, RegExp][] = [
      [() => tree.addFile('../x', meta, 1), /without '\.\.'/],
      [() => tree.addFile('a/../../x', meta, 1), /without '\.\.'/],
      [() => tree.addHardLink('x', '../../etc/shadow'), /without '\.\.'/],
      [() => tree.whiteout('../.wh.x'), /without '\.\.'/],
      [() => tree.whiteout('.wh...'), /whiteout of no name/],
      [() => tree.addFile('file/x', meta, 1), /is no directory/],
      [() => tree.addFile('loop/x', meta, 1), /symbolic links on the way/],
      [() => tree.addFile('a\0b', meta, 1), /zero bytes/],
      [() => tree.addFile('n'.repeat(256), meta, 1), /at most 255 bytes/],
      [() => tree.addFile('n/'.repeat(2100), meta, 1), /at most 4096 bytes/],
      [() => tree.addFile('.', meta, 1), /root must be a directory/],
      [() => tree.addSymlink('s', meta, ''), /target of a symbolic link/],
      [() => tree.addHardLink('x', 'not-there'), /which is not there/],
      [() => tree.addHardLink('x', '/'), /hard link to a directory/],
    ];
    for (const [what, message] of bad) expect(what).toThrow(message);
    expect(listed(tree)).toEqual(['file=0', 'loop -> loop']);
  });
});
