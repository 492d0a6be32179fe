/**
 * Plans of installing and uninstalling: compared with what is on the machine, so that a second run finds nothing to
 * do. A plan is data; run.ts carries it out, `--dry-run` prints it.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode } from '../core/errors.ts';
import type { DkmsEntry } from './dkms.ts';
import { planDkms, planDkmsRemoval } from './dkms-plan.ts';
import { moduleSourceDir, UNITS } from './files.ts';
import type { InstallFile, Role } from './files.ts';
import { sha256 } from './record.ts';
import type { InstallRecord } from './record.ts';
import type { Plan, Step } from './steps.ts';

/** What the machine can do; asked once, in run.ts. */
export interface MachineFacts {
  /** Everything is below it; commands are run for `/` only. */
  root: string;
  systemd: boolean;
  udev: boolean;
  /** Our entries in dkms; undefined: no dkms there. */
  dkms: readonly DkmsEntry[] | undefined;
  kernel: string;
}

export interface InstallSpec {
  role: Role;
  files: readonly InstallFile[];
  version: string;
  /** Have dkms build them. */
  modules: boolean;
  /** What is there of an older version, and of the other role. */
  before: InstallRecord | undefined;
  others: InstallRecord | undefined;
}

export async function planInstall(spec: InstallSpec, machine: MachineFacts): Promise<Plan> {
  const { role, files, version, modules, before, others } = spec;
  const plan: Plan = { steps: [], left: [] };
  for (const f of files) {
    const found = await contentOf(machine.root, f.path);
    if (found === undefined) plan.steps.push({ ...write(f), before: 'absent' });
    else if (found.content.equals(f.content) && found.mode === f.mode) continue;
    else if (f.config) plan.left.push({ path: f.path, why: 'yours: it is never overwritten' });
    else plan.steps.push({ ...write(f), before: 'differs' });
  }
  const wanted = new Set([...files, ...(others?.files ?? [])].map((f) => f.path));
  let obsolete: Extract<Step, { kind: 'remove' }>[] = [];
  for (const f of before?.files ?? [])
    if (!wanted.has(f.path) && (await contentOf(machine.root, f.path)) !== undefined)
      obsolete.push({ kind: 'remove', path: f.path });
  const written = (pattern: RegExp): boolean =>
    plan.steps.some((s) => s.kind === 'write' && pattern.test(s.path));
  const last: Step[] = [];
  const confOf = (v: string): string => `${moduleSourceDir(v)}/dkms.conf`;
  // sources of this version would go
  const replaced = before !== undefined && !wanted.has(confOf(before.version)) ? before.version : undefined;
  if (modules && machine.dkms) {
    const dkms = planDkms({
      version,
      kernel: machine.kernel,
      changed: written(new RegExp(`^${moduleSourceDir(version).replaceAll('.', '\\.')}/`)),
      replaced,
      entries: machine.dkms,
    });
    plan.steps.unshift(...dkms.before);
    plan.steps.push(...dkms.build);
    last.push(...dkms.last);
  } else if (replaced !== undefined && machine.dkms?.some((e) => e.version === replaced)) {
    // without them dkms could do nothing with it any more, not even remove it
    const sources = moduleSourceDir(replaced);
    obsolete = obsolete.filter((s) => !s.path.startsWith(`${sources}/`));
    plan.left.push({ path: sources, why: 'dkms has modules of it' });
  }
  if (machine.udev && written(/\/rules\.d\//))
    plan.steps.push({ kind: 'run', argv: ['udevadm', 'control', '--reload'], mayFail: true });
  if (machine.systemd && written(new RegExp(`/${UNITS[role].replace('.', '\\.')}$`)))
    plan.steps.push({ kind: 'run', argv: ['systemctl', 'daemon-reload'] });
  plan.steps.push(...last, ...obsolete);
  return plan;
}

/** `others`: the record of the other role, whose files stay. */
export async function planUninstall(
  role: Role,
  record: InstallRecord,
  others: InstallRecord | undefined,
  machine: MachineFacts,
): Promise<Plan> {
  const plan: Plan = { steps: [], left: [] };
  if (machine.systemd)
    plan.steps.push({ kind: 'run', argv: ['systemctl', 'disable', '--now', UNITS[role]], mayFail: true });
  const shared = new Set(others?.files.map((f) => f.path));
  // two where an upgrade was killed
  const versions = new Set([record.version, ...(machine.dkms ?? []).map((e) => e.version)]);
  const written = new Set(record.files.map((f) => f.path));
  for (const version of versions) {
    const conf = `${moduleSourceDir(version)}/dkms.conf`;
    if (shared.has(conf) || (version !== record.version && !written.has(conf))) continue;
    plan.steps.push(...planDkmsRemoval(version, machine.dkms ?? []));
  }
  for (const f of record.files) {
    const found = await contentOf(machine.root, f.path);
    if (found === undefined) continue;
    if (shared.has(f.path)) plan.left.push({ path: f.path, why: 'the other role needs it' });
    else if (f.config && sha256(found.content) !== f.sha256)
      plan.left.push({ path: f.path, why: 'you changed it' });
    else plan.steps.push({ kind: 'remove', path: f.path });
  }
  if (machine.systemd) plan.steps.push({ kind: 'run', argv: ['systemctl', 'daemon-reload'], mayFail: true });
  return plan;
}

function write(f: InstallFile): { kind: 'write'; path: string; mode: number; content: Buffer } {
  return { kind: 'write', path: f.path, mode: f.mode, content: f.content };
}

async function contentOf(root: string, at: string): Promise<{ content: Buffer; mode: number } | undefined> {
  const file = path.join(root, at);
  try {
    return { content: await readFile(file), mode: (await stat(file)).mode & 0o7777 };
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ENOTDIR') return undefined;
    throw e;
  }
}
