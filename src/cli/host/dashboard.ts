/** `hyperturtle host dashboard`: a page in the browser that shows what the daemon's VMs and their programs do. */
import type { Command } from 'commander';
import { ADMIN_SOCKET, PORTS } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { writeOut } from '../../core/output.ts';
import { nameOptions } from '../profile/command.ts';
import type { SymbolOptions } from '../../client/profile-symbols.ts';
import { integer } from '../shared/values.ts';

interface DashboardOptions extends SymbolOptions {
  socket: string;
  port: number;
}

/** As adminSocketOf in src/host/config.ts, which is not loaded for a list of options. */

export function registerDashboard(host: Command): void {
  nameOptions(host.command('dashboard'))
    .description('a page that shows all VMs, hooks and counters live; read-only; runs until Ctrl-C')
    .option('--socket <path>', "the daemon's socket", variable('HYPERTURTLE_HOST_SOCKET') ?? ADMIN_SOCKET)
    .option(
      '--port <number>',
      'on 127.0.0.1; 0: any that is free',
      integer('--port', 0, 65_535),
      PORTS.dashboard.port,
    )
    .addHelpText(
      'after',
      `
Prints the address to open, with a token that is new each time. From another machine, through a tunnel:
  $ ssh -L 9466:127.0.0.1:9466 root@host
It needs the daemon's socket, thus root; the daemon need not run yet. Flame graphs of nested guests have names from the files given here.`,
    )
    .action(dashboard);
}

async function dashboard(options: DashboardOptions): Promise<void> {
  const [{ pageAssets }, { Collector }, { DashboardServer }, { abortOnSignals }, { givenSymbols }] =
    await Promise.all([
      import('../../dashboard/assets.ts'),
      import('../../dashboard/collect.ts'),
      import('../../dashboard/server.ts'),
      import('../../core/lifecycle.ts'),
      import('../../client/profile-symbols.ts'),
    ]);
  const signals = abortOnSignals();
  const collector = new Collector(options.socket, await givenSymbols(options));
  try {
    const server = await DashboardServer.listen({ port: options.port, collector, assets: pageAssets() });
    try {
      writeOut(`${server.url}\n`);
      await new Promise<void>((resolve) => {
        if (signals.signal.aborted) resolve();
        signals.signal.addEventListener('abort', () => resolve(), { once: true });
      });
    } finally {
      await server.close();
    }
  } finally {
    collector.close();
    signals.dispose();
  }
}
