/** What systemd is told (sd_notify): ready, reloading, stopping, alive. Nothing without NOTIFY_SOCKET. */
import { sendDatagram } from '../../bpf/datagram.ts';
import { messageOf } from '../../core/errors.ts';
import { monotonicUs } from '../../bpf/datagram.ts';
import type { Log } from '../log.ts';

export interface Notifier {
  ready(status: string): void;
  reloading(): void;
  stopping(): void;
  status(text: string): void;
  /** Begins to tell that we live, if the unit has a watchdog; `healthy` false: it is not told. */
  watchdog(healthy: () => boolean): void;
  close(): void;
}

export function systemdNotifier(log: Log, env: NodeJS.ProcessEnv = process.env): Notifier {
  const socket = env['NOTIFY_SOCKET'];
  const send = (...lines: string[]): void => {
    if (socket === undefined || socket === '') return;
    try {
      sendDatagram(socket, lines.join('\n'));
    } catch (e) {
      log.warn({ problem: messageOf(e) }, 'systemd was not told');
    }
  };
  let timer: NodeJS.Timeout | undefined;
  return {
    ready: (status) => send('READY=1', `STATUS=${status}`),
    reloading: () => send('RELOADING=1', `MONOTONIC_USEC=${monotonicUs()}`),
    stopping: () => send('STOPPING=1'),
    status: (text) => send(`STATUS=${text}`),
    watchdog(healthy) {
      const us = Number(env['WATCHDOG_USEC']);
      const forUs = env['WATCHDOG_PID'] === undefined || Number(env['WATCHDOG_PID']) === process.pid;
      if (!forUs || !Number.isFinite(us) || us <= 0) return;
      timer = setInterval(() => healthy() && send('WATCHDOG=1'), us / 1000 / 2);
    },
    close: () => clearInterval(timer),
  };
}
