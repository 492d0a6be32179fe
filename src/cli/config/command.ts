/** `hyperturtle config KIND`: configuration for those who start nested guests, printed. */
import { Argument } from 'commander';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { CONSUMERS, CONSUMER_DEFAULTS } from '../../guest/consumers.ts';
import type { Consumer } from '../../guest/consumers.ts';
import { integer } from '../shared/values.ts';

interface Options {
  ramDir: string;
  memMib: number;
  cpus: number;
  name: string;
  subnet: string;
}

/** A name that every consumer takes: a DNS label (RFC 1035), as Kubernetes wants names of services. */
const NAME = /^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$/;
const PATH = /^\/[\w./-]+$/;

/** What is put into TOML, YAML, XML and JSON as it stands must mean nothing there. */
const checked =
  (option: string, pattern: RegExp, expected: string) =>
  async (text: string): Promise<void> => {
    if (pattern.test(text)) return;
    const { HyperturtleError } = await import('../../core/errors.ts');
    throw new HyperturtleError('HT_USAGE', `${option} '${text}': ${expected} expected`);
  };

async function checkSubnet(text: string): Promise<void> {
  const { parseSubnet } = await import('../../net/subnet.ts');
  const subnet = parseSubnet(text);
  if (typeof subnet !== 'string') return;
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError('HT_USAGE', `--subnet '${text}': ${subnet}`);
}

export function registerConfig(program: Command): void {
  const d = CONSUMER_DEFAULTS;
  program
    .command('config')
    .addArgument(new Argument('<kind>', 'what to print configuration for').choices(Object.keys(CONSUMERS)))
    .description(
      'print configuration for VMMs and orchestrators: nested guests on turtlefs, NICs of the host',
    )
    .option('--ram-dir <path>', 'where turtlefs is mounted', d.ramDir)
    .option('--mem-mib <number>', 'RAM of a nested guest', integer('--mem-mib', 16, 1 << 24), d.memMib)
    .option('--cpus <number>', 'virtual CPUs of a nested guest', integer('--cpus', 1, 4096), d.cpus)
    .option('--name <name>', 'name of the runtime, class and network', d.name)
    .option('--subnet <prefix>', 'addresses of the network', d.subnet)
    .addHelpText(
      'after',
      `\n${Object.entries(CONSUMERS)
        .map(([kind, { what }]) => `  ${kind.padEnd(17)} ${what}`)
        .join(
          '\n',
        )}\n\nExample:\n  hyperturtle config cni --subnet 10.1.0.0/24 >/etc/cni/net.d/10-direct.conflist`,
    )
    .action(async (kind: Consumer, o: Options) => {
      await checked(
        '--name',
        NAME,
        'lower-case letters, digits and dashes, a letter first and no dash last',
      )(o.name);
      await checked('--ram-dir', PATH, 'an absolute path of plain characters')(o.ramDir);
      await checkSubnet(o.subnet);
      writeOut((await forKataHere(kind)) ?? CONSUMERS[kind].text(o));
    });
}

/** What `kata install` would write for the Kata of this machine; undefined: there is none that it knows. */
async function forKataHere(kind: Consumer): Promise<string | undefined> {
  const [, hypervisor] = /^kata-(qemu|clh|fc)$/.exec(kind) ?? [];
  if (hypervisor === undefined) return undefined;
  const [{ planHere, planText }, { isHyperturtleError }] = await Promise.all([
    import('../kata/command.ts'),
    import('../../core/errors.ts'),
  ]);
  try {
    const plan = await planHere({ root: '/', hypervisor: hypervisor as 'qemu' | 'clh' | 'fc' });
    return `# 'hyperturtle kata install --hypervisor ${hypervisor}' writes this here\n\n${planText(plan)}`;
  } catch (e) {
    if (isHyperturtleError(e)) return undefined;
    throw e;
  }
}
