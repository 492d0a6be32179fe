/**
 * What a domain needs to be served by the daemon, put into its XML and taken out again. All of it is inert: QEMU starts
 * as well where no daemon runs. The arena and NICs are plugged later, into the empty root ports.
 */
import { HyperturtleError } from '../../core/errors.ts';
import { PORT_NAME } from '../../wire/schema.ts';
import { checkVm } from '../config.ts';
import type { VmSpec } from '../config.ts';
import { ARENA_PORT } from '../arena-plug.ts';
import { OWN_ID, emptyPortArgs } from '../daemon/qemu-args.ts';
import { madeOf, metadataOf, newMetadata, settingsOf } from './metadata.ts';
import type { DomainSettings, Made } from './metadata.ts';
import {
  QEMU_NS,
  add,
  attributeOf,
  childOf,
  childrenOf,
  declare,
  elementsOf,
  isEmpty,
  parseDomain,
  prefixOf,
  remove,
  serialize,
  textOf,
  undeclare,
} from './xml.ts';
import type { Element } from './xml.ts';

/** Where QEMU makes the QMP socket, and libvirt that of the agent's port. */
export interface DomainSockets {
  qmp: string;
  agent: string;
}

export interface DomainFacts {
  uuid: string;
  /** libvirt's name of it. */
  domain: string;
  /** It is to be served, but its settings are wrong. */
  wrong?: string;
  /** Undefined: it is not to be served. */
  vm?: {
    name: string;
    settings: DomainSettings;
    /** Undefined: this XML has no such socket yet. */
    sockets: DomainSockets | undefined;
    /** The user of a static label: whom QEMU runs as, as libvirt writes it: `+64055`. */
    user: string | undefined;
  };
}

/** libvirt's own directory, where its QEMUs may make sockets; both as long as any UUID makes them. */
export function socketsIn(directory: string, uuid: string): DomainSockets {
  const stem = `${directory}/${OWN_ID}${uuid}`;
  return { qmp: `${stem}.qmp`, agent: `${stem}.agent` };
}

/** Reads one domain. Throws HT_CONFIG for what is no domain. */
export function readDomain(text: string): DomainFacts {
  const { domain } = parseDomain(text, 'domain');
  const facts = {
    uuid: textOf(childOf(domain, 'uuid')) ?? '',
    domain: textOf(childOf(domain, 'name')) ?? '',
  };
  const element = metadataOf(domain);
  if (!element) return facts;
  const settings = settingsHere(element);
  if (settings instanceof HyperturtleError) return { ...facts, wrong: settings.message };
  const name = settings.name ?? facts.domain;
  return { ...facts, vm: { name, settings, sockets: socketsOf(domain), user: staticUser(domain) } };
}

function settingsHere(element: Element): DomainSettings | HyperturtleError {
  try {
    return settingsOf(element);
  } catch (e) {
    if (e instanceof HyperturtleError) return e;
    throw e;
  }
}

/** The VM as the daemon serves it. Throws HT_CONFIG for sockets that are not there and values that are wrong. */
export function specOf({ domain, vm, wrong }: DomainFacts, owner: string): { name: string; spec: VmSpec } {
  if (wrong !== undefined) throw new HyperturtleError('HT_CONFIG', `domain '${domain}': ${wrong}`);
  if (!vm?.sockets)
    throw new HyperturtleError(
      'HT_CONFIG',
      `domain '${domain}' runs without the sockets of its definition: they are there when it is started the next time`,
    );
  try {
    return { name: vm.name, spec: checkVm(vm.name, specInput(vm.settings, vm.sockets, vm.user ?? owner)) };
  } catch (e) {
    if (!(e instanceof HyperturtleError)) throw e;
    throw new HyperturtleError('HT_CONFIG', `domain '${domain}': ${e.message}`, { cause: e });
  }
}

function specInput(given: DomainSettings, sockets: DomainSockets, owner: string): Record<string, unknown> {
  const settings: DomainSettings = { ...given };
  delete settings.name;
  return { owner, ...settings, qmp: sockets.qmp, agent: { socket: sockets.agent }, bus: ARENA_PORT };
}

/**
 * The domain with all that its VM needs; settings that are not given stay as the domain has them. The same again changes
 * nothing. Throws HT_USAGE when the domain cannot have it, or has something of its own in that place.
 */
