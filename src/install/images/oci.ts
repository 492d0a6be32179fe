/**
 * An OCI image layout (image-spec 1.1) on disk, written without a daemon: blobs by their digest, an index with names. The
 * same trees and date give the same bytes.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { exec } from '../../core/exec.ts';

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

/** One layer, in the layout already. */
export interface Layer extends Descriptor {
  /** Digest of the archive before it was compressed. */
  diffId: string;
  /** What it is, for the image's history. */
  from: string;
}

export interface ImageSpec {
  /** `hyperturtle-agent:0.2.0` */
  name: string;
  layers: readonly Layer[];
  entrypoint: readonly string[];
  command: readonly string[];
  path: string;
  labels: Readonly<Record<string, string>>;
  epochS: number;
}

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';
const INDEX = 'application/vnd.oci.image.index.v1+json';

const sha256 = (content: Buffer): string => `sha256:${createHash('sha256').update(content).digest('hex')}`;

export class OciLayout {
  readonly #dir: string;
  readonly #manifests: (Descriptor & { annotations: Record<string, string> })[] = [];

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** A new one in a directory, which is made. */
  static async create(dir: string): Promise<OciLayout> {
    await mkdir(path.join(dir, 'blobs/sha256'), { recursive: true });
    await writeFile(path.join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    return new OciLayout(dir);
  }

  /** A tree as a layer: its files by name, all of root's and of the date. Modes are those of the tree. */
  async layer(
    tree: string,
    o: { from: string; epochS: number; signal?: AbortSignal | undefined },
  ): Promise<Layer> {
    const archive = `${tree}.tar`;
    await exec(
      'tar',
      [
        ...['--create', `--file=${archive}`, `--directory=${tree}`],
        ...['--format=gnu', '--sort=name', `--mtime=@${o.epochS}`],
        ...['--owner=0', '--group=0', '--numeric-owner', '.'],
      ],
      { timeoutMs: 300_000, signal: o.signal, env: { ...process.env, LC_ALL: 'C', TAR_OPTIONS: '' } },
    );
    const content = await readFile(archive);
    const blob = await this.#blob(LAYER, gzipSync(content, { level: 6 }));
    return { ...blob, diffId: sha256(content), from: o.from };
  }

  async image(spec: ImageSpec): Promise<void> {
    const created = new Date(spec.epochS * 1000).toISOString();
    const config = await this.#json(CONFIG, {
      created,
      architecture: 'amd64',
      os: 'linux',
      config: {
        Env: [`PATH=${spec.path}`],
        Entrypoint: spec.entrypoint,
        Cmd: spec.command,
        WorkingDir: '/',
        Labels: spec.labels,
      },
      rootfs: { type: 'layers', diff_ids: spec.layers.map((l) => l.diffId) },
      history: spec.layers.map((l) => ({ created, created_by: l.from })),
    });
    const layers = spec.layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size }));
    const manifest = await this.#json(MANIFEST, { schemaVersion: 2, mediaType: MANIFEST, config, layers });
    this.#manifests.push({ ...manifest, annotations: { 'org.opencontainers.image.ref.name': spec.name } });
  }

  /** Makes it a layout: without an index it is none. */
  async close(): Promise<void> {
    const index = { schemaVersion: 2, mediaType: INDEX, manifests: this.#manifests };
    await writeFile(path.join(this.#dir, 'index.json'), JSON.stringify(index));
  }

  #json(mediaType: string, value: object): Promise<Descriptor> {
    return this.#blob(mediaType, Buffer.from(JSON.stringify(value)));
  }

  async #blob(mediaType: string, content: Buffer): Promise<Descriptor> {
    const digest = sha256(content);
    await writeFile(path.join(this.#dir, 'blobs/sha256', digest.slice('sha256:'.length)), content);
    return { mediaType, digest, size: content.length };
  }
}
