/** `hyperturtle host kubevirt`: what KubeVirt's sidecar-shim calls before a VM instance starts. */
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { writeErr, writeOut } from '../../core/output.ts';

interface Options {
  vmi: string;
  domain: string;
  socketDir?: string;
  strict?: boolean;
}

export function registerKubevirt(host: Command): void {
  host
    .command('kubevirt')
    .description('VM instances of KubeVirt (docs/kubevirt.md)')
    .command('on-define-domain')
    .description("the domain of a VM instance with all that the host's daemon needs; for sidecar-shim")
    .requiredOption('--vmi <json>', 'the instance')
    .requiredOption('--domain <xml>', 'its domain')
    .option(
      '--socket-dir <dir>',
      'where QEMU and libvirt may make sockets; default: /var/run/kubevirt-private',
    )
    .option('--strict', 'fail where the domain cannot have it; default: print it as it is')
    .addHelpText(
      'after',
      `
Edits the domain of an instance that has the annotation hyperturtle.io/vm, whose value is the VM's settings as JSON ({} for
none). Install a script of this name in an image that is made of sidecar-shim's:
  $ cat /usr/bin/onDefineDomain
  #!/bin/sh
  exec hyperturtle host kubevirt on-define-domain "$@"`,
    )
    .action(onDefineDomain);
}

async function onDefineDomain(o: Options): Promise<void> {
  const kubevirt = await import('../../host/libvirt/kubevirt.ts');
  const { xml, problem } = kubevirt.onDefineDomain(o.vmi, o.domain, o.socketDir);
  if (problem !== undefined && o.strict) throw new HyperturtleError('HT_USAGE', problem);
  if (problem !== undefined) writeErr(`hyperturtle: the domain stays as it is: ${problem}\n`);
  writeOut(xml.endsWith('\n') ? xml : `${xml}\n`);
}
