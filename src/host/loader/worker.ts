/**
 * A worker of the loader: loads one object, keeps its descriptors until the loader has copied them, and is killed.
 * It gives up what it does not need first: all capabilities but those for bpf(), memory beyond a limit, and its life
 * when the loader dies.
 */
import { OwnedFd } from '../../bpf/fds.ts';
import { receiveFds } from '../../bpf/fd-passing.ts';
import { BpfObject } from '../../bpf/object.ts';
import { dieWithParent, keepCapabilities, limitMemory } from '../../bpf/sys.ts';
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import { getPriority, setPriority } from 'node:os';
import { writeFileSync } from 'node:fs';
import { writeErr } from '../../core/output.ts';
import { packetProgramTypes } from '../hooks.ts';
import { CHANNEL_FD } from './messages.ts';
import type { WorkerAnswer, WorkerRequest } from './messages.ts';

/** Largest part of the verifier's log that is kept. */
const LOG_BYTES = 16 << 10;
const CAP_NET_ADMIN = 12;
const CAP_PERFMON = 38;
const CAP_BPF = 39;
/** Verifying must not take the CPU from those who wait for the daemon. */
const NICE = 5;
const FIRST_TO_DIE = '1000';

function main(): void {
  const [memoryMib, parent] = process.argv.slice(2).map(Number);
  if (!process.send || memoryMib === undefined || parent === undefined) {
    writeErr("this is a part of 'hyperturtle host daemon' and not for use by hand\n");
    process.exit(2);
  }
  dieWithParent();
  if (process.ppid !== parent) process.exit(0);
  process.on('disconnect', () => process.exit(0));
  // never back from a nicer one that the daemon was started with: that needs a capability
  if (getPriority() < NICE) setPriority(NICE);
  try {
    writeFileSync('/proc/self/oom_score_adj', FIRST_TO_DIE);
  } catch {
    // not allowed to: then the kernel chooses as always
  }
  limitMemory(memoryMib * 2 ** 20);
  keepCapabilities([CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN]);
  process.once('message', (request) => answer(serve(request as WorkerRequest)));
  answer({ kind: 'ready' });
}

function answer(a: WorkerAnswer): void {
  process.send?.(a);
}

function serve(request: WorkerRequest): WorkerAnswer {
  try {
    const channel = new OwnedFd(CHANNEL_FD, 'channel from the loader');
    const files =
      request.reuse.length > 0
        ? receiveFds(channel, request.reuse.length, (i) => `map for '${request.reuse[i]}'`)
        : [];
    const object = BpfObject.load({
      name: request.name,
      elf: Buffer.from(request.elf, 'base64'),
      constants: Object.fromEntries(Object.entries(request.constants).map(([k, v]) => [k, BigInt(v)])),
      types: packetProgramTypes(),
      reuse: Object.fromEntries(request.reuse.flatMap((name, i) => (files[i] ? [[name, files[i]]] : []))),
    });
    return {
      kind: 'loaded',
      programs: object.programs.map((p) => ({ name: p.name, section: p.section, fd: p.fd })),
      maps: object.maps().map((m) => ({ name: m.name, fd: m.fd })),
    };
  } catch (e) {
    const detail = isHyperturtleError(e) ? e.detail : {};
    const log = typeof detail['log'] === 'string' ? detail['log'].trimEnd() : '';
    return {
      kind: 'failed',
      code: isHyperturtleError(e) ? e.code : 'HT_BPF',
      message: messageOf(e).slice(0, LOG_BYTES),
      log: log.slice(-LOG_BYTES),
      ...(typeof detail['errno'] === 'number' ? { errno: detail['errno'] } : {}),
    };
  }
}

main();
