/** `hyperturtle kata`: Kata Containers on this machine start their VMMs by `hyperturtle vmm`. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { abortOnSignals } from '../../core/lifecycle.ts';
import { writeJson, writeOut } from '../../core/output.ts';
import type { KataPlan } from '../../guest/kata/plan.ts';
import type { KataStatus } from '../../guest/kata/status.ts';
import { columns } from '../shared/columns.ts';

interface Options {
  root: string;
  json?: boolean;
}

interface InstallOptions extends Options {
  config?: string;
  hypervisor?: 'qemu' | 'clh' | 'fc';
  nic?: 'hot' | 'cold';
  strict?: boolean;
  separate?: boolean;
  dryRun?: boolean;
}

export function registerKata(program: Command, version: string): void {
  const kata = program
    .command('kata')
    .description("Kata Containers of this machine: pods' memory on turtlefs (docs/vmms.md)");
  const common = (command: Command): Command =>
    command.option('--root <dir>', 'where the machine is', '/').option('--json', 'print one line of JSON');
  common(kata.command('install'))
    .description(
      "have Kata start its VMM by 'hyperturtle vmm': a drop-in beside its configuration, and a launcher",
    )
    .option('--config <file>', 'the configuration; default: what Kata takes, and those of kata-deploy')
    .addOption(
      new Option('--hypervisor <name>', 'only configurations with it').choices(['qemu', 'clh', 'fc']),
    )
    .addOption(
      new Option('--nic <how>', 'also root ports for NICs of the host by VFIO').choices(['hot', 'cold']),
    )
    .option('--separate', "leave Kata's configuration as it is: a copy, for a runtime of its own")
    .option('--strict', 'pods whose memory cannot come from turtlefs fail; default: they start without')
    .option('--dry-run', 'print what would be written')
    .addHelpText(
      'after',
      `
Takes effect with the next pod. A second run finds nothing to do; run it again, with the same options, after an update of
Kata. Files of yours and of others are never changed. Where Kata has a program that reads its configuration (kata-runtime), that is asked, and
all is undone when it does not take the result.

Examples:
  hyperturtle kata install --dry-run
  hyperturtle kata install --hypervisor qemu --nic cold
  hyperturtle kata status`,
    )
    .action((o: InstallOptions) => install(o, version));
  common(kata.command('status'))
    .description(
      "which Kata is here, and whether it starts its VMMs by 'hyperturtle vmm'; exit status 1 when what was set up does not hold",
    )
    .action(status);
  common(kata.command('uninstall'))
    .description('remove what install has put there')
    .option('--dry-run', 'print what would be removed')
    .action((o: Options & { dryRun?: boolean }) => uninstall(o, version));
}

/** What install would do. */
export async function planHere(o: InstallOptions): Promise<KataPlan> {
  const [{ findKata }, { planInstall }, { existsSync }, path] = await Promise.all([
    import('../../guest/kata/found.ts'),
    import('../../guest/kata/plan.ts'),
    import('node:fs'),
    import('node:path'),
  ]);
  if (o.config !== undefined && !path.isAbsolute(o.config))
    throw new HyperturtleError('HT_USAGE', `--config '${o.config}': an absolute path expected`);
  return planInstall(await findKata(o.root, o.config), {
    config: o.config,
    hypervisor: o.hypervisor,
    nic: o.nic,
    strict: o.strict === true,
    separate: o.separate === true,
    command: [process.execPath, programFile('cli/main')],
    isThere: (file) => existsSync(path.join(o.root, file)),
  });
}

async function install(o: InstallOptions, version: string): Promise<void> {
  const plan = await planHere(o);
  if (o.dryRun === true) return writeOut(planText(plan));
  const kata = await import('../../guest/kata/install.ts');
  const lines: string[] = [];
  const signals = abortOnSignals();
  try {
    await kata.install(plan, {
      root: o.root,
      version,
      signal: signals.signal,
      say: (line) => (o.json === true ? lines.push(line) : writeOut(`${line}\n`)),
    });
  } finally {
    signals.dispose();
  }
  const configs = plan.targets.map((t) => t.config);
  if (o.json === true) return writeJson(JSON.stringify({ configs, steps: lines, notes: plan.notes }));
  for (const note of plan.notes) writeOut(`note    ${note}\n`);
  writeOut(`Kata starts its VMM by hyperturtle: ${configs.join(', ')}\n`);
}

/** As dry runs print it. */
export function planText(plan: KataPlan): string {
  const files = plan.files.map(
    (f) => `# ${f.path}\n${f.path.endsWith('/configuration.toml') ? '(a copy)\n' : f.text}`,
  );
  const links = plan.links.map((l) => `# ${l.path}: a link to ${l.to}\n`);
  return `${[...files, ...links, ...plan.notes.map((n) => `# note: ${n}\n`)].join('\n')}`;
}

async function status(o: Options): Promise<void> {
  const [{ findKata, SEARCHED }, { statusOf }] = await Promise.all([
    import('../../guest/kata/found.ts'),
    import('../../guest/kata/status.ts'),
  ]);
  const kata = await findKata(o.root);
  const rows = statusOf(o.root, kata);
  if (rows.some((r) => r.state === 'broken')) process.exitCode = 1;
  if (o.json === true) {
    const shims = kata.shims.map((s) => ({ file: s.file, flavor: s.flavor, version: s.version.text }));
    return writeJson(JSON.stringify({ shims, configurations: rows }));
  }
  for (const s of kata.shims)
    writeOut(`Kata ${s.version.text} (${s.flavor === 'go' ? 'Go' : 'runtime-rs'}): ${s.file}\n`);
  if (kata.shims.length === 0) writeOut(`no Kata: looked for ${SEARCHED.shims.join(', ')}\n`);
  if (rows.length > 0) writeOut(`${statusText(rows)}\n`);
}

function statusText(rows: readonly KataStatus[]): string {
  const head = ['STATE', 'VMM', 'CONFIGURATION', 'USED BY', 'WHY'];
  const cells = rows.map((r) => [
    r.state,
    r.hypervisor ?? '-',
    r.config,
    r.namedBy ?? (r.isDefault ? 'default' : '-'),
    r.why ?? '',
  ]);
  return columns(head, cells);
}

async function uninstall(o: Options & { dryRun?: boolean }, version: string): Promise<void> {
  const [{ findKata }, kata] = await Promise.all([
    import('../../guest/kata/found.ts'),
    import('../../guest/kata/install.ts'),
  ]);
  const lines: string[] = [];
  const say = (line: string): void => void (o.json === true ? lines.push(line) : writeOut(`${line}\n`));
  const machine = { root: o.root, version, say };
  const left = kata.uninstall(await findKata(o.root), machine, o.dryRun === true);
  if (o.json === true) return writeJson(JSON.stringify({ steps: lines, left }));
  for (const l of left) writeOut(`left    ${l}\n`);
  if (lines.length === 0 && left.length === 0) writeOut('nothing to do\n');
}
