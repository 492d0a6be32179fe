/** `hyperturtle status`: whether this machine has in its host what it wants. */
import type { Command } from 'commander';
import { withAgent } from '../../client/session.ts';
import { fixOf } from '../../guest/agent/fixes.ts';
import { memoryText, vmsElsewhere } from '../../guest/agent/vms.ts';
import type { VmElsewhere } from '../../guest/agent/vms.ts';
import type { AgentResult, L2Info } from '../../guest/agent/schema.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';

export function registerStatus(program: Command): void {
  l1Options(program.command('status'))
    .description('whether this machine is connected to its host and has there what it wants')
    .addHelpText(
      'after',
      `
Exit status 24 when it is not connected, 1 when something that is wanted is not so.

PAGES     of each nested guest's RAM that programs know; HELD: with a frame; UNUSED: given ahead under
          \`guest set --exact\` and not seen to be used since; - for none: otherwise nobody sees it
FAULTS    that its program saw; PASSED: left to this machine
MAPPED    pages that its program mapped, those ahead of their fault included; A FAULT: how many for each answered
All of it counts since the time in the last column: that of the registration, which ends with the agent.`,
    )
    .action(status);
}

async function status(options: L1Options): Promise<void> {
  const s = await withAgent(options, ({ peer, signal, timeoutMs }) =>
    peer.request('agent.status', {}, { signal, timeoutMs }),
  );
  const elsewhere = vmsElsewhere();
  print(options, { ...s, vmsElsewhere: elsewhere }, () =>
    [statusText(s), ...elsewhere.map(elsewhereText)].join('\n'),
  );
  if (s.host.state !== 'connected') process.exitCode = 24;
  else if (!s.desired.reached || s.l2Problems.length > 0) process.exitCode = 1;
}

export function statusText(s: AgentResult<'agent.status'>): string {
  const { host, desired: d, module: m } = s;
  const connected =
    host.state === 'connected'
      ? `connected to the host since ${host.since} as ${host.vm ?? '?'} (daemon ${host.daemon?.version ?? '?'}, kernel ${host.daemon?.kernel ?? '?'})`
      : `not connected to the host since ${host.since}${host.lastError === null ? '' : `: ${host.lastError}`}`;
  const module =
    m === null
      ? 'module: left alone'
      : m.state !== 'present'
        ? `module: ${m.state}`
        : `module: ${m.arenaBound ? `arena ${m.arenaBytes >> 20} MiB, ${m.enabled ? 'enabled' : 'disabled'}, pool ${m.pool.level} of ${m.pool.entries} frames (refill below ${m.pool.low} up to ${m.pool.high})` : 'no arena'}; turtlefs ${m.turtlefs === null ? 'not mounted' : `at ${m.turtlefs}`}`;
  return [
    `agent ${s.version}: ${connected}`,
    `wanted: ${d.objects} objects, ${d.links} links: ${d.reached ? 'in sync' : d.checked === null ? 'not compared with the host yet' : 'out of sync'}`,
    ...[...d.problems, ...s.l2Problems].flatMap((p) => [
      `  ${p.step}: ${p.message} (${p.kind}, since ${p.since})`,
      `    fix: ${fixOf(p)}`,
    ]),
    module,
    columns(
      [
        ...['NESTED GUEST', 'PID', 'PAGES', 'HELD', 'UNUSED', 'FRAMES', 'FAULTS', 'MAPPED', 'A FAULT'],
        ...['PASSED', 'COUNTED SINCE'],
      ],
      s.l2s.map((l) => [
        l.name,
        String(l.pid),
        String(l.pages),
        String(l.pagesHeld),
        unusedPages(l),
        String(l.framesTaken),
        String(l.faults),
        String(mappedPages(l)),
        pagesAFault(l),
        String(l.passes),
        l.since,
      ]),
    ) || 'no nested guests registered',
    ...s.l2s.flatMap((l) =>
      [l.noIndex, l.small].flatMap((why) => (why === undefined ? [] : [`  ${l.name}: ${why}`])),
    ),
  ].join('\n');
}

export const elsewhereText = (vm: VmElsewhere): string =>
  `not accelerated: ${vm.name} (process ${vm.pid}): its RAM is ${vm.turtlefs === 'private' ? 'a private copy of turtlefs' : 'not on turtlefs'}${memoryText(vm.memory)}; hyperturtle doctor says how`;

const mappedPages = (l: L2Info): number => l.mappedExisting + l.mappedNew + l.mappedAhead;

/** Counted for pages given under `guest set --exact` only. */
const unusedPages = ({ pagesUnused, pagesHeld }: L2Info): string =>
  pagesUnused === 0 ? '-' : `${pagesUnused} (${((100 * pagesUnused) / Math.max(1, pagesHeld)).toFixed(1)}%)`;

/** Pages that a fault answered by its program mapped, on average. */
function pagesAFault(l: L2Info): string {
  const answered = l.mappedExisting + l.mappedNew;
  return answered === 0 ? '-' : (mappedPages(l) / answered).toFixed(1);
}
