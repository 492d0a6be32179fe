/** `hyperturtle events`: what happened to this L1's objects, links and arena in the host. */
import type { Command } from 'commander';
import { writeOut } from '../core/output.ts';
import type { Event } from '../wire/schema.ts';
import { l1Options, withAgent } from './l1-client.ts';
import type { L1Options } from './l1-client.ts';
import { untilInterrupted } from './l1-map.ts';
import { integer, printJson } from './values.ts';

interface EventsOptions extends L1Options {
  follow?: boolean;
  since?: number;
}

export function registerEvents(program: Command): void {
  l1Options(program.command('events'))
    .description('what happened here lately; with --json one line for each event')
    .option('-f, --follow', 'go on until interrupted')
    .option(
      '--since <seq>',
      'from this number on; default: all that is kept (1024)',
      integer('--since', 1, 2 ** 50),
    )
    .addHelpText('after', '\nExamples:\n  hyperturtle events\n  hyperturtle events -f --json | jq .type')
    .action(events);
}

async function events(options: EventsOptions): Promise<void> {
  // the answer says which number comes next; the events before that one are those that were kept
  let end = Infinity;
  let last = 0;
  let done = (): void => {};
  const told = new Promise<void>((resolve) => (done = resolve));
  await withAgent(
    options,
    async ({ peer, signal, timeoutMs }) => {
      const { next } = await peer.request('events', { since: options.since ?? 1 }, { signal, timeoutMs });
      if (options.follow) return untilInterrupted(signal);
      end = next - 1;
      if (last < end && end >= (options.since ?? 1)) {
        const { withDeadline } = await import('../core/wait.ts');
        await withDeadline('events that were kept', told, timeoutMs, signal);
      }
    },
    (name, params) => {
      if (name === 'events.lost') {
        const { count } = params;
        if (options.json) printJson({ lost: count });
        else writeOut(`(${count} events are not kept any more)\n`);
        return;
      }
      if (name !== 'event') return;
      last = params.seq;
      if (params.seq > end) return;
      if (options.json) printJson(params);
      else writeOut(`${eventText(params)}\n`);
      if (last >= end) done();
    },
  );
}

export function eventText(e: Event): string {
  return `${String(e.seq).padStart(5)} ${e.time} ${e.type.padEnd(15)} ${detail(e)}`.trimEnd();
}

function detail(e: Event): string {
  switch (e.type) {
    case 'object.loaded':
      return `${e.object} ${e.sha256.slice(0, 12)}${e.signedBy ? ` signed by ${e.signedBy}` : ''}`;
    case 'object.unloaded':
      return e.object;
    case 'object.replaced':
      return `${e.object} ${e.sha256.slice(0, 12)}${e.kept.length > 0 ? `, maps kept: ${e.kept.join(', ')}` : ''}`;
    case 'object.refused':
      return `${e.object}: ${e.kind}${e.rule === undefined ? '' : ` (${e.rule})`}: ${e.message.split('\n')[0]}`;
    case 'link.made':
      return `${e.link.id}: ${e.link.program} of ${e.link.object} answers ${e.link.hook}`;
    case 'link.ended':
      return `${e.link.id}: ${e.link.object} at ${e.link.hook}: ${e.reason}`;
    case 'nic.added':
      return `${e.nic.id}: ${e.nic.mac} in ${e.nic.network}, slot ${e.nic.slot}`;
    case 'nic.removed':
      return `${e.nic.id}: ${e.reason}`;
    case 'arena.state':
      return `${e.arena.state}, ${e.arena.bytes >> 20} MiB`;
    case 'quota.refused':
      return `${e.method}: ${e.quota} is limited to ${e.limit}`;
    case 'vm.reset':
      return e.reason;
    case 'daemon.stopping':
      return '';
  }
}