export function enableDomain(text: string, given: DomainSettings, sockets?: DomainSockets): string {
  const { doc, domain } = parseDomain(text, 'the domain');
  const name = textOf(childOf(domain, 'name')) ?? '';
  checkMachine(domain, name);
  const before = metadataOf(domain);
  const settings = { ...(before ? settingsOf(before) : {}), ...given };
  const place = sockets ?? socketsOf(domain);
  if (!place) throw new HyperturtleError('HT_USAGE', `domain '${name}': no place for its sockets is known`);
  if (before) strip(domain, before);
  else refuseOthers(domain, name);
  const spec = checkVm(settings.name ?? name, specInput(settings, place, 'root'));
  const made = new Set<Made>();
  if (spec.nics.networks.length > 0) addIommu(domain, name, made);
  addChannel(domain, place.agent, made);
  addArguments(domain, emptyPortArgs(spec), made);
  addMetadata(domain, settings, made);
  return serialize(doc);
}

/** The domain without what enableDomain added; as it is, to the byte, when there is nothing. */
export function disableDomain(text: string): string {
  const { doc, domain } = parseDomain(text, 'the domain');
  const element = metadataOf(domain);
  if (!element) return text;
  strip(domain, element);
  return serialize(doc);
}

function checkMachine(domain: Element, name: string): void {
  const type = childOf(childOf(domain, 'os'), 'type');
  const machine = attributeOf(type, 'machine') ?? '';
  if (textOf(type) !== 'hvm' || attributeOf(type, 'arch') !== 'x86_64' || !/(^|-)q35(-|$)/.test(machine))
    throw new HyperturtleError(
      'HT_USAGE',
      `domain '${name}': an x86_64 machine of the type q35 expected, as the arena needs a PCIe root port; found ${attributeOf(type, 'arch') ?? 'no arch'}, machine '${machine}'`,
    );
}

/** Parts that were put there by hand (`host args --libvirt`) would have the same ids: QEMU would not start. */
function refuseOthers(domain: Element, name: string): void {
  const own = argumentsOf(domain).some((a) => valueOf(a).includes(OWN_ID));
  if (own || portOf(domain))
    throw new HyperturtleError(
      'HT_USAGE',
      `domain '${name}' has parts of HyperTurtle that were put there by hand ('host args --libvirt'): remove them first`,
    );
}

const commandline = (domain: Element): Element | undefined => childOf(domain, 'commandline', QEMU_NS);
const argumentsOf = (domain: Element): Element[] => childrenOf(commandline(domain), 'arg', QEMU_NS);
const valueOf = (argument: Element | undefined): string => attributeOf(argument, 'value') ?? '';

const channelName = (channel: Element): string | undefined => attributeOf(childOf(channel, 'target'), 'name');

const portOf = (domain: Element): Element | undefined =>
  childrenOf(childOf(domain, 'devices'), 'channel').find((c) => channelName(c) === PORT_NAME);

/** The value of the QMP socket that enabling added. */
const QMP_VALUE = new RegExp(`^unix:(.*/${OWN_ID}[^/]*),server=on,wait=off$`);

function socketsOf(domain: Element): DomainSockets | undefined {
  const qmp = argumentsOf(domain)
    .map((a) => QMP_VALUE.exec(valueOf(a))?.[1])
    .find((p) => p !== undefined);
  const agent = attributeOf(childOf(portOf(domain), 'source'), 'path');
  return qmp === undefined || agent === undefined ? undefined : { qmp: qmp.replaceAll(',,', ','), agent };
}

function staticUser(domain: Element): string | undefined {
  const label = childrenOf(domain, 'seclabel').find(
    (l) => attributeOf(l, 'model') === 'dac' && attributeOf(l, 'type') === 'static',
  );
  return textOf(childOf(label, 'label'))?.split(':')[0];
}

function addMetadata(domain: Element, settings: DomainSettings, made: Set<Made>): void {
  let metadata = childOf(domain, 'metadata');
  if (!metadata) {
    made.add('metadata');
    const titles = ['name', 'uuid', 'genid', 'title', 'description'];
    const after = elementsOf(domain).findLast((e) => titles.includes(e.localName ?? ''));
    metadata = add(domain, { name: 'metadata' }, after);
  }
  add(metadata, newMetadata(settings, made));
}

