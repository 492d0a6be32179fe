/** `hyperturtle host libvirt`: domains of libvirt as VMs of the daemon. */
import { readFileSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { programFile } from '../../core/code-file.ts';
import { PLACES } from '../../core/default-paths.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { readIfThere, replaceFile, textUpTo } from '../../core/files.ts';
import { writeErr, writeOut } from '../../core/output.ts';
import type { DomainSettings } from '../../host/libvirt/metadata.ts';
import type { HostPlan } from '../../host/libvirt/host-files.ts';
import type { Changed } from '../../host/libvirt/enable.ts';
import { print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { integer } from '../shared/values.ts';
import { adminOptions, ask } from './admin.ts';
import type { AdminOptions } from './admin.ts';

interface Options extends AdminOptions {
  uri: string;
  config: string;
  root: string;
  dryRun?: boolean;
}

interface SettingOptions {
  name?: string;
  arenaMib?: number;
  owner?: string;
  signature?: string;
  key?: string[];
  quota?: Record<string, number>;
  network?: string[];
  nicPorts?: number;
  mac?: string[];
  withoutDaemon?: string;
}

interface EnableOptions extends Options, SettingOptions {
  socketDir?: string;
}

const XML_BYTES_MAX = 4 << 20;
/** The hook script ends us after four seconds. */
const HOOK_S = 3;

export function registerLibvirt(host: Command): void {
  const libvirt = host
    .command('libvirt')
    .description('domains of libvirt as VMs of the daemon (docs/libvirt.md)');
  const enabling = settings(libvirt.command('enable').argument('[domain]')).option(
    '--socket-dir <dir>',
    "where QEMU and libvirt may make sockets; default: libvirt's own",
  );
  common(enabling)
    .description('without a domain: have the daemon follow libvirt; with one: have the daemon serve it')
    .addHelpText(
      'after',
      `
Without a domain: a hook script of libvirt, the devices that QEMU may open (qemu.conf, and AppArmor's local profile where
there is one), and 'libvirt' in the daemon's configuration. Restart libvirtd then; domains run on.
With a domain: settings go into its metadata, with a QMP socket, the agent's port and empty root ports. All of it is inert
without the daemon. Settings that are not given stay as they are; the same again changes nothing.

Examples:
  hyperturtle host libvirt enable
  hyperturtle host libvirt enable build1 --arena-mib 32 --quota objects=4 --network lan`,
    )
    .action(enable);
  common(libvirt.command('disable').argument('[domain]'))
    .description('undo it: of the domain, or of this host; what else was written stays')
    .action(disable);
  common(libvirt.command('status'))
    .description('domains that are enabled, and what stands in their way')
    .action(status);
  const releasing = libvirt
    .command('release')
    .argument('<domain>')
    .argument('[command...]')
    .option('--for-s <number>', 'seconds until it is served again', integer('--for-s', 1, 86_400), 600);
  common(releasing)
    .description('take from a running domain what keeps QEMU from saving or migrating it')
    .addHelpText(
      'after',
      `
Its nested guests run on without acceleration. With a command, such as virsh, that is run next, and the domain is served
again when it still runs here afterwards. The command's exit status is this one's.

Examples:
  hyperturtle host libvirt release build1 -- virsh managedsave build1
  hyperturtle host libvirt release build1 -- virsh migrate --live build1 qemu+ssh://other/system`,
    )
    .action(release);
  common(libvirt.command('take').argument('<domain>'))
    .description('serve a released domain again, before its time')
    .action(take);
  settings(libvirt.command('xml'))
    .description('domain XML on standard input, with all that its VM needs, on standard output')
    .requiredOption('--socket-dir <dir>', 'where QEMU and libvirt may make sockets')
    .option('--undo', 'without it instead')
    .action(xml);
  adminOptions(libvirt.command('hook', { hidden: true }).argument('<operation>'))
    .description("the hook script's word: XML on standard input")
    .action(hook);
}

function common(command: Command): Command {
  return adminOptions(
    command
      .option('--uri <uri>', 'the libvirt', 'qemu:///system')
      .option('--config <file>', "the daemon's configuration", PLACES.hostConfig.path)
      .option('--root <dir>', 'where the machine is', '/')
      .option('--dry-run', 'print what would be done'),
  );
}

function settings(command: Command): Command {
  const list = (text: string, before: string[] = []): string[] => [...before, text];
  return command
    .option('--name <name>', "the VM's in the daemon; default: the domain's")
    .option('--arena-mib <number>', 'size of the arena, a power of two', integer('--arena-mib', 1, 256))
    .option('--owner <user>', "user that its QEMU runs as; default: libvirt's")
    .option('--signature <policy>', 'none, optional or required')
    .option('--key <file>', 'public key of those whose objects it may load; several times for several', list)
    .option('--quota <name=number>', 'such as objects=4; several times for several', quota)
    .option('--network <name>', 'network that it may have NICs in; several times for several', list)
    .option('--nic-ports <number>', 'root ports for NICs', integer('--nic-ports', 0, 32))
    .option('--mac <address>', 'that a NIC may have; several times for several', list)
    .option('--without-daemon <how>', 'what becomes of frames without a daemon: keep, drop or open');
}

function quota(text: string, before: Record<string, number> = {}): Record<string, number> {
  const [name = '', value = ''] = text.split('=');
  return { ...before, [name]: integer(`--quota ${name}`, 0, Number.MAX_SAFE_INTEGER)(value) };
}

function settingsFrom(o: SettingOptions): DomainSettings {
  const nics = {
    ...(o.network ? { networks: o.network } : {}),
    ...(o.nicPorts === undefined ? {} : { ports: o.nicPorts }),
    ...(o.mac ? { macs: o.mac } : {}),
    ...(o.withoutDaemon === undefined ? {} : { withoutDaemon: o.withoutDaemon }),
  };
  return {
    ...(o.name === undefined ? {} : { name: o.name }),
    ...(o.arenaMib === undefined ? {} : { arenaMib: o.arenaMib }),
    ...(o.owner === undefined ? {} : { owner: o.owner }),
    ...(o.signature === undefined ? {} : { signature: o.signature }),
    ...(o.key ? { keys: o.key } : {}),
    ...(o.quota ? { quotas: o.quota } : {}),
    ...(Object.keys(nics).length > 0 ? { nics } : {}),
  };
}

async function domainOptions(domain: string, o: Options) {
  const { Virsh } = await import('../../host/libvirt/virsh.ts');
  const state = path.join(o.root, PLACES.state.path);
  return { virsh: new Virsh(o.uri), domain, state, dryRun: o.dryRun === true };
}

async function enable(domain: string | undefined, o: EnableOptions): Promise<void> {
  if (domain === undefined) return enableHost(o);
  const { enable: enableOne } = await import('../../host/libvirt/enable.ts');
  const given = { settings: settingsFrom(o), socketDirectory: o.socketDir };
  said(o, domain, await enableOne({ ...(await domainOptions(domain, o)), ...given }), 'enabled');
}

async function disable(domain: string | undefined, o: Options): Promise<void> {
  if (domain === undefined) return disableHost(o);
  const { disable: disableOne } = await import('../../host/libvirt/enable.ts');
  said(o, domain, await disableOne(await domainOptions(domain, o)), 'disabled');
}

function said(o: Options, domain: string, { facts, xml: text, notes }: Changed, what: string): void {
  const result = { uuid: facts.uuid, domain: facts.domain, changed: text !== undefined, notes };
  print(o, o.dryRun ? { ...result, xml: text ?? null } : result, () => {
    if (text === undefined) return `${domain}: nothing to do`;
    if (o.dryRun) return text.trimEnd();
    return [`${domain}: ${what}`, ...notes.map((n) => `note: ${n}`)].join('\n');
  });
}

const reader =
  (root: string) =>
  (file: string): string | undefined =>
    readIfThere(path.join(root, file))?.toString('utf8');

async function enableHost(o: EnableOptions): Promise<void> {
  const { QEMU_CONF, planEnable, userOf } = await import('../../host/libvirt/host-files.ts');
  const read = reader(o.root);
  const owner = o.owner ?? userOf(read(QEMU_CONF)) ?? 'libvirt-qemu';
  const command = [process.execPath, programFile('cli/main')];
  await applyHost(o, planEnable(read, { config: o.config, uri: o.uri, owner, command }));
}

async function disableHost(o: Options): Promise<void> {
  const { planDisable } = await import('../../host/libvirt/host-files.ts');
  await applyHost(o, planDisable(reader(o.root), o.config));
}

async function applyHost(o: Options, plan: HostPlan): Promise<void> {
  const steps = plan.files.map((f) => `${f.text === undefined ? 'remove' : 'write'} ${f.path}`);
  const notes = [...plan.notes];
  if (o.dryRun !== true && steps.length > 0) {
    for (const file of plan.files) writeFile(path.join(o.root, file.path), file);
    notes.push('restart libvirtd (systemctl restart libvirtd): it reads them when it starts; domains run on');
    notes.push(await reloaded(o));
  }
  print(
    o,
    { steps, notes },
    () => [...steps, ...notes.map((n) => `note: ${n}`)].join('\n') || 'nothing to do',
  );
}

/** Who may read a file of others stays. */
function writeFile(at: string, { text, mode }: HostPlan['files'][number]): void {
  if (text === undefined) return rmSync(at, { force: true });
  const found = statSync(at, { throwIfNoEntry: false });
  replaceFile(at, text, { mode: found ? found.mode & 0o777 : mode, sync: true });
}

/** What became of telling the daemon, in words. */
async function reloaded(o: Options): Promise<string> {
  try {
    await ask(o, 'admin.reload', {});
    return 'the daemon has read its configuration again';
  } catch (e) {
    return isHyperturtleError(e, 'HT_UNAVAILABLE')
      ? 'no daemon runs: it reads its configuration when it starts'
      : `the daemon did not take its configuration: ${messageOf(e)}`;
  }
}

async function status(o: Options): Promise<void> {
  const { domainTable } = await import('../../host/libvirt/status.ts');
  const { Virsh } = await import('../../host/libvirt/virsh.ts');
  const { planEnable } = await import('../../host/libvirt/host-files.ts');
  const daemon = await ask(o, 'admin.libvirt.status', {}).catch((e: unknown) => ({
    libvirt: null,
    why: messageOf(e),
  }));
  const vms = await ask(o, 'admin.vm.list', {}).catch(() => ({ vms: [] }));
  const read = reader(o.root);
  const command = [process.execPath, programFile('cli/main')];
  const missing = planEnable(read, { config: o.config, uri: o.uri, owner: 'root', command });
  const domains = await domainTable(new Virsh(o.uri), daemon.libvirt, vms.vms);
  const notes = [
    ...missing.files.map((f) => `${f.path} is not as 'hyperturtle host libvirt enable' writes it`),
    ...missing.notes,
    ...('why' in daemon ? [daemon.why] : daemon.libvirt ? [] : ['the daemon follows no libvirt']),
    ...(daemon.libvirt?.problem ? [daemon.libvirt.problem] : []),
  ];
  print(o, { domains, notes }, () =>
    [
      domains.length === 0
        ? 'no domains'
        : columns(
            ['DOMAIN', 'STATE', 'ENABLED', 'VM', 'SERVED', 'ARENA', 'WHY NOT'],
            domains.map((d) => [
              d.domain,
              d.state,
              d.enabled,
              d.vm ?? '-',
              d.served,
              d.arena ?? '-',
              d.why ?? '',
            ]),
          ),
      ...notes.map((n) => `note: ${n}`),
    ].join('\n'),
  );
}

async function release(domain: string, command: string[], o: Options & { forS: number }): Promise<void> {
  const released = await ask(o, 'admin.libvirt.release', { domain, seconds: o.forS });
  const [program, ...args] = command;
  if (program === undefined)
    return print(o, released.domain, (d) => `${domain}: released until ${d.releasedUntil ?? 'it ends'}`);
  const { spawnSync } = await import('node:child_process');
  const r = spawnSync(program, args, { stdio: 'inherit' });
  // where it still runs it is served again at once; where it has been saved or moved there is nothing to take
  await ask(o, 'admin.libvirt.take', { domain }).catch((e: unknown) => {
    if (!isHyperturtleError(e, 'HT_NOT_FOUND')) writeErr(`hyperturtle: ${messageOf(e)}\n`);
  });
  if (r.error) throw new HyperturtleError('HT_USAGE', `${program} cannot be run: ${r.error.message}`);
  process.exitCode = r.status ?? 1;
}

async function take(domain: string, o: Options): Promise<void> {
  print(o, (await ask(o, 'admin.libvirt.take', { domain })).domain, () => `${domain}: served again`);
}

async function xml(o: SettingOptions & { socketDir: string; undo?: boolean }): Promise<void> {
  const { disableDomain, enableDomain, readDomain, socketsIn } = await import('../../host/libvirt/domain.ts');
  const text = await textUpTo(process.stdin, XML_BYTES_MAX);
  if (o.undo) return writeOut(disableDomain(text));
  const { uuid, domain } = readDomain(text);
  writeOut(enableDomain(text, settingsFrom(o), socketsIn(o.socketDir, uuid === '' ? domain : uuid)));
}

/** Says nothing: libvirt would take it for the domain's XML. */
async function hook(operation: string, o: AdminOptions): Promise<void> {
  const text = readFileSync(0, 'utf8');
  await ask({ ...o, timeoutS: HOOK_S }, 'admin.libvirt.hook', { operation, xml: text });
}
