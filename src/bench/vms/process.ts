/**
 * The daemon of `hyperturtle bench vms`: `CONFIG DIRECTORY VERSION NICS`. It finds NICs in its run directory, as a daemon does
 * that starts while VMs run: network devices of its own network namespace, in the order of their numbers, NICS of them a VM.
 */
import { messageOf } from '../../core/errors.ts';
import { makeDirectory } from '../../core/files.ts';

import { runMain } from '../../core/run-main.ts';
import { readConfig } from '../../host/config.ts';
import { HostDaemon } from '../../host/daemon/daemon.ts';
import { openLog } from '../../host/log.ts';
import { writeNics } from '../../host/nics/record.ts';
import { startTicksOf } from '../../host/vm/process-record.ts';
import { ifindexOf } from '../../host/nics/tap.ts';
import { PACKET_HOOKS } from '../../host/hooks.ts';
import { kernelWithoutModule } from '../control/kernel.ts';
import { deviceName, qemuName } from './names.ts';

export type FromVmsDaemon = { ready: true } | { problem: string };

const tell = (message: FromVmsDaemon): void => void process.send?.(message);

function recordNics(configFile: string, each: number): void {
  const { vms, run } = readConfig(configFile);
  const startTicks = startTicksOf(process.pid) ?? 0;
  for (const [v, vm] of Object.keys(vms).entries()) {
    makeDirectory(`${run}/vms/${vm}`);
    const nics = Array.from({ length: each }, (_, n) => {
      const ifname = deviceName(v, n);
      const mac = [2, 0, 0, v >> 8, v & 255, n].map((b) => b.toString(16).padStart(2, '0')).join(':');
      const info = { id: `nic${n}`, mac, network: 'lan', kind: 'tap' as const, slot: 16 + n, mtu: 1500 };
      return {
        info: { ...info, hooks: [...PACKET_HOOKS], since: new Date().toISOString() },
        ...{ device: qemuName(v, n), port: `port${n}`, ifname, ifindex: ifindexOf(ifname) ?? 0 },
        complete: true,
      };
    });
    writeNics(run, vm, { pid: process.pid, startTicks, bootId: null, nics });
  }
}

async function main(): Promise<void> {
  const [configFile = '', directory = '', version = '', nics = '0'] = process.argv.slice(2);
  const ended = new Promise<void>((resolve) => process.once('disconnect', resolve));
  try {
    recordNics(configFile, Number(nics));
    const daemon = await HostDaemon.start({
      ...{ configFile, version, openLog, kernel: kernelWithoutModule(directory) },
      verifier: () => () => '',
    });
    tell({ ready: true });
    await ended;
    await daemon.stop();
  } catch (e) {
    tell({ problem: messageOf(e) });
    process.exitCode = 1;
    if (process.connected) process.disconnect();
  }
}

// the parent's terminal sends these to all; the parent ends us in order
for (const name of ['SIGINT', 'SIGHUP'] as const) process.on(name, () => {});
runMain(main);
