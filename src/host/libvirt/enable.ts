/**
 * Enabling a domain of libvirt and undoing it. What the domain was before is kept, as libvirt adds controllers of its own
 * accord: while nobody has changed the definition since, undoing brings exactly that back.
 */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { HyperturtleError } from '../../core/errors.ts';
import { readIfThere, replaceFile } from '../../core/files.ts';
import { lazy } from '../../core/lazy.ts';
import { disableDomain, enableDomain, readDomain, socketsIn } from './domain.ts';
import type { DomainFacts, DomainSockets } from './domain.ts';
import type { DomainSettings } from './metadata.ts';
import type { Virsh } from './virsh.ts';

/** Where libvirt's system daemon lets its QEMUs make sockets. */
const SOCKET_DIRECTORY = '/var/lib/libvirt/qemu';

export interface EnableOptions {
  virsh: Virsh;
  /** Name or UUID. */
  domain: string;
  /** The state directory. */
  state: string;
  dryRun: boolean;
}

export interface Changed {
  facts: DomainFacts;
  /** The new definition; undefined: nothing differs. */
  xml: string | undefined;
  notes: string[];
}

const keptSchema = lazy(() => z.strictObject({ before: z.string(), after: z.string() }));

/** Settings that are not given stay. Throws HT_USAGE for a domain that cannot have it, HT_COMMAND_FAILED with libvirt's words. */
export async function enable(
  o: EnableOptions & { settings: DomainSettings; socketDirectory?: string | undefined },
): Promise<Changed> {
  const now = await definition(o);
  const { uuid, vm } = readDomain(now);
  const sockets = socketsFor(uuid, vm?.sockets, o.socketDirectory);
  const next = enableDomain(now, o.settings, sockets);
  const facts = readDomain(next);
  // libvirt writes it otherwise than we do: what differs is seen in what we would write
  if (vm && next === enableDomain(now, {})) return { facts, xml: undefined, notes: [] };
  const notes = await notesOf(o);
  if (o.dryRun) return { facts, xml: next, notes };
  const kept = readKept(o.state, uuid);
  const before = vm ? (kept?.after === now ? kept.before : undefined) : now;
  // while that is not written, undoing goes by what the domain itself says
  forget(o.state, uuid);
  await o.virsh.define(next);
  if (before !== undefined) {
    const after = await o.virsh.inactive(uuid);
    const text = JSON.stringify({ before, after });
    // it has the domain's passwords
    replaceFile(keptFile(o.state, uuid), text, { mode: 0o600, directoryMode: 0o700, sync: true });
  }
  return { facts, xml: next, notes };
}

/** Throws as enable() does; nothing to do for a domain that is not enabled. */
export async function disable(o: EnableOptions): Promise<Changed> {
  const now = await definition(o);
  const facts = readDomain(now);
  if (!facts.vm && facts.wrong === undefined) return { facts, xml: undefined, notes: [] };
  const kept = readKept(o.state, facts.uuid);
  const xml = kept?.after === now ? kept.before : disableDomain(now);
  const notes = await notesOf(o);
  if (o.dryRun) return { facts, xml, notes };
  await o.virsh.define(xml);
  forget(o.state, facts.uuid);
  return { facts, xml, notes };
}

function socketsFor(uuid: string, had: DomainSockets | undefined, given: string | undefined): DomainSockets {
  if (given !== undefined) return socketsIn(given, uuid);
  // a copy of a domain has those of the other
  const own = had?.qmp.includes(uuid) === true && had.agent.includes(uuid);
  return own ? had : socketsIn(SOCKET_DIRECTORY, uuid);
}

async function definition({ virsh, domain }: EnableOptions): Promise<string> {
  const info = await virsh.run(['dominfo', '--domain', domain]);
  if (!/^Persistent:\s+yes$/m.test(info))
    throw new HyperturtleError(
      'HT_USAGE',
      `domain '${domain}' is transient: it has no definition that could be changed; give its XML to 'hyperturtle host libvirt xml' before it is created`,
    );
  return virsh.inactive(domain);
}

async function notesOf({ virsh, domain }: EnableOptions): Promise<string[]> {
  const info = await virsh.run(['dominfo', '--domain', domain]);
  const notes: string[] = [];
  if (!/^State:\s+shut off$/m.test(info))
    notes.push('it runs: this takes effect when it has been shut down and is started again');
  if (/^Managed save:\s+yes$/m.test(info))
    notes.push('it has a managed save image, which is of the definition before: it takes effect after that');
  return notes;
}

const keptFile = (state: string, uuid: string): string => path.join(state, 'libvirt', `${uuid}.json`);

function readKept(state: string, uuid: string): { before: string; after: string } | undefined {
  try {
    return keptSchema().parse(JSON.parse(readIfThere(keptFile(state, uuid))?.toString('utf8') ?? ''));
  } catch {
    return undefined;
  }
}

function forget(state: string, uuid: string): void {
  rmSync(keptFile(state, uuid), { force: true });
}
