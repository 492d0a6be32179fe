/** `hyperturtle lab ...`: the emulated machines. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { passThrough, writeOut } from '../../core/output.ts';
import type { Lab } from '../../lab/lab.ts';
import type { LabClock } from '../../lab/machine.ts';
import { bochsModelOf, clockOption, cpuOption, emulatedBy, modelOption } from '../shared/emulated-cpu.ts';
import { kernelOption, outerQemuOption, qemuOption } from '../shared/kernel-option.ts';
import { registerClean, registerImages, registerModules } from './builds.ts';
import { registerSelftests } from './selftests.ts';
import { integer, printJson } from '../shared/values.ts';

const DEFAULT_NAME = 'default';

interface NameOption {
  name: string;
}

interface UpOptions extends NameOption {
  kernel: string;
  accel: 'tcg' | 'kvm';
  clock?: LabClock;
  cpu: 'amd' | 'intel';
  cpuModel?: string;
  qemu?: string;
  outerQemu?: string;
  l1Cpus: number;
  l1Memory?: number;
  fresh?: boolean;
  payload: boolean;
  images?: string;
  json?: boolean;
}

interface LevelOptions extends NameOption {
  level: 0 | 1 | 2;
  l2: number;
}

interface ExecOptions extends LevelOptions {
  timeout: number;
  stdin?: boolean;
  env: Record<string, string>;
}

const nameOption = (): Option => new Option('-n, --name <lab>', 'which lab').default(DEFAULT_NAME);
const levelOption = (): Option =>
  new Option('-l, --level <level>', '0: the host hypervisor, 1: the guest hypervisor, 2: a nested guest')
    .choices(['0', '1', '2'])
    .argParser((v): number => {
      if (!/^[012]$/.test(v)) throw new InvalidArgumentError('0, 1 or 2 expected.');
      return Number(v);
    })
    .default(0);
const l2Option = (): Option =>
  new Option('--l2 <number>', 'which nested guest, by the number of its console port')
    .argParser(integer('--l2', 0, 3))
    .default(0);

export function register(program: Command): void {
  const lab = program
    .command('lab')
    .description(
      'emulated machines with stock kernels: a host (L0), a guest hypervisor (L1), its guests (L2)',
    )
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle lab up                              start a lab; the second time it takes seconds
  hyperturtle lab exec --level 1 -- uname -r      run a command in the guest hypervisor
  hyperturtle lab cp ./x.ko l1:/root/x.ko         copy a file into it
  hyperturtle lab console --level 0               a shell in the host hypervisor; Ctrl-] leaves
  hyperturtle lab down                            end it

What is fetched and built stays in $XDG_CACHE_HOME/hyperturtle (~/.cache/hyperturtle), what runs in
$XDG_STATE_HOME/hyperturtle (~/.local/state/hyperturtle). Nothing else on this machine is changed.`,
    );
  registerUp(lab);
  lab.command('status').description('the labs of this user').option('--json', 'as JSON').action(status);
  registerExec(lab);
  registerAccess(lab);
  registerDown(lab);
  registerImages(lab);
  registerSelftests(lab);
  registerModules(lab);
  registerClean(lab);
}

function registerUp(lab: Command): void {
  lab
    .command('up')
    .description('start a lab that stays until `lab down`')
    .addOption(nameOption())
    .addOption(
      kernelOption(
        'kernel of all levels: a series that Debian 12, 13 or its backports have, such as 6.1, 6.12 or 7.3; of L0 and L1 with sanitizers: 6.1-debug, 6.1-kcsan',
      ),
    )
    .addOption(
      new Option('--accel <kind>', 'tcg: emulation, works anywhere; kvm: needs nested virtualization')
        .choices(['tcg', 'kvm'])
        .default('tcg'),
    )
    .addOption(clockOption())
    .addOption(cpuOption())
    .addOption(modelOption())
    .addOption(qemuOption())
    .addOption(outerQemuOption())
    .option('--l1-cpus <number>', 'virtual CPUs of L1', integer('--l1-cpus', 1, 8), 1)
    .option(
      '--l1-memory <MiB>',
      'memory of L1 (default 2048, on intel 1024)',
      integer('--l1-memory', 512, 65_536),
    )
    .option('--fresh', 'boot, and make the snapshot of booted machines again')
    .option(
      '--images <list>',
      'root file systems for nested guests, in /images of L1: `lab images` names them',
    )
    .option('--no-payload', 'without our modules and programs: bring your own with `lab cp`')
    .option('--json', 'print what is up as JSON')
    .addHelpText(
      'after',
      `
The first start boots both machines and keeps a snapshot of them; later ones restore it. Modules, programs
and JavaScript are built from this source tree when they changed, and are in /payload at both levels.`,
    )
    .action(up);
}

function registerExec(lab: Command): void {
  lab
    .command('exec')
    .description('run a command at a level; its output and exit status become those of this command')
    .addOption(nameOption())
    .addOption(levelOption())
    .addOption(l2Option())
    .option(
      '-t, --timeout <seconds>',
      'limit: after this time it is killed with what it started (in a nested guest: left), and the status is 7',
      integer('--timeout', 1, 86_400),
      600,
    )
    .option('-i, --stdin', 'pass standard input on, up to its end')
    .option('-e, --env <NAME=value>', 'set a variable; may be repeated', collectEnv, {})
    .argument('<command...>', 'after --')
    .addHelpText(
      'after',
      `
Output comes as the command writes it, and is kept when the limit is reached. A service that it starts in the background with '&'
stays when it ends; one in the foreground needs a limit that is long enough, or '--timeout 86400'.
Examples:
  hyperturtle lab exec -l 0 -- sh -c 'dmesg | tail'
  hyperturtle lab exec -l 0 -- sh -c 'hyperturtle host dashboard >/run/dashboard 2>&1 </dev/null &'
  echo 'cat /proc/meminfo' | hyperturtle lab exec -l 1 -i -- sh`,
    )
    .action(execute);
}

/** `console`, `cp` and `forward`. */
function registerAccess(lab: Command): void {
  lab
    .command('console')
    .description('an interactive shell at a level; Ctrl-] leaves it')
    .addOption(nameOption())
    .addOption(levelOption())
    .addOption(l2Option())
    .action(consoleOf);

  lab
    .command('cp')
    .description('copy a file into or out of L0 or L1')
    .addOption(nameOption())
    .argument('<from>', 'file here, or l0:/path, or l1:/path')
    .argument('<to>', 'likewise')
    .action(copy);

  lab
    .command('forward')
    .description("show a TCP port of L0 or L1 as one of this machine's, on 127.0.0.1; until Ctrl-C")
    .addOption(nameOption())
    .option(
      '--port <number>',
      'port of this machine; 0: any that is free; default: the same',
      integer('--port', 0, 65_535),
    )
    .argument('<level:port>', 'L0:PORT or L1:PORT: what listens on the loopback interface there')
    .addHelpText(
      'after',
      `
A browser of this machine opens a page that is served in the lab:
  $ hyperturtle lab exec -- sh -c 'hyperturtle host dashboard >/run/dashboard 2>&1 </dev/null &'
  $ hyperturtle lab forward L0:9466 &
  $ hyperturtle lab exec -- cat /run/dashboard`,
    )
    .action(forwardPort);
}

