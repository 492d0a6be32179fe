/** `hyperturtle host|guest install` and `uninstall`: units, configuration, modules by dkms, programs, manual pages. */
import { statSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { codeFile, programFile } from '../../core/code-file.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { goOnUnread, writeErr, writeOut } from '../../core/output.ts';
import type { Role } from '../../install/files.ts';
import type { Plan } from '../../install/steps.ts';
import type { InstallRecord } from '../../install/record.ts';

interface Options {
  root: string;
  dryRun?: boolean;
  module: boolean;
  json?: boolean;
}

/** Manual pages and completion below a share directory: path to text. */
export type Texts = (share: string) => Promise<ReadonlyMap<string, string>>;

const NEXT: Readonly<Record<Role, string>> = {
  host: 'write your VMs into /etc/hyperturtle/host.yaml, then: systemctl enable --now hyperturtled; hyperturtle host doctor',
  guest: 'next: systemctl enable --now hyperturtle-agent; hyperturtle doctor',
};

export function registerInstall(parent: Command, role: Role, version: string, texts: Texts): void {
  const what = role === 'host' ? 'udev rule' : 'compiled programs';
  const options = (command: Command): Command =>
    command
      .option(
        '--root <dir>',
        'a machine that is mounted there: files only, no command is run',
        rootDirectory,
        '/',
      )
      .option('--dry-run', 'print what would be done')
      .option('--json', 'print one line of JSON');
  options(parent.command('install'))
    .description(`install this machine's part: unit, configuration, ${what}, module sources, manual pages`)
    .option('--no-module', 'do not have dkms build the kernel module')
    .addHelpText(
      'after',
      `
Does what is missing and nothing else: a second run finds nothing to do, a newer version replaces what differs. Your
configuration is never overwritten. When a step fails, those before it are undone. Needs dkms and the headers of the
running kernel for the module. Where the Debian packages are installed, they have done this.

Examples:
  hyperturtle ${role} install --dry-run
  hyperturtle ${role} install && systemctl enable --now ${role === 'host' ? 'hyperturtled' : 'hyperturtle-agent'}`,
    )
    .action((o: Options) => install(role, version, texts, o));
  options(parent.command('uninstall'))
    .description(
      'stop the service and remove what install has put there; configuration that you changed is left',
    )
    .action((o: Options) => uninstall(role, o));
}

/** Throws HT_USAGE for what is no directory: with a variable that is empty, files would go to this machine. */
function rootDirectory(dir: string): string {
  const found = dir === '' ? undefined : statSync(dir, { throwIfNoEntry: false });
  if (!found?.isDirectory())
    throw new HyperturtleError('HT_USAGE', `--root '${dir}': a directory with a machine's files expected`);
  return path.resolve(dir);
}

async function install(role: Role, version: string, texts: Texts, o: Options): Promise<void> {
  const [{ filesOf }, { planInstall }, { machineFacts }, records] = await Promise.all([
    import('../../install/files.ts'),
    import('../../install/plan.ts'),
    import('../../install/run.ts'),
    import('../../install/record.ts'),
  ]);
  const packageRoot = codeFile('../..');
  if (path.resolve(packageRoot) === '/usr/lib/hyperturtle/app')
    throw new HyperturtleError(
      'HT_USAGE',
      'this is the Debian package: it has installed all of it (dpkg -L hyperturtle hyperturtle-dkms)',
    );
  const files = await filesOf(role, {
    packageRoot,
    version,
    // this very program, by the Node.js that runs it
    command: `${process.execPath} ${programFile('cli/main')}`,
    unitDir: '/etc/systemd/system',
    udevDir: '/etc/udev/rules.d',
    texts: await texts('/usr/local/share'),
  });
  await inTurn(o, async (signal) => {
    const machine = await machineFacts(o.root);
    if (o.root === '/' && o.module && machine.dkms === undefined)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        'dkms is not there: apt install dkms linux-headers-$(dpkg --print-architecture), or say --no-module',
      );
    const record: InstallRecord = {
      schema: 1,
      version,
      files: files.map((f) => ({ path: f.path, sha256: records.sha256(f.content), config: f.config })),
    };
    const before = await records.readRecord(o.root, role);
    const others = await records.readRecord(o.root, other(role));
    const plan = await planInstall({ role, files, version, modules: o.module, before, others }, machine);
    await carryOut(plan, o, signal, {
      begin: () => records.writeRecord(o.root, role, records.underWay(before, record)),
      end: () => records.writeRecord(o.root, role, record),
      undone: async () => {
        if (before === undefined) await records.removeRecord(o.root, role);
        else records.writeRecord(o.root, role, before);
      },
    });
  });
  if (!o.dryRun && !o.json) writeErr(`${NEXT[role]}\n`);
}

