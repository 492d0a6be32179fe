#!/usr/bin/env node
/** The `hyperturtle-cni` plugin: what a container runtime executes. Starts with as little as it can. */
import { CniError, cniError } from '../cni/errors.ts';
import { configVersion, parseRequest } from '../cni/config.ts';
import type { CniRequest } from '../cni/config.ts';
import { delegate } from '../cni/delegate.ts';
import { configure, inspect, moveIn } from '../cni/netns.ts';
import { runCommand } from '../cni/plugin.ts';
import type { Means } from '../cni/plugin.ts';
import { messageOf } from '../core/errors.ts';
import { textUpTo } from '../core/files.ts';
import { guardOutput, writeJson } from '../core/output.ts';
import { runMain } from '../core/run-main.ts';
import { abortOnSignals } from '../core/lifecycle.ts';
import { withAgent } from '../client/session.ts';
import type { AgentClient } from '../client/session.ts';
import { nicHost, unwantNic } from '../client/nics.ts';

const TIMEOUT_S = 90;
const INPUT_MS = 30_000;
/** A configuration with its policy and the result of an ADD has some kilobytes. */
const INPUT_BYTES_MAX = 4 << 20;

function means(request: CniRequest): Means {
  const agent = <T>(use: (c: AgentClient) => Promise<T>): Promise<T> =>
    withAgent({ socket: request.config.agentSocket, timeoutS: TIMEOUT_S }, use);
  return {
    delegate,
    moveIn,
    configure,
    inspect,
    addNic: (spec) =>
      agent(async (c) => {
        const { addNic } = await import('../guest/nic/nic.ts');
        const { device, ...params } = spec;
        const made = await addNic(params, device === 'vfio' ? 'vfio-pci' : 'virtio-net', {
          host: nicHost(c),
          signal: c.signal,
        });
        return {
          mac: made.nic.mac,
          mtu: made.nic.mtu,
          pciAddress: made.address ?? '',
          interface: made.interface ?? undefined,
        };
      }),
    nicAt: (address) =>
      agent(async (c) => {
        const { listNics } = await import('../guest/nic/nic.ts');
        const found = (await listNics({ host: nicHost(c), signal: c.signal })).find(
          (n) => n.address === address,
        );
        if (!found) return undefined;
        const { id, network, mac, mtu } = found.nic;
        return { id, network, mac, mtu, pciAddress: address, interface: undefined };
      }),
    delNic: (id) =>
      agent(async (c) => {
        await nicHost(c).del(id);
        // with what else was linked to it by command: a NIC of that name never comes again
        await unwantNic(c, id);
      }),
    nics: () =>
      agent(async (c) => {
        const { nics, free } = await nicHost(c).list();
        return { ids: nics.map((n) => n.id), free };
      }),
    applyPolicy: (nic, policy) =>
      agent(async (c) => {
        const { setNicPolicy } = await import('../client/policy.ts');
        await setNicPolicy(c, nic, policy);
      }),
    dropPolicy: (nic) =>
      agent(async (c) => {
        const { dropNicPolicy } = await import('../client/policy.ts');
        await dropNicPolicy(c, nic);
      }),
  };
}

/** Waits for what is not there yet, also where the descriptor is a non-blocking one. */
async function standardInput(signal: AbortSignal): Promise<string> {
  const input = process.stdin;
  const late = AbortSignal.any([signal, AbortSignal.timeout(INPUT_MS)]);
  const give = (): unknown => input.destroy(new Error(`no end within ${INPUT_MS / 1000} s`));
  late.addEventListener('abort', give, { once: true });
  try {
    return await textUpTo(input, INPUT_BYTES_MAX);
  } catch (e) {
    throw new CniError('IO_FAILURE', 'standard input: a network configuration expected', messageOf(e));
  } finally {
    late.removeEventListener('abort', give);
    input.destroy(); // or an open pipe would keep us running
  }
}

async function main(): Promise<void> {
  guardOutput('hyperturtle-cni');
  const signals = abortOnSignals();
  let version = '1.0.0';
  try {
    const input = await standardInput(signals.signal);
    version = configVersion(input) ?? version;
    const request = parseRequest(process.env, input);
    version = request.version;
    const answer = await runCommand(request, means(request), signals.signal);
    if (answer) writeJson(JSON.stringify(answer));
  } catch (e) {
    const { code, message, details } = cniError(e);
    const error = { cniVersion: version, code, msg: message, ...(details === '' ? {} : { details }) };
    writeJson(JSON.stringify(error));
    process.exitCode = 1;
  } finally {
    signals.dispose();
  }
}

runMain(main);
