// The suites of tests, each a project of vitest.config.ts, run one after the other; docs/testing.md says what each proves.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** In the order in which they run. `lab`: its machines must be built first. `env`: variables that it has by default. */
export const SUITES = {
  unit: {},
  integration: { compiler: true, programs: true },
  lab: { lab: true },
  soak: { lab: true, env: { HT_SOAK: '1' } },
  slow: { lab: true },
  intel: { lab: true },
  sanitizers: { lab: true, env: { HT_TEST_KERNEL: '6.1-debug' } },
  packages: { bpf: true },
  libvirt: {},
  debian13: {},
};
/** Those of `npm test`; `all` names all of them. */
const EVERY_RUN = ['unit', 'integration', 'lab'];
const INTERRUPTED = [130, 143];

/** What `npm test -- soak test/lab/races.test.ts` asks for. Names of suites first; the rest is for vitest. */
export function chosen(args) {
  const names = args.includes('all')
    ? Object.keys(SUITES)
    : Object.keys(SUITES).filter((s) => args.includes(s));
  const rest = args.filter((a) => a !== 'all' && !(a in SUITES));
  return { names: names.length > 0 ? names : EVERY_RUN, rest };
}

/** Counts of one suite. A file that does not load is one failure: it has no tests to fail. */
export function count(report, status) {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  if (report !== undefined) {
    sum.passed = report.numPassedTests;
    sum.failed = report.numFailedTests;
    sum.skipped = report.numPendingTests + report.numTodoTests;
    for (const file of report.testResults)
      if (file.status === 'failed' && !file.assertionResults.some((t) => t.status === 'failed'))
        sum.failed += 1;
  }
  if (status !== 0 && sum.failed === 0) sum.failed = 1;
  return sum;
}

const firstLine = (text) => (text ?? '').trim().split('\n')[0];

/** What failed, a line each with the first line of its reason: in a long log the reasons themselves are far away. */
export function failures(name, report) {
  const lines = [];
  for (const file of report?.testResults ?? []) {
    const failed = file.assertionResults.filter((t) => t.status === 'failed');
    const where = `${name}: ${path.basename(file.name)}`;
    if (failed.length === 0 && file.status === 'failed') lines.push(`${where}: ${firstLine(file.message)}`);
    for (const t of failed) lines.push(`${where}: ${t.fullName}: ${firstLine(t.failureMessages[0])}`);
  }
  return lines;
}

const clock = (s) => `${Math.floor(s / 60)}:${String(Math.round(s) % 60).padStart(2, '0')}`;

/** One line for each suite that ran. */
export function table(rows) {
  const text = [
    ['suite', 'passed', 'failed', 'skipped', 'min:s'],
    ...rows.map((r) => [r.name, ...[r.passed, r.failed, r.skipped].map(String), clock(r.seconds)]),
  ];
  const widths = text[0].map((_, i) => Math.max(...text.map((row) => row[i].length)));
  return text
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  '),
    )
    .join('\n');
}

/**
 * Runs them, prints the table, and gives the exit status. `steps`: how to run a program (`run`), to say a line (`say`), and
 * to prepare what a suite needs: `lab`, `compiler`, `programs`, `bpf`, each called once at most. `explain`: an error as
 * people are told it.
 */
export async function runSuites(root, args, { run, say, prepare, explain }) {
  const { names, rest } = chosen(args);
  const dir = mkdtempSync(path.join(tmpdir(), 'hyperturtle-test-'));
  const prepared = new Set();
  const rows = [];
  const reasons = [];
  let problem = 0;
  try {
    for (const name of names) {
      const suite = SUITES[name];
      for (const [what, make] of Object.entries(prepare)) {
        if (!suite[what] || prepared.has(what)) continue;
        await make();
        prepared.add(what);
      }
      say(`tests: ${name}`);
      const begun = performance.now();
      const file = path.join(dir, `${name}.json`);
      const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
      const vitest = path.join(root, 'node_modules/vitest/vitest.mjs');
      const status = await run(process.execPath, [vitest, 'run', '--project', name, ...reporters, ...rest], {
        env: { ...suite.env, ...process.env },
      });
      const report = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
      rows.push({ name, ...count(report, status), seconds: (performance.now() - begun) / 1000 });
      reasons.push(...failures(name, report));
      if (INTERRUPTED.includes(status)) break;
    }
  } catch (e) {
    // the tests that ran still count
    problem = 1;
    process.stderr.write(`${explain(e)}\n`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  const sum = (what) => rows.reduce((n, row) => n + row[what], 0);
  const failed = sum('failed') + problem;
  const skipped = sum('skipped') > 0 ? `, ${sum('skipped')} skipped` : '';
  for (const reason of reasons) process.stdout.write(`\nfailed: ${reason}`);
  process.stdout.write(`\n${table(rows)}\n${sum('passed')} passed, ${failed} failed${skipped}\n`);
  return failed > 0 ? 1 : 0;
}
