/** The domain of a VM instance of KubeVirt. Inputs have the shape in which virt-launcher marshals them, made up by hand. */
import { describe, expect, it } from 'vitest';
import { readDomain, specOf } from '../../../../src/host/libvirt/domain.ts';
import { onDefineDomain } from '../../../../src/host/libvirt/kubevirt.ts';
import { parseDomain, serialize } from '../../../../src/host/libvirt/xml.ts';
import { disableDomain } from '../../../../src/host/libvirt/domain.ts';

const UUID = '5d307ca9-b3ef-428c-8861-06e72d69f223';

/** As Go marshals a VirtualMachineInstance. */
const instance = (annotations?: Record<string, string> | null): string =>
  JSON.stringify({
    metadata: {
      name: 'l1',
      namespace: 'tenants',
      uid: '0c0ffee0-0000-4000-8000-000000000001',
      creationTimestamp: '2026-11-30T10:00:00Z',
      ...(annotations === undefined ? {} : { annotations }),
    },
    spec: { domain: { machine: { type: 'q35' }, devices: {}, resources: {} } },
    status: { guestOSInfo: {}, runtimeUser: 107 },
  });

/** As Go marshals a DomainSpec: tabs, no empty elements, QEMU's name space always declared. */
const DOMAIN = `<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
\t<name>tenants_l1</name>
\t<uuid>${UUID}</uuid>
\t<memory unit="b">1073741824</memory>
\t<os>
\t\t<type arch="x86_64" machine="q35">hvm</type>
\t\t<smbios mode="sysinfo"></smbios>
\t</os>
\t<devices>
\t\t<interface type="ethernet">
\t\t\t<source></source>
\t\t\t<target dev="tap0" managed="no"></target>
\t\t</interface>
\t\t<channel type="unix">
\t\t\t<target name="org.qemu.guest_agent.0" type="virtio"></target>
\t\t</channel>
\t\t<controller type="virtio-serial" index="0" model="virtio-non-transitional"></controller>
\t</devices>
\t<metadata>
\t\t<kubevirt xmlns="http://kubevirt.io">
\t\t\t<uid>0c0ffee0-0000-4000-8000-000000000001</uid>
\t\t\t<graceperiod>
\t\t\t\t<deletionGracePeriodSeconds>30</deletionGracePeriodSeconds>
\t\t\t</graceperiod>
\t\t</kubevirt>
\t</metadata>
\t<features>
\t\t<acpi></acpi>
\t</features>
\t<cpu mode="host-passthrough">
\t\t<topology sockets="1" cores="1" threads="1"></topology>
\t</cpu>
\t<vcpu placement="static">1</vcpu>
</domain>`;

const asked = (settings: unknown): string =>
  instance({
    'kubevirt.io/latest-observed-api-version': 'v1',
    'hyperturtle.io/vm': JSON.stringify(settings),
  });

describe('the domain of a VM instance', () => {
  it('stays as it is, to the byte, where the instance does not ask', () => {
    for (const vmi of [instance(), instance(null), instance({ other: 'x' })])
      expect(onDefineDomain(vmi, DOMAIN)).toEqual({ xml: DOMAIN, problem: undefined });
  });

  it('gets what the daemon needs, with its sockets in a volume of the pod', () => {
    const { xml, problem } = onDefineDomain(asked({ arenaMib: 32, quotas: { objects: 4 } }), DOMAIN);
    expect(problem).toBeUndefined();
    const { name, spec } = specOf(readDomain(xml), '+107');
    expect(name).toBe('tenants_l1');
    expect(spec).toMatchObject({
      qmp: `/var/run/kubevirt-private/hyperturtle-${UUID}.qmp`,
      agent: { socket: `/var/run/kubevirt-private/hyperturtle-${UUID}.agent` },
      arenaMib: 32,
      quotas: { objects: 4 },
      owner: '+107',
    });
    // KubeVirt's own metadata, channel and devices are there yet
    for (const part of ['http://kubevirt.io', 'org.qemu.guest_agent.0', 'tap0', 'host-passthrough'])
      expect(xml).toContain(part);
    expect(disableDomain(xml)).toBe(serialize(parseDomain(DOMAIN, 'test').doc));
  });

  it('is the same when the hook is called again with its own answer', () => {
    const once = onDefineDomain(asked({}), DOMAIN).xml;
    expect(onDefineDomain(asked({}), once).xml).toBe(once);
  });

  it('has a VM whose name is its id where its own is too long', () => {
    const long = DOMAIN.replace('tenants_l1', `tenants_${'l'.repeat(80)}`);
    expect(readDomain(onDefineDomain(asked({}), long).xml).vm?.name).toBe(UUID);
  });

  it.each([
    [
      'settings that are no JSON',
      instance({ 'hyperturtle.io/vm': 'yes' }),
      DOMAIN,
      /hyperturtle\.io\/vm: a JSON/,
    ],
    ['settings that are not known', asked({ arena: 3 }), DOMAIN, /'arena' is not known.*arenaMib/],
    ['settings that are wrong', asked({ arenaMib: 3 }), DOMAIN, /arenaMib/],
    ['an instance that is none', '[]', DOMAIN, /the instance: a JSON object expected/],
    ['another machine', asked({}), DOMAIN.replace('"q35"', '"pc"'), /q35 expected/],
    ['a domain that is none', asked({}), 'x', /domain XML expected/],
  ])('stays as it is, with the reason: %s', (_, vmi, domain, message) => {
    const { xml, problem } = onDefineDomain(vmi, domain);
    expect(xml).toBe(domain);
    expect(problem).toMatch(message);
  });
});
