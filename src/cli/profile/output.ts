/** What a profile is shown as: a file in one of the formats, or a table. */
import type { NamedStack } from '../../profile/symbolize.ts';
import { columns } from '../shared/columns.ts';
import type { Counted, Taken } from '../../client/profile.ts';
import { findSymbols } from '../../client/profile-symbols.ts';
import type { SymbolOptions } from '../../client/profile-symbols.ts';

const FORMATS = ['.svg', '.html', '.folded', '.pb.gz'] as const;
type Format = (typeof FORMATS)[number];

export async function formatOf(file: string): Promise<Format> {
  const found = FORMATS.find((f) => file.endsWith(f));
  if (found) return found;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError(
    'HT_USAGE',
    `--output ${file}: a name that ends in ${FORMATS.join(', ')} expected`,
  );
}

export interface ProfileResult {
  l2: string | null;
  hz: number;
  seconds: number;
  /** `cycles` or `cpu-clock`: what the host could count with. */
  source: string;
  samples: number;
  /** Stacks that had no room. */
  lost: number;
  throttled: number;
  /** Interrupts that hit no nested guest. */
  outside: number;
  /** Time that a sample took in the host. */
  nsPerSample: number;
  output: string | null;
  hottest: { name: string; module: string; samples: number }[];
  notes: string[];
}

export interface OutputOptions extends SymbolOptions {
  l2?: string;
  hz: number;
  rows: number;
  output?: string;
}

/** Finds the names, writes the file that was asked for, and says what there is to say. */
export async function profileResult(
  o: OutputOptions,
  guest: { number: number; pid: number } | undefined,
  counted: Counted,
  stats: Taken,
  when: { startedAt: Date; durationMs: number },
): Promise<ProfileResult> {
  const named = await import('../../profile/symbolize.ts');
  const { symbols, notes } = await findSymbols(o, guest, counted.entries);
  const stacks = named.symbolize(counted.stacks, symbols);
  if (counted.totals.lost > 0)
    notes.push(`${counted.totals.lost} samples had no room: --depth 1, --user or a shorter time need less`);
  if (o.output !== undefined)
    await write(o.output, await formatOf(o.output), stacks, {
      ...when,
      hz: o.hz,
      title: `nested guest ${o.l2 ?? 'all'}`,
      source: stats.source,
      samples: counted.totals.samples,
    });
  return {
    l2: o.l2 ?? null,
    hz: o.hz,
    seconds: when.durationMs / 1000,
    source: stats.source,
    samples: counted.totals.samples,
    lost: counted.totals.lost,
    throttled: stats.throttled,
    outside: stats.outside,
    nsPerSample: stats.samples > 0 ? Math.round(stats.ns / stats.samples) : 0,
    output: o.output ?? null,
    hottest: named.hottest(stacks).slice(0, o.rows),
    notes,
  };
}

export function resultText(r: ProfileResult): string {
  return [
    `${r.samples} samples of ${r.l2 ?? 'all nested guests'} in ${r.seconds.toFixed(1)} s by ${r.source}${r.throttled > 0 ? `, ${r.throttled} throttled` : ''}${r.output === null ? '' : `: ${r.output}`}`,
    ...(r.output === null ? [hotText(r.hottest, r.samples)] : []),
    ...r.notes.map((n) => `! ${n}`),
  ].join('\n');
}

export function hotText(
  hot: readonly { name: string; module: string; samples: number }[],
  total: number,
): string {
  return columns(
    ['SELF', 'SAMPLES', 'FUNCTION', 'WHERE'],
    hot.map((h) => [
      `${((100 * h.samples) / Math.max(total, 1)).toFixed(1)}%`,
      String(h.samples),
      h.name,
      h.module,
    ]),
  );
}

interface Facts {
  startedAt: Date;
  durationMs: number;
  hz: number;
  title: string;
  source: string;
  samples: number;
}

async function write(
  file: string,
  format: Format,
  stacks: readonly NamedStack[],
  facts: Facts,
): Promise<void> {
  const { writeOutput } = await import('../../core/files.ts');
  const titles = {
    title: facts.title,
    subtitle: `${facts.samples} samples, ${facts.hz} Hz by ${facts.source}, ${(facts.durationMs / 1000).toFixed(1)} s, ${facts.startedAt.toISOString()}`,
  };
  switch (format) {
    case '.svg': {
      const { flameGraph } = await import('../../profile/flame-graph.ts');
      return writeOutput(file, flameGraph(stacks, titles));
    }
    case '.html': {
      const { flamePage } = await import('../../profile/flame-graph.ts');
      const { hottest } = await import('../../profile/symbolize.ts');
      return writeOutput(file, flamePage(stacks, titles, hottest(stacks)));
    }
    case '.folded': {
      const { folded } = await import('../../profile/folded.ts');
      return writeOutput(file, folded(stacks));
    }
    case '.pb.gz': {
      const { pprofOf } = await import('../../profile/pprof.ts');
      return writeOutput(file, await pprofOf(stacks, facts));
    }
  }
}