function registerDown(lab: Command): void {
  lab
    .command('down')
    .description('end a lab')
    .addOption(nameOption())
    .option('-a, --all', 'every lab of this user')
    .action(down);
}

function collectEnv(text: string, before: Record<string, string>): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('NAME=value expected.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

async function up(o: UpOptions): Promise<void> {
  const [{ labUp }, { createProgress }, { abortOnSignals }] = await Promise.all([
    import('../../lab/lab.ts'),
    import('../../core/progress.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  if (o.cpu === 'intel' && o.outerQemu !== undefined)
    throw new HyperturtleError('HT_USAGE', '--outer-qemu is for --cpu amd: an Intel lab runs in Bochs');
  const { signal, dispose } = abortOnSignals();
  try {
    const lab = await labUp({
      name: o.name,
      kernel: o.kernel,
      accel: emulatedBy(o),
      ...(o.clock === undefined ? {} : { clock: o.clock }),
      ...bochsModelOf(o),
      qemu: o.qemu,
      outerQemu: o.outerQemu,
      l1Cpus: o.l1Cpus,
      ...(o.l1Memory === undefined ? {} : { l1MemoryMib: o.l1Memory }),
      fresh: o.fresh ?? false,
      payload: o.payload,
      ...(o.images === undefined ? {} : { images: o.images.split(',') }),
      lifetime: 'detached',
      progress: createProgress(),
      signal,
    });
    if (o.json) printJson({ name: lab.name, dir: lab.dir, environment: lab.environment() });
    else {
      const e = lab.environment();
      const named = o.name === DEFAULT_NAME ? '' : ` --name ${o.name}`;
      writeOut(
        `lab '${lab.name}' is up: Linux ${e.kernelVersion}, L1 with ${e.l1.cpus} CPU and ${e.l1.memMib} MiB.\n` +
          `  hyperturtle lab exec${named} --level 1 -- uname -a\n  hyperturtle lab down${named}\n`,
      );
    }
  } finally {
    dispose();
  }
}

async function status(o: { json?: boolean }): Promise<void> {
  const [{ listRecords, isAlive }, { cpuSeconds }] = await Promise.all([
    import('../../lab/registry.ts'),
    import('../../core/process.ts'),
  ]);
  const labs = (await listRecords()).map((r) => ({
    ...r,
    alive: isAlive(r),
    cpuSeconds: r.qemu ? (cpuSeconds(r.qemu) ?? null) : null,
  }));
  if (o.json) return printJson({ labs });
  if (labs.length === 0) writeOut("no lab: start one with 'hyperturtle lab up'\n");
  for (const l of labs) {
    const what = !l.alive ? 'dead (removed at the next start)' : l.state;
    const e = l.environment;
    writeOut(
      `${l.name}: ${what}${e ? `, Linux ${e.kernelVersion}, ${e.accel}` : ''}${l.cpuSeconds === null ? '' : `, ${l.cpuSeconds.toFixed(0)} s of CPU`}, since ${l.startedAt}, logs in ${l.dir}\n`,
    );
  }
}

async function attach(name: string): Promise<Lab> {
  return (await import('../../lab/lab.ts')).labAttach(name);
}

async function execute(command: string[], o: ExecOptions): Promise<void> {
  const [lab, { abortOnSignals }] = await Promise.all([attach(o.name), import('../../core/lifecycle.ts')]);
  const { signal, dispose } = abortOnSignals();
  try {
    const level = o.level === 0 ? lab.l0 : o.level === 1 ? lab.l1 : lab.l2(o.l2);
    const r = await level.exec(command, {
      timeoutMs: o.timeout * 1000,
      env: o.env,
      signal,
      onOutput: (to, chunk) => passThrough(chunk, to),
      ...(o.stdin ? { input: await readAll(process.stdin) } : {}),
    });
    process.exitCode = r.status;
  } finally {
    dispose();
  }
}

async function readAll(stream: NodeJS.ReadableStream): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

async function consoleOf(o: LevelOptions): Promise<void> {
  const [lab, { openConsole }] = await Promise.all([attach(o.name), import('../../lab/lab-console.ts')]);
  await openConsole(lab, o.level, o.l2, process.stdin, process.stdout);
}

async function copy(from: string, to: string, o: NameOption): Promise<void> {
  const [lab, { copyFile }, { abortOnSignals }] = await Promise.all([
    attach(o.name),
    import('../../lab/lab-copy.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const { signal, dispose } = abortOnSignals();
  try {
    await copyFile(lab, from, to, signal);
  } finally {
    dispose();
  }
}

async function forwardPort(text: string, o: NameOption & { port?: number }): Promise<void> {
  const [{ forward, parseForward }, { abortOnSignals }] = await Promise.all([
    import('../../lab/forward.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const place = parseForward(text);
  const lab = await attach(o.name);
  const { signal, dispose } = abortOnSignals();
  try {
    await forward(lab, {
      ...place,
      localPort: o.port ?? place.port,
      signal,
      onReady: (port) => writeOut(`127.0.0.1:${port} is L${place.level}:${place.port}\n`),
    });
  } finally {
    dispose();
  }
}

async function down(o: NameOption & { all?: boolean }): Promise<void> {
  const { listRecords, checkLabName } = await import('../../lab/registry.ts');
  const { endLab } = await import('../../lab/lab.ts');
  const names = o.all ? (await listRecords()).map((r) => r.name) : [checkLabName(o.name)];
  for (const name of names) {
    await endLab(name);
    writeOut(`lab '${name}' is down\n`);
  }
}
