/**
 * What of a Kata configuration matters here, read as Kata's own readers do: the file itself, then each file of `config.d`
 * beside it in the order of their names; tables are merged, everything else is replaced. Pure.
 */
import { TomlDate, TomlError, parse } from 'smol-toml';
import type { TomlTable, TomlValue } from 'smol-toml';
import { HyperturtleError } from '../../core/errors.ts';
import { own, setOwn } from '../../core/own.ts';
import type { Flavor } from './version.ts';

export type Hypervisor = 'qemu' | 'clh' | 'fc';

/** Tables of a configuration: `[hypervisor.TABLE]`. runtime-rs before 3.30 has the second name of cloud-hypervisor. */
const TABLES: ReadonlyMap<string, Hypervisor> = new Map([
  ['qemu', 'qemu'],
  ['clh', 'clh'],
  ['cloud-hypervisor', 'clh'],
  ['firecracker', 'fc'],
]);

export interface KataSettings {
  hypervisor: Hypervisor;
  table: string;
  flavor: Flavor;
  path: string | undefined;
  validPaths: readonly string[];
  /** Empty, or a program that starts the VMM (Firecracker's). */
  jailer: string;
  validJailers: readonly string[];
  hotPlug: string;
  coldPlug: string;
  rootPorts: number;
  machine: string;
  /** What makes pods faster to touch or slower to start, and is left as it is. */
  warnings: readonly string[];
}

/** Why a configuration is none that can be accelerated. */
export interface NotForUs {
  why: string;
}

export interface ConfigText {
  file: string;
  text: string;
}

/** Throws HT_CONFIG with file and line. */
function readToml({ file, text }: ConfigText): TomlTable {
  try {
    return parse(text, { integersAsBigInt: 'asNeeded' });
  } catch (e) {
    if (!(e instanceof TomlError)) throw e;
    const [what] = e.message.split('\n');
    throw new HyperturtleError('HT_CONFIG', `${file}:${e.line}:${e.column}: no TOML: ${what ?? ''}`, {
      cause: e,
    });
  }
}

/** `over` wins; tables are merged. */
function merged(base: TomlTable, over: TomlTable): TomlTable {
  const result: TomlTable = {};
  for (const [key, value] of Object.entries(base)) setOwn(result, key, value);
  for (const [key, value] of Object.entries(over)) {
    const before = own(result, key);
    setOwn(result, key, isTable(before) && isTable(value) ? merged(before, value) : value);
  }
  return result;
}

function isTable(value: TomlValue | undefined): value is TomlTable {
  return typeof value === 'object' && !Array.isArray(value) && !(value instanceof TomlDate);
}

/** `dropIns` in the order of their names. */
export function settingsOf(main: ConfigText, dropIns: readonly ConfigText[]): KataSettings | NotForUs {
  const all = [main, ...dropIns].map(readToml).reduce(merged);
  const tables = tableOf(all, 'hypervisor');
  const names = Object.keys(tables);
  const [name] = names;
  if (name === undefined) return { why: 'it has no [hypervisor.*] section' };
  if (names.length > 1)
    return {
      why: `one [hypervisor.*] section expected, found: ${names.join(', ')} (Kata takes any of them)`,
    };
  const hypervisor = TABLES.get(name);
  if (hypervisor === undefined)
    return { why: `hypervisor '${name}': only QEMU, cloud-hypervisor and Firecracker are known` };
  const h = tableOf(tables, name);
  if (own(h, 'confidential_guest') === true)
    return { why: 'a confidential guest: its memory is encrypted, and no file can be its RAM' };
  return {
    hypervisor,
    table: name,
    flavor: flavorOf(main.file, all),
    path: textIn(h, 'path'),
    validPaths: textsIn(h, 'valid_hypervisor_paths'),
    jailer: textIn(h, 'jailer_path') ?? '',
    validJailers: textsIn(h, 'valid_jailer_paths'),
    hotPlug: textIn(h, 'hot_plug_vfio') ?? 'no-port',
    coldPlug: textIn(h, 'cold_plug_vfio') ?? 'no-port',
    rootPorts: Number(own(h, 'pcie_root_port') ?? 0),
    machine: textIn(h, 'machine_type') ?? 'q35',
    warnings: warningsOf(h),
  };
}

export const isForUs = (s: KataSettings | NotForUs): s is KataSettings => !('why' in s);

/** Only runtime-rs is told which hypervisor it has. */
function flavorOf(file: string, all: TomlTable): Flavor {
  return textIn(tableOf(all, 'runtime'), 'hypervisor_name') !== undefined || file.includes('/runtime-rs/')
    ? 'rs'
    : 'go';
}

function warningsOf(h: TomlTable): string[] {
  const found: string[] = [];
  if (own(h, 'enable_mem_prealloc') === true)
    found.push('enable_mem_prealloc is true: all memory is touched before the guest runs');
  if (own(h, 'enable_hugepages') === true)
    found.push('enable_hugepages is true: huge pages are left where they are, and are not accelerated');
  if (own(h, 'rootless') === true)
    found.push('rootless is true: a VMM that is no root may not open turtlefs, and is started as before');
  return found;
}

function tableOf(table: TomlTable, key: string): TomlTable {
  const value = own(table, key);
  return isTable(value) ? value : {};
}

function textIn(table: TomlTable, key: string): string | undefined {
  const value = own(table, key);
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function textsIn(table: TomlTable, key: string): string[] {
  const value = own(table, key);
  return Array.isArray(value) ? value.filter((v) => typeof v === 'string') : [];
}
