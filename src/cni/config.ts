/**
 * What a runtime gives a plugin: the environment and, on standard input, the network configuration. Specification:
 * CNI 1.1.0, with 0.4.0 and 1.0.0 for clients that speak those.
 */
import path from 'node:path';
import { z } from 'zod';
import { AGENT_SOCKET, PLACES } from '../core/default-paths.ts';
import { PolicyInput } from '../net/firewall-rules.ts';
import { isIfname } from '../net/ifname.ts';
import { RateLimitInput } from '../net/rate-limit.ts';
import { ConventionArgs, ipsWanted, macWanted, parseCniArgs } from './args.ts';
import { CniError } from './errors.ts';
import { withPodPolicy } from './pod-policy.ts';
import { CniResult } from './result.ts';
import { CNI_VERSIONS } from './versions.ts';
import type { CniVersion } from './versions.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export const COMMANDS = ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'] as const;
export type Command = (typeof COMMANDS)[number];

const name = lazy(() =>
  z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/, 'letters, digits, ., _ and - expected'),
);
const PciAddressText = lazy(() =>
  z
    .string()
    .regex(
      /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]$/i,
      'a PCI address, such as 0000:03:00.0, expected',
    )
    .toLowerCase(),
);
const Ipam = lazy(() => z.looseObject({ type: name() }));

/** Attributes that are not here are other plugins' or the runtime's, and are passed on to delegates. */
export const NetConfig = lazy(() =>
  z.looseObject({
    cniVersion: z.string(),
    name: name(),
    type: z.string(),
    /** `direct`: a NIC of the host; `veth`: the stock bridge plugin. */
    mode: z.enum(['direct', 'veth']).default('direct'),
    /** Where a direct NIC goes: `netdev` is moved into the container's network namespace, `vfio` is for a VM runtime. */
    device: z.enum(['netdev', 'vfio']).default('netdev'),
    /** When the host has no NIC left: fail, or take the bridge. */
    fallback: z.enum(['none', 'veth']).default('none'),
    /** PCI address of a NIC that the pod has from the device plugin, as Multus passes it on; left out: a new NIC. */
    deviceID: PciAddressText().optional(),
    /** The host's network; left out: its first. */
    network: z.string().optional(),
    mtu: z.int().min(68).max(65_521).optional(),
    /** Attributes of the stock bridge plugin, for `veth`. */
    veth: z.looseObject({}).prefault({}),
    ipam: z.union([Ipam(), z.strictObject({})]).optional(),
    policy: z
      .strictObject({
        firewall: PolicyInput().optional(),
        rateLimit: RateLimitInput().optional(),
        /** Where it is not possible (on a veth): go on without, or fail. */
        required: z.boolean().default(true),
        /** What the annotation of a pod may do: nothing, or add rules behind these. */
        pod: z.enum(['refuse', 'after']).default('refuse'),
      })
      .optional(),
    agentSocket: z.string().startsWith('/').default(AGENT_SOCKET),
    stateDir: z.string().startsWith('/').default(PLACES.cniState.path),
    runtimeConfig: z
      .looseObject({
        mac: z.string().optional(),
        ips: z.array(z.string()).optional(),
        deviceID: PciAddressText().optional(),
      })
      .optional(),
    args: ConventionArgs().optional(),
    dns: z.looseObject({}).optional(),
    prevResult: CniResult().optional(),
    'cni.dev/valid-attachments': z
      .array(z.looseObject({ containerID: z.string(), ifname: z.string() }))
      .optional(),
  }),
);
export type NetConfig = Output<typeof NetConfig>;

export interface Attachment {
  containerId: string;
  ifname: string;
}

export interface CniRequest {
  command: Command;
  /** `''` where the command has none. */
  attachment: Attachment;
  /** Path of the network namespace; undefined for DEL after it has gone. */
  netns: string | undefined;
  /** Where stock plugins are. */
  pluginPath: string[];
  config: NetConfig;
  version: CniVersion;
  /** Wanted for this attachment; undefined: any. */
  mac: string | undefined;
  /** PCI address of the NIC that the pod has already; undefined: a new one. */
  deviceId: string | undefined;
  /** As it came, for delegates. */
  raw: Readonly<Record<string, unknown>>;
}

const CONTAINER_ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,255}$/;

