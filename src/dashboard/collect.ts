/**
 * Asks the daemon, over one connection to its socket that is opened again when it ends, and puts together what the page
 * shows. A daemon that is away is a state like any other. Owns the connection.
 */
import os from 'node:os';
import { messageOf } from '../core/errors.ts';
import { connectAdmin } from '../host/daemon/admin-client.ts';
import { readFlows } from '../net/counters.ts';
import { wireMaps } from '../net/maps.ts';
import type { Ask } from '../net/maps.ts';
import { answersForL1, figuresOf, reasonsToL1, totalsOf } from '../wire/figures.ts';
import type { RpcPeer } from '../wire/peer.ts';
import type { Params, Result } from '../wire/schema.ts';
import type { ADMIN_METHODS, VmReport } from '../host/daemon/admin-schema.ts';
import { profileOf, samplingOf } from './profile.ts';
import type { ProfileNames } from './profile.ts';
import type { Detail, Finding, Profile, State, Traffic, Vm } from './model.ts';

type Admin = RpcPeer<typeof ADMIN_METHODS>;

const TIMEOUT_MS = 5000;
/** Several pages and their reloads are one look. */
const FRESH_MS = 400;
/** What is wrong with a host does not change every second, and finding out costs more. */
const FINDINGS_MS = 10_000;
const EVENTS = 100;
const FLOWS_SHOWN = 50;
/** Most pages read of a map that calls itself tcptop's: it is the tenant's, and may be of any size. */
const MAP_PAGES = 8;
/** A profile is larger than all else, and its shape changes slowly. */
const PROFILE_MS = 4000;

export class Collector {
  readonly #socket: string;
  readonly #stop = new AbortController();
  #peer: Admin | undefined;
  #findings: { atMs: number; list: Finding[] } = { atMs: -Infinity, list: [] };
  readonly #recent = new Map<string, { atMs: number; state: Promise<State> }>();
  readonly #names: ProfileNames;
  #profile: { key: string; atMs: number; profile: Profile } | undefined;

  /** `names`: of what nested guests run, for their flame graphs. */
  constructor(adminSocket: string, names: ProfileNames = { binaries: [] }) {
    this.#socket = adminSocket;
    this.#names = names;
  }

