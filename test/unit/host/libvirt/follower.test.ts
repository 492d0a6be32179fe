/** What the daemon is told to serve, from what libvirt says and does not say. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../../src/core/errors.ts';
import { waitFor } from '../../../../src/core/wait.ts';
import type { VmSpec } from '../../../../src/host/config.ts';
import { enableDomain, readDomain, socketsIn, specOf } from '../../../../src/host/libvirt/domain.ts';
import { LibvirtFollower } from '../../../../src/host/libvirt/follower.ts';
import type { Virsh } from '../../../../src/host/libvirt/virsh.ts';
import type { Log } from '../../../../src/host/log.ts';

const uuid = (n: number): string => `00000000-0000-4000-8000-00000000000${n}`;

function domain(n: number, name: string, vm?: string): string {
  const plain = `<domain type='kvm'>
  <name>${name}</name>
  <uuid>${uuid(n)}</uuid>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices/>
</domain>`;
  return enableDomain(plain, vm === undefined ? {} : { name: vm }, socketsIn('/run/v', uuid(n)));
}

const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {} } as unknown as Log;

/** libvirt as it is set, and a daemon that has what it is told to. */
class World {
  running: string[] = [];
  /** What libvirt answers instead. */
  problem: Error | undefined;
  served: ReadonlyMap<string, VmSpec> = new Map();
  readonly attached = new Set<string>();
  releases: (() => Promise<void>) | undefined;
  #event = (): void => {};
  looks = 0;
  #held = Promise.resolve();
  readonly follower: LibvirtFollower;

  constructor(before: ReadonlyMap<string, VmSpec> = new Map()) {
    this.served = before;
    const virsh = {
      uri: 'test:///',
      active: () => {
        this.looks += 1;
        if (this.problem) return Promise.reject(this.problem);
        return this.#held.then(() => this.running.map((xml) => readDomain(xml).uuid));
      },
      live: () => Promise.resolve(this.running),
      events: (onEvent: () => void, signal: AbortSignal) => {
        this.#event = onEvent;
        return new Promise<string>((resolve) => signal.addEventListener('abort', () => resolve('ended')));
      },
    };
    this.follower = new LibvirtFollower({
      virsh: virsh as unknown as Virsh,
      owner: 'root',
      log: silent,
      daemon: {
        follow: (wanted) => {
          this.served = wanted();
          return Promise.resolve(new Map());
        },
        current: () => this.served,
        vm: (name) =>
          this.served.has(name)
            ? {
                attached: this.attached.has(name),
                offered: true,
                problem: null,
                release: () => this.releases?.() ?? Promise.resolve(),
              }
            : undefined,
      },
    });
  }

  get names(): string[] {
    return [...this.served.keys()].sort();
  }

