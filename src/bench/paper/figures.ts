/**
 * The paper's evaluation as data: what it measured and reached (Ben Zur et al., "Accelerating Nested Virtualization with
 * HyperTurtle", USENIX ATC 2025). docs/reproduction.md names every row.
 */

/** Three ways of running the same thing. `direct`: not nested, or with the NIC given to the nested guest. */
export interface Values {
  nested: number;
  accelerated?: number | undefined;
  direct?: number | undefined;
}

export interface PaperFigure {
  id: string;
  /** What is measured. */
  what: string;
  unit: string;
  /** More is better; else less is. */
  more?: true;
  /** Undefined: the paper gives only a change. */
  paper?: Values;
  /** Where it gives only that: accelerated / nested. */
  paperRatio?: number;
  /** How ours differs, whatever the machine. */
  differs: string;
  /** Our bench, by its name in PAPER_BENCHES; undefined: we have none yet. */
  bench?: string;
}

export const PAPER_FIGURES: readonly PaperFigure[] = [
  {
    id: 'fault',
    what: 'EPT fault, average',
    unit: 'µs',
    paper: { nested: 28.39, accelerated: 5.39, direct: 5.58 },
    bench: 'all',
    differs:
      'first touch as L2 sees it, sequential, with its own page fault in it; AMD NPT; groups of up to 64 pages for one exit',
  },
  {
    id: 'fault-one',
    what: 'EPT fault, average, one page for each',
    unit: 'µs',
    paper: { nested: 28.39, accelerated: 5.39, direct: 5.58 },
    bench: 'all',
    differs: 'the same with groups of one page, which is what the prototype does',
  },
  {
    id: 'fault-p99',
    what: 'EPT fault, 99th percentile',
    unit: 'µs',
    paper: { nested: 49.13, accelerated: 10.32, direct: 9.35 },
    bench: 'all',
    differs: 'as above; an emulated machine that shares its CPUs has long tails of its own',
  },
  {
    id: 'switches',
    what: 'world switches a fault',
    unit: '',
    paper: { nested: 6, accelerated: 2, direct: 2 },
    bench: 'all',
    differs: 'counted by L0’s KVM, for each page touched; groups make it less than two',
  },
  {
    id: 'start',
    what: 'start of a Kata container, 4 KiB pages',
    unit: 's',
    paper: { nested: 1.5, accelerated: 1.1, direct: 0.7 },
    bench: 'start',
    differs:
      'a microVM under QEMU, from its first instruction to the first answer of a service, mean over the images; no container runtime',
  },
  {
    id: 'start-huge',
    what: 'the same, 2 MiB pages',
    unit: 's',
    paperRatio: 0.92,
    bench: 'huge',
    differs: 'a kernel and its first process, L2’s memory on hugetlbfs or from a pool of 2 MiB frames',
  },
  {
    id: 'snapshot',
    what: 'start of Redis with a snapshot of 1 GiB',
    unit: 's',
    paperRatio: 0.45,
    bench: 'start',
    differs: 'a snapshot of 256 MiB, which the lab bears; until Redis answers',
  },
  {
    id: 'text-service',
    what: 'start of DeathStarBench TextService',
    unit: 's',
    paperRatio: 0.65,
    differs: 'not measured: it is no Debian package',
  },
  {
    id: 'gups',
    what: 'random updates of memory (GUPS)',
    unit: 'M updates/s',
    more: true,
    bench: 'gups',
    differs: 'a table of 64 MiB that the lab bears; no figure of the paper’s at hand; direct: in L1',
  },
  {
    id: 'udp',
    what: 'UDP round trip of one byte, average',
    unit: 'µs',
    paper: { nested: 90.2, accelerated: 55.0, direct: 54.5 },
    bench: 'net',
    differs: 'a tap of L0 behind VFIO in L1, not a vDPA device; program pass',
  },
  {
    id: 'throughput',
    what: 'TCP throughput',
    unit: 'Gb/s',
    more: true,
    paper: { nested: 12.1, accelerated: 17.3, direct: 17.4 },
    bench: 'net',
    differs: 'the same; one TCP connection from L2',
  },
  {
    id: 'memcached',
    what: 'memcached within 500 µs',
    unit: 'K requests/s',
    more: true,
    paper: { nested: 29, accelerated: 50 },
    bench: 'net',
    differs: 'no service level under emulation: requests with eight under way, by memaslap',
  },
  {
    id: 'nginx',
    what: 'nginx',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.45,
    bench: 'net',
    differs: 'eight requests under way, kept alive, by ab',
  },
  {
    id: 'redis',
    what: 'Redis, at most',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.65,
    bench: 'net',
    differs: 'eight GETs under way, by redis-benchmark',
  },
  {
    id: 'sample',
    what: 'one profile sample',
    unit: 'µs',
    paper: { nested: 60.68, accelerated: 8.5, direct: 5.66 },
    bench: 'profile',
    differs: 'a timer in L0 where the emulated PMU has no overflow; nested: perf record in L1',
  },
  {
    id: 'cpuid',
    what: 'CPUID exit from L2',
    unit: 'µs; ours: k ticks',
    paper: { nested: 2.77, direct: 0.78 },
    bench: 'exit',
    differs: 'the paper gives what the exit costs and has no hook for it; ours answers it in L0',
  },
];

/** Accelerated against nested, as a factor that is above 1 when it is better. */
export function gain(figure: Pick<PaperFigure, 'more'>, v: Values | undefined): number | undefined {
  if (!v || v.accelerated === undefined || !(v.nested > 0) || !(v.accelerated > 0)) return undefined;
  return figure.more ? v.accelerated / v.nested : v.nested / v.accelerated;
}

export function paperGain(figure: PaperFigure): number | undefined {
  if (figure.paperRatio !== undefined) return figure.more ? figure.paperRatio : 1 / figure.paperRatio;
  return gain(figure, figure.paper);
}