async function uninstall(role: Role, o: Options): Promise<void> {
  const [{ planUninstall }, { machineFacts }, records] = await Promise.all([
    import('../../install/plan.ts'),
    import('../../install/run.ts'),
    import('../../install/record.ts'),
  ]);
  if (o.root === '/' && process.getuid?.() !== 0 && !o.dryRun)
    throw new HyperturtleError('HT_USAGE', 'uninstall must be run as root');
  // one that is under way has its record
  if ((await records.readRecord(o.root, role)) === undefined)
    return carryOut({ steps: [], left: [] }, o, new AbortController().signal);
  await inTurn(o, async (signal) => {
    const record = await records.readRecord(o.root, role);
    if (record === undefined) return carryOut({ steps: [], left: [] }, o, signal);
    const others = await records.readRecord(o.root, other(role));
    const plan = await planUninstall(role, record, others, await machineFacts(o.root));
    await carryOut(plan, o, signal, { end: () => records.removeRecord(o.root, role) });
  });
}

const other = (role: Role): Role => (role === 'host' ? 'guest' : 'host');

/** Alone, unless nothing is to be changed; to its end or undone, though nobody read what it says. */
async function inTurn(o: Options, body: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const [{ alone }, { abortOnSignals }] = await Promise.all([
    import('../../install/run.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const { signal, dispose } = abortOnSignals();
  const unread = goOnUnread();
  const onWait = (holder: string): void => writeErr(`waiting for ${holder}, which installs or uninstalls\n`);
  try {
    await (o.dryRun ? body(signal) : alone(o.root, { signal, onWait }, () => body(signal)));
  } finally {
    unread[Symbol.dispose]();
    dispose();
  }
}

/** What is written down of it before the first step, after the last, and when all was undone. */
interface Recording {
  begin?: () => void;
  end?: () => void | Promise<void>;
  undone?: () => Promise<void>;
}

async function carryOut(plan: Plan, o: Options, signal: AbortSignal, record: Recording = {}): Promise<void> {
  const [{ stepText }, { runPlan }] = await Promise.all([
    import('../../install/steps.ts'),
    import('../../install/run.ts'),
  ]);
  const say = (line: string): void => {
    if (!o.json) writeOut(`${line}\n`);
  };
  for (const l of plan.left) say(`left    ${l.path}: ${l.why}`);
  if (o.dryRun) plan.steps.forEach((s) => say(stepText(s)));
  else {
    if (plan.steps.length > 0) record.begin?.();
    try {
      await runPlan(plan, o.root, {
        say: (s) => say(stepText(s)),
        warn: (line) => writeErr(`${line}\n`),
        signal,
      });
    } catch (e) {
      if (!isHyperturtleError(e) || e.detail['left'] !== true) await record.undone?.();
      throw e;
    }
    await record.end?.();
  }
  if (plan.steps.length === 0) say('nothing to do');
  if (o.json)
    writeOut(`${JSON.stringify({ done: !o.dryRun, steps: plan.steps.map(stepText), left: plan.left })}\n`);
}
