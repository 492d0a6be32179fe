/** Requests to this host's daemon, for all commands that have one. */
import type { Command } from 'commander';
import { ADMIN_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import type { ADMIN_METHODS } from '../../host/daemon/admin-schema.ts';
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
export async function ask<M extends keyof AdminMethods>(
  options: AdminOptions,
  method: M,
  params: ParamsOf<AdminMethods, M>,
): Promise<ResultOf<AdminMethods, M>> {
  const [{ connectAdmin }, { abortOnSignals }] = await Promise.all([
    import('../../host/daemon/admin-client.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const { signal, dispose } = abortOnSignals();
  try {
    const peer = await connectAdmin(options.socket, signal);
    try {
      return await peer.request(method, params, { timeoutMs: options.timeoutS * 1000, signal });
    } finally {
      peer.close();
    }
  } finally {
    dispose();
  }
}