  /** With details of this VM, and of the L2 that this process of it runs. Never rejects: the state says what is wrong. */
  state(vm: string | undefined, pid?: number): Promise<State> {
    const key = `${pid ?? ''} ${vm ?? ''}`;
    const now = performance.now();
    const recent = this.#recent.get(key);
    if (recent && now - recent.atMs < FRESH_MS) return recent.state;
    for (const [k, r] of this.#recent) if (now - r.atMs >= FRESH_MS) this.#recent.delete(k);
    const state = this.#collect(vm, pid);
    this.#recent.set(key, { atMs: now, state });
    return state;
  }

  close(): void {
    this.#stop.abort();
    this.#peer?.close();
  }

  async #collect(name: string | undefined, pid: number | undefined): Promise<State> {
    const empty: State = {
      atMs: performance.now(),
      host: { name: os.hostname(), kernel: os.release() },
      daemon: null,
      problem: null,
      findings: [],
      vms: [],
      events: [],
      detail: null,
    };
    try {
      const peer = await this.#connected();
      const options = { timeoutMs: TIMEOUT_MS, signal: this.#stop.signal };
      const [daemon, { vms: reports }, findings] = await Promise.all([
        peer.request('admin.status', {}, options),
        peer.request('admin.vm.list', {}, options),
        this.#findingsOf(peer),
      ]);
      const vms = reports.map(shown);
      const vm = vms.find((v) => v.name === name);
      const [{ events }, detail] = await Promise.all([
        peer.request('admin.events', { limit: EVENTS, ...(vm ? { name: vm.name } : {}) }, options),
        vm ? this.#detail(peer, vm, pid) : null,
      ]);
      return { ...empty, atMs: performance.now(), daemon, findings, vms, events, detail };
    } catch (e) {
      // whatever it was: the next look begins with a new connection
      this.#peer?.close();
      this.#peer = undefined;
      return { ...empty, problem: messageOf(e) };
    }
  }

  async #connected(): Promise<Admin> {
    if (this.#peer?.closed !== false) {
      const deadline = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(TIMEOUT_MS)]);
      this.#peer = await connectAdmin(this.#socket, deadline);
    }
    return this.#peer;
  }

  async #findingsOf(peer: Admin): Promise<Finding[]> {
    if (performance.now() - this.#findings.atMs > FINDINGS_MS) {
      const { findings } = await peer.request('admin.doctor', {}, { timeoutMs: TIMEOUT_MS });
      this.#findings = { atMs: performance.now(), list: findings };
    }
    return this.#findings.list;
  }

  async #detail(peer: Admin, vm: Vm, pid: number | undefined): Promise<Detail> {
    const detail = await peer.request('admin.vm.detail', { name: vm.name }, { timeoutMs: TIMEOUT_MS });
    const counted = vm.nics.flatMap((nic) => {
      const link = vm.links.find((l) => l.target === nic.id && /^tcptop(\.|$)/.test(l.object));
      return link ? [{ nic: nic.id, object: link.object }] : [];
    });
    const traffic = await Promise.all(counted.map((c) => trafficOf(peer, vm.name, c)));
    return { ...detail, name: vm.name, traffic, profile: await this.#profileOf(peer, vm, pid) };
  }

  async #profileOf(peer: Admin, vm: Vm, pid: number | undefined): Promise<Profile | null> {
    const link = samplingOf(vm);
    const l2 = vm.l1?.l2s.find((l) => l.pid === pid);
    if (!link || !l2) return null;
    const key = [vm.name, l2.pid, l2.since, link.id, link.since].join(' ');
    const last = this.#profile;
    if (last?.key === key && performance.now() - last.atMs < PROFILE_MS) return last.profile;
    const profile = await profileOf(link, l2, wireMaps(askOf(peer, vm.name), link.object), this.#names);
    this.#profile = { key, atMs: performance.now(), profile };
    return profile;
  }
}

function shown(vm: VmReport): Vm {
  const stats = vm.stats.map((s) => {
    const { there, toL1 } = figuresOf(s);
    return { ...s, there, toL1, answersForL1: answersForL1(s), why: reasonsToL1(s) };
  });
  return { ...vm, stats, totals: totalsOf(vm.stats) };
}

/** Reads maps of a VM; of one without an end so many pages. */
function askOf(peer: Admin, vm: string): Ask {
  let pages = 0;
  const options = { timeoutMs: TIMEOUT_MS };
  const ask = async (method: string, params: Params<'map.get'> | Params<'map.dump'>): Promise<unknown> => {
    if (method === 'map.get')
      return peer.request('admin.map.get', { vm, ...(params as Params<'map.get'>) }, options);
    const page: Result<'map.dump'> = await peer.request('admin.map.dump', { vm, ...params }, options);
    pages++;
    return pages < MAP_PAGES ? page : { entries: page.entries };
  };
  return ask as Ask;
}

/** The object has tcptop's name, and is the tenant's all the same: what does not read as flows is said to be none. */
async function trafficOf(peer: Admin, vm: string, of: Pick<Traffic, 'nic' | 'object'>): Promise<Traffic> {
  try {
    const { flows } = await readFlows(wireMaps(askOf(peer, vm), of.object));
    flows.sort((a, b) => b.outBytes + b.inBytes - a.outBytes - a.inBytes);
    return { ...of, flows: flows.slice(0, FLOWS_SHOWN), count: flows.length, problem: null };
  } catch (e) {
    return { ...of, flows: [], count: 0, problem: messageOf(e) };
  }
}