/** Throws CniError with the specification's numbers. VERSION is answered whatever the configuration is, as stock plugins do. */
export function parseRequest(env: Readonly<Record<string, string | undefined>>, input: string): CniRequest {
  const command = COMMANDS.find((c) => c === env['CNI_COMMAND']);
  if (!command)
    throw new CniError(
      'INVALID_ENVIRONMENT',
      `CNI_COMMAND: one of ${COMMANDS.join(', ')} expected, '${env['CNI_COMMAND'] ?? ''}' found`,
    );
  if (command === 'VERSION') return versionRequest(input);
  const raw = parseJson(input);
  const version = versionOf(raw);
  const perContainer = command === 'ADD' || command === 'DEL' || command === 'CHECK';
  const attachment = { containerId: env['CNI_CONTAINERID'] ?? '', ifname: env['CNI_IFNAME'] ?? '' };
  if (perContainer) {
    if (!CONTAINER_ID.test(attachment.containerId))
      throw new CniError(
        'INVALID_ENVIRONMENT',
        `CNI_CONTAINERID: a container id expected, '${attachment.containerId}' found`,
      );
    if (!isIfname(attachment.ifname))
      throw new CniError(
        'INVALID_ENVIRONMENT',
        `CNI_IFNAME: the name of a network device of at most 15 bytes expected, '${attachment.ifname}' found`,
      );
  }
  const netns = env['CNI_NETNS'] === '' ? undefined : env['CNI_NETNS'];
  if ((command === 'ADD' || command === 'CHECK') && netns === undefined)
    throw new CniError('INVALID_ENVIRONMENT', 'CNI_NETNS: the path of a network namespace expected');
  const pluginPath = (env['CNI_PATH'] ?? '').split(':').filter((p) => path.isAbsolute(p));
  // of ADD alone: what it refuses must not stand in the way of the DEL that follows
  const asked = command === 'ADD';
  const config = asked ? withPodPolicy(parseConfig(raw)) : parseConfig(raw);
  const args = parseCniArgs(asked ? (env['CNI_ARGS'] ?? '') : '');
  const mac = asked ? macWanted(args, config) : undefined;
  if (asked && ipsWanted(args, config).length > 0 && !(config.ipam && 'type' in config.ipam))
    throw new CniError(
      'INVALID_CONFIG',
      `ipam: ${ipsWanted(args, config).join(', ')} is asked for, and without an IPAM plugin nobody gives addresses`,
    );
  if (asked && config.device === 'vfio' && config.ipam && config.ipam['type'] === 'dhcp')
    throw new CniError(
      'INVALID_CONFIG',
      'ipam: dhcp asks through a network device, and with device vfio the container has none: leave ipam out, and have the guest ask',
    );
  const deviceId = deviceIdOf(config);
  return { command, attachment, netns, pluginPath, config, version, mac, deviceId, raw };
}

const VERSION_CONFIG = { name: 'version', type: 'hyperturtle-cni' };

/** Answered in the version of the configuration where there is one that we speak, else in the newest. */
function versionRequest(input: string): CniRequest {
  const version = configVersion(input) ?? CNI_VERSIONS[CNI_VERSIONS.length - 1] ?? '1.1.0';
  const raw = { ...VERSION_CONFIG, cniVersion: version };
  return {
    command: 'VERSION',
    attachment: { containerId: '', ifname: '' },
    netns: undefined,
    pluginPath: [],
    config: NetConfig().parse(raw),
    version,
    mac: undefined,
    deviceId: undefined,
    raw,
  };
}

function parseJson(input: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(input);
  } catch (e) {
    throw new CniError('UNDECODABLE', 'standard input: a network configuration in JSON expected', String(e));
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new CniError('UNDECODABLE', 'standard input: a JSON object expected');
  return { ...value };
}

/** The version that a configuration names, for an error about anything else; undefined where it names none that we speak. */
export function configVersion(input: string): CniVersion | undefined {
  try {
    return versionOf(parseJson(input));
  } catch {
    return undefined;
  }
}

function deviceIdOf(config: NetConfig): string | undefined {
  return config.runtimeConfig?.deviceID ?? config.deviceID;
}

function versionOf(raw: Readonly<Record<string, unknown>>): CniVersion {
  const found = CNI_VERSIONS.find((v) => v === raw['cniVersion']);
  if (found) return found;
  throw new CniError(
    'INCOMPATIBLE_VERSION',
    `cniVersion: one of ${CNI_VERSIONS.join(', ')} expected, ${JSON.stringify(raw['cniVersion'] ?? null)} found`,
  );
}

function parseConfig(raw: Readonly<Record<string, unknown>>): NetConfig {
  const checked = NetConfig().safeParse(raw);
  if (!checked.success)
    throw new CniError(
      'INVALID_CONFIG',
      checked.error.issues
        .map((i) => `${i.path.map(String).join('.') || 'configuration'}: ${i.message}`)
        .join('; '),
    );
  const { mode, device, fallback, policy } = checked.data;
  if (mode === 'veth' && device === 'vfio')
    throw new CniError(
      'INVALID_CONFIG',
      'device: vfio needs mode direct: a veth pair cannot be given to a VM',
    );
  if (deviceIdOf(checked.data) !== undefined && (mode !== 'direct' || device !== 'vfio'))
    throw new CniError(
      'INVALID_CONFIG',
      "deviceID: mode direct and device vfio expected: the device plugin's NICs are bound to vfio-pci",
    );
  if (fallback === 'veth' && device === 'vfio')
    throw new CniError('INVALID_CONFIG', 'fallback: a veth pair cannot take the place of a device for a VM');
  if (policy?.required && mode === 'veth')
    throw new CniError(
      'INVALID_CONFIG',
      'policy: rules work on NICs of the host only: mode direct, or policy.required false',
    );
  return checked.data;
}
