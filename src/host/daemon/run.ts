/** The daemon as a process: signals, systemd, the order of its end. Returns when it has ended. */
import { libbpf } from '../../bpf/libbpf.ts';
import { messageOf } from '../../core/errors.ts';
import { verifierOf } from '../../core/signature.ts';
import { openTracing } from '../../core/tracing.ts';
import { HostDaemon } from './daemon.ts';
import type { DaemonOptions } from './daemon.ts';
import { moduleKernel } from '../vm/kernel.ts';
import { openLog } from '../log.ts';
import { systemdNotifier } from './notify.ts';

export interface RunOptions extends Pick<DaemonOptions, 'configFile' | 'version'> {
  /** Default: the kernel with hyperturtle_host.ko. */
  kernel?: DaemonOptions['kernel'];
}

/** SIGTERM and SIGINT end it, SIGHUP reloads. Throws what is wrong at start. */
export async function runDaemon(options: RunOptions): Promise<void> {
  // without it every object of every VM would be refused
  if (options.kernel === undefined) libbpf();
  let end!: (signal: string) => void;
  const ended = new Promise<string>((resolve) => (end = resolve));
  const stop = (signal: NodeJS.Signals): void => end(signal);
  let hangup: (() => void) | undefined;
  // a reload that is asked for while we start is one that has been done when we are there
  const onHangup = (): void => hangup?.();
  process.on('SIGHUP', onHangup);
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  // before anything is begun: what it is asked for may be wrong
  const tracing = await openTracing('hyperturtle-host-daemon', options.version);
  try {
    const daemon = await HostDaemon.start({
      kernel: moduleKernel,
      openLog,
      verifier: verifierOf,
      tracing,
      ...options,
    });
    const { log } = daemon.log;
    const notifier = systemdNotifier(log);
    try {
      hangup = () => {
        notifier.reloading();
        daemon
          .reload()
          .catch((e: unknown) =>
            log.error({ problem: messageOf(e) }, 'configuration not reloaded: it stays as it was'),
          )
          .finally(() => notifier.ready(daemon.summary()));
      };
      notifier.ready(daemon.summary());
      notifier.watchdog(() => daemon.problems().length === 0);
      log.info({ signal: await ended }, 'stopping');
      notifier.stopping();
    } finally {
      hangup = undefined;
      notifier.close();
      await daemon.stop();
      log.info({}, 'stopped');
      daemon.log.flush();
    }
  } finally {
    await tracing?.close();
    process.off('SIGHUP', onHangup);
    process.off('SIGTERM', stop);
    process.off('SIGINT', stop);
  }
}
