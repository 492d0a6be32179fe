/** Which Kata is on a machine: its shims with their versions, and its configurations with what was dropped in beside them. */
import { lstatSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { exec } from '../../core/exec.ts';
import { isHyperturtleError } from '../../core/errors.ts';
import { readIfThere } from '../../core/files.ts';
import { isForUs, settingsOf } from './settings.ts';
import type { ConfigText, KataSettings, NotForUs } from './settings.ts';
import { DROP_IN_NAME, MARK } from './texts.ts';
import { shimVersion } from './version.ts';
import type { Flavor, KataVersion } from './version.ts';

const SHIM = 'containerd-shim-kata-v2';
const VERSION_MS = 20_000;

/** Where distributions and Kata's own packages put the programs. */
const PROGRAM_DIRS = ['/usr/local/bin', '/usr/bin', '/opt/kata/bin', '/opt/kata/runtime-rs/bin'];
/** Where Kata looks for `configuration.toml`, in its order; runtime-rs in `runtime-rs` below each. */
const CONFIG_DIRS = [
  '/etc/kata-containers',
  '/usr/share/defaults/kata-containers',
  '/opt/kata/share/defaults/kata-containers',
];
/** Below these, a directory for each runtime: kata-deploy from 3.26 on. */
const DEPLOYED = ['runtimes', 'custom-runtimes'];

export interface FoundShim {
  file: string;
  flavor: Flavor;
  version: KataVersion;
}

/** `default`: what Kata takes that is told no other; `deployed`: for a runtime of its own; `beside`: beside such a one. */
type Role = 'default' | 'deployed' | 'beside' | 'named';

export interface FoundConfiguration {
  /** Without symbolic links, as Kata looks for `config.d` beside that. */
  file: string;
  role: Role;
  text: string;
  settings: KataSettings | NotForUs;
  /** With our drop-in. */
  effective: KataSettings | NotForUs;
  /** Files of others in config.d. */
  dropIns: readonly ConfigText[];
  /** Our drop-in's text. */
  ours: string | undefined;
  /** Configurations that would read the same config.d. */
  others: readonly string[];
  /** The default leads here through a copy that install made of it. */
  copied: boolean;
}

export interface FoundKata {
  shims: readonly FoundShim[];
  configurations: readonly FoundConfiguration[];
}

export const SEARCHED = {
  shims: PROGRAM_DIRS.map((dir) => `${dir}/${SHIM}`),
  configurations: CONFIG_DIRS.map((dir) => `${dir}/[runtime-rs/]configuration.toml`),
};

/** `config`: the only configuration that matters, as somebody named it. */
export async function findKata(root: string, config?: string): Promise<FoundKata> {
  const configurations = config === undefined ? allConfigurations(root) : named(root, config);
  return { shims: await findShims(root, programDirs(config)), configurations };
}

/** That of a configuration which a Kata in another place brought first. */
function programDirs(config: string | undefined): string[] {
  const prefix = /^(.*)\/share\/defaults\/kata-containers\//.exec(config ?? '')?.[1];
  const dirs = prefix === undefined ? [] : [`${prefix}/bin`, `${prefix}/runtime-rs/bin`];
  return [...new Set([...dirs, ...PROGRAM_DIRS])];
}

async function findShims(root: string, dirs: readonly string[]): Promise<FoundShim[]> {
  const found: FoundShim[] = [];
  for (const file of dirs.map((dir) => `${dir}/${SHIM}`)) {
    if (!isThere(root, file)) continue;
    const said = await shimSays(path.join(root, file));
    const known = shimVersion(said);
    if (known) found.push({ file, ...known });
  }
  return found;
}

/** Empty for one that cannot be run: a script around another one that fails, or one of another architecture. */
async function shimSays(file: string): Promise<string> {
  try {
    const { stdout, stderr } = await exec(file, ['--version'], { timeoutMs: VERSION_MS });
    return `${stdout.toString('utf8')}\n${stderr.toString('utf8')}`;
  } catch (e) {
    if (isHyperturtleError(e)) return '';
    throw e;
  }
}

/** The program of a Kata that reads a configuration as the shim does; Go's only. */
export function kataRuntime(root: string, config: string): string | undefined {
  const file = programDirs(config)
    .map((dir) => `${dir}/kata-runtime`)
    .find((at) => isThere(root, at));
  return file === undefined ? undefined : path.join(root, file);
}

function named(root: string, config: string): FoundConfiguration[] {
  const one = configurationAt(root, config, 'named');
  return one === undefined ? [] : [one];
}

function allConfigurations(root: string): FoundConfiguration[] {
  const found = new Map<string, FoundConfiguration>();
  const add = (file: string, role: Role): boolean => {
    const one = configurationAt(root, file, role);
    if (one !== undefined && !found.has(one.file)) found.set(one.file, one);
    return one !== undefined;
  };
  for (const below of ['', '/runtime-rs']) {
    const files = CONFIG_DIRS.map((dir) => `${dir}${below}/configuration.toml`);
    files.find((file) => add(file, 'default'));
  }
  for (const dir of CONFIG_DIRS) {
    for (const runtimes of DEPLOYED)
      for (const runtime of namesIn(root, `${dir}/${runtimes}`))
        for (const file of tomlIn(root, `${dir}/${runtimes}/${runtime}`)) add(file, 'deployed');
    for (const below of ['', '/runtime-rs'])
      for (const file of tomlIn(root, `${dir}${below}`)) add(file, 'beside');
  }
  return [...found.values()];
}

function configurationAt(root: string, given: string, role: Role): FoundConfiguration | undefined {
  const resolved = resolveIn(root, given);
  const raw = textAt(path.join(root, resolved));
  if (raw === undefined) return undefined;
  // a copy stands for what it was made of
  const source = copiedFrom(raw);
  if (source !== undefined && role === 'beside') return undefined;
  const file = source === undefined ? resolved : resolveIn(root, source);
  const text = source === undefined ? raw : textAt(path.join(root, file));
  if (text === undefined) return undefined;
  const all = dropInsOf(root, file);
  const dropIns = all.filter((d) => !isOurs(d));
  return {
    file,
    role,
    text,
    settings: settingsOf({ file, text }, dropIns),
    effective: settingsOf({ file, text }, all),
    dropIns,
    ours: all.find(isOurs)?.text,
    others: othersBeside(root, file),
    copied: source !== undefined,
  };
}

const isOurs = (d: ConfigText): boolean => path.basename(d.file) === DROP_IN_NAME && d.text.includes(MARK);

/** What a copy that install made was made of. */
function copiedFrom(text: string): string | undefined {
  const [first = ''] = text.split('\n', 1);
  return first.includes(MARK) ? / a copy of (.+);/.exec(first)?.[1] : undefined;
}

/** Files of config.d, as Kata's readers take them: every one, sorted. */
export function dropInsOf(root: string, config: string): ConfigText[] {
  const dir = `${path.dirname(config)}/config.d`;
  return namesIn(root, dir).flatMap((name) => {
    const file = `${dir}/${name}`;
    const text = textAt(path.join(root, file));
    return text === undefined ? [] : [{ file, text }];
  });
}

/** Configurations in the same directory, which would take a drop-in for this one as their own. */
function othersBeside(root: string, config: string): string[] {
  const dir = path.dirname(config);
  return tomlIn(root, dir).filter((file) => {
    if (file === config || resolveIn(root, file) === config) return false;
    if (path.dirname(resolveIn(root, file)) !== dir) return false;
    const text = textAt(path.join(root, file)) ?? '';
    return /^\s*\[hypervisor\./m.test(text);
  });
}

const tomlIn = (root: string, dir: string): string[] =>
  namesIn(root, dir)
    .filter((name) => name.endsWith('.toml'))
    .map((name) => `${dir}/${name}`);

function namesIn(root: string, dir: string): string[] {
  try {
    return readdirSync(path.join(root, dir)).sort();
  } catch {
    return [];
  }
}

/** White space at its ends is a part of it. */
const textAt = (file: string): string | undefined => readIfThere(file)?.toString('utf8');

const isThere = (root: string, file: string): boolean =>
  lstatSync(path.join(root, file), { throwIfNoEntry: false }) !== undefined;

/** Follows symbolic links as they are meant on the machine whose root directory is `root`. */
export function resolveIn(root: string, file: string): string {
  if (root === '/') {
    try {
      return realpathSync(file);
    } catch {
      return file;
    }
  }
  let at = file;
  for (let n = 0; n < 40; n++) {
    const found = lstatSync(path.join(root, at), { throwIfNoEntry: false });
    if (!found?.isSymbolicLink()) break;
    at = path.resolve(path.dirname(at), readlinkSync(path.join(root, at)));
  }
  return at;
}

/** Files in which container runtimes say which configuration Kata gets. */
const NAMED_IN = [
  '/etc/containerd',
  '/etc/containerd/conf.d',
  '/etc/containerd/config.d',
  '/opt/kata/containerd/config.d',
  '/var/lib/rancher/k3s/agent/etc/containerd',
  '/var/lib/rancher/rke2/agent/etc/containerd',
  '/etc/crio',
  '/etc/crio/crio.conf.d',
];

/** Configurations that container runtimes name: path to the file that names it. */
export function namedConfigurations(root: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const dir of NAMED_IN)
    for (const name of namesIn(root, dir)) {
      const text = textAt(path.join(root, dir, name)) ?? '';
      const pattern = /^\s*(?:ConfigPath|runtime_config_path)\s*=\s*["']([^"'\n]+)["']/gm;
      for (const [, config = ''] of text.matchAll(pattern)) found.set(config, `${dir}/${name}`);
    }
  return found;
}

/** The shim that reads a configuration: of its kind and, where there are more, of the same place. */
export function shimOf(kata: FoundKata, c: FoundConfiguration): FoundShim | undefined {
  const flavor = isForUs(c.settings) ? c.settings.flavor : 'go';
  const prefix = /^(.*)\/share\/defaults\/kata-containers\//.exec(c.file)?.[1];
  const same = kata.shims.filter((s) => s.flavor === flavor);
  return (
    same.find((s) => prefix !== undefined && s.file.startsWith(`${prefix}/`)) ?? same[0] ?? kata.shims[0]
  );
}
