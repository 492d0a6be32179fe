import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import type { Header } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { errnoCode, isHyperturtleError } from '../../../../../src/core/errors.ts';
import { ociRoot, parseOci } from '../../../../../src/guest/run/oci/image.ts';
import { readLayers } from '../../../../../src/guest/run/oci/layers.ts';
import { readOciImage } from '../../../../../src/guest/run/oci/layout.ts';
import { writeTree } from '../../../../../src/guest/run/oci/unpack.ts';
import { userOf } from '../../../../../src/guest/run/oci/user.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'oci-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

type TarEntry = Partial<Header> & { name: string; content?: string };
interface Blob {
  mediaType: string;
  digest: string;
  size: number;
}
const at = (...p: string[]): string => path.join(dir, ...p);
const sha = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

async function tar(entries: TarEntry[]): Promise<Buffer> {
  const p = pack();
  for (const { content, ...header } of entries) p.entry(header, content);
  p.finalize();
  return buffer(p);
}

function blob(bytes: Uint8Array, mediaType: string): Blob {
  const digest = sha(bytes);
  mkdirSync(at('layout/blobs/sha256'), { recursive: true });
  writeFileSync(at('layout/blobs/sha256', digest.slice(7)), bytes);
  return { mediaType, digest, size: bytes.length };
}

const jsonBlob = (value: object, kind: string): Blob =>
  blob(Buffer.from(JSON.stringify(value)), `application/vnd.oci.image.${kind}.v1+json`);

interface Made {
  layers?: Buffer[];
  config?: object;
  architecture?: string;
  layer?: (tarball: Buffer) => Blob;
  diffIds?: string[];
}

/** A layout with one image. */
function layout(o: Made = {}): string {
  const { layers = [], architecture = 'amd64' } = o;
  const zipped = (t: Buffer): Blob => blob(gzipSync(t), 'application/vnd.oci.image.layer.v1.tar+gzip');
  const config = jsonBlob(
    {
      architecture,
      os: 'linux',
      config: o.config ?? null,
      rootfs: { type: 'layers', diff_ids: o.diffIds ?? layers.map(sha) },
    },
    'config',
  );
  const manifest = jsonBlob({ schemaVersion: 2, config, layers: layers.map(o.layer ?? zipped) }, 'manifest');
  index([{ ...manifest, annotations: { 'org.opencontainers.image.ref.name': 'web' } }]);
  return at('layout');
}

