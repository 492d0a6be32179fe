/** The programs that count the exits of nested guests, or answer them, and what they have counted. */
import { EXIT_LINK_OPTIONS, parseExitCounts } from '../guest/exit-counts.ts';
import type { ExitCount } from '../guest/exit-counts.ts';
import type { HookStats, LinkInfo } from '../wire/schema.ts';
import { objectFile, readObject } from './object.ts';
import type { AgentClient } from './session.ts';
import { loadAndLink } from './transaction.ts';

const EXIT_PROGRAMS = ['exit-cache', 'exit-count'] as const;
export type ExitProgram = (typeof EXIT_PROGRAMS)[number];

export interface ExitsSample {
  atMs: number;
  hook: HookStats | undefined;
  /** Counts in the linked program's map; none when it has no such map. */
  counts: readonly ExitCount[];
  /** Names of nested guests by number. */
  names: ReadonlyMap<number, string>;
}

/** Loads and links one of them, in place of any other. `file`: the compiled program; left out: as installed. */
export async function exitsOn(
  client: AgentClient,
  program: ExitProgram,
  file: string | undefined,
): Promise<{ link: LinkInfo; existed: boolean }> {
  const object = readObject(file ?? objectFile(`${program}.bpf.o`));
  const { peer, signal, timeoutMs } = client;
  const to = { signal, timeoutMs };
  const { objects } = await peer.request('list', {}, to);
  for (const other of EXIT_PROGRAMS.filter((p) => p !== program))
    if (objects.some((o) => o.name === other)) await peer.request('unload', { name: other, force: true }, to);
  const done = await loadAndLink(
    client,
    { name: program, ...object },
    { links: () => [{ hook: 'exit', options: EXIT_LINK_OPTIONS }] },
  );
  return { link: done.links[0]!, existed: done.existed };
}

/** Names of what was unloaded. */
export async function exitsOff({ peer, signal, timeoutMs }: AgentClient): Promise<string[]> {
  const to = { signal, timeoutMs };
  const { objects } = await peer.request('list', {}, to);
  const there = objects.map((o) => o.name).filter((name) => EXIT_PROGRAMS.some((p) => p === name));
  for (const name of there) await peer.request('unload', { name, force: true }, to);
  return there;
}

export async function sampleExits({ peer, signal, timeoutMs }: AgentClient): Promise<ExitsSample> {
  const to = { signal, timeoutMs };
  const [{ hooks }, { l2s }] = await Promise.all([
    peer.request('stats', {}, to),
    peer.request('agent.status', {}, to),
  ]);
  const hook = hooks.find((h) => h.hook === 'exit' && h.linked);
  const counts: ExitCount[] = [];
  if (hook?.object !== undefined && EXIT_PROGRAMS.some((p) => p === hook.object)) {
    let cursor: string | undefined;
    do {
      const part = await peer.request(
        'map.dump',
        { object: hook.object, map: 'exits', ...(cursor === undefined ? {} : { cursor }) },
        to,
      );
      counts.push(...parseExitCounts(part.entries));
      cursor = part.cursor;
    } while (cursor !== undefined);
  }
  return { atMs: performance.now(), hook, counts, names: new Map(l2s.map((l) => [l.number, l.name])) };
}
