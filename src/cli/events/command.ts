/** `hyperturtle events`: what happened to this L1's objects, links and arena in the host. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import type { Event } from '../../wire/schema.ts';
import { l1Options } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { untilInterrupted } from '../maps/command.ts';
import { integer, printJson } from '../shared/values.ts';

interface EventsOptions extends L1Options {
  follow?: boolean;
  since?: number;
  epoch?: string;
}

export function registerEvents(program: Command): void {
  l1Options(program.command('events'))
    .description('what happened here lately; with --json one line for each event')
    .option('-f, --follow', 'go on until interrupted')
    .option(
      '--since <seq>',
      'events from this number on; default: all that is kept (1024)',
      integer('--since', 1, 2 ** 50),
    )
    .option(
      '--epoch <uuid>',
      'the run of numbers that --since is one of: when they have begun again, all that is kept is told',
    )
    .addHelpText(
      'after',
      `
Numbers go on while the agent runs; when it starts again they begin at 1, under another epoch. Each line of --json
has the epoch; a reader that gives both misses nothing and sees the break.

Examples:
  hyperturtle events
  hyperturtle events -f --json | jq .type
  hyperturtle events --since 18 --epoch 7b0f4d5e-58d1-4f3b-9c55-0f6a3c1f2a10`,
    )
    .action(events);
}

async function events(options: EventsOptions): Promise<void> {
  // the answer says which number comes next; the events before that one are those that were kept
  let end = Infinity;
  let last = 0;
  const early: Event[] = [];
  let tell = (e: Event): void => void early.push(e);
  let done = (): void => {};
  const told = new Promise<void>((resolve) => (done = resolve));
  await withAgent(
    options,
    async ({ peer, signal, timeoutMs }) => {
      const { next, epoch } = await peer.request(
        'events',
        { since: options.since ?? 1, ...(options.epoch === undefined ? {} : { epoch: options.epoch }) },
        { signal, timeoutMs },
      );
      const begun = options.epoch !== undefined && epoch !== options.epoch;
      if (begun && !options.json) writeOut(`(the numbers have begun again: epoch ${epoch ?? 'unknown'})\n`);
      // events come right behind the answer
      tell = (e) => show(options, e, epoch);
      for (const e of early.splice(0)) tell(e);
      if (options.follow) return untilInterrupted(signal);
      end = next - 1;
      if (last < end && end >= (begun ? 1 : (options.since ?? 1))) {
        const { withDeadline } = await import('../../core/wait.ts');
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
      tell(params);
      if (last >= end) done();
    },
  );
}

function show(options: EventsOptions, event: Event, epoch: string | undefined): void {
  if (options.json) printJson({ ...event, ...(epoch === undefined ? {} : { epoch }) });
  else writeOut(`${eventText(event)}\n`);
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
