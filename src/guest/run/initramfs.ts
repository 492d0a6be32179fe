/** The initramfs of a run: busybox and the modules of this machine's kernel that the guest needs, and what it is to do. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { cpioArchive, cpioDevice, cpioDir, cpioFile, cpioLink } from '../../core/cpio.ts';
import type { CpioEntry } from '../../core/cpio.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { INIT_APPLETS, RUN_INIT, UDHCPC_SCRIPT, commandScript, settingsScript } from './init.ts';
import type { GuestSettings } from './init.ts';
import { own } from '../../core/own.ts';

/** `/lib/modules/RELEASE`. */
export interface ModuleSource {
  dir: string;
}

const BUSYBOX = ['/usr/bin/busybox', '/bin/busybox'];
/** Paths of the guest programs that come with this one. */
const PROBE = ['/usr/lib/hyperturtle/l2/answer_probe', '/payload/l2/programs/answer_probe'];

/** `modules` and what they need, each after what it needs, by modules.dep. Those built into the kernel are left out. */
export function moduleOrder(modulesDep: string, builtin: string, modules: readonly string[]): string[] {
  const nameOf = (file: string): string =>
    path
      .basename(file)
      .replace(/\.ko(\.\w+)?$/, '')
      .replaceAll('-', '_');
  const needs = new Map<string, { file: string; needs: string[] }>();
  for (const line of modulesDep.split('\n')) {
    const [file, rest] = line.split(':');
    if (file === undefined || rest === undefined) continue;
    needs.set(nameOf(file), { file, needs: rest.trim().split(/\s+/).filter(Boolean) });
  }
  const inKernel = new Set(builtin.split('\n').filter(Boolean).map(nameOf));
  const order: string[] = [];
  const visit = (name: string): void => {
    if (inKernel.has(name)) return;
    const found = needs.get(name);
    if (found === undefined)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `kernel module ${name}: neither among the modules nor built in`,
      );
    if (order.includes(found.file)) return;
    // modules.dep names the nearest first
    for (const n of found.needs) visit(nameOf(n));
    if (!order.includes(found.file)) order.push(found.file);
  };
  for (const m of modules) visit(m.replaceAll('-', '_'));
  return order;
}

/** Throws HT_NOT_FOUND without busybox or modules. */
export async function runInitramfs(
  source: ModuleSource,
  modules: readonly string[],
  settings: GuestSettings,
): Promise<Buffer> {
  const read = (file: string): string => {
    try {
      return readFileSync(path.join(source.dir, file), 'utf8');
    } catch (e) {
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `${source.dir}/${file}: the guest's kernel needs its modules: give their directory by --modules`,
        { cause: e },
      );
    }
  };
  const order = moduleOrder(read('modules.dep'), read('modules.builtin'), modules);
  const files: CpioEntry[] = [];
  for (const m of order)
    files.push(cpioFile(`modules/${plainName(m)}`, await moduleElf(path.join(source.dir, m))));
  return cpioArchive([
    ...['bin', 'dev', 'proc', 'sys', 'modules', 'hyperturtle', 'lower', 'rw', 'root'].map((d) => cpioDir(d)),
    cpioDevice('dev/console', 5, 1),
    cpioFile('init', RUN_INIT, 0o755),
    cpioFile('bin/busybox', staticProgram('busybox', BUSYBOX, 'install the package busybox-static'), 0o755),
    ...INIT_APPLETS.map((a) => cpioLink(`bin/${a}`, 'busybox')),
    ...files,
    cpioFile('modules/order', order.map((m) => `${plainName(m)}\n`).join('')),
    ...(settings.service === undefined
      ? []
      : [
          cpioFile(
            'bin/answer_probe',
            staticProgram('answer_probe', PROBE, 'it comes with hyperturtle'),
            0o755,
          ),
        ]),
    cpioFile('hyperturtle/settings', settingsScript(settings)),
    cpioFile('hyperturtle/command', commandScript(settings)),
    cpioFile('hyperturtle/udhcpc', UDHCPC_SCRIPT, 0o755),
  ]);
}

const plainName = (file: string): string => path.basename(file).replace(/\.ko\.\w+$/, '.ko');

/** busybox in the guest does not unpack modules. */
async function moduleElf(file: string): Promise<Buffer> {
  const program = own({ '.xz': 'xz', '.zst': 'zstd', '.gz': 'gzip' }, path.extname(file));
  if (program === undefined) return readFileSync(file);
  return (await exec(program, ['-dc', file], { maxBytes: 64 << 20 })).stdout;
}

function staticProgram(name: string, places: readonly string[], mend: string): Buffer {
  const file = places.find((f) => existsSync(f));
  if (file === undefined)
    throw new HyperturtleError('HT_NOT_FOUND', `${name}: not at ${places.join(' or ')}: ${mend}`);
  const elf = readFileSync(file);
  if (needsLoader(elf))
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${file} is linked dynamically, a static one is needed: ${mend}`,
    );
  return elf;
}

/** Whether a 64-bit ELF file has a PT_INTERP segment. */
export function needsLoader(elf: Buffer): boolean {
  const [at, size, count] = [
    Number(elf.readBigUInt64LE(0x20)),
    elf.readUInt16LE(0x36),
    elf.readUInt16LE(0x38),
  ];
  return Array.from({ length: count }, (_, i) => elf.readUInt32LE(at + i * size)).includes(3);
}