function addArguments(domain: Element, values: readonly string[], made: Set<Made>): void {
  let prefix = prefixOf(domain, QEMU_NS);
  if (prefix === undefined) {
    made.add('xmlns');
    prefix = 'qemu';
    declare(domain, prefix, QEMU_NS);
  }
  let list = commandline(domain);
  if (!list) {
    made.add('commandline');
    list = add(domain, { name: `${prefix}:commandline`, ns: QEMU_NS });
  }
  for (const value of values) add(list, { name: `${prefix}:arg`, ns: QEMU_NS, attributes: { value } });
}

function addChannel(domain: Element, socket: string, made: Set<Made>): void {
  const devices = childOf(domain, 'devices') ?? add(domain, { name: 'devices' });
  made.add('channel');
  add(devices, {
    name: 'channel',
    attributes: { type: 'unix' },
    children: [
      { name: 'source', attributes: { mode: 'bind', path: socket } },
      { name: 'target', attributes: { type: 'virtio', name: PORT_NAME } },
    ],
  });
}

/** An IOMMU by which L1 hands NICs on, and what it needs. What the domain has of it already stays the domain's. */
function addIommu(domain: Element, name: string, made: Set<Made>): void {
  const other = (what: string, wanted: string): HyperturtleError =>
    new HyperturtleError('HT_USAGE', `domain '${name}' has another ${what}: ${wanted} expected for NICs`);
  const features = childOf(domain, 'features');
  const ioapic = childOf(features, 'ioapic');
  if (ioapic && attributeOf(ioapic, 'driver') !== 'qemu') throw other('I/O APIC', "<ioapic driver='qemu'/>");
  const devices = childOf(domain, 'devices') ?? add(domain, { name: 'devices' });
  const iommu = childOf(devices, 'iommu');
  const remaps = attributeOf(childOf(iommu, 'driver'), 'intremap') === 'on';
  if (iommu && (attributeOf(iommu, 'model') !== 'intel' || !remaps))
    throw other('IOMMU', "<iommu model='intel'><driver intremap='on'/></iommu>");
  if (!features) made.add('features');
  if (!ioapic) {
    made.add('ioapic');
    const place = features ?? add(domain, { name: 'features' }, childOf(domain, 'os'));
    add(place, { name: 'ioapic', attributes: { driver: 'qemu' } });
  }
  if (!iommu) {
    made.add('iommu');
    const driver = { name: 'driver', attributes: { intremap: 'on' } };
    add(devices, { name: 'iommu', attributes: { model: 'intel' }, children: [driver] });
  }
}

function strip(domain: Element, element: Element): void {
  const made = madeOf(element);
  const ifEmpty = (e: Element | undefined): void => {
    if (e && isEmpty(e) && e.attributes.length === 0) remove(e);
  };
  stripArguments(domain);
  if (made.has('commandline')) ifEmpty(commandline(domain));
  if (made.has('xmlns') && !commandline(domain)) undeclareQemu(domain);
  const port = portOf(domain);
  if (port && made.has('channel')) remove(port);
  const iommu = childOf(childOf(domain, 'devices'), 'iommu');
  if (iommu && made.has('iommu')) remove(iommu);
  const features = childOf(domain, 'features');
  const ioapic = childOf(features, 'ioapic');
  if (ioapic && made.has('ioapic')) remove(ioapic);
  if (made.has('features')) ifEmpty(features);
  remove(element);
  if (made.has('metadata')) ifEmpty(childOf(domain, 'metadata'));
}

/** Other name spaces of libvirt's below QEMU's, such as <qemu:override>, keep its declaration. */
function undeclareQemu(domain: Element): void {
  const prefix = prefixOf(domain, QEMU_NS);
  if (prefix !== undefined && !elementsOf(domain).some((e) => e.namespaceURI === QEMU_NS))
    undeclare(domain, prefix);
}

/** An option and its value are two arguments. */
function stripArguments(domain: Element): void {
  const all = argumentsOf(domain);
  all.forEach((option, i) => {
    const value = all[i + 1];
    if (!value || !isOwn(valueOf(option), valueOf(value))) return;
    remove(option);
    remove(value);
  });
}

function isOwn(option: string, value: string): boolean {
  if (option === '-qmp') return QMP_VALUE.test(value);
  return option === '-device' && value.includes(`"id":"${OWN_ID}`);
}
