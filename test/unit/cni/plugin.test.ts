/** The CNI plugin's commands, with a host, a kernel and stock plugins that only write down what they are asked. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CniError, CNI_ERRORS, cniError } from '../../../src/cni/errors.ts';
import { COMMANDS, parseRequest } from '../../../src/cni/config.ts';
import type { Command } from '../../../src/cni/config.ts';
import { runCommand } from '../../../src/cni/plugin.ts';
import type { DeviceFound } from '../../../src/cni/device.ts';
import type { Means } from '../../../src/cni/plugin.ts';
import type { CniResult } from '../../../src/cni/result.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';

let dir: string;
let did: string[];
let fails: Partial<Record<string, Error>>;
let nics: Set<string>;
let free: number;
let macAsked: (string | undefined)[];
/** What the IPAM plugin answers, and what is found in the container. */
let given: CniResult;
let found: DeviceFound | undefined;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cni-'));
  did = [];
  fails = {};
  nics = new Set();
  free = 2;
  macAsked = [];
  given = { ips: [{ address: '192.0.2.9/24', gateway: '192.0.2.1' }], routes: [{ dst: '0.0.0.0/0' }] };
  found = {
    mac: '02:00:00:00:00:05',
    up: true,
    addresses: ['192.0.2.9/24', '2001:db8::9/64'],
    routes: ['0.0.0.0/0', '192.0.2.0/24'],
  };
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

/** Names of NICs that ADD makes are hashes. */
const shown = (nic: string): string => (nic.startsWith('cni-') ? '' : nic);
const note = (what: string): Promise<void> => {
  did.push(what);
  const e = fails[what.split(' ')[0] ?? ''];
  return e ? Promise.reject(e) : Promise.resolve();
};
/** One that the device plugin got. */
const POD_NIC = {
  ...{ id: 'k8s-nic-0', network: 'lan', mac: '02:00:00:00:00:07', mtu: 9000 },
  ...{ pciAddress: '0000:09:00.0', interface: undefined },
};
const means: Means = {
  addNic: async ({ id, device, mac }) => {
    macAsked.push(mac);
    await note(`addNic ${device}`);
    nics.add(id);
    return {
      mac: '02:00:00:00:00:05',
      mtu: 1500,
      pciAddress: '0000:08:00.0',
      interface: device === 'netdev' ? 'eth9' : undefined,
    };
  },
  nicAt: async (address) => {
    await note('nicAt');
    return address === POD_NIC.pciAddress ? POD_NIC : undefined;
  },
  delNic: async (id) => {
    await note('delNic');
    nics.delete(id);
  },
  nics: async () => {
    await note('nics');
    return { ids: [...nics], free };
  },
  applyPolicy: (nic) => note(`applyPolicy ${shown(nic)}`.trim()),
  dropPolicy: (nic) => note(`dropPolicy ${shown(nic)}`.trim()),
  delegate: async (_, { plugin, command }) => {
    await note(`${plugin} ${command}`);
    return command === 'ADD' ? given : undefined;
  },
  moveIn: ({ device, ifname, mtu }) => note(`moveIn ${device} ${ifname} ${mtu}`),
  configure: () => note('configure'),
  inspect: async () => {
    await note('inspect');
    return found;
  },
};

function run(
  command: Command,
  more: object = {},
  env: object = {},
): Promise<Record<string, unknown> | undefined> {
  const config = {
    cniVersion: '1.1.0',
    name: 'net',
    type: 'hyperturtle-cni',
    stateDir: dir,
    ipam: { type: 'host-local' },
    ...more,
  };
  const request = parseRequest(
    {
      CNI_COMMAND: command,
      CNI_CONTAINERID: 'abc',
      CNI_IFNAME: 'eth0',
      CNI_NETNS: '/run/netns/x',
      CNI_PATH: '/opt/cni/bin',
      ...env,
    },
    JSON.stringify(config),
  );
  return runCommand(request, means, new AbortController().signal);
}
const codeOf = (p: Promise<unknown>): Promise<unknown> =>
  p.then(
    () => 0,
    (e: unknown) => cniError(e).code,
  );
