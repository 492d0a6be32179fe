/** Asking the host's daemon: the options that all such commands have, and one request. */
import type { Command } from 'commander';
import { ADMIN_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import type { ADMIN_METHODS, VmReport } from '../../host/daemon/admin-schema.ts';
import type { RpcPeer } from '../../wire/peer.ts';
import type { ParamsOf, ResultOf } from '../../wire/schema.ts';
import { integer } from '../shared/values.ts';

export interface AdminOptions {
  socket: string;
  timeoutS: number;
  json?: boolean;
}

export type AdminMethods = typeof ADMIN_METHODS;

export function adminOptions(command: Command): Command {
  return command
    .option('--socket <path>', "the daemon's socket", variable('HYPERTURTLE_HOST_SOCKET') ?? ADMIN_SOCKET)
    .option('--timeout-s <number>', 'seconds to wait for the answer', integer('--timeout-s', 1, 3600), 60)
    .option('--json', 'one line of JSON');
}

/** One request to the daemon. Throws HT_UNAVAILABLE when none runs. */
export function ask<M extends keyof AdminMethods>(
  options: AdminOptions,
  method: M,
  params: ParamsOf<AdminMethods, M>,
): Promise<ResultOf<AdminMethods, M>> {
  return withDaemon(options, (request, signal) => request(method, params, { signal }));
}

export type Request = <M extends keyof AdminMethods>(
  method: M,
  params: ParamsOf<AdminMethods, M>,
  options?: { signal?: AbortSignal },
) => Promise<ResultOf<AdminMethods, M>>;

/** Any number of requests; `signal` aborts on SIGINT and SIGTERM, and no request with it but by its options. */
export async function withDaemon<T>(
  options: AdminOptions,
  work: (request: Request, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const [{ connectAdmin }, { abortOnSignals }] = await Promise.all([
    import('../../host/daemon/admin-client.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const { signal, dispose } = abortOnSignals();
  try {
    const peer: RpcPeer<AdminMethods> = await connectAdmin(options.socket, signal);
    try {
      return await work(
        (method, params, o) => peer.request(method, params, { timeoutMs: options.timeoutS * 1000, ...o }),
        signal,
      );
    } finally {
      peer.close();
    }
  } finally {
    dispose();
  }
}

/** `active: 120 of 1024 MiB left`. */
export function moveText({ what, phase, leftMib, totalMib }: NonNullable<VmReport['move']>): string {
  return `${what}: ${phase}${totalMib > 0 ? `, ${leftMib} of ${totalMib} MiB left` : ''}`;
}
