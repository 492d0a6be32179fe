/**
 * The stock kernel's parts: the ELF image inside the bzImage (boots faster, by PVH), and modules as plain ELF
 * files in the order in which they must be loaded.
 */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import { elfSection } from './images-elf.ts';
import { lz4LegacyDecompress } from './kernel-lz4.ts';
import { toolEnv, toolPath } from './tools.ts';
import type { KernelTree, ToolsTree } from './tools.ts';
import { exists } from './xdg.ts';

/** How a payload begins, by compressor; offsets of a bzImage per Documentation/arch/x86/boot.rst. */
const MAGIC = [
  { name: 'gzip', bytes: '1f8b' },
  { name: 'xz', bytes: 'fd377a585a00' },
  { name: 'lz4', bytes: '02214c18' },
  { name: 'zstd', bytes: '28b52ffd' },
] as const;

/** ELF kernel of a bzImage. Throws HT_UNSUPPORTED for a file that is none or is packed in another way. */
async function extractVmlinux(bzImage: Buffer, tools: ToolsTree): Promise<Buffer> {
  if (bzImage.length < 0x250 || bzImage.toString('latin1', 0x202, 0x206) !== 'HdrS')
    throw new HyperturtleError('HT_UNSUPPORTED', 'kernel image: no bzImage (HdrS not found at 0x202)');
  const setupSectors = bzImage.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c));
  const vmlinux = await decompress(payload, tools);
  if (vmlinux.toString('latin1', 0, 4) !== '\x7fELF')
    throw new HyperturtleError('HT_UNSUPPORTED', 'kernel image: what it unpacks to is no ELF file');
  return vmlinux;
}

async function decompress(payload: Buffer, tools: ToolsTree): Promise<Buffer> {
  const kind = MAGIC.find((m) => payload.toString('hex', 0, m.bytes.length / 2) === m.bytes)?.name;
  // the kernel's build appends the unpacked size (4 bytes), which the programs would take for garbage
  const body = payload.subarray(0, -4);
  switch (kind) {
    case 'gzip':
      return gunzipSync(payload);
    case 'lz4':
      return lz4LegacyDecompress(body);
    case 'xz':
    case 'zstd':
      return filter(kind, body, tools);
    case undefined:
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `kernel image: payload begins with ${payload.toString('hex', 0, 6)}: expected gzip, xz, lz4 or zstd`,
      );
  }
}

async function filter(program: 'xz' | 'zstd', input: Buffer, tools: ToolsTree): Promise<Buffer> {
  const options = { input, env: toolEnv(tools), maxBytes: 1 << 30 };
  return (await exec(toolPath(tools, program), ['-dc'], options)).stdout;
}

export async function readVmlinux(kernel: KernelTree, tools: ToolsTree): Promise<Buffer> {
  // of a kernel that the lab built
  const plain = path.join(kernel.root, 'boot', `vmlinux-${kernel.kernelVersion}`);
  if (await exists(plain)) return readFile(plain);
  return extractVmlinux(
    await readFile(path.join(kernel.root, 'boot', `vmlinuz-${kernel.kernelVersion}`)),
    tools,
  );
}

export interface KernelModule {
  /** With underscores: `kvm_amd`. */
  name: string;
  /** Below `kernel/`, without compression suffix: `arch/x86/kvm/kvm-amd.ko`. */
  path: string;
  file: string;
}

export class ModuleTree {
  readonly #byName: ReadonlyMap<string, KernelModule>;
  readonly #builtin: ReadonlySet<string>;
  readonly #tools: ToolsTree;
  readonly #elf = new Map<string, Promise<Buffer>>();

  private constructor(
    byName: ReadonlyMap<string, KernelModule>,
    builtin: ReadonlySet<string>,
    tools: ToolsTree,
  ) {
    this.#byName = byName;
    this.#builtin = builtin;
    this.#tools = tools;
  }

  static async open(kernel: KernelTree, tools: ToolsTree): Promise<ModuleTree> {
    const dir = moduleDir(kernel);
    const byName = new Map<string, KernelModule>();
    for (const e of await readdir(path.join(dir, 'kernel'), { recursive: true })) {
      const m = /^(.*\.ko)(?:\.(?:xz|zst|gz))?$/.exec(e);
      if (!m) continue;
      const name = moduleName(m[1]!);
      byName.set(name, { name, path: m[1]!, file: path.join(dir, 'kernel', e) });
    }
    const builtin = await readFile(path.join(dir, 'modules.builtin'), 'utf8');
    return new ModuleTree(byName, new Set(builtin.split('\n').filter(Boolean).map(moduleName)), tools);
  }

  /** The module as an uncompressed ELF file. */
  elf(module: KernelModule): Promise<Buffer> {
    let elf = this.#elf.get(module.name);
    if (elf === undefined) this.#elf.set(module.name, (elf = this.#read(module.file)));
    return elf;
  }

  async #read(file: string): Promise<Buffer> {
    const raw = await readFile(file);
    if (file.endsWith('.gz')) return gunzipSync(raw);
    if (file.endsWith('.xz')) return filter('xz', raw, this.#tools);
    if (file.endsWith('.zst')) return filter('zstd', raw, this.#tools);
    return raw;
  }

  /**
   * `wanted` and all they need, each after what it needs. A wanted module that is built in is left out; one the
   * kernel does not have is an error when `required`, else left out too (series differ in what they split off).
   */
  async loadOrder(wanted: readonly string[], required: boolean): Promise<KernelModule[]> {
    const order: KernelModule[] = [];
    const seen = new Set<string>();
    const visit = async (raw: string, must: boolean): Promise<void> => {
      const name = moduleName(raw);
      if (seen.has(name)) return;
      seen.add(name);
      if (this.#builtin.has(name)) return;
      const module = this.#byName.get(name);
      if (module === undefined) {
        if (!must) return;
        throw new HyperturtleError(
          'HT_KERNEL',
          `kernel module ${name}: neither in the kernel's package nor built in`,
        );
      }
      const info = moduleInfo(await this.elf(module));
      for (const d of info.soft) await visit(d, false);
      for (const d of info.depends) await visit(d, true);
      order.push(module);
    };
    for (const w of wanted) await visit(w, required);
    return order;
  }
}

export function moduleDir(kernel: KernelTree): string {
  return path.join(kernel.root, 'usr/lib/modules', kernel.kernelVersion);
}

function moduleName(file: string): string {
  return path.basename(file.trim(), '.ko').replaceAll('-', '_');
}

/** What a module's .modinfo section says it needs. Soft ones (`softdep=pre: crc32c`) may name an algorithm. */
export function moduleInfo(elf: Buffer): { depends: string[]; soft: string[] } {
  const text = elfSection(elf, '.modinfo')?.toString('latin1') ?? '';
  const depends: string[] = [];
  const soft: string[] = [];
  for (const entry of text.split('\0')) {
    const [key, value] = [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)];
    if (key === 'depends') depends.push(...value.split(',').filter(Boolean));
    if (key === 'softdep')
      // an algorithm's plain implementation is called by its name and `generic`
      for (const d of (/pre:([^:]*?)(?:\s*post:|$)/.exec(value)?.[1] ?? '').split(/\s+/).filter(Boolean))
        soft.push(d, `${d}_generic`);
  }
  return { depends, soft };
}