const parseCode = (env: Record<string, string>, input: string): number => {
  try {
    parseRequest(env, input);
    return 0;
  } catch (e) {
    return e instanceof CniError ? e.code : -1;
  }
};
const CONFIG = JSON.stringify({ cniVersion: '1.0.0', name: 'n', type: 't' });
const ENV = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c', CNI_IFNAME: 'eth0', CNI_NETNS: '/n' };

describe('a NIC that the pod has from the device plugin', () => {
  const POLICY = { policy: { firewall: { default: { in: 'deny', out: 'allow' }, rules: [] } } };
  const GIVEN = { device: 'vfio', deviceID: '0000:09:00.0', ...POLICY };
  const OTHER = { CNI_CONTAINERID: 'def' };

  it.each([
    ['as Multus writes it', GIVEN],
    ['of a capability', { device: 'vfio', runtimeConfig: { deviceID: '0000:09:00.0' }, ...POLICY }],
  ])('gets rules and addresses, and stays when the pod goes: %s', async (_, config) => {
    const result = await run('ADD', config);
    expect(result).toMatchObject({
      interfaces: [{ mac: POD_NIC.mac, mtu: 9000, pciID: '0000:09:00.0' }],
      ips: [{ address: '192.0.2.9/24' }],
    });
    await run('DEL', config);
    expect(did).toEqual([
      ...['nicAt', 'applyPolicy k8s-nic-0', 'host-local ADD'],
      ...['dropPolicy k8s-nic-0', 'host-local DEL'],
    ]);
    expect(readdirSync(dir)).toEqual([]);
  });

  it("is no other pod's before the last one's DEL, which then cannot drop the next one's rules", async () => {
    await run('ADD', GIVEN);
    did = [];
    expect(await codeOf(run('ADD', GIVEN, OTHER))).toBe(CNI_ERRORS.TRY_AGAIN);
    expect(did).toEqual(['nicAt']);
    await run('DEL', GIVEN);
    await run('ADD', GIVEN, OTHER);
    did = [];
    await run('DEL', GIVEN);
    expect(did).toEqual(['host-local DEL']);
  });

  it('keeps nothing of an ADD that fails, and is not given back to the host', async () => {
    fails = { 'host-local': new Error('no address') };
    await expect(run('ADD', GIVEN)).rejects.toThrow('no address');
    expect(did).toEqual(['nicAt', 'applyPolicy k8s-nic-0', 'host-local ADD', 'dropPolicy k8s-nic-0']);
    expect(readdirSync(dir)).toEqual([]);
  });

  it.each([
    ['none is there', { deviceID: '0000:0a:00.0' }, /none is at 0000:0a:00\.0/],
    ['it is of another network', { network: 'dmz' }, /network dmz expected, k8s-nic-0 is of lan/],
    [
      'another MAC is asked for',
      { runtimeConfig: { mac: '02:00:00:00:00:01' } },
      /has MAC 02:00:00:00:00:07/,
    ],
  ])('is refused when %s', async (_, more, message) => {
    await expect(run('ADD', { ...GIVEN, ...more })).rejects.toThrow(message);
    expect(readdirSync(dir)).toEqual([]);
  });

  it.each([
    ['a network device of the node', { device: 'netdev' }],
    ['a veth pair', { mode: 'veth', device: 'netdev' }],
    ['no address', { deviceID: 'eth0' }],
  ])('is an error in a configuration for %s', (_, more) => {
    const config = { ...(JSON.parse(CONFIG) as object), ...GIVEN, ...more };
    expect(parseCode(ENV, JSON.stringify(config))).toBe(CNI_ERRORS.INVALID_CONFIG);
  });
});