  /** A look that has begun waits for what this gives to be called. */
  async hold(): Promise<() => Promise<void>> {
    const before = this.looks;
    let go!: () => void;
    this.#held = new Promise((resolve) => (go = resolve));
    this.#event();
    await waitFor('a look', () => this.looks > before || undefined, { timeoutMs: 5000, intervalMs: 5 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    return async () => {
      go();
      await new Promise((resolve) => setTimeout(resolve, 50));
    };
  }

  async looked(): Promise<void> {
    const before = this.looks;
    this.#event();
    await waitFor('a look', () => this.looks > before || undefined, { timeoutMs: 5000, intervalMs: 5 });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe('following libvirt', () => {
  let w: World;
  const start = async (world: World): Promise<void> => {
    w = world;
    w.follower.start();
    await w.looked();
  };
  beforeEach(async () => start(new World()));
  afterEach(() => w.follower.stop());

  it('serves domains that run and are enabled, and no others', async () => {
    w.running = [
      domain(1, 'one'),
      domain(2, 'two', 'second'),
      '<domain><name>x</name><uuid>y</uuid></domain>',
    ];
    await w.looked();
    expect(w.names).toEqual(['one', 'second']);
    w.running = [domain(2, 'two', 'second')];
    await w.looked();
    expect(w.names).toEqual(['second']);
  });

  it('changes nothing while libvirt cannot be asked, and says so', async () => {
    w.running = [domain(1, 'one')];
    await w.looked();
    w.problem = new HyperturtleError('HT_COMMAND_FAILED', 'libvirt at test:///: no connection');
    w.running = [];
    await w.looked();
    expect(w.names).toEqual(['one']);
    expect(w.follower.status().problem).toMatch(/no connection/);
    w.problem = undefined;
    await w.looked();
    expect([w.names, w.follower.status().problem]).toEqual([[], null]);
  });

  it('takes no VM away whose process still runs, though libvirt lists it no more', async () => {
    w.running = [domain(1, 'one')];
    await w.looked();
    w.attached.add('one');
    w.running = [];
    await w.looked();
    expect(w.names).toEqual(['one']);
    w.attached.clear();
    await w.looked();
    expect(w.names).toEqual([]);
  });

  it('serves a domain that is about to start; not any more when libvirt does not list it then', async () => {
    // a look that began before says nothing of it
    const begun = await w.hold();
    expect(await w.follower.announce(domain(1, 'one'))).toEqual({ vm: 'one', problem: null });
    expect(w.names).toEqual(['one']);
    await begun();
    expect(w.names).toEqual(['one']);
    await w.looked();
    expect(w.names).toEqual([]);
    expect(await w.follower.announce('<domain><name>x</name></domain>')).toBeNull();
  });

  it('has what an earlier daemon had until it has asked, also when a domain is announced before', async () => {
    await w.follower.stop();
    const { name, spec } = specOf(readDomain(domain(1, 'one')), 'root');
    const world = new World(new Map([[name, spec]]));
    world.problem = new HyperturtleError('HT_TIMEOUT', 'virsh');
    await start(world);
    await w.follower.announce(domain(2, 'two'));
    expect(w.names).toEqual(['one', 'two']);
  });

  it('serves the first of two domains with one name, and says so of the second', async () => {
    w.running = [domain(1, 'one', 'same'), domain(2, 'two', 'same')];
    await w.looked();
    expect(w.served.get('same')?.qmp).toContain(uuid(1));
    expect(w.follower.status().domains.map((d) => d.problem)).toEqual([
      null,
      expect.stringMatching(/'one' is VM 'same' already/),
    ]);
  });

  it('does not serve a domain whose settings are wrong, and says why', async () => {
    w.running = [domain(1, 'one').replace('made=', 'arena="1" made='), domain(2, 'two')];
    await w.looked();
    expect(w.names).toEqual(['two']);
    expect(w.follower.status().domains[0]?.problem).toMatch(/'arena' is not known/);
  });

  it('releases a domain for a while, takes it back before, and at its next start', async () => {
    w.running = [domain(1, 'one')];
    await w.looked();
    expect((await w.follower.release('one', 60)).releasedUntil).not.toBeNull();
    await w.looked();
    expect(w.names).toEqual([]);
    expect((await w.follower.take('one')).releasedUntil).toBeNull();
    expect(w.names).toEqual(['one']);
    await w.follower.release(uuid(1), 1);
    expect(w.names).toEqual([]);
    await waitFor('its time', () => w.names.length > 0 || undefined, { timeoutMs: 10_000 });
    await w.follower.release('one', 60);
    await w.follower.announce(domain(1, 'one'));
    expect(w.names).toEqual(['one']);
    await expect(w.follower.release('nobody', 1)).rejects.toThrow(/no domain 'nobody'.*there are: one/);
  });

  it('serves on where the guest does not let go', async () => {
    w.running = [domain(1, 'one')];
    await w.looked();
    w.releases = () => Promise.reject(new HyperturtleError('HT_TIMEOUT', 'its guest has not let it go'));
    await expect(w.follower.release('one', 60)).rejects.toThrow(/has not let it go/);
    await w.looked();
    expect(w.names).toEqual(['one']);
  });
});
