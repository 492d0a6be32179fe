/**
 * Plans of installing and uninstalling: compared with what is on the machine, so that a second run finds nothing to
 * do. A plan is data; run.ts carries it out, `--dry-run` prints it.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode } from '../core/errors.ts';
import { moduleSourceDir, UNITS } from './files.ts';
import type { InstallFile, Role } from './files.ts';
import { sha256 } from './record.ts';
import type { InstallRecord } from './record.ts';

export type Step =
  | { kind: 'write'; path: string; mode: number; content: Buffer; before: 'absent' | 'differs' }
  | { kind: 'remove'; path: string }
  /** `undo` is run when a later step fails. A step that may fail is one whose failure leaves nothing wrong. */
  | {
      kind: 'run';
      argv: readonly string[];
      mayFail?: true;
      undo?: readonly string[];
      /** It builds the modules for `kernel`, and writes of it to `log`. */
      dkms?: { kernel: string; log: string };
    };

export interface Plan {
  steps: Step[];
  /** What was looked at and is left as it is, with the reason. */
  left: { path: string; why: string }[];
}

/** What the machine can do; asked once, in run.ts. */
export interface MachineFacts {
  /** Everything is below it; commands are run for `/` only. */
  root: string;
  systemd: boolean;
  udev: boolean;
  /** Undefined: no dkms there. */
  dkms: { built: boolean; added: boolean } | undefined;
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
  for (const f of before?.files ?? [])
    if (!wanted.has(f.path) && (await contentOf(machine.root, f.path)) !== undefined)
      plan.steps.push({ kind: 'remove', path: f.path });
  const written = (pattern: RegExp): boolean =>
    plan.steps.some((s) => s.kind === 'write' && pattern.test(s.path));
  const sources = moduleSourceDir(version);
  if (modules && machine.dkms) {
    const changed = written(new RegExp(`^${sources.replaceAll('.', '\\.')}/`));
    const id = `hyperturtle/${version}`;
    if (machine.dkms.added && changed)
      plan.steps.push({ kind: 'run', argv: ['dkms', 'remove', id, '--all'], mayFail: true });
    if (!machine.dkms.built || changed)
      plan.steps.push({
        kind: 'run',
        argv: ['dkms', 'install', id, '-k', machine.kernel],
        dkms: { kernel: machine.kernel, log: `/var/lib/dkms/${id}/build/make.log` },
        // modules that were there for other kernels stay
        undo: [
          ...['dkms', 'remove', id],
          ...(machine.dkms.added && !changed ? ['-k', machine.kernel] : ['--all']),
        ],
      });
  }
  if (machine.udev && written(/\/rules\.d\//))
    plan.steps.push({ kind: 'run', argv: ['udevadm', 'control', '--reload'], mayFail: true });
  if (machine.systemd && written(new RegExp(`/${UNITS[role].replace('.', '\\.')}$`)))
    plan.steps.push({ kind: 'run', argv: ['systemctl', 'daemon-reload'] });
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
  const id = `hyperturtle/${record.version}`;
  if (machine.dkms?.added && !shared.has(`${moduleSourceDir(record.version)}/dkms.conf`))
    plan.steps.push({ kind: 'run', argv: ['dkms', 'remove', id, '--all'], mayFail: true });
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

export function stepText(s: Step): string {
  switch (s.kind) {
    case 'write':
      return `${s.before === 'absent' ? 'write  ' : 'replace'} ${s.path}`;
    case 'remove':
      return `remove  ${s.path}`;
    case 'run':
      return `run     ${s.argv.join(' ')}`;
  }
}
