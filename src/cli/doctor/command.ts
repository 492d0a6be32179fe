/** `hyperturtle doctor`: what is needed at both levels, what is missing, and how to fix it. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { ADMIN_SOCKET, AGENT_PORT, AGENT_SOCKET } from '../../core/default-paths.ts';
import { HOST_DEVICE } from '../../kernel/host.ts';
import type { AgentResult } from '../../guest/agent/schema.ts';
import type { Finding } from '../../wire/schema.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';

interface DoctorOptions extends L1Options {
  port?: string;
}

type Located = Finding & { where: 'L0' | 'L1' };

export function registerDoctor(program: Command): void {
  l1Options(program.command('doctor'))
    .description('look for what keeps this machine and its host from working together, with a fix for each')
    .option('--port <path>', "channel to the host; default: the agent's")
    .addHelpText(
      'after',
      "\nWorks without the agent and without the host: then their parts are findings. Exit status 1 when something fails.\nIn the host itself: 'hyperturtle host doctor' or 'hyperturtle host status'.",
    )
    .action(doctor);
}

/**
 * What of HyperTurtle runs here. An L1 that is a host of others as well has an agent: then it is asked as an L1. `neither`: no
 * module, service or channel of either.
 */
export function roleOf(root = ''): 'host' | 'guest' | 'neither' {
  const there = (...files: string[]): boolean => files.some((f) => existsSync(`${root}${f}`));
  if (there(AGENT_SOCKET, '/sys/module/hyperturtle_guest', AGENT_PORT)) return 'guest';
  return there(HOST_DEVICE, '/sys/module/hyperturtle_host', ADMIN_SOCKET) ? 'host' : 'neither';
}

/** Said first where nothing is there yet: what follows is judged as a guest hypervisor's. */
const NEITHER: Finding = {
  level: 'warn',
  what: 'nothing of HyperTurtle runs here: neither what a host (L0) has nor what a guest hypervisor (L1) has; what follows is what an L1 needs',
  mend: "in a host 'hyperturtle host install', in a VM that runs VMs 'hyperturtle guest install'; without either: 'hyperturtle demo'",
};

async function doctor(options: DoctorOptions): Promise<void> {
  const [{ collectFacts, judge }, { isHyperturtleError, messageOf }] = await Promise.all([
    import('../../guest/agent/doctor.ts'),
    import('../../core/errors.ts'),
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
  const role = agent ? 'guest' : roleOf();
  if (role === 'host') {
    const findings: Located[] = [
      {
        where: 'L0',
        level: 'fail',
        what: "this machine is a host (L0): hyperturtle_host is loaded or its daemon runs, and 'doctor' is for a guest hypervisor (L1)",
        mend: "run 'hyperturtle host doctor' here, or 'hyperturtle doctor' in a VM of this host",
      },
    ];
    print(options, { findings }, () => doctorText([{ title: 'this machine, the host (L0)', findings }]));
    process.exitCode = 1;
    return;
  }
  const judged = judge(collectFacts(options.port ?? agent?.port ?? AGENT_PORT, agent, problem));
  const here = role === 'neither' ? [NEITHER, ...judged] : judged;
  const findings: Located[] = [
    ...here.map((f) => ({ where: 'L1' as const, ...f })),
    ...host.map((f) => ({ where: 'L0' as const, ...f })),
  ];
  print(options, { findings }, () =>
    doctorText([
      {
        title:
          role === 'neither'
            ? 'this machine, as a guest hypervisor (L1)'
            : 'this machine, the guest hypervisor (L1)',
        findings: here,
      },
      { title: 'its host (L0)', findings: host.length > 0 ? host : undefined },
    ]),
  );
  if (findings.some((f) => f.level === 'fail')) process.exitCode = 1;
}

const MARKS = { ok: 'OK     ', warn: 'warning', fail: 'error  ' } as const;

export interface DoctorPart {
  title: string;
  /** Undefined: it could not be asked. */
  findings: readonly Finding[] | undefined;
}

/** One style for both doctors: this one and `host doctor`. */
export function doctorText(parts: readonly DoctorPart[]): string {
  const all = parts.flatMap((p) => p.findings ?? []);
  const count = (level: Finding['level']): number => all.filter((f) => f.level === level).length;
  const lines = ({ title, findings }: DoctorPart): string[] => [
    title,
    ...(findings?.flatMap((f) => [
      `  ${MARKS[f.level]} ${f.what}`,
      ...(f.mend === undefined ? [] : [`          fix: ${f.mend}`]),
    ]) ?? ['  skipped: there is no connection']),
  ];
  const [errors, warnings] = [count('fail'), count('warn')];
  return [
    ...parts.flatMap(lines),
    '',
    errors + warnings === 0 ? 'OK' : `errors: ${errors}, warnings: ${warnings}`,
  ].join('\n');
}
