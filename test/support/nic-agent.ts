/** An agent with NICs and nothing else: those it gives look in a made-up sysfs as if vfio-pci had them. */
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { HyperturtleError } from '../../src/core/errors.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type { NicInfo } from '../../src/wire/schema.ts';

export class NicAgent {
  readonly nics = new Map<string, NicInfo>();
  /** Calls of nic.add that were not for a NIC that was there. */
  added = 0;
  readonly #root: string;
  readonly #max: number;
  #server: net.Server | undefined;
  readonly #sockets = new Set<net.Socket>();

  constructor(root: string, max: number) {
    this.#root = root;
    this.#max = max;
    mkdirSync(path.join(root, 'sys/bus/pci/drivers/vfio-pci'), { recursive: true });
  }

  async listen(socket: string): Promise<void> {
    rmSync(socket, { force: true });
    const server = net.createServer((s) => {
      this.#sockets.add(s);
      s.on('close', () => this.#sockets.delete(s));
      void new RpcPeer(s, { calls: {}, methods: this.#methods(), session: 'connection' });
    });
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    this.#server = server;
  }

  async close(): Promise<void> {
    const server = this.#server;
    if (!server) return;
    for (const s of this.#sockets) s.destroy();
    await new Promise((resolve) => server.close(resolve));
  }

  /** The host takes one, or it is only L1's device that goes. */
  lose(id: string, from: 'host' | 'machine'): void {
    const nic = this.nics.get(id);
    if (!nic) throw new Error(`no NIC ${id}`);
    rmSync(path.join(this.#devices, addressOf(nic.slot)), { recursive: true });
    if (from === 'host') this.nics.delete(id);
  }

  /** A device that was lost by the machine. */
  plug(slot: number): void {
    const dir = this.#put(addressOf(slot), {
      class: '0x020000\n',
      config: Buffer.alloc(256),
      numa_node: `${slot % 2}\n`,
    });
    symlinkSync(path.join(this.#root, 'sys/bus/pci/drivers/vfio-pci'), path.join(dir, 'driver'));
    const group = path.join(this.#root, `groups/${slot}`);
    mkdirSync(path.join(group, 'devices', addressOf(slot)), { recursive: true });
    symlinkSync(group, path.join(dir, 'iommu_group'));
  }

  get #devices(): string {
    return path.join(this.#root, 'sys/bus/pci/devices');
  }

  #put(address: string, files: Record<string, string | Buffer>): string {
    const dir = path.join(this.#devices, address);
    mkdirSync(dir, { recursive: true });
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(dir, name), content);
    return dir;
  }

  #add(id: string): NicInfo {
    const slot = [...Array(this.#max).keys()]
      .map((n) => 16 + n)
      .find((s) => ![...this.nics.values()].some((x) => x.slot === s));
    if (slot === undefined)
      throw new HyperturtleError('HT_QUOTA', `quota exceeded: nics (${this.#max} of ${this.#max} used)`);
    this.added++;
    const port = Buffer.alloc(256);
    port[0x19] = slot;
    port[0x34] = 0x40;
    port[0x40] = 0x10;
    port.writeUInt16LE(0x0142, 0x42);
    port.writeUInt32LE(slot << 19, 0x54);
    this.#put(`0000:00:${hex(slot)}.0`, { class: '0x060400\n', config: port });
    this.plug(slot);
    const nic: NicInfo = {
      id,
      mac: `02:00:00:00:02:${hex(slot)}`,
      network: 'lan',
      kind: 'tap',
      slot,
      mtu: 1500,
      hooks: [],
      since: new Date().toISOString(),
    };
    this.nics.set(id, nic);
    return nic;
  }

  #methods() {
    /* eslint-disable @typescript-eslint/no-explicit-any -- two methods of a table */
    const call = (spec: { params: any; result: any }, answer: (params: any) => unknown) => ({
      spec,
      call: (params: unknown) => Promise.resolve().then(() => answer(params)),
    });
    return {
      'nic.add': call(METHODS['nic.add'], ({ id }) => {
        const there = this.nics.get(String(id));
        return there ? { nic: there, existed: true } : { nic: this.#add(String(id)), existed: false };
      }),
      'nic.list': call(METHODS['nic.list'], () => ({
        nics: [...this.nics.values()],
        networks: [{ name: 'lan', kind: 'tap' as const, mtu: 1500 }],
        free: this.#max - this.nics.size,
      })),
    };
    /* eslint-enable @typescript-eslint/no-explicit-any */
  }
}

const hex = (n: number): string => n.toString(16).padStart(2, '0');
const addressOf = (slot: number): string => `0000:${hex(slot)}:00.0`;
