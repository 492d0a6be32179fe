/** `hyperturtle profile` and `hyperturtle top --l2`: what nested guests do, sampled by the host. */
import type { Command } from 'commander';
import { l1Options, print } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import type { AgentClient } from '../../client/session.ts';
import type { Counted, SessionSpec } from '../../client/profile.ts';
import type { SymbolOptions } from '../../client/profile-symbols.ts';
import { integer, printJson } from '../shared/values.ts';

interface ProfileOptions extends L1Options {
  l2?: string;
  all?: boolean;
  hz: number;
  depth: number;
  seconds: number;
  user?: boolean;
  output?: string;
  kernel?: string;
  kernelOffset?: bigint;
  binary: string[];
  root?: string;
  object?: string;
  force?: boolean;
  rows: number;
}

/** As in profile-output.ts, which is not loaded for a list of options. */
const FORMATS = '.svg, .html, .folded, .pb.gz';

const address = (text: string): bigint => {
  if (/^(0x[0-9a-f]+|\d+)$/i.test(text)) return BigInt(text);
  return BigInt(integer('--kernel-offset', 0, 1)(text)); // says what was expected
};
const collect = (text: string, all: string[]): string[] => [...all, text];

/** Where names come from. */
export function nameOptions(command: Command, kernelDefault = ''): Command {
  return command
    .option(
      '--kernel <file>',
      `L2's kernel: vmlinux, bzImage, System.map or kallsyms${kernelDefault === '' ? '' : `; default: ${kernelDefault}`}`,
    )
    .option('--kernel-offset <address>', 'what KASLR moved it by; default: found out', address)
    .option('--binary <file[@base]>', 'a program of L2; may be repeated', collect, [])
    .option('--root <dir>', "L2's root file system: its programs and libraries");
}

export function symbolOptions(command: Command): Command {
  return nameOptions(command, 'as the VMM names it')
    .option('--object <file>', 'compiled object; default: the installed one')
    .option('--force', 'take the place of a profile that is being taken, or was killed');
}

export function registerProfile(program: Command): void {
  symbolOptions(l1Options(program.command('profile')))
    .description('where nested guests spend their time: sampled by the host, at no exit to this machine')
    .option('--l2 <name>', "a nested guest ('hyperturtle status'), or the process of its VMM")
    .option('--all', 'all of this machine, also those that are not registered')
    .option('--hz <number>', 'samples a second of each vCPU', integer('--hz', 1, 10_000), 999)
    .option('--seconds <number>', 'how long; Ctrl-C ends it before', integer('--seconds', 1, 86_400), 10)
    .option('--depth <number>', 'most addresses of one stack; 1: no stacks', integer('--depth', 1, 64), 64)
    .option('--user', 'user space alone')
    .option('--no-user', 'the kernel alone')
    .option('-o, --output <file>', `${FORMATS}; left out: the hottest functions as a table`)
    .option('--rows <number>', 'functions shown', integer('--rows', 1, 10_000), 20)
    .addHelpText(
      'after',
      `
  .svg      flame graph, for any browser; a click makes a box wider
  .html     the same with a table of the hottest functions
  .folded   one line for each stack, for flamegraph.pl, speedscope ...
  .pb.gz    for pprof

Stacks are walked by frame pointers: user space built with -fno-omit-frame-pointer, kernels with
CONFIG_UNWINDER_FRAME_POINTER. Without them there is the innermost function alone.

Examples:
  hyperturtle profile --l2 web --hz 999 --seconds 10 -o web.svg
  hyperturtle profile --l2 web --user --root /srv/web/rootfs -o web.pb.gz
  hyperturtle top --l2 web`,
    )
    .action(profile);
}

/** Throws HT_USAGE unless it is one or all. */
async function checkWhich({ l2, all }: Pick<ProfileOptions, 'l2' | 'all'>): Promise<void> {
  if ((l2 === undefined) === (all === true)) return;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError(
    'HT_USAGE',
    l2 === undefined ? 'which nested guest: --l2 NAME, or --all' : 'either --l2 NAME or --all',
  );
}

