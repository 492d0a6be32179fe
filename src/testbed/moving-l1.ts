/**
 * A lab's L1 that moves between two QEMUs of the same L0: its own, and one made from its arguments that has the second L1's
 * channels. Only one of the two has it at a time. Nothing else of the lab may use the second L1's place meanwhile.
 */
import { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';
import { waitFor } from '../core/wait.ts';
import { IN_GUEST } from '../lab/artifacts.ts';
import { Channel } from '../lab/channel.ts';
import { AgentLevel } from '../lab/guest-agent.ts';
import type { Lab } from '../lab/lab.ts';
import { run, runScript } from '../lab/levels.ts';
import type { Job, Level } from '../lab/levels.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../lab/machine.ts';
import { CLI } from './acceleration.ts';

const DIR = '/run/moving';
const ANSWERS_MS = 120_000;
const STARTS_MS = 60_000;
const COMMAND_MS = 600_000;
/** Answered faults are looked for so long after an arrival. */
const HANDLED_S = 300;

type End = 'here' | 'there';

const SEATS = { here: FIRST_SEAT, there: SECOND_SEAT } as const;
const otherEnd = (end: End): End => (end === 'here' ? 'there' : 'here');

/** In L0: the arguments of L1's QEMU for the other end: its channels, and nothing where that has none. */
const TO_OTHER_END = `
const fs = require('fs');
const pid = fs.readFileSync('${FIRST_SEAT.run.pidFile}', 'utf8').trim();
const here = fs.readFileSync('/proc/' + pid + '/cmdline', 'utf8').split('\\0').slice(0, -1);
const port = '/dev/virtio-ports/';
const there = here.map((word) => word
  .replaceAll('${FIRST_SEAT.run.dir}/', '${SECOND_SEAT.run.dir}/')
  .replace(/path=.*${FIRST_SEAT.ports.serial ?? ''}(?=,|$)/, 'path=' + port + '${SECOND_SEAT.ports.serial ?? ''}')
  .replace(/^(pipe,id=[^,]*),path=(.*)$/, (all, begin, path) =>
    path === port + '${FIRST_SEAT.ports.agent}' ? begin + ',path=' + port + '${SECOND_SEAT.ports.agent}' : begin.replace('pipe', 'null')));
fs.mkdirSync('${DIR}', { recursive: true });
const quoted = (words) => words.map((w) => "'" + w.replaceAll("'", "'\\\\''") + "'").join(' ');
for (const [end, words] of Object.entries({ here, there })) fs.writeFileSync('${DIR}/' + end, quoted(words));
`;

/** In L0: when the QEMU of an end had all of its VM, and when the first fault of a guest was answered in L0 after that. */
const WATCH = `
import { QmpClient } from '${IN_GUEST.payload}/app/dist/src/qmp/client.js';
const [socket, vm, port, seconds] = process.argv.slice(2);
const pause = (ms) => new Promise((r) => setTimeout(r, ms));
const qmp = await QmpClient.connect(socket, { timeoutMs: 30000 });
const resumed = qmp.waitEvent('RESUME', () => true, { timeoutMs: ${COMMAND_MS} });
console.log('watching');
const arrivedMs = (await resumed).timestampUs / 1000;
let handledMs = null;
const end = Date.now() + 1000 * Number(seconds);
while (handledMs === null && Date.now() < end) {
  const page = await fetch('http://127.0.0.1:' + port + '/metrics').then((r) => r.text()).catch(() => '');
  const line = page.split('\\n').find((l) => l.startsWith('hyperturtle_host_hook_handled{') && l.includes('vm="' + vm + '"') && l.includes('hook="npf"'));
  if (line && Number(line.split(' ').at(-1)) > 0) handledMs = Date.now();
  else await pause(100);
}
console.log(JSON.stringify({ arrivedMs, handledMs }));
process.exit(0);
`;

const watchedSchema = lazy(() => z.object({ arrivedMs: z.number(), handledMs: z.number().nullable() }));
const movedSchema = lazy(() =>
  z.object({
    downtimeMs: z.number().nullable(),
    totalMs: z.number().nullable(),
    sentMib: z.number().nullable(),
  }),
);
type Moved = Output<typeof movedSchema> & {
  /** From the arrival to the first fault of a nested guest that was answered in L0 there. Null: there was none in five minutes. */
  acceleratedMs: number | null;
};

export class MovingL1 {
  readonly #lab: Lab;
  readonly #metricsPort: number;
  readonly #there: AgentLevel;
  readonly #machines = new Map<End, Job>();
  #at: End = 'here';
  #n = 0;

  private constructor(lab: Lab, metricsPort: number) {
    this.#lab = lab;
    this.#metricsPort = metricsPort;
    this.#there = new AgentLevel('L1 there', new Channel(lab.files.channel.second, 'L1 there'));
  }

  /** L1 must be at its own QEMU. */
  static async begin(lab: Lab, metricsPort: number): Promise<MovingL1> {
    await run(lab.l0, ['node', '-e', TO_OTHER_END], { timeoutMs: STARTS_MS });
    await lab.l0.writeFile(`${DIR}/watch.mjs`, WATCH);
    return new MovingL1(lab, metricsPort);
  }

  get at(): End {
    return this.#at;
  }

  /** L1, wherever it is. */
  get l1(): Level {
    return this.#at === 'here' ? this.#lab.l1 : this.#there;
  }

  /** A QEMU at that end which waits for L1. Gives where it listens. */
  async expect(end: End): Promise<string> {
    const { l0 } = this.#lab;
    const { run: seat } = SEATS[end];
    const socket = `${DIR}/${end}-${++this.#n}.sock`;
    await l0.writeFile(`${DIR}/${end}.sh`, `eval "exec $(cat ${DIR}/${end}) -incoming unix:${socket}"\n`);
    await runScript(l0, `mkdir -p ${seat.dir}; rm -f ${seat.pidFile} ${seat.ended}`);
    const job = await l0.spawn(['sh', `${DIR}/${end}.sh`]);
    this.#machines.set(end, job);
    await waitFor(
      'QEMU of the other end',
      async () => {
        const ended = await job.status();
        if (ended !== undefined)
          throw new HyperturtleError('HT_COMMAND_FAILED', `QEMU: status ${ended}: ${await job.output()}`);
        const looked = await l0.exec(['test', '-S', socket]);
        return looked.status === 0 ? true : undefined;
      },
      { timeoutMs: STARTS_MS, intervalMs: 300 },
    );
    return `unix:${socket}`;
  }

  /** `hyperturtle host migrate` to the other end, whose names in the daemon are those of the ends. */
  async migrate(more: readonly string[] = []): Promise<Moved> {
    const [from, to] = [this.#at, otherEnd(this.#at)];
    const { l0 } = this.#lab;
    const uri = await this.expect(to);
    const watch = await l0.spawn([
      ...['node', `${DIR}/watch.mjs`, SEATS[to].run.qmpSocket, to],
      ...[String(this.#metricsPort), String(HANDLED_S)],
    ]);
    await waitFor('the look at QEMU', async () => /watching/.test(await watch.output()) || undefined, {
      timeoutMs: STARTS_MS,
    });
    const said = await run(l0, [CLI, 'host', 'migrate', from, '--to', uri, '--quit', '--json', ...more], {
      timeoutMs: COMMAND_MS,
    });
    this.#at = to;
    const moved = movedSchema().parse(JSON.parse(said));
    await watch.wait({ timeoutMs: (HANDLED_S + 30) * 1000 });
    const line = (await watch.output()).split('\n').find((l) => l.startsWith('{')) ?? '';
    const { arrivedMs, handledMs } = watchedSchema().parse(JSON.parse(line));
    await this.answers();
    return { ...moved, acceleratedMs: handledMs === null ? null : Math.round(handledMs - arrivedMs) };
  }

  /** Until L1 answers where it is. */
  async answers(): Promise<void> {
    await waitFor(
      `L1 answering (${this.#at})`,
      () =>
        runScript(this.l1, 'echo yes', { timeoutMs: 10_000 }).then(
          () => true as const,
          () => undefined,
        ),
      { timeoutMs: ANSWERS_MS, intervalMs: 500 },
    );
  }

  /** How QEMU of an end ended, and what it said; undefined while it runs. */
  async ended(end: End): Promise<string | undefined> {
    const job = this.#machines.get(end);
    const status = await job?.status();
    return status === undefined ? undefined : `${status}: ${(await job?.output()) ?? ''}`.trim();
  }
}
