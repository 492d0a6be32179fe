/** The admission log: what VMs asked for and what was decided, and what happened to them. */
import type { VmEvent } from '../model.ts';
import { h, plain, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { clock } from './format.ts';
import { empty, note, section, table } from './parts.ts';

const REFUSALS: ReadonlySet<string> = new Set(['object.refused', 'quota.refused']);

export function eventsSection(
  events: readonly VmEvent[],
  o: { ofAll: boolean; refusalsOnly: boolean },
): HTMLElement {
  const shown = events.filter((e) => !o.refusalsOnly || REFUSALS.has(e.event.type));
  return section(
    'log',
    'Admission log',
    h(
      'p',
      { class: 'controls' },
      h(
        'label',
        {},
        h('input', { type: 'checkbox', 'data-action': 'refusals', id: 'refusals' }),
        ' refusals only',
      ),
    ),
    shown.length === 0
      ? empty(o.refusalsOnly ? 'Nothing was refused.' : 'Nothing has happened yet.')
      : table(
          'Admission log, newest first',
          [
            { head: 'Time', cls: 'time' },
            ...(o.ofAll ? [{ head: 'L1' }] : []),
            { head: 'What' },
            { head: 'Subject and reason', cls: 'wide' },
          ],
          shown.map(({ vm, event }) => ({
            key: `${vm} ${event.time} ${event.seq}`,
            cells: [
              h('time', { datetime: event.time, title: event.time }, clock(event.time)),
              ...(o.ofAll ? [stranger(vm)] : []),
              kindOf(event),
              aboutOf(event),
            ],
          })),
        ),
    note('The last 100 decisions of the daemon. The audit log on its standard output has all of them.'),
  );
}

function kindOf(event: VmEvent['event']): Child {
  const text = event.type.replace('.', ' ');
  return h('span', { class: REFUSALS.has(event.type) ? 'kind bad' : 'kind' }, text);
}

/** Everything that a VM chose or caused is text of a stranger. */
function aboutOf(event: VmEvent['event']): Child {
  const said = (text: string): Child => h('span', { class: 'said' }, plain(text));
  switch (event.type) {
    case 'object.loaded':
      return [
        stranger(event.object),
        said(
          ` sha256 ${event.sha256.slice(0, 12)}…${event.signedBy === null ? ', not signed' : `, signed by ${event.signedBy}`}`,
        ),
      ];
    case 'object.replaced':
      return [
        stranger(event.object),
        said(
          ` sha256 ${event.sha256.slice(0, 12)}…, ${event.kept.length} maps kept, ${event.created.length} new`,
        ),
      ];
    case 'object.unloaded':
      return stranger(event.object);
    case 'object.refused':
      return [
        stranger(event.object),
        said(` ${event.rule === undefined ? event.kind : `rule ${event.rule}`}: `),
        said(event.message),
      ];
    case 'quota.refused':
      return said(`${event.method}: at most ${event.limit} ${event.quota}`);
    case 'link.made':
      return linkOf(event.link);
    case 'link.ended':
      return [linkOf(event.link), said(`: ${event.reason}`)];
    case 'nic.added':
      return [stranger(event.nic.id), said(` on ${event.nic.network}, ${event.nic.mac}`)];
    case 'nic.removed':
      return [stranger(event.nic.id), said(`: ${event.reason}`)];
    case 'arena.state':
      return said(`${event.arena.state}, ${event.arena.bytes >> 20} MiB`);
    case 'vm.reset':
      return said(event.reason);
    case 'daemon.stopping':
      return '';
  }
}

type Link = Extract<VmEvent['event'], { type: 'link.made' }>['link'];

function linkOf(link: Link): Child {
  return [stranger(link.object), ' → ', link.hook, link.target !== null && [' of ', stranger(link.target)]];
}
