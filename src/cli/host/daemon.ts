/** `hyperturtle host daemon`, and the operator's commands that talk to it: status, vm, reload, args. */
import type { Command } from 'commander';
import { PLACES } from '../../core/default-paths.ts';
import { writeOut } from '../../core/output.ts';
import type { VmReport } from '../../host/daemon/admin-schema.ts';
import type { ResultOf } from '../../wire/schema.ts';
import { totalsOf } from '../../wire/figures.ts';
import { print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { doctorText } from '../doctor/command.ts';
import { integer } from '../shared/values.ts';
import { adminOptions, ask, moveText } from './admin.ts';
import type { AdminMethods, AdminOptions } from './admin.ts';

interface AddOptions extends AdminOptions {
  qmp: string;
  agent?: string;
  arenaMib: number;
  bus?: string;
  owner?: string;
  signature?: string;
  key?: string[];
  quota?: Record<string, number>;
}

/** As adminSocketOf in src/host/config.ts, which is not loaded for a list of options. */
const CONFIG = PLACES.hostConfig.path;

export function registerHostDaemon(host: Command, version: string): void {
  registerServe(host, version);
  registerRequests(host);
  registerVm(host.command('vm').description('VMs of the daemon'));
}

function registerServe(host: Command, version: string): void {
  host
    .command('daemon')
    .description('serve the VMs of the configuration; runs until SIGTERM')
    .option('--config <file>', 'YAML', CONFIG)
    .option('--check', 'only read the configuration and say what is wrong with it')
    .addHelpText(
      'after',
      `
SIGHUP reads the configuration again and applies what differs. After a crash it takes the arenas of running
VMs up again; their agents load again what they want.

Example of ${CONFIG}:
  vms:
    build1:
      qmp: /run/vms/build1/hyperturtle-qmp.sock
      agent: {socket: /run/vms/build1/hyperturtle-agent.sock}
      arenaMib: 16
      signature: required
      keys: [/etc/hyperturtle/team.pub]
Then start the VM with what 'hyperturtle host args build1' prints.`,
    )
    .action((options: { config: string; check?: boolean }) => daemon(options, version));
}

/** Commands that ask the daemon about itself and its host. */
function registerRequests(host: Command): void {
  adminOptions(host.command('status'))
    .description('the daemon and its VMs')
    .option('--all', "with --json: health, findings, and each VM's objects and limits as well")
    .addHelpText(
      'after',
      `
Example: one line for each host of a fleet
  for h in $(cat hosts); do ssh $h hyperturtle host status --all --json; done`,
    )
    .action(status);
  adminOptions(host.command('health')).description('exit status 0 when the daemon is healthy').action(health);
  adminOptions(host.command('reload'))
    .description('read the configuration again and apply what differs')
    .action(reload);
  adminOptions(host.command('doctor'))
    .description('what is wrong on this host, and the fix of each; works without the daemon')
    .action(doctor);
  adminOptions(host.command('args').argument('<vm>'))
    .description('what to start a VM with: its arena, its port and a QMP socket for the daemon')
    .option('--libvirt', 'as parts of a libvirt domain')
    .option('--no-arena', 'without its arena, which is plugged later: a QEMU that a VM is moved to')
    .addHelpText(
      'after',
      `
Example:
  $ qemu-system-x86_64 ... $(hyperturtle host args build1)`,
    )
    .action(args);

  adminOptions(host.command('nics').argument('[vm]'))
    .description('NICs that VMs were given, with the network devices behind them')
    .action(nics);
}

function registerVm(vm: Command): void {
  adminOptions(vm.command('list')).description('all, with what stands in their way').action(list);
  adminOptions(vm.command('add').argument('<name>'))
    .description('serve a VM that is not in the configuration; it is kept over restarts')
    .requiredOption('--qmp <socket>', 'QMP socket that only the daemon uses')
    .option('--agent <socket>', "socket of the VM's port org.hyperturtle.v1; default: the port is plugged")
    .option('--arena-mib <number>', 'size of the arena, a power of two', integer('--arena-mib', 1, 256), 16)
    .option('--bus <id>', 'root port to plug the arena into when the VM runs without it')
    .option('--owner <user>', 'user that its QEMU runs as; default: root')
    .option('--signature <policy>', 'none, optional or required')
    .option('--key <file...>', 'public keys of those whose objects it may load')
    .option('--quota <name=number...>', 'such as objects=4', quota)
    .addHelpText(
      'after',
      `
Example: a VM that runs already, with a free root port 'arena0'
  $ hyperturtle host vm add build2 --qmp /run/vms/build2/qmp2.sock --bus arena0`,
    )
    .action(add);
  adminOptions(vm.command('remove').argument('<name>'))
    .description('stop serving a VM that was added by command; it runs on')
    .action(remove);
}

function quota(text: string, before: Record<string, number> = {}): Record<string, number> {
  const [name = '', value = ''] = text.split('=');
  return { ...before, [name]: integer(`--quota ${name}`, 1, Number.MAX_SAFE_INTEGER)(value) };
}

async function daemon(options: { config: string; check?: boolean }, version: string): Promise<void> {
  if (options.check) {
    const { readConfig } = await import('../../host/config.ts');
    const config = readConfig(options.config);
    writeOut(`${options.config}: OK, ${Object.keys(config.vms).length} VMs\n`);
    return;
  }
  const { runDaemon } = await import('../../host/daemon/run.ts');
  await runDaemon({ configFile: options.config, version });
}

async function status(options: AdminOptions & { all?: boolean }): Promise<void> {
  if (options.all) return statusOfAll(options);
  const [daemon, { vms }] = [await ask(options, 'admin.status', {}), await ask(options, 'admin.vm.list', {})];
  print(options, { ...daemon, list: vms }, () =>
    [
      `daemon ${daemon.version}, process ${daemon.pid}, since ${daemon.startedAt}, ${Math.round(daemon.memoryBytes / 2 ** 20)} MiB`,
      `loader: ${daemon.loader.loads} loads, ${daemon.loader.busy} busy, ${daemon.loader.waiting} waiting, ${daemon.loader.killed} ended for time, ${daemon.loader.crashed} crashed`,
      vmTable(vms) || 'no VMs: write some into the configuration, or hyperturtle host vm add',
    ].join('\n'),
  );
}

/** Everything that this host knows of itself, for who looks after many. */
async function statusOfAll(options: AdminOptions): Promise<void> {
  const [{ statusOf }, { HyperturtleError }] = await Promise.all([
    import('./status-all.ts'),
    import('../../core/errors.ts'),
  ]);
  if (!options.json) throw new HyperturtleError('HT_USAGE', '--all is for programs: give --json as well');
  print(options, await statusOf((method, params) => ask(options, method, params)), () => '');
}

async function health(options: AdminOptions): Promise<void> {
  const result = await ask(options, 'admin.health', {});
  print(options, result, (r) =>
    r.healthy ? 'healthy' : ['unhealthy:', ...r.problems.map((p) => `  ${p}`)].join('\n'),
  );
  if (!result.healthy) process.exitCode = 1;
}

async function doctor(options: AdminOptions): Promise<void> {
  const result = await ask(options, 'admin.doctor', {}).catch(doctorWithoutDaemon);
  print(options, result, ({ findings }) => doctorText([{ title: 'this machine, the host (L0)', findings }]));
  if (result.findings.some((f) => f.level === 'fail')) process.exitCode = 1;
}

/** What can be said of the host alone. */
async function doctorWithoutDaemon(e: unknown): Promise<ResultOf<AdminMethods, 'admin.doctor'>> {
  const [{ isHyperturtleError, messageOf }, { hostFindings }, { DEFAULT_BPFFS }] = await Promise.all([
    import('../../core/errors.ts'),
    import('../../host/daemon/doctor-host.ts'),
    import('../../host/config.ts'),
  ]);
  if (!isHyperturtleError(e) || e.code === 'HT_INTERRUPTED') throw e;
  return {
    findings: [
      ...hostFindings(DEFAULT_BPFFS),
      {
        level: 'fail',
        what: `the daemon does not answer: ${messageOf(e)}`.slice(0, 4096),
        mend: `systemctl start hyperturtled; 'hyperturtle host daemon --check' says what is wrong with ${CONFIG}`,
      },
    ],
  };
}

async function list(options: AdminOptions): Promise<void> {
  print(options, await ask(options, 'admin.vm.list', {}), ({ vms }) => vmTable(vms));
}

async function nics(name: string | undefined, options: AdminOptions): Promise<void> {
  const { vms } = await ask(options, 'admin.vm.list', {});
  if (name !== undefined && !vms.some((v) => v.name === name)) {
    const { HyperturtleError } = await import('../../core/errors.ts');
    throw new HyperturtleError('HT_NOT_FOUND', `there is no VM '${name}': hyperturtle host vm list`);
  }
  const found = vms
    .filter((v) => name === undefined || v.name === name)
    .flatMap((v) =>
      v.nics.map((nic) => ({
        vm: v.name,
        ...nic,
        programs: v.links.filter((l) => l.target === nic.id).map((l) => `${l.hook}:${l.object}`),
      })),
    );
  print(options, { nics: found }, () =>
    found.length === 0
      ? 'no NICs'
      : columns(
          ['VM', 'NIC', 'device', 'network', 'MAC', 'MTU', 'slot', 'programs'],
          found.map((n) => [
            n.vm,
            n.id,
            n.ifname,
            n.network,
            n.mac,
            String(n.mtu),
            String(n.slot),
            n.programs.join(' ') || '-',
          ]),
        ),
  );
}

function vmTable(vms: readonly VmReport[]): string {
  const table = columns(
    ['VM', 'state', 'pid', 'arena', 'agent', 'objects', 'links', 'in L0', 'to L1'],
    vms.map((v) => [
      v.name,
      v.still?.state ?? v.phase,
      String(v.pid ?? '-'),
      `${v.arena.bytes >> 20} MiB ${v.arena.state}`,
      v.agent.hello ? v.agent.hello.version : v.agent.connected ? 'silent' : '-',
      String(v.used?.objects ?? 0),
      String(v.links.length),
      String(totalsOf(v.stats).inL0),
      String(totalsOf(v.stats).toL1),
    ]),
  );
  const problems = vms.flatMap((v) =>
    [v.problem, v.qmp.problem].filter((p) => p !== null).map((p) => `${v.name}: ${p}`),
  );
  const ended = vms.flatMap((v) =>
    v.ended.map(({ link, reason }) => `${v.name}: ${link.object} at ${link.hook}: ${reason}`),
  );
  const moves = vms.flatMap((v) => (v.move ? [`${v.name}: ${moveText(v.move)}`] : []));
  return [table, ...problems, ...ended, ...moves].join('\n');
}

async function add(name: string, options: AddOptions): Promise<void> {
  const spec = {
    qmp: options.qmp,
    agent: options.agent === undefined ? { hotplug: true } : { socket: options.agent },
    arenaMib: options.arenaMib,
    ...(options.bus === undefined ? {} : { bus: options.bus }),
    ...(options.owner === undefined ? {} : { owner: options.owner }),
    ...(options.signature === undefined ? {} : { signature: options.signature }),
    ...(options.key === undefined ? {} : { keys: options.key }),
    ...(options.quota === undefined ? {} : { quotas: options.quota }),
  };
  print(options, await ask(options, 'admin.vm.add', { name, spec }), () => `${name}: added`);
}

async function remove(name: string, options: AdminOptions): Promise<void> {
  print(options, await ask(options, 'admin.vm.remove', { name }), () => `${name}: removed`);
}

async function reload(options: AdminOptions): Promise<void> {
  print(options, await ask(options, 'admin.reload', {}), (r) => {
    const lines = (['added', 'removed', 'restarted', 'updated'] as const)
      .filter((k) => r[k].length > 0)
      .map((k) => `${k}: ${r[k].join(', ')}`);
    if (r.needRestart.length > 0)
      lines.push(`takes effect when the daemon restarts: ${r.needRestart.join(', ')}`);
    return lines.length > 0 ? lines.join('\n') : 'nothing differs';
  });
}

async function args(
  name: string,
  options: AdminOptions & { libvirt?: boolean; arena: boolean },
): Promise<void> {
  const params = options.arena ? { name } : { name, arena: false };
  print(options, await ask(options, 'admin.args', params), (r) =>
    options.libvirt ? r.libvirt.trimEnd() : r.qemu.join(' '),
  );
}
