/** The XML of a domain: what is put into it, that it is put there once, and that nothing else of it changes. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  disableDomain,
  enableDomain,
  readDomain,
  socketsIn,
  specOf,
} from '../../../../src/host/libvirt/domain.ts';
import type { DomainSettings } from '../../../../src/host/libvirt/metadata.ts';
import { parseDomain, serialize } from '../../../../src/host/libvirt/xml.ts';

const UUID = 'ad6304db-a5d4-4b03-b960-510e16f98301';
const SOCKETS = socketsIn('/var/lib/libvirt/qemu', UUID);

/** As libvirt 9.0 prints one, with what users write into theirs. */
const domain = (
  parts: { head?: string; features?: string; devices?: string; tail?: string; ns?: string } = {},
): string =>
  `<domain type='kvm'${parts.ns ?? ''}>
  <name>one</name>
  <uuid>${UUID}</uuid>
${parts.head ?? ''}  <memory unit='KiB'>1048576</memory>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
${parts.features ?? ''}  <clock offset='utc'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
${parts.devices ?? ''}    <memballoon model='virtio'/>
  </devices>
${parts.tail ?? ''}</domain>
`;

const FULL = domain({
  ns: " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
  head: `  <title>L1 &amp; more</title>
  <metadata>
    <!-- kept by the owner -->
    <app:x xmlns:app="urn:other" a="&quot;1&quot;"><app:y/></app:x>
  </metadata>
`,
  features: `  <features>
    <acpi/>
  </features>
`,
  devices: `    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <!-- a comment -->
`,
  tail: `  <qemu:commandline>
    <qemu:arg value='-device'/>
    <qemu:arg value='{"driver":"pcie-root-port","id":"mine"}'/>
    <qemu:env name='A' value='b'/>
  </qemu:commandline>
`,
});

/** As it is written back without a change. */
const same = (text: string): string => serialize(parseDomain(text, 'test').doc);

const SETTINGS: DomainSettings = {
  name: 'build1',
  arenaMib: 32,
  signature: 'required',
  keys: ['/etc/hyperturtle/team.pub'],
  quotas: { objects: 4, runUs: { npf: 50 } },
  policy: { hooks: ['npf', 'xdp'], forbiddenHelpers: ['ktime_get_ns'] },
  nics: { networks: ['lan'], ports: 2, macs: ['02:00:00:00:00:01'], withoutDaemon: 'drop' },
};

