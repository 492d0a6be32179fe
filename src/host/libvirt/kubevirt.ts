/**
 * KubeVirt's hook on the domain of a VM instance, as its sidecar-shim image calls it (cmd/sidecars/sidecar_shim.go): the
 * instance as JSON, its domain as XML, and the domain to be defined as the answer.
 */
import { z } from 'zod';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { lazy } from '../../core/lazy.ts';
import { enableDomain, readDomain, socketsIn } from './domain.ts';
import type { DomainSettings } from './metadata.ts';

/** Settings of the VM as JSON, as the daemon's configuration has them; `{}`: all by default. */
const ANNOTATION = 'hyperturtle.io/vm';
/** A volume of the pod that virt-launcher, libvirt and QEMU may write into. */
const POD_SOCKETS = '/var/run/kubevirt-private';
/** What KubeVirt names a domain may be longer than a VM's name. */
const NAME_BYTES = 63;

const instanceSchema = lazy(() =>
  z.object({
    metadata: z.object({
      uid: z.string().optional(),
      annotations: z.record(z.string(), z.string()).nullish(),
    }),
  }),
);
const settingsSchema = lazy(() => z.record(z.string(), z.unknown()));

export interface DefinedDomain {
  xml: string;
  /** Why it is as it was; undefined: it was edited, or nobody has asked for that. */
  problem: string | undefined;
}

/** Never throws: an instance starts as well without acceleration. */
export function onDefineDomain(vmi: string, domain: string, socketDirectory = POD_SOCKETS): DefinedDomain {
  try {
    const asked = settingsOf(vmi);
    if (!asked) return { xml: domain, problem: undefined };
    const { uuid, domain: name } = readDomain(domain);
    const id = uuid === '' ? asked.uid : uuid;
    if (id === undefined) throw new HyperturtleError('HT_USAGE', 'neither domain nor instance has an id');
    const settings = { ...(name.length > NAME_BYTES ? { name: id } : {}), ...asked.settings };
    return { xml: enableDomain(domain, settings, socketsIn(socketDirectory, id)), problem: undefined };
  } catch (e) {
    return { xml: domain, problem: messageOf(e) };
  }
}

/** Undefined: the instance does not ask for it. Throws HT_USAGE. */
function settingsOf(vmi: string): { settings: DomainSettings; uid: string | undefined } | undefined {
  const parse = <T>(what: string, text: string, schema: z.ZodType<T>): T => {
    try {
      return schema.parse(JSON.parse(text));
    } catch (e) {
      throw new HyperturtleError('HT_USAGE', `${what}: a JSON object expected`, { cause: e });
    }
  };
  const { metadata } = parse('the instance', vmi, instanceSchema());
  const text = metadata.annotations?.[ANNOTATION];
  if (text === undefined) return undefined;
  const settings = parse(`annotation ${ANNOTATION}`, text, settingsSchema());
  const strange = Object.keys(settings).find((k) => !SETTINGS.has(k));
  if (strange !== undefined)
    throw new HyperturtleError(
      'HT_USAGE',
      `annotation ${ANNOTATION}: '${strange}' is not known there; known are: ${[...SETTINGS].join(', ')}`,
    );
  return { settings, uid: metadata.uid };
}

const SETTINGS = new Set(['name', 'arenaMib', 'owner', 'signature', 'keys', 'quotas', 'policy', 'nics']);
