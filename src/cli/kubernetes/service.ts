/** What commands share that run in a pod of a node until they are told to stop. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import type { JsonLog } from '../../core/log.ts';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import type { LogLevel } from '../../core/log-levels.ts';

export interface ServiceOptions {
  socket: string;
  logLevel: LogLevel;
}

export interface NodeOptions extends ServiceOptions {
  node?: string;
}

export const serviceOptions = (command: Command): Command =>
  command
    .option('--socket <path>', "the agent's socket", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS).default('info'));

export const nodeOption = (command: Command): Command =>
  command.option('--node <name>', 'name of this node; default: $NODE_NAME');

/** Throws HT_USAGE. */
export async function nodeOf(o: NodeOptions): Promise<string> {
  const name = o.node ?? process.env['NODE_NAME'] ?? '';
  if (/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name)) return name;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError(
    'HT_USAGE',
    `--node or $NODE_NAME: the name of a node expected, '${name}' found`,
  );
}

/** Runs `service` until it ends, or a signal tells it to: that is no failure. `stopped` is what is logged then. */
export async function runService(
  o: ServiceOptions,
  stopped: string,
  service: (log: JsonLog['log'], signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const [{ isHyperturtleError }, { jsonLog }, { abortOnSignals }] = await Promise.all([
    import('../../core/errors.ts'),
    import('../../core/log.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const { log, flush } = jsonLog(o.logLevel);
  const signals = abortOnSignals();
  try {
    await service(log, signals.signal);
    log.info({}, stopped);
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    log.info({}, stopped);
  } finally {
    signals.dispose();
    flush();
  }
}
