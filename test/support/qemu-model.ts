/**
 * What a QEMU holds, as far as it is asked over QMP: objects, devices, chardevs and netdevs by their ids. It aborts, as
 * QEMU 7.2 does for memory, when an id comes a second time.
 */
import type { FakeAnswer, QmpCall } from './fake-qmp.ts';

interface Thing {
  type: string;
  properties: Record<string, unknown>;
}

export class QemuModel {
  readonly objects = new Map<string, Thing>();
  readonly devices = new Map<string, Thing>();
  readonly chardevs = new Map<string, string>();
  readonly netdevs = new Set<string>();
  readonly fds = new Set<string>();
  readonly #everUsed = new Set<string>();
  /** The id that came twice. */
  aborted: string | undefined;
  /** Asked first; undefined: as QEMU. */
  over: (call: QmpCall) => FakeAnswer | undefined = () => undefined;
  /** Whether the guest lets devices go. */
  letsGo = true;
  /** How often memory whose device has gone is still in use. */
  busy = 0;

  readonly answer = (call: QmpCall): FakeAnswer | undefined => this.over(call) ?? this.#answer(call);

  #answer({ execute, arguments: a }: QmpCall): FakeAnswer | undefined {
    const id = String(a['id']);
    switch (execute) {
      case 'qom-list':
        return { result: this.#children(String(a['path'])) };
      case 'qom-get':
        return this.#property(String(a['path']), String(a['property']));
      case 'query-chardev':
        return { result: Array.from(this.chardevs, ([label, filename]) => ({ label, filename })) };
      case 'object-add':
        return this.#add(this.objects, id, { type: String(a['qom-type']), properties: a });
      case 'object-del':
        if (!this.objects.has(id)) return refuse(`object '${id}' not found`);
        if (this.#used(id) || this.busy-- > 0) return refuse(`object '${id}' is in use, can not be deleted`);
        this.objects.delete(id);
        return undefined;
      case 'chardev-add': {
        const { backend } = a as { backend: { data: { addr: { data: { path: string } } } } };
        return this.#add(this.chardevs, id, `disconnected:unix:${backend.data.addr.data.path},server=on`);
      }
      case 'chardev-remove':
        return this.chardevs.delete(id) ? undefined : refuse(`Chardev '${id}' not found`);
      case 'netdev_add':
        this.netdevs.add(id);
        return undefined;
      case 'netdev_del':
        return this.netdevs.delete(id) ? undefined : refuse(`Device '${id}' not found`, 'DeviceNotFound');
      case 'device_add': {
        const memdev = typeof a['memdev'] === 'string' ? { memdev: `/objects/${a['memdev']}` } : {};
        return this.#add(this.devices, id, { type: String(a['driver']), properties: { ...a, ...memdev } });
      }
      case 'device_del':
        if (!this.devices.has(id)) return refuse(`Device '${id}' not found`, 'DeviceNotFound');
        if (!this.letsGo) return undefined;
        this.devices.delete(id);
        return { events: [{ event: 'DEVICE_DELETED', data: { device: id } }] };
      case 'human-monitor-command':
        return { result: Array.from(this.netdevs, (n) => `${n}: index=0,type=tap\r\n`).join('') };
      default:
        return undefined;
    }
  }

  #add<T>(to: Map<string, T>, id: string, thing: T): FakeAnswer | undefined {
    if (this.#everUsed.has(id)) this.aborted = id;
    if (to.has(id)) return refuse(`attempt to add duplicate property '${id}' to object`);
    this.#everUsed.add(id);
    to.set(id, thing);
    return undefined;
  }

  #used(memory: string): boolean {
    return [...this.devices.values()].some((d) => d.properties['memdev'] === `/objects/${memory}`);
  }

  #children(path: string): { name: string; type: string }[] {
    const all = path === '/objects' ? this.objects : path === '/machine/peripheral' ? this.devices : [];
    return Array.from(all, ([name, { type }]) => ({ name, type: `child<${type}>` }));
  }

  #property(path: string, property: string): FakeAnswer {
    const name = path.replace(/^.*\//, '');
    const thing = path.startsWith('/objects') ? this.objects.get(name) : this.devices.get(name);
    if (!thing) return refuse(`Device '${path}' not found`, 'DeviceNotFound');
    return { result: thing.properties[property] ?? '' };
  }
}

export const refuse = (desc: string, errorClass = 'GenericError'): FakeAnswer => ({
  error: { class: errorClass, desc },
});
