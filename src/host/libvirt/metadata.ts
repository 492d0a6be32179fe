/**
 * What a domain says of itself to the daemon: one element below its <metadata>, in a name space of its own. The settings
 * are those of a VM in the daemon's configuration; its sockets and its root port are elsewhere in the domain.
 */
import { HyperturtleError } from '../../core/errors.ts';
import { attributesOf, childOf, childrenOf, elementsOf, textOf } from './xml.ts';
import type { Element, NewElement } from './xml.ts';

const METADATA_NS = 'urn:hyperturtle:vm:1';
const PREFIX = 'hyperturtle';

type Numbers = Record<string, number>;

/** As under `vms` in the configuration, without what the domain says elsewhere. Nothing is filled in. */
export interface DomainSettings {
  /** Name of the VM in the daemon; left out: the domain's. */
  name?: string;
  arenaMib?: number;
  owner?: string;
  signature?: string;
  keys?: string[];
  quotas?: Record<string, number | Numbers>;
  policy?: { hooks?: string[]; forbiddenHelpers?: string[] };
  nics?: { networks?: string[]; ports?: number | string[]; macs?: string[]; withoutDaemon?: string };
}

/** What enabling added that a user could have written as well: taken out again when it is disabled. */
const MADE = ['metadata', 'xmlns', 'commandline', 'channel', 'features', 'ioapic', 'iommu'] as const;
export type Made = (typeof MADE)[number];

export function metadataOf(domain: Element): Element | undefined {
  return childOf(childOf(domain, 'metadata'), 'vm', METADATA_NS);
}

export function madeOf(element: Element): Set<Made> {
  const words = new Set((element.getAttribute('made') ?? '').split(' '));
  return new Set(MADE.filter((m) => words.has(m)));
}

const el = (name: string, more: Omit<NewElement, 'name' | 'ns'> = {}): NewElement => ({
  name: `${PREFIX}:${name}`,
  ns: METADATA_NS,
  ...more,
});
const texts = (name: string, values: readonly string[] = []): NewElement[] =>
  values.map((text) => el(name, { text }));

/** The element, to be added below <metadata>. */
export function newMetadata(s: DomainSettings, made: ReadonlySet<Made>): NewElement {
  const { runUs, ...quotas } = s.quotas ?? {};
  const ports = s.nics?.ports;
  const children: NewElement[] = [];
  if (s.quotas)
    children.push(
      el('quotas', {
        attributes: quotas as Numbers,
        children: typeof runUs === 'object' ? [el('runUs', { attributes: runUs })] : [],
      }),
    );
  if (s.policy)
    children.push(
      el('policy', {
        children: [...texts('hook', s.policy.hooks), ...texts('forbiddenHelper', s.policy.forbiddenHelpers)],
      }),
    );
  if (s.nics)
    children.push(
      el('nics', {
        attributes: {
          ports: typeof ports === 'number' ? ports : undefined,
          withoutDaemon: s.nics.withoutDaemon,
        },
        children: [
          ...texts('network', s.nics.networks),
          ...texts('mac', s.nics.macs),
          ...texts('port', Array.isArray(ports) ? ports : []),
        ],
      }),
    );
  children.push(...texts('key', s.keys));
  const { name, arenaMib, owner, signature } = s;
  const attributes = { name, arenaMib, owner, signature, made: MADE.filter((m) => made.has(m)).join(' ') };
  return el('vm', { attributes, children });
}

/** Throws HT_CONFIG for what is not known. Values are checked with the VM (`checkVm`). */
export function settingsOf(vm: Element): DomainSettings {
  only(vm, ['name', 'arenaMib', 'owner', 'signature', 'made'], ['quotas', 'policy', 'nics', 'key']);
  const of = Object.fromEntries(attributesOf(vm));
  const settings: DomainSettings = {};
  for (const name of ['name', 'owner', 'signature'] as const)
    if (of[name] !== undefined) settings[name] = of[name];
  if (of['arenaMib'] !== undefined) settings.arenaMib = number(of['arenaMib']);
  const quotas = childOf(vm, 'quotas', METADATA_NS);
  if (quotas) settings.quotas = quotasOf(quotas);
  const policy = childOf(vm, 'policy', METADATA_NS);
  if (policy) settings.policy = policyOf(policy);
  const nics = childOf(vm, 'nics', METADATA_NS);
  if (nics) settings.nics = nicsOf(nics);
  const keys = listOf(vm, 'key');
  if (keys.length > 0) settings.keys = keys;
  return settings;
}

function quotasOf(e: Element): NonNullable<DomainSettings['quotas']> {
  only(e, undefined, ['runUs']);
  const numbers = (of: Element): Numbers =>
    Object.fromEntries(attributesOf(of).map(([name, value]) => [name, number(value)]));
  const runUs = childOf(e, 'runUs', METADATA_NS);
  return { ...numbers(e), ...(runUs ? { runUs: numbers(runUs) } : {}) };
}

function policyOf(e: Element): NonNullable<DomainSettings['policy']> {
  only(e, [], ['hook', 'forbiddenHelper']);
  const [hooks, forbiddenHelpers] = [listOf(e, 'hook'), listOf(e, 'forbiddenHelper')];
  return {
    ...(hooks.length > 0 ? { hooks } : {}),
    ...(forbiddenHelpers.length > 0 ? { forbiddenHelpers } : {}),
  };
}

function nicsOf(e: Element): NonNullable<DomainSettings['nics']> {
  only(e, ['ports', 'withoutDaemon'], ['network', 'mac', 'port']);
  const of = Object.fromEntries(attributesOf(e));
  const [networks, macs, ids] = [listOf(e, 'network'), listOf(e, 'mac'), listOf(e, 'port')];
  return {
    ...(networks.length > 0 ? { networks } : {}),
    ...(macs.length > 0 ? { macs } : {}),
    ...(ids.length > 0 ? { ports: ids } : of['ports'] === undefined ? {} : { ports: number(of['ports']) }),
    ...(of['withoutDaemon'] === undefined ? {} : { withoutDaemon: of['withoutDaemon'] }),
  };
}

const listOf = (e: Element, name: string): string[] =>
  childrenOf(e, name, METADATA_NS).map((c) => textOf(c) ?? '');

/** Left as it is where it is none: the check of the VM says so. */
const number = (text: string): number =>
  /^\d{1,15}$/.test(text) ? Number(text) : (text as unknown as number);

/** `attributes` undefined: any. */
function only(e: Element, attributes: readonly string[] | undefined, children: readonly string[]): void {
  const strange =
    attributesOf(e).find(([name]) => attributes?.includes(name) === false)?.[0] ??
    elementsOf(e).find((c) => c.namespaceURI !== METADATA_NS || !children.includes(c.localName ?? ''))
      ?.nodeName;
  if (strange !== undefined)
    throw new HyperturtleError(
      'HT_CONFIG',
      `<${e.nodeName}>: '${strange}' is not known there; known are: ${[...(attributes ?? []), ...children].filter((n) => n !== 'made').join(', ')}`,
    );
}