async function profile(o: ProfileOptions): Promise<void> {
  const [
    { ProfileSession, nestedGuest },
    { sleep },
    { isHyperturtleError },
    { formatOf, profileResult, resultText },
  ] = await Promise.all([
    import('../../client/profile.ts'),
    import('../../core/wait.ts'),
    import('../../core/errors.ts'),
    import('./output.ts'),
  ]);
  await checkWhich(o);
  if (o.output !== undefined) await formatOf(o.output); // not after minutes of sampling
  const result = await withAgent(o, async (client) => {
    const guest = o.l2 === undefined ? undefined : await nestedGuest(client, o.l2);
    const session = await ProfileSession.begin(client, specOf(o));
    const begin = performance.now();
    try {
      await sleep(o.seconds * 1000, client.signal).catch((e: unknown) => {
        // as with any profiler, what was seen until then is shown
        if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
      });
      await session.stop();
      const when = { startedAt: session.startedAt, durationMs: performance.now() - begin };
      return await profileResult(o, guest, await session.read(), await session.stats(), when);
    } finally {
      await session.end();
    }
  });
  print(o, result, resultText);
}

function specOf(o: Pick<ProfileOptions, 'l2' | 'hz' | 'depth' | 'user' | 'object' | 'force'>): SessionSpec {
  return {
    ...(o.l2 === undefined ? {} : { l2: o.l2 }),
    hz: o.hz,
    depth: o.depth,
    user: o.user,
    ...(o.object === undefined ? {} : { object: o.object }),
    force: o.force === true,
  };
}

export interface ProfileTopOptions extends L1Options, SymbolOptions {
  l2: string;
  hz: number;
  intervalS: number;
  count?: number;
  rows: number;
  object?: string;
  force?: boolean;
}

/** The hottest functions of a nested guest since the last look, until Ctrl-C. */
export async function profileTop(o: ProfileTopOptions): Promise<void> {
  const [
    { ProfileSession, nestedGuest },
    { sleep },
    { isHyperturtleError },
    { findSymbols },
    named,
    stacks,
    { hotText },
    { liveTable },
  ] = await Promise.all([
    import('../../client/profile.ts'),
    import('../../core/wait.ts'),
    import('../../core/errors.ts'),
    import('../../client/profile-symbols.ts'),
    import('../../profile/symbolize.ts'),
    import('../../profile/stacks.ts'),
    import('./output.ts'),
    import('../shared/screen.ts'),
  ]);
  await withAgent(o, async (client: AgentClient) => {
    const guest = await nestedGuest(client, o.l2);
    const session = await ProfileSession.begin(client, specOf({ ...o, depth: 1 }));
    const screen = o.json ? undefined : liveTable();
    try {
      let before: Counted['stacks'] = [];
      let found: Awaited<ReturnType<typeof findSymbols>> | undefined;
      for (let n = 0; n < (o.count ?? Infinity); n++) {
        await sleep(o.intervalS * 1000, client.signal);
        const { stacks: all, entries } = await session.read();
        // where the kernel is shows with the first samples
        if (!found || !found.symbols.kernel) found = await findSymbols(o, guest, entries);
        const now = stacks.stacksBetween(before, all);
        before = all;
        const hot = named.hottest(named.symbolize(now, found.symbols)).slice(0, o.rows);
        const samples = now.reduce((sum, s) => sum + s.samples, 0);
        if (!screen) printJson({ l2: o.l2, samples, hottest: hot });
        else {
          const head = `${o.l2}: ${samples} samples in ${o.intervalS} s`;
          screen.show([head, ...(hotText(hot, samples) || 'it does nothing').split('\n')]);
        }
      }
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    } finally {
      screen?.end();
      await session.end();
    }
  });
}
