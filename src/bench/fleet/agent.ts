/** An agent with its host and nested guests, in memory: as much of it as a reconciler asks for. */
import { createHash, randomUUID } from 'node:crypto';
import { HyperturtleError } from '../../core/errors.ts';
import type { AgentCalls } from '../../fleet/programs.ts';
import type { AgentResult, L2Info } from '../../guest/agent/schema.ts';
import type { LinkInfo, ObjectInfo, Params, Result } from '../../wire/schema.ts';

const SINCE = new Date(0).toISOString();

export class SimulatedAgent {
  readonly #objects = new Map<string, ObjectInfo>();
  #links: LinkInfo[] = [];
  #nextLink = 1;
  readonly #l2s: L2Info[];
  /** Requests of the reconciler. */
  requests = 0;

  constructor(l2s: number) {
    this.#l2s = Array.from({ length: l2s }, (_, i) => nestedGuest(i));
  }

  /** As a new nested guest comes and another one goes. */
  churn(): void {
    const last = this.#l2s.pop();
    if (last) this.#l2s.unshift({ ...last, name: randomUUID() });
  }

  readonly calls: AgentCalls = {
    // one table: each answer is that of its method
    request: (method, params) => Promise.resolve(this.#answer(method, params) as never),
  };

  #answer(method: string, params: unknown): unknown {
    this.requests++;
    switch (method) {
      case 'agent.status':
        return this.#status();
      case 'agent.desired':
        return this.#desired();
      case 'list':
        return this.#list();
      case 'load':
      case 'replace':
        return this.#load(params as Params<'load'>, method === 'replace');
      case 'link':
        return this.#link(params as Params<'link'>);
      case 'unload': {
        const { name } = params as Params<'unload'>;
        this.#objects.delete(name);
        this.#links = this.#links.filter((l) => l.object !== name);
        return {};
      }
      case 'unlink':
        this.#links = this.#links.filter((l) => l.id !== (params as Params<'unlink'>).id);
        return {};
      default:
        throw new HyperturtleError('HT_UNSUPPORTED', `the simulated agent has no '${method}'`);
    }
  }

  #status(): AgentResult<'agent.status'> {
    return {
      ...{ version: 'simulated', port: '', module: null, l2s: this.#l2s, l2Problems: [] },
      host: { state: 'connected', since: SINCE, sessions: 1, lastError: null, vm: 'l1', daemon: null },
      desired: {
        ...{ objects: this.#objects.size, links: this.#links.length },
        ...{ reached: true, checked: SINCE, problems: [] },
      },
    };
  }

  #desired(): AgentResult<'agent.desired'> {
    return {
      objects: [...this.#objects.values()].map(({ name, sha256, signedBy }) => ({
        ...{ name, sha256, signedBy, origin: 'command' as const },
      })),
      links: this.#links.map(({ object, program, hook, target }) => ({
        ...{ object, program, hook, target, origin: 'command' as const },
      })),
      removed: [],
    };
  }

  #list(): Result<'list'> {
    const arena = { bytes: 16 << 20, state: 'plugged' as const };
    return { vm: 'l1', arena, objects: [...this.#objects.values()], links: this.#links };
  }

  #load({ name, elf, signature }: Params<'load'>, swap: boolean): unknown {
    const sha256 = createHash('sha256').update(Buffer.from(elf, 'base64')).digest('hex');
    const known = this.#objects.get(name);
    if (known && !swap && known.sha256 !== sha256)
      throw new HyperturtleError('HT_EXISTS', `there is another object '${name}'`);
    const program = {
      ...{ name: 'on_fault', section: 'raw_tp.w/hyperturtle_npf', hook: 'npf', id: 1 },
      ...{ type: 'raw_tracepoint_writable', instructions: 1, verifiedInstructions: 1, jitedBytes: 1 },
    };
    const object = { name, sha256, loadedAt: SINCE, signedBy: signature?.keyId ?? null, maps: [] };
    this.#objects.set(name, { ...object, programs: [program] });
    return { object: this.#objects.get(name), existed: known?.sha256 === sha256, kept: [], created: [] };
  }

  #link({ object, hook }: Params<'link'>): Result<'link'> {
    const known = this.#links.find((l) => l.object === object && l.hook === hook);
    if (known) return { link: known, existed: true };
    const link = { id: this.#nextLink++, object, program: 'on_fault', hook, target: null, since: SINCE };
    this.#links.push(link);
    return { link, existed: false };
  }
}

const nestedGuest = (i: number): L2Info => ({
  ...{ pid: 1000 + i, name: `l2-${i}`, number: i, since: SINCE, cgroup: '', slots: 1 },
  ...{ pages: 65_536, pagesHeld: 30_000, pagesUnused: 0, framesTaken: 30_000, framesCharged: 0 },
  ...{ framesCredit: 0, faults: 5000, mappedExisting: 0, mappedNew: 5000, mappedAhead: 25_000 },
  ...{ passes: 10, slotChanges: 0 },
});
