/** `hyperturtle guest agent`, the long-running part of L1, and the commands that are about it. */
import { Option } from 'commander';
import { writeOut } from '../../core/output.ts';
import type { Command } from 'commander';
import type { Agent } from '../../guest/agent/agent.ts';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import type { LogLevel } from '../../core/log-levels.ts';
import type { JsonLog } from '../../core/log.ts';
import type { AgentConfig } from '../../guest/agent/config.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { integer } from '../shared/values.ts';

interface RunOptions {
  config?: string;
  port?: string;
  socket?: string;
  state?: string;
  module: boolean;
  register: boolean;
  logLevel?: LogLevel;
  check?: boolean;
}

/** `guest agent|desired|reload|forget|release`. */
export function registerAgent(guest: Command, version: string): void {
  registerRun(guest, version);
  registerRequests(guest);
}

function registerRun(guest: Command, version: string): void {
  guest
    .command('agent')
    .description('the agent: keeps what this machine wants in its host; runs until SIGTERM')
    .option('--config <file>', 'configuration file; default: /etc/hyperturtle/guest.yaml when there is one')
    .option('--check', 'only say what is wrong with the configuration file')
    .option('--port <path>', 'channel to the host: a virtio-serial port, or a unix socket')
    .option('--socket <path>', "socket for this machine's commands")
    .option('--state <dir>', 'where the desired state is kept')
    .option('--no-module', 'leave the kernel module and nested guests alone')
    .option('--no-register', 'do not register nested guests')
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS))
    .addHelpText(
      'after',
      `
Connects to the host and stays connected; loads and links there what the configuration and earlier
commands want, registers nested guests whose RAM is on turtlefs. SIGHUP reads the configuration again.
All of it can be restarted in any order: the agent, the host's daemon, the machine, the kernel module
('hyperturtle guest release' lets go of that one first).

Example of /etc/hyperturtle/guest.yaml:
  objects:
    npf: {file: /usr/lib/hyperturtle/npf.bpf.o}
  links:
    - {object: npf, hook: npf}
  metrics: {socket: /run/hyperturtle/agent-metrics.sock}`,
    )
    .action((o: RunOptions) => run(o, version));
}

/** Commands that ask the agent for one thing. */
function registerRequests(guest: Command): void {
  l1Options(guest.command('desired'))
    .description('what is wanted in the host: of the configuration file, and of commands')
    .action(desired);
  l1Options(guest.command('reload'))
    .description('read the configuration file again, compare with the host, fix what differs')
    .action(reload);
  l1Options(guest.command('forget'))
    .description('forget what commands loaded and unloaded: the configuration file alone counts')
    .action(forget);
  l1Options(guest.command('release'))
    .description('have the agent let go of the kernel module, so that it can be unloaded')
    .option(
      '--for-s <number>',
      'takes it up again afterwards, or when it is back',
      integer('--for-s', 1, 3600),
      60,
    )
    .addHelpText(
      'after',
      '\nExample:\n  hyperturtle guest release && rmmod hyperturtle_guest && modprobe hyperturtle_guest\n\nNested guests on turtlefs must have ended: their files hold the module as well.',
    )
    .action(release);
}