function index(manifests: object[]): void {
  mkdirSync(at('layout'), { recursive: true });
  writeFileSync(at('layout/oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(at('layout/index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
}

/** Unpacks it into `root`. */
async function unpack(limits?: { bytes: number; entries: number }): Promise<number> {
  const image = readOciImage(at('layout'), undefined);
  mkdirSync(at('spool'));
  const { tree, leftOut } = await readLayers(at('layout'), image, at('spool'), limits && { limits });
  await writeTree(tree, at('spool'), at('root'));
  return leftOut;
}

const codeOf = async (p: Promise<unknown>): Promise<string> => {
  try {
    await p;
    return 'ok';
  } catch (e) {
    return isHyperturtleError(e) ? e.code : (errnoCode(e) ?? String(e));
  }
};

describe('an OCI image', () => {
  it('is unpacked with its modes and links, without what a layer above hides, and without devices', async () => {
    layout({
      layers: [
        await tar([
          { name: 'bin', type: 'directory', mode: 0o755 },
          { name: 'bin/tool', mode: 0o4755, content: 'tool', mtime: new Date(1_600_000_000_000) },
          { name: 'bin/same', type: 'link', linkname: 'bin/tool' },
          { name: 'bin/link', type: 'symlink', linkname: '/bin/tool' },
          { name: 'etc/old', content: 'old' },
          { name: 'dev/null', type: 'character-device' },
        ]),
        await tar([
          { name: 'etc/.wh.old', content: '' },
          { name: 'etc/new', mode: 0o600, content: 'new' },
        ]),
      ],
    });
    expect(await unpack()).toBe(1);
    expect(statSync(at('root/bin/tool')).mode & 0o7777).toBe(0o4755);
    expect(statSync(at('root/bin/tool')).mtimeMs).toBe(1_600_000_000_000);
    expect(statSync(at('root/bin/same')).ino).toBe(statSync(at('root/bin/tool')).ino);
    expect(readlinkSync(at('root/bin/link'))).toBe('/bin/tool');
    expect(readdirSync(at('root/etc'))).toEqual(['new']);
    expect(readFileSync(at('root/etc/new'), 'utf8')).toBe('new');
    expect(statSync(at('root/etc/new')).mode & 0o7777).toBe(0o600);
    expect(readdirSync(at('spool'))).toEqual(['1']); // of the file that was hidden
  });

  it('writes nothing through a link that a layer has made', async () => {
    mkdirSync(at('victim'));
    layout({
      layers: [
        await tar([
          { name: 'x', type: 'symlink', linkname: at('victim') },
          { name: 'x/file', content: 'bad' },
          { name: 'y', type: 'symlink', linkname: '../../victim' },
          { name: 'y/file', content: 'bad' },
        ]),
      ],
    });
    await unpack();
    expect(readdirSync(at('victim'))).toEqual([]);
    expect(lstatSync(at('root/x')).isSymbolicLink()).toBe(true);
    expect(readFileSync(at('root/victim/file'), 'utf8')).toBe('bad');
  });

  it.each<[string, () => Promise<Made>, string]>([
    [
      'a name that leads out',
      async () => ({ layers: [await tar([{ name: '../x', content: 'x' }])] }),
      'HT_UNSUPPORTED',
    ],
    [
      'a layer with other content',
      async () => ({
        layers: [await tar([])],
        layer: (t) => ({ ...blob(t, 'a/b.tar'), digest: corrupted() }),
      }),
      'HT_INTEGRITY',
    ],
    [
      'a layer of another size',
      async () => ({ layers: [await tar([])], layer: (t) => ({ ...blob(t, 'a/b.tar'), size: 10 }) }),
      'HT_INTEGRITY',
    ],
    [
      'a tar stream that is not the one',
      async () => ({ layers: [await tar([])], diffIds: [`sha256:${'0'.repeat(64)}`] }),
      'HT_INTEGRITY',
    ],
    ['fewer names than layers', async () => ({ layers: [await tar([])], diffIds: [] }), 'HT_INTEGRITY'],
    [
      'a layer that is cut off',
      async () => ({ layers: [(await tar([{ name: 'a', content: 'x'.repeat(2000) }])).subarray(0, 1024)] }),
      'HT_UNSUPPORTED',
    ],
    [
      'a layer that is not gzip',
      async () => ({ layers: [await tar([])], layer: (t) => blob(t, 'a/b.tar+gzip') }),
      'HT_UNSUPPORTED',
    ],
    [
      'a layer of another type',
      async () => ({ layers: [await tar([])], layer: (t) => blob(t, 'a/b.cpio') }),
      'HT_UNSUPPORTED',
    ],
    [
      'a layer that is not there',
      async () => ({
        layers: [await tar([])],
        layer: (t) => ({ ...blob(t, 'a/b.tar'), digest: `sha256:${'1'.repeat(64)}` }),
      }),
      'HT_NOT_FOUND',
    ],
    ['another architecture', () => Promise.resolve({ architecture: 'arm64' }), 'HT_UNSUPPORTED'],
  ])('with %s is refused', async (_, make, code) => {
    layout(await make());
    expect(await codeOf(unpack())).toBe(code);
    expect(existsSync(at('root'))).toBe(false);
  });

  /** A blob under the name of another's content. */
  function corrupted(): string {
    const digest = `sha256:${'2'.repeat(64)}`;
    writeFileSync(at('layout/blobs/sha256', digest.slice(7)), Buffer.alloc(1024));
    return digest;
  }

  it('has no more bytes and entries than allowed, however small its blobs are', async () => {
    layout({ layers: [await tar([{ name: 'zeros', content: '\0'.repeat(1 << 20) }])] });
    expect(await codeOf(unpack({ bytes: 1 << 20, entries: 10 }))).toBe('HT_UNSUPPORTED');
    rmSync(at('spool'), { recursive: true });
    layout({
      layers: [
        await tar([
          { name: 'a', content: '' },
          { name: 'b', content: '' },
        ]),
      ],
    });
    expect(await codeOf(unpack({ bytes: 1 << 20, entries: 1 }))).toBe('HT_UNSUPPORTED');
    rmSync(at('spool'), { recursive: true });
    expect(await codeOf(unpack({ bytes: 1 << 20, entries: 2 }))).toBe('ok');
  });

  it('is chosen by its name, or is the only one for this machine', () => {
    layout({ config: { Entrypoint: ['/e'], Cmd: ['c'], Env: ['A=b'], WorkingDir: 'srv', User: '7' } });
    expect(readOciImage(at('layout'), 'web')).toMatchObject({
      ...{ command: ['/e', 'c'], env: ['A=b'], workingDir: '/srv', user: '7' },
    });
    expect(() => readOciImage(at('layout'), 'other')).toThrow(/no image 'other'.*there are: web/);
    const { manifests } = JSON.parse(readFileSync(at('layout/index.json'), 'utf8')) as { manifests: Blob[] };
    const here = { ...manifests[0], platform: { os: 'linux', architecture: 'amd64' } };
    const there = { ...manifests[0], platform: { os: 'linux', architecture: 'arm64' } };
    index([there, here]);
    expect(readOciImage(at('layout'), undefined).command).toEqual(['/e', 'c']);
    index([here, here]);
    expect(() => readOciImage(at('layout'), undefined)).toThrow(/more than one image/);
    index([jsonBlob({ schemaVersion: 2, manifests: [there, here] }, 'index')]);
    expect(readOciImage(at('layout'), undefined).command).toEqual(['/e', 'c']);
    index([jsonBlob({ schemaVersion: 2, manifests: [there] }, 'index')]);
    expect(() => readOciImage(at('layout'), undefined)).toThrow(/no image for linux\/amd64/);
    expect(() => readOciImage(at(), undefined)).toThrow(/an OCI image layout expected/);
  });

  it('is packed once, and nothing is left of a process that was killed at it', async () => {
    mkdirSync(at('bin'));
    const packs = at('packs');
    writeFileSync(at('bin/mkfs.erofs'), `#!/bin/sh\necho x >>${packs}\nls "$3" >"$2"\n`, { mode: 0o755 });
    vi.stubEnv('PATH', `${at('bin')}:${process.env['PATH'] ?? ''}`);
    const cache = at('cache');
    mkdirSync(at('cache/work-999999999/root'), { recursive: true });
    layout({
      layers: [await tar([{ name: 'etc/passwd', content: 'web:x:7:8::/w:/bin/sh\n' }])],
      config: { User: 'web', WorkingDir: '/srv' },
    });
    const first = await ociRoot(at('layout'), 'web', { cache });
    expect(first).toMatchObject({ user: { uid: 7, gid: 8, home: '/w' }, leftOut: 0 });
    expect(readFileSync(first.root.path, 'utf8')).toBe('etc\nsrv\n');
    expect((await ociRoot(at('layout'), 'web', { cache })).user).toEqual(first.user);
    expect(readFileSync(packs, 'utf8')).toBe('x\n');
    expect(readdirSync(cache).filter((n) => n.startsWith('work'))).toEqual([]);
    vi.unstubAllEnvs();
  });

  it('is called oci:DIR, with a name behind a colon where the layout has several', () => {
    mkdirSync(at('a:b'));
    expect(parseOci('./dir')).toBeUndefined();
    expect(parseOci('oci:/x/y:1.2')).toEqual({ dir: '/x/y', tag: '1.2' });
    expect(parseOci(`oci:${at('a:b')}`)).toEqual({ dir: at('a:b'), tag: undefined });
    // as skopeo has it
    expect(parseOci(`oci:${at('a:b')}:nginx:1.27`)).toEqual({ dir: at('a:b'), tag: 'nginx:1.27' });
    expect(parseOci('oci:none:nginx:1.27')).toEqual({ dir: 'none', tag: 'nginx:1.27' });
    expect(() => parseOci('oci:')).toThrow(/oci:DIR/);
  });

  it('is read from files alone, of a size that they may have, and none of them stays open', () => {
    const open = (): number => readdirSync('/proc/self/fd').length;
    const of = layout();
    readOciImage(of, undefined);
    const before = open();
    for (let i = 0; i < 10; i++) readOciImage(of, undefined);
    expect(open()).toBe(before);
    writeFileSync(path.join(of, 'index.json'), ' '.repeat((4 << 20) + 1));
    expect(() => readOciImage(of, undefined)).toThrow(/index.json: at most 4194304 bytes expected/);
    rmSync(path.join(of, 'index.json'));
    expect(spawnSync('mkfifo', [path.join(of, 'index.json')]).status).toBe(0);
    expect(() => readOciImage(of, undefined)).toThrow(/index.json: a file expected/);
    expect(open()).toBe(before);
  });

  it('is refused with a variable that has no value, which would be taken for the command', () => {
    expect(() => readOciImage(layout({ config: { Env: ['A=b', 'FOO'] } }), undefined)).toThrow(/NAME=value/);
  });

  it('has its user by its own tables', () => {
    const passwd = 'root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n';
    const group = 'adm:x:4:\n';
    expect(userOf('', passwd, group)).toEqual({ uid: 0, gid: 0, home: '/root' });
    expect(userOf('web', passwd, group)).toEqual({ uid: 33, gid: 34, home: '/srv' });
    expect(userOf('33', passwd, group)).toEqual({ uid: 33, gid: 34, home: '/srv' });
    expect(userOf('70:adm', passwd, group)).toEqual({ uid: 70, gid: 4, home: '/' });
    expect(userOf('web:9', passwd, group)).toEqual({ uid: 33, gid: 9, home: '/srv' });
    expect(() => userOf('nobody', passwd, group)).toThrow(/no user 'nobody'/);
    expect(() => userOf('web:none', passwd, group)).toThrow(/no group 'none'/);
    expect(() => userOf('4294967295', passwd, group)).toThrow(/a number below/);
  });
});