describe('a request', () => {
  it.each([
    ['an unknown command', { ...ENV, CNI_COMMAND: 'FOO' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['no container', { ...ENV, CNI_CONTAINERID: '' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['a device name that is none', { ...ENV, CNI_IFNAME: 'a/b' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    [
      'a name of 15 wide letters',
      { ...ENV, CNI_IFNAME: 'ü'.repeat(15) },
      CONFIG,
      CNI_ERRORS.INVALID_ENVIRONMENT,
    ],
    ['a name with %', { ...ENV, CNI_IFNAME: 'eth%d' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['arguments that are no pairs', { ...ENV, CNI_ARGS: 'MAC' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['unknown arguments', { ...ENV, CNI_ARGS: 'MAK=1' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['a MAC that is none', { ...ENV, CNI_ARGS: 'MAC=02:00:00:00:00' }, CONFIG, CNI_ERRORS.INVALID_CONFIG],
    [
      "a group's MAC",
      ENV,
      CONFIG.replace('}', ',"args":{"cni":{"mac":"01:00:5e:00:00:01"}}}'),
      CNI_ERRORS.INVALID_CONFIG,
    ],
    [
      'an address for nobody to give',
      { ...ENV, CNI_ARGS: 'IP=192.0.2.7' },
      CONFIG,
      CNI_ERRORS.INVALID_CONFIG,
    ],
    ['no namespace', { ...ENV, CNI_NETNS: '' }, CONFIG, CNI_ERRORS.INVALID_ENVIRONMENT],
    ['no JSON', ENV, '{', CNI_ERRORS.UNDECODABLE],
    ['a version of long ago', ENV, CONFIG.replace('1.0.0', '0.2.0'), CNI_ERRORS.INCOMPATIBLE_VERSION],
    ['an unknown mode', ENV, CONFIG.replace('}', ',"mode":"x"}'), CNI_ERRORS.INVALID_CONFIG],
    [
      'a veth pair for a VM',
      ENV,
      CONFIG.replace('}', ',"mode":"veth","device":"vfio"}'),
      CNI_ERRORS.INVALID_CONFIG,
    ],
    [
      'rules on a veth pair',
      ENV,
      CONFIG.replace('}', ',"mode":"veth","policy":{}}'),
      CNI_ERRORS.INVALID_CONFIG,
    ],
  ])('with %s is refused by its number', (_, env, input, code) => {
    expect(parseCode(env, input)).toBe(code);
  });

  it('of any kind is taken or refused with a CNI error, never with a bug', () => {
    const env = fc.record({
      CNI_COMMAND: fc.oneof(fc.constantFrom<string>(...COMMANDS), fc.string()),
      CNI_CONTAINERID: fc.string(),
      CNI_IFNAME: fc.string(),
      CNI_NETNS: fc.string(),
      CNI_PATH: fc.string(),
    });
    const input = fc.oneof(fc.json(), fc.string(), fc.constant(CONFIG));
    fc.assert(
      fc.property(env, input, (e, i) => parseCode(e, i) >= 0),
      { numRuns: 500 },
    );
  });
});

describe('ADD', () => {
  it('gives a container a NIC of its own, with its rules in force before its address', async () => {
    const result = await run('ADD', { policy: { firewall: { default: 'deny' } } });
    expect(did).toEqual([
      'addNic netdev',
      'applyPolicy',
      'host-local ADD',
      'moveIn eth9 eth0 1500',
      'configure',
    ]);
    expect(result).toEqual({
      cniVersion: '1.1.0',
      interfaces: [
        { name: 'eth0', mac: '02:00:00:00:00:05', sandbox: '/run/netns/x', mtu: 1500, pciID: '0000:08:00.0' },
      ],
      ips: [{ address: '192.0.2.9/24', gateway: '192.0.2.1', interface: 0 }],
      routes: [{ dst: '0.0.0.0/0' }],
      dns: {},
    });
  });

  it('answers older clients as they expect it', async () => {
    const result = await run('ADD', { cniVersion: '0.4.0', mtu: 1280 });
    expect(result).toMatchObject({
      cniVersion: '0.4.0',
      interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:05', sandbox: '/run/netns/x' }],
      ips: [{ version: '4', address: '192.0.2.9/24' }],
    });
    expect(JSON.stringify(result)).not.toMatch(/mtu|pciID/);
    expect(did).toContain('moveIn eth9 eth0 1280');
  });

  it('leaves the device of a VM where a VM runtime finds it', async () => {
    const result = await run('ADD', { device: 'vfio', ipam: {} });
    expect(did).toEqual(['addNic vfio']);
    expect(result).toMatchObject({ interfaces: [{ pciID: '0000:08:00.0' }] });
  });

  it('asks by DHCP through the device that the container has, and gives the lease back while it has it', async () => {
    await run('ADD', { ipam: { type: 'dhcp' } });
    expect(did).toEqual(['addNic netdev', 'moveIn eth9 eth0 1500', 'dhcp ADD', 'configure']);
    did = [];
    await run('DEL', { ipam: { type: 'dhcp' } });
    expect(did).toEqual(['dhcp DEL', 'dropPolicy', 'delNic']);
    did = [];
    // whose guest alone can ask
    expect(() => run('ADD', { ipam: { type: 'dhcp' }, device: 'vfio' })).toThrow(/dhcp asks through/);
  });

  it.each(['addNic', 'applyPolicy', 'host-local', 'moveIn', 'configure'])(
    'undoes all in reverse when %s fails, and can be tried again',
    async (step) => {
      fails[step] = new HyperturtleError('HT_KERNEL', 'broken');
      const policy = { policy: { rateLimit: { out: { packetsPerSecond: 100 } } } };
      expect(await codeOf(run('ADD', policy))).toBe(CNI_ERRORS.FAILED);
      expect(nics.size).toBe(0);
      expect(readdirSync(dir)).toEqual([]);
      const undone = did.slice(did.findIndex((d) => d.startsWith(step)) + 1);
      const all = ['host-local DEL', 'dropPolicy', 'delNic'];
      expect(undone).toEqual(
        step === 'addNic'
          ? ['delNic']
          : step === 'applyPolicy' || step === 'host-local'
            ? ['dropPolicy', 'delNic']
            : all,
      );
      fails = {};
      expect(await codeOf(run('ADD', policy))).toBe(0);
    },
  );

  it('tells the first failure and keeps a record when a step cannot be undone: the next DEL or GC finds it', async () => {
    fails['applyPolicy'] = new HyperturtleError('HT_UNAVAILABLE', 'no host');
    fails['delNic'] = new HyperturtleError('HT_TIMEOUT', 'it does not let go');
    const failed = await run('ADD', { policy: { firewall: {} } }).catch(cniError);
    expect(failed).toMatchObject({
      code: CNI_ERRORS.TRY_AGAIN,
      message: expect.stringMatching(/^no host; .*it does not let go/) as string,
    });
    expect(nics.size).toBe(1);
    fails = {};
    await run('GC', { 'cni.dev/valid-attachments': [] });
    expect([nics.size, readdirSync(dir)]).toEqual([0, []]);
  });

  it('takes a veth pair where no NIC is left and that is allowed, but not with rules that must hold', async () => {
    fails['addNic'] = new HyperturtleError('HT_QUOTA', 'nics: at most 4');
    expect(await codeOf(run('ADD'))).toBe(CNI_ERRORS.NO_NIC);
    fails['addNic'] = new HyperturtleError('HT_UNAVAILABLE', 'this VM has no spare PCIe root port: it must');
    expect(await codeOf(run('ADD'))).toBe(CNI_ERRORS.NO_NIC);
    const strict = { fallback: 'veth', policy: { firewall: {} } };
    expect(await codeOf(run('ADD', strict))).toBe(CNI_ERRORS.POLICY);
    did = [];
    expect(await run('ADD', { fallback: 'veth' })).toMatchObject({ ips: [{ address: '192.0.2.9/24' }] });
    expect(did).toEqual(['addNic netdev', 'delNic', 'bridge ADD']);
    did = [];
    await run('DEL', { fallback: 'veth' });
    expect(did).toEqual(['bridge DEL']);
  });

  it('twice for the same attachment is refused', async () => {
    await run('ADD');
    expect(await codeOf(run('ADD'))).toBe(CNI_ERRORS.FAILED);
    expect(nics.size).toBe(1);
  });
});

describe('what a runtime asks of one attachment', () => {
  const MAC = { env: '02:00:00:00:00:0a', args: '02:00:00:00:00:0b', runtime: '02:00:00:00:00:0C' };
  const env = { CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAME=x;MAC=${MAC.env}` };
  const args = { args: { cni: { mac: MAC.args } } };
  it.each([
    ['CNI_ARGS', {}, env, MAC.env],
    ['args.cni, before CNI_ARGS', args, env, MAC.args],
    [
      'runtimeConfig, before both',
      { ...args, runtimeConfig: { mac: MAC.runtime } },
      env,
      MAC.runtime.toLowerCase(),
    ],
    ['nobody', {}, {}, undefined],
  ])('a MAC is asked for by %s', async (_, more, environment, mac) => {
    await run('ADD', more, environment);
    expect(macAsked).toEqual([mac]);
  });

  it('wrong arguments do not stand in the way of DEL', async () => {
    await run('ADD');
    expect(await codeOf(run('DEL', {}, { CNI_ARGS: 'MAC=nonsense' }))).toBe(0);
    expect(nics.size).toBe(0);
  });
});

describe('an IPAM plugin', () => {
  it('that answers without an address fails ADD, and what was made is undone', async () => {
    given = { ips: [] };
    const failed = await run('ADD').catch(cniError);
    expect(failed).toMatchObject({
      message: expect.stringContaining('missing IP config') as string,
    });
    expect(did.slice(-2)).toEqual(['host-local DEL', 'delNic']);
    expect([nics.size, readdirSync(dir)]).toEqual([0, []]);
  });
});

describe('state that cannot be written', () => {
  it.each([
    ['is a file', () => path.join(dir, 'file')],
    ['is below a file', () => path.join(dir, 'file/below')],
    ['is below /proc', () => '/proc/nothing/below'],
  ])('because the directory %s is error 5 with the path and the reason', async (_, at) => {
    writeFileSync(path.join(dir, 'file'), '');
    const stateDir = at();
    const failed = await run('ADD', { stateDir }).catch(cniError);
    expect(failed).toMatchObject({ code: CNI_ERRORS.IO_FAILURE });
    const { message } = cniError(failed);
    expect(message).toContain(stateDir);
    expect(message).toMatch(/choose another path|not a directory/);
    expect(did).toEqual([]);
  });
});

describe('DEL', () => {
  it('gives all back, also twice, and when the namespace has gone', async () => {
    await run('ADD');
    did = [];
    await run('DEL', {}, { CNI_NETNS: '' });
    expect(did).toEqual(['dropPolicy', 'delNic', 'host-local DEL']);
    expect(readdirSync(dir)).toEqual([]);
    expect(await codeOf(run('DEL'))).toBe(0);
  });

  it('comes again when the host cannot be asked', async () => {
    await run('ADD');
    fails['delNic'] = new HyperturtleError('HT_UNAVAILABLE', 'no agent');
    expect(await codeOf(run('DEL'))).toBe(CNI_ERRORS.TRY_AGAIN);
    fails = {};
    await run('DEL');
    expect(nics.size).toBe(0);
  });
});

describe('CHECK, STATUS, GC and VERSION', () => {
  const prevResult = {
    interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:05' }],
    ips: [{ address: '192.0.2.9/24' }],
  };

  it('CHECK is content with what ADD made, and tells what differs', async () => {
    expect(await codeOf(run('CHECK', { prevResult }))).toBe(CNI_ERRORS.UNKNOWN_CONTAINER);
    await run('ADD');
    expect(await codeOf(run('CHECK', { prevResult }))).toBe(0);
    const other = { ...prevResult, ips: [{ address: '192.0.2.10/24' }] };
    expect(await codeOf(run('CHECK', { prevResult: other }))).toBe(CNI_ERRORS.CHANGED);
    nics.clear();
    expect(await codeOf(run('CHECK', { prevResult }))).toBe(CNI_ERRORS.CHANGED);
  });

  it.each<[string, (d: DeviceFound) => void]>([
    ['the device is down', (d) => (d.up = false)],
    ['a route is gone', (d) => (d.routes = ['192.0.2.0/24'])],
    ['an address is gone', (d) => (d.addresses = ['192.0.2.9/24'])],
    ['the MAC is another', (d) => (d.mac = '02:00:00:00:00:06')],
  ])('CHECK fails when %s', async (_, change) => {
    await run('ADD');
    const previous = {
      ...prevResult,
      // the same address and route as they are found, written otherwise
      ips: [{ address: '192.0.2.9/24' }, { address: '2001:DB8:0::9/64' }],
      routes: [{ dst: '0.0.0.0/0' }],
    };
    expect(await codeOf(run('CHECK', { prevResult: previous }))).toBe(0);
    if (found) change(found);
    expect(await codeOf(run('CHECK', { prevResult: previous }))).toBe(CNI_ERRORS.CHANGED);
  });

  it('CHECK fails when the device is gone', async () => {
    await run('ADD');
    found = undefined;
    expect(await codeOf(run('CHECK', { prevResult }))).toBe(CNI_ERRORS.CHANGED);
  });

  it('STATUS says whether another container could be connected', async () => {
    expect(await codeOf(run('STATUS'))).toBe(0);
    free = 0;
    expect(await codeOf(run('STATUS'))).toBe(CNI_ERRORS.NOT_AVAILABLE);
    expect(await codeOf(run('STATUS', { fallback: 'veth' }))).toBe(0);
    fails['nics'] = new HyperturtleError('HT_UNAVAILABLE', 'no agent');
    expect(await codeOf(run('STATUS'))).toBe(CNI_ERRORS.NOT_AVAILABLE);
  });

  it('GC removes what the runtime does not know any more, and only that', async () => {
    await run('ADD');
    await run('ADD', {}, { CNI_CONTAINERID: 'old' });
    await run('ADD', { name: 'other' }, { CNI_CONTAINERID: 'old' });
    await run('GC', { 'cni.dev/valid-attachments': [{ containerID: 'abc', ifname: 'eth0' }] });
    expect(nics.size).toBe(2);
    expect(readdirSync(dir)).toHaveLength(2);
    expect(await codeOf(run('CHECK', { prevResult }))).toBe(0);
  });

  it.each([
    ['no configuration', '', '1.1.0'],
    ['an empty one', '{}', '1.1.0'],
    ['one of an older version', '{"cniVersion":"0.4.0"}', '0.4.0'],
    ['one of a version before ours', '{"cniVersion":"0.1.0"}', '1.1.0'],
    ['one of a later version', '{"cniVersion":"9.0.0"}', '1.1.0'],
    ['one that is no JSON', '{', '1.1.0'],
  ])('VERSION names what is spoken, with %s', async (_, input, cniVersion) => {
    const request = parseRequest({ CNI_COMMAND: 'VERSION' }, input);
    expect(await runCommand(request, means, new AbortController().signal)).toEqual({
      cniVersion,
      supportedVersions: ['0.4.0', '1.0.0', '1.1.0'],
    });
  });
});