async function run(options: RunOptions, version: string): Promise<void> {
  const [agents, configs, { abortOnSignals }, { jsonLog }, { sendDatagram }, errors, { openTracing }] =
    await Promise.all([
      import('../../guest/agent/agent.ts'),
      import('../../guest/agent/config.ts'),
      import('../../core/lifecycle.ts'),
      import('../../core/log.ts'),
      import('../../bpf/datagram.ts'),
      import('../../core/errors.ts'),
      import('../../core/tracing.ts'),
    ]);
  const file = options.config ?? configs.DEFAULT_CONFIG_FILE;
  if (options.check) {
    const { objects } = configs.checkAgentConfig(file);
    return writeOut(`${file}: OK, ${Object.keys(objects).length} objects\n`);
  }
  const readConfig = (): AgentConfig =>
    withOptions(configs.readAgentConfig(file, options.config !== undefined), options);
  const config = readConfig();
  const tracing = await openTracing('hyperturtle-guest-agent', version);
  const { log, flush } = jsonLog(options.logLevel ?? config.log.level);
  // SIGHUP is a request to reload here, not to end
  const signals = abortOnSignals(['SIGINT', 'SIGTERM']);
  let agent: Agent;
  try {
    agent = await agents.Agent.start({
      config,
      version,
      log,
      readConfig,
      tracing,
      ...(options.module ? {} : { module: false as const }),
    });
  } catch (e) {
    flush();
    signals.dispose();
    throw e;
  }
  const hup = (): void => {
    agent.reload(signals.signal).then(
      () => log.info({}, 'configuration read'),
      (e: unknown) => log.error({}, errors.messageOf(e)),
    );
  };
  process.on('SIGHUP', hup);
  try {
    await underSystemd({ send: sendDatagram, log }, async () => {
      log.info({ port: config.port, socket: config.socket }, 'agent started');
      await aborted(signals.signal);
    });
  } finally {
    process.off('SIGHUP', hup);
    await agent.stop();
    await tracing?.close();
    signals.dispose();
    log.info({}, 'agent stopped');
    flush();
  }
}

/** The configuration with what the command line says in place of it. */
function withOptions(c: AgentConfig, options: RunOptions): AgentConfig {
  return {
    ...c,
    port: options.port ?? c.port,
    socket: options.socket ?? c.socket,
    state: options.state ?? c.state,
    l2: { ...c.l2, register: c.l2.register && options.register },
  };
}

/** Tells systemd, when it asked for it, that the service is ready, that it lives, and that it is stopping. */
async function underSystemd(
  by: { send: (socket: string, text: string) => void; log: JsonLog['log'] },
  body: () => Promise<void>,
): Promise<void> {
  const notify = (text: string): void => {
    const to = process.env['NOTIFY_SOCKET'];
    if (to === undefined || to === '') return;
    try {
      by.send(to, text);
    } catch (e) {
      by.log.warn({ err: e }, 'systemd was not told');
    }
  };
  const watchdogUs = Number(process.env['WATCHDOG_USEC']);
  const watchdog = watchdogUs > 0 ? setInterval(() => notify('WATCHDOG=1'), watchdogUs / 2000) : undefined;
  try {
    notify('READY=1');
    await body();
    notify('STOPPING=1');
  } finally {
    clearInterval(watchdog);
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted)
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

async function desired(options: L1Options): Promise<void> {
  const result = await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('agent.desired', {}, { signal, timeoutMs }),
  );
  print(options, result, (r) =>
    [
      columns(
        ['OBJECT', 'SHA-256', 'SIGNED BY', 'FROM'],
        r.objects.map((o) => [o.name, o.sha256.slice(0, 16), o.signedBy ?? '-', o.origin]),
      ) || 'no objects',
      '',
      columns(
        ['LINK OF', 'PROGRAM', 'HOOK', 'TARGET', 'FROM'],
        r.links.map((l) => [l.object, l.program ?? '-', l.hook, l.target ?? '-', l.origin]),
      ) || 'no links',
      ...(r.removed.length > 0
        ? ['', `taken out of the configuration by commands: ${r.removed.join(', ')}`]
        : []),
    ].join('\n'),
  );
}

async function reload(options: L1Options): Promise<void> {
  const result = await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('agent.reload', {}, { signal, timeoutMs }),
  );
  print(options, result, ({ problems }) =>
    problems.length === 0 ? 'reloaded' : problems.map((p) => `${p.step}: ${p.message}`).join('\n'),
  );
  if (result.problems.length > 0) process.exitCode = 1;
}

async function forget(options: L1Options): Promise<void> {
  await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('agent.forget', {}, { signal, timeoutMs }),
  );
  print(options, {}, () => 'forgotten');
}

async function release(options: L1Options & { forS: number }): Promise<void> {
  await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('agent.release', { seconds: options.forS }, { signal, timeoutMs }),
  );
  print(
    options,
    {},
    () => `the agent keeps off the module for ${options.forS} s, or until it has been unloaded and is back`,
  );
}
