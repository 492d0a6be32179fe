/**
 * What a QEMU that was just connected to has of a VM, and gets: its port and its arena. A QEMU whose VM is arriving from
 * elsewhere is left alone until it has: what is plugged before makes it refuse the state that comes.
 */
import { runStateOf } from '../../qmp/migration.ts';
import type { QmpClient } from '../../qmp/client.ts';
import { ownPort } from '../arena-plug.ts';
import type { VmSpec } from '../config.ts';
import type { VmArena } from './arena.ts';
import { readRecord } from './process-record.ts';
import { plugPort } from './qemu-side.ts';
import { whenPluggable } from './run-state.ts';
import { settleArena } from './settle-arena.ts';

interface SettleSpec {
  vm: string;
  run: string;
  agentSocket: string;
  agent: VmSpec['agent'];
  bus: string | undefined;
  process: { pid: number; startTicks: number };
  signal: AbortSignal;
  onPlugged: (bus: string) => void;
  /** Its state is to come, and is waited for. */
  onIncoming: () => void;
}

/** Whether QEMU has this arena now. Throws HT_BUSY, HT_QMP, HT_TIMEOUT, the signal's reason. */
export async function settle(client: QmpClient, arena: VmArena, spec: SettleSpec): Promise<boolean> {
  const { run, vm, process, signal } = spec;
  if ((await runStateOf(client)) === 'inmigrate') spec.onIncoming();
  await whenPluggable(client, signal);
  await settlePort(client, spec);
  const bus = spec.bus ?? (await ownPort(client));
  const found = await settleArena(client, arena, { process, record: readRecord(run, vm), bus, signal });
  if (found === 'plugged') spec.onPlugged(bus ?? '');
  return found !== 'without';
}

async function settlePort(client: QmpClient, { agent, agentSocket }: SettleSpec): Promise<void> {
  if (!('hotplug' in agent)) return;
  const bus = agent.hotplug === true ? undefined : agent.hotplug.bus;
  await plugPort(client, { socketPath: agentSocket, bus });
}

/** For people: the VM has no problem of its own then. */
export const INCOMING = 'its QEMU waits for the state of a VM to arrive (-incoming)';
