/** `host args --libvirt` before libvirt's own schema of a domain, as virt-xml-validate asks it. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkVm } from '../../src/host/config.ts';
import { libvirtXml } from '../../src/host/daemon/qemu-args.ts';
import { libvirtSchemas } from '../support/libvirt-schemas.ts';

const tree = libvirtSchemas();
const why = typeof tree === 'string' ? tree : undefined;

/** What is printed is parts; their comments say where each belongs. */
function domain(parts: string): string {
  const inside = { features: '', devices: '', domain: '' };
  let place: keyof typeof inside = 'domain';
  for (const line of parts.split('\n')) {
    const named = /^<!-- inside <(\w+)/.exec(line)?.[1];
    if (named === 'features' || named === 'devices' || named === 'domain') place = named;
    else inside[place] += `${line}\n`;
  }
  return `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>one</name><memory unit='MiB'>1024</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<features>${inside.features}</features><devices>${inside.devices}</devices>
${inside.domain}</domain>`;
}

function validate(xml: string): string {
  if (typeof tree === 'string') throw new Error(tree);
  const schema = path.join(tree.root, 'usr/share/libvirt/schemas/domain.rng');
  const r = spawnSync(
    path.join(tree.root, 'usr/bin/xmllint'),
    ['--nonet', '--noout', '--relaxng', schema, '-'],
    {
      input: xml,
      env: tree.env,
      encoding: 'utf8',
      timeout: 20_000,
    },
  );
  return r.status === 0 ? 'valid' : (r.error?.message ?? r.stderr);
}

describe.skipIf(why !== undefined)(`XML for libvirt${why ? ` (skipped: ${why})` : ''}`, () => {
  const spec = { qmp: '/run/a&b/one.qmp', agent: { socket: "/run/it's/port.sock" }, arenaMib: 16 };

  it.each([
    ['with the agent port as a channel', spec],
    ['without a port, which is plugged later', { ...spec, agent: { hotplug: true } }],
    ['with an IOMMU and ports for NICs', { ...spec, nics: { networks: ['lan'] } }],
  ])('is valid in a domain: %s', (_, given) => {
    expect(validate(domain(libvirtXml('one', checkVm('one', given), '/run/hyperturtle')))).toBe('valid');
  });

  it('would not pass with anything that libvirt does not know', () => {
    const broken = libvirtXml('one', checkVm('one', spec), '/run/hyperturtle').replace(
      "type='virtio'",
      "type='other'",
    );
    expect(validate(domain(broken))).toMatch(/fails to validate/);
  });
});
