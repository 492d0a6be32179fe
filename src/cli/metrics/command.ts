/** `hyperturtle metrics`: what Prometheus and Grafana are to know of the measurements of daemon and agent, printed. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import type { Jobs } from '../../monitoring/promql.ts';

interface Options {
  of: keyof Jobs | 'all';
  hostJob: string;
  agentJob: string;
  fleetJob: string;
}

/** Where the Debian package has the documents. */
const DOCS = '/usr/share/doc/hyperturtle';
const SERVICES = ['host', 'agent', 'fleet'] as const satisfies (keyof Jobs)[];
const JOB = /^[\w.:/-]+$/;
const ADDRESS = /^(https?:\/)?\/[\w.~:/?&=%@-]+$/;

export function registerMetrics(program: Command): void {
  const metrics = program
    .command('metrics')
    .description('rules of Prometheus and a dashboard of Grafana for many hosts');
  common(metrics.command('rules'))
    .description('print alert rules, as a file for rule_files of Prometheus')
    .option('--docs-url <address>', 'where runbook_url finds the documents', DOCS)
    .addHelpText(
      'after',
      '\nExample:\n  hyperturtle metrics rules >/etc/prometheus/hyperturtle.yml && promtool check rules /etc/prometheus/hyperturtle.yml',
    )
    .action(async (o: Options & { docsUrl: string }) => {
      await checked('--docs-url', ADDRESS, 'an address or an absolute path', o.docsUrl);
      const { rulesFile } = await import('../../monitoring/rules.ts');
      writeOut(rulesFile({ ...(await chosen(o)), docs: o.docsUrl }));
    });
  common(metrics.command('dashboard'))
    .description('print a dashboard, as JSON that Grafana imports')
    .addHelpText('after', '\nExample:\n  hyperturtle metrics dashboard >hyperturtle.json')
    .action(async (o: Options) => {
      const { dashboardJson } = await import('../../monitoring/grafana.ts');
      writeOut(dashboardJson(await chosen(o)));
    });
}

const common = (command: Command): Command =>
  command
    .addOption(
      new Option('--of <who>', "whose measurements: daemons', agents', those of a cluster's sets, or all")
        .choices([...SERVICES, 'all'])
        .default('all'),
    )
    .option('--host-job <name>', "Prometheus's job that scrapes daemons", 'hyperturtle-host')
    .option('--agent-job <name>', "Prometheus's job that scrapes agents", 'hyperturtle-agent')
    .option(
      '--fleet-job <name>',
      "Prometheus's job that scrapes what applies sets in pods",
      'hyperturtle-reconcile',
    );

async function chosen(o: Options): Promise<{ jobs: Jobs; of: readonly (keyof Jobs)[] }> {
  await checked('--host-job', JOB, 'the name of a job', o.hostJob);
  await checked('--agent-job', JOB, 'the name of a job', o.agentJob);
  await checked('--fleet-job', JOB, 'the name of a job', o.fleetJob);
  return {
    jobs: { host: o.hostJob, agent: o.agentJob, fleet: o.fleetJob },
    of: o.of === 'all' ? SERVICES : [o.of],
  };
}

async function checked(option: string, pattern: RegExp, expected: string, text: string): Promise<void> {
  if (pattern.test(text)) return;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError('HT_USAGE', `${option} '${text}': ${expected} of plain characters expected`);
}
