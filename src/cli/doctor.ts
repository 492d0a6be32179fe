/** `hyperturtle doctor`: what is needed at both levels, what is missing, and how to mend it. */
import type { Command } from 'commander';
import type { AgentResult } from '../guest/agent/schema.ts';
import type { Finding } from '../wire/schema.ts';
import { l1Options, print, withAgent } from './l1-client.ts';
import type { L1Options } from './l1-client.ts';

interface DoctorOptions extends L1Options {
  port?: string;
}

type Located = Finding & { where: 'L0' | 'L1' };

export function registerDoctor(program: Command): void {
  l1Options(program.command('doctor'))
    .description('look for what keeps this machine and its host from working together, with a mend for each')
    .option('--port <path>', "channel to the host; default: the agent's")
    .addHelpText(
      'after',
      "\nWorks without the agent and without the host: then their parts are findings. Exit status 1 when something fails.\nIn the host itself: 'hyperturtle host doctor' or 'hyperturtle host status'.",
    )
    .action(doctor);
}

async function doctor(options: DoctorOptions): Promise<void> {
  const [{ collectFacts, judge }, { DEFAULT_PORT }, { isHyperturtleError, messageOf }] = await Promise.all([
    import('../guest/agent/doctor.ts'),
    import('../guest/agent/port.ts'),
    import('../core/errors.ts'),
  ]);
  let agent: AgentResult<'agent.status'> | undefined;
  let problem: string | undefined;
  const host: Finding[] = [];
  try {
    await withAgent(options, async ({ peer, signal, timeoutMs }) => {
      agent = await peer.request('agent.status', {}, { signal, timeoutMs });
      if (agent.host.state !== 'connected') return;
      const { findings } = await peer.request('doctor', {}, { signal, timeoutMs });
      host.push(...findings);
    });
  } catch (e) {
    if (!isHyperturtleError(e) || e.code === 'HT_INTERRUPTED') throw e;
    problem = messageOf(e);
    if (agent)
      host.push({ level: 'fail', what: `the host did not answer: ${problem}`, mend: 'ask its operator' });
  }
  const here = judge(collectFacts(options.port ?? agent?.port ?? DEFAULT_PORT, agent, problem));
  const findings: Located[] = [
    ...here.map((f) => ({ where: 'L1' as const, ...f })),
    ...host.map((f) => ({ where: 'L0' as const, ...f })),
  ];
  print(options, { findings }, (r) => doctorText(r.findings));
  if (findings.some((f) => f.level === 'fail')) process.exitCode = 1;
}

const MARKS = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL' } as const;

export function doctorText(findings: readonly Located[]): string {
  const part = (where: Located['where'], title: string): string[] => {
    const own = findings.filter((f) => f.where === where);
    if (own.length === 0) return [title, '  not asked: there is no connection'];
    return [
      title,
      ...own.flatMap((f) => [
        `  ${MARKS[f.level]} ${f.what}`,
        ...(f.mend === undefined ? [] : [`       mend: ${f.mend}`]),
      ]),
    ];
  };
  const count = (level: Finding['level']): number => findings.filter((f) => f.level === level).length;
  return [
    ...part('L1', 'this machine (L1)'),
    ...part('L0', 'its host (L0)'),
    '',
    count('fail') + count('warn') === 0
      ? 'all is well'
      : `${count('fail')} failed, ${count('warn')} to look at`,
  ].join('\n');
}