describe('enabling a domain', () => {
  it('adds its settings, a QMP socket, a channel and empty root ports', () => {
    const text = enableDomain(domain(), {}, SOCKETS);
    expect(text).toMatch(/<hyperturtle:vm [^>]*xmlns:hyperturtle="urn:hyperturtle:vm:1"/);
    expect(text).toContain(`<qemu:arg value="unix:${SOCKETS.qmp},server=on,wait=off"/>`);
    expect(text).toMatch(/&quot;id&quot;:&quot;hyperturtle-port&quot;.*&quot;pref64-reserve&quot;:33554432/);
    expect(text).toMatch(/<target type="virtio" name="org\.hyperturtle\.v1"\/>/);
    // what QEMU would refuse to start without the daemon
    expect(text).not.toContain('mem-path');
    expect(text).not.toContain('iommu');
  });

  it('has the daemon serve it with these settings', () => {
    const { name, spec } = specOf(readDomain(enableDomain(domain(), SETTINGS, SOCKETS)), 'libvirt-qemu');
    expect(name).toBe('build1');
    expect(spec).toMatchObject({
      qmp: SOCKETS.qmp,
      agent: { socket: SOCKETS.agent },
      bus: 'hyperturtle-port',
      owner: 'libvirt-qemu',
      arenaMib: 32,
      signature: 'required',
      keys: ['/etc/hyperturtle/team.pub'],
      quotas: { objects: 4, runUs: { npf: 50 }, links: 16 },
      policy: { hooks: ['npf', 'xdp'], forbiddenHelpers: ['ktime_get_ns'] },
      nics: { networks: ['lan'], ports: 2, macs: ['02:00:00:00:00:01'], withoutDaemon: 'drop' },
    });
  });

  it('adds an IOMMU and a root port for each NIC where NICs are given', () => {
    const text = enableDomain(FULL, SETTINGS, SOCKETS);
    expect(text).toMatch(/<features>\s*<acpi\/>\s*<ioapic driver="qemu"\/>/);
    expect(text).toMatch(/<iommu model="intel">\s*<driver intremap="on"\/>/);
    expect(text.match(/hyperturtle-nic\d/g)).toEqual(['hyperturtle-nic0', 'hyperturtle-nic1']);
  });

  it('twice changes nothing, and keeps settings that are not given again', () => {
    for (const text of [domain(), FULL]) {
      const once = enableDomain(text, SETTINGS, SOCKETS);
      expect(enableDomain(once, {})).toBe(once);
      expect(enableDomain(once, SETTINGS, SOCKETS)).toBe(once);
      const other = enableDomain(once, { arenaMib: 16 });
      expect(readDomain(other).vm?.settings).toEqual({ ...SETTINGS, arenaMib: 16 });
      expect(enableDomain(other, { arenaMib: 32 })).toBe(once);
    }
  });

  it('takes the name of the domain where none is given', () => {
    expect(readDomain(enableDomain(domain(), {}, SOCKETS)).vm?.name).toBe('one');
    const odd = domain().replace('<name>one', '<name>one / two');
    expect(() => enableDomain(odd, {}, SOCKETS)).toThrow(/one \/ two.*letters, digits/);
    expect(readDomain(enableDomain(odd, { name: 'x' }, SOCKETS)).vm?.name).toBe('x');
  });

  it('gives a copy of the domain sockets of its own', () => {
    const copy = enableDomain(domain(), {}, SOCKETS).replaceAll('<name>one', '<name>two');
    const other = socketsIn('/var/lib/libvirt/qemu', '11111111-2222-3333-4444-555555555555');
    expect(readDomain(enableDomain(copy, {}, other)).vm?.sockets).toEqual(other);
  });
});

describe('disabling it', () => {
  it.each([
    ['plain', domain()],
    ['with metadata, arguments, comments and features of its own', FULL],
    ['without devices of its own', domain().replace(/ {2}<devices>[^]*<\/devices>\n/, '')],
  ])('gives back the domain that there was: %s', (_, text) => {
    for (const settings of [{}, SETTINGS]) {
      const undone = disableDomain(enableDomain(text, settings, SOCKETS));
      if (text.includes('<devices>')) expect(undone).toBe(same(text));
      expect(disableDomain(undone)).toBe(undone);
    }
  });

  it('does not touch a domain that was never enabled', () => {
    const text = FULL.replace('</domain>\n', '</domain><!-- end -->');
    expect(disableDomain(text)).toBe(text);
  });

  it('keeps what was written after enabling', () => {
    const enabled = enableDomain(domain(), SETTINGS, SOCKETS)
      .replace('</qemu:commandline>', "  <qemu:arg value='-s'/></qemu:commandline>")
      .replace('<ioapic', '<pae/><ioapic')
      .replace('</metadata>', '<o:o xmlns:o="urn:o"/></metadata>');
    const left = disableDomain(enabled);
    expect(left).toMatch(/<qemu:commandline>\s*<qemu:arg value="-s"\/><\/qemu:commandline>/);
    expect(left).toContain('xmlns:qemu=');
    expect(left).toMatch(/<features>\s*<pae\/>\s*<\/features>/);
    expect(left).toMatch(/<metadata>\s*<o:o xmlns:o="urn:o"\/>\s*<\/metadata>/);
    expect(left).not.toMatch(/hyperturtle/);
  });

  it('keeps an IOMMU that the domain had before', () => {
    const own = domain({
      features: "  <features>\n    <ioapic driver='qemu'/>\n  </features>\n",
      devices: "    <iommu model='intel'>\n      <driver intremap='on'/>\n    </iommu>\n",
    });
    expect(disableDomain(enableDomain(own, SETTINGS, SOCKETS))).toBe(same(own));
  });
});

describe('what cannot be enabled', () => {
  it.each([
    ['another machine', domain().replace('pc-q35-7.2', 'pc-i440fx-7.2'), {}, /q35 expected.*pc-i440fx/],
    ['another architecture', domain().replace('x86_64', 'aarch64'), {}, /x86_64 machine.*aarch64/],
    [
      'parts that were put there by hand',
      domain({
        devices: "    <channel type='unix'><target type='virtio' name='org.hyperturtle.v1'/></channel>\n",
      }),
      {},
      /put there by hand/,
    ],
    ['another IOMMU', domain({ devices: "    <iommu model='virtio'/>\n" }), SETTINGS, /another IOMMU/],
    [
      "an I/O APIC of KVM's",
      domain({ features: "  <features>\n    <ioapic driver='kvm'/>\n  </features>\n" }),
      SETTINGS,
      /another I\/O APIC/,
    ],
    ['wrong settings', domain(), { arenaMib: 3 }, /arenaMib/],
    ['quotas that are not known', domain(), { quotas: { cows: 1 } }, /cows/],
    ['what is no XML', '<domain', {}, /domain XML expected/],
    ['another document', '<network/>', {}, /<network> found/],
    ['XML with an entity', '<!DOCTYPE d [<!ENTITY x "y">]><domain>&x;</domain>', {}, /domain XML expected/],
  ])('%s', (_, text, settings, message) => {
    expect(() => enableDomain(text, settings, SOCKETS)).toThrow(message);
  });
});

describe('reading a domain', () => {
  it('says of one without our element that it is not served', () => {
    expect(readDomain(FULL)).toEqual({ uuid: UUID, domain: 'one' });
  });

  it('refuses settings that are not known', () => {
    const text = enableDomain(domain(), SETTINGS, SOCKETS);
    const { vm, wrong } = readDomain(text.replace('arenaMib=', 'arenaMB='));
    expect(vm).toBeUndefined();
    expect(wrong).toMatch(/'arenaMB' is not known.*arenaMib/);
    const quota = text.replaceAll('hyperturtle:policy', 'hyperturtle:police');
    expect(() => specOf(readDomain(quota), 'root')).toThrow(
      /domain 'one': .*'hyperturtle:police' is not known/,
    );
    expect(() => enableDomain(quota, {})).toThrow(/not known/);
    const many = text.replace('objects="4"', 'objects="many"');
    expect(() => specOf(readDomain(many), 'root')).toThrow(/quotas\.objects/);
  });

  it('knows the user of a static label', () => {
    const label = `  <seclabel type='static' model='dac' relabel='yes'>\n    <label>+107:+107</label>\n  </seclabel>\n`;
    const text = enableDomain(domain({ tail: label }), {}, SOCKETS);
    expect(specOf(readDomain(text), 'libvirt-qemu').spec.owner).toBe('+107');
  });

  it('says that a domain which was enabled while it ran has no sockets yet', () => {
    const text = enableDomain(domain(), {}, SOCKETS);
    const running = text.replace(/<qemu:commandline>[^]*<\/qemu:commandline>/, '');
    expect(() => specOf(readDomain(running), 'root')).toThrow(/started the next time/);
  });
});

it('any settings that were written are read again', () => {
  const word = fc.stringMatching(/^[a-z<>&"' .]{1,9}$/);
  const settings = fc.record(
    {
      name: fc.constantFrom('a', 'b-1.2'),
      arenaMib: fc.constantFrom(1, 16, 256),
      signature: fc.constantFrom('none', 'optional'),
      keys: fc.array(
        word.map((w) => `/k/${w.trim()}`),
        { minLength: 1, maxLength: 3 },
      ),
      quotas: fc.record({ objects: fc.integer({ min: 1, max: 9 }), nics: fc.integer({ min: 0, max: 9 }) }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(settings, (s) => {
      expect(readDomain(enableDomain(FULL, s, SOCKETS)).vm?.settings).toEqual(s);
    }),
    { numRuns: 100 },
  );
});
