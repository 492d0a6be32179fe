/** `hyperturtle run IMAGE -- CMD`: a nested guest from an image or directory, in the foreground. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { variable } from '../../core/environment.ts';
import { writeErr, writeOut } from '../../core/output.ts';
import { makeDirectory } from '../../core/files.ts';
import type { RunImage } from '../../guest/run/image.ts';
import type { OciImage } from '../../guest/run/oci/layout.ts';
import type { RunUser } from '../../guest/run/oci/user.ts';
import type { RunEvent } from '../../guest/run/run.ts';
import type { RunNet, RunSpec } from '../../guest/run/spec.ts';
import type { AgentClient } from '../../client/session.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { integer } from '../shared/values.ts';

interface Options {
  name?: string;
  memory?: number;
  cpus: number;
  pin?: string;
  net: string;
  ip?: string;
  gateway?: string;
  env: readonly string[];
  ram: RunSpec['ram'];
  kernel?: string;
  modules?: string;
  append: string;
  machine: string;
  firmware?: string;
  qemu: string;
  balloon?: boolean;
  print?: boolean;
  service?: boolean;
  events?: string;
  socket: string;
  timeoutS: number;
}

type OciSettings = Pick<OciImage, 'command' | 'env' | 'workingDir'> & { user: RunUser };

/** What is made once and used again. */
const CACHE = '/var/cache/hyperturtle';

const HELP = `
Its root is the image, read-only, with a tmpfs over it. Exit status: the command's. However this command ends, by
kill -9 too, the guest ends with it and nothing is left. It needs busybox-static, and a kernel with its modules.

Examples:
  hyperturtle run redis
  hyperturtle run ./rootfs --memory 512 -- /bin/bash
  hyperturtle run oci:./images:nginx
  hyperturtle run nginx --net bridge=br0 --ip 10.0.0.5/24
  hyperturtle run redis --net direct --ip dhcp --cpus 2 --pin 2,3
  hyperturtle run node --print`;

export function registerRun(program: Command): void {
  program
    .command('run')
    .argument('<image>', 'a name in /var/lib/hyperturtle/images, a file, a directory, or oci:DIR[:NAME]')
    .argument('[command...]', "after --; default: the image's own")
    .description('start a nested guest from an image, its memory on turtlefs, and run a command in it')
    .option('--name <text>', 'name of the guest; default: made of the image and this process')
    .option('--memory <MiB>', "RAM; default: the image's, or 256", integer('--memory', 64, 1 << 20))
    .option('--cpus <number>', 'virtual CPUs', integer('--cpus', 1, 64), 1)
    .option('--pin <list>', "CPUs of this machine for the guest's, in their order: 0,2-3")
    .option(
      '--net <kind>',
      'none; bridge[=NAME], a tap on a bridge of this machine (br0); direct[=NETWORK], a NIC of the host by VFIO',
      'none',
    )
    .option('--ip <address>', "ADDRESS/LENGTH, dhcp, or 'up': the device without an address; default: up")
    .option('--gateway <address>', 'default route')
    .option('-e, --env <NAME=value>', 'a variable of the command; may be repeated', collect, [])
    .addOption(
      new Option('--ram <kind>', 'where its memory comes from; programs answer faults on turtlefs only')
        .choices(['turtlefs', 'tmpfs', 'anonymous', 'hugetlbfs'])
        .default('turtlefs'),
    )
    .option('--kernel <file>', "guest's kernel; default: this machine's")
    .option('--modules <directory>', "modules of that kernel; default: /lib/modules of this machine's")
    .option('--append <arguments>', "more for the kernel's command line", '')
    .option('--machine <type>', "QEMU's machine type", 'pc')
    .option(
      '--firmware <file>',
      "QEMU's; 'default': SeaBIOS; default: qboot.rom, where it can start the kernel",
    )
    .option('--qemu <program>', 'VMM', 'qemu-system-x86_64')
    .option('--balloon', 'a balloon, by which the guest also gives back memory that it does not use')
    .option('--print', "print the VMM's command, and start nothing")
    .option('--service', "see when the image's service answers (with --events)")
    .option(
      '--events <file>',
      'write a line of JSON for each step there: running, up, open, answered, exited',
    )
    .option('--socket <path>', "the agent's", variable('HYPERTURTLE_SOCKET') ?? AGENT_SOCKET)
    .option(
      '--timeout-s <number>',
      'seconds to wait for the VMM and the agent',
      integer('--timeout-s', 1, 3600),
      120,
    )
    .addHelpText('after', HELP)
    .action(run);
}

function collect(text: string, before: readonly string[]): string[] {
  if (text.indexOf('=') < 1) throw new InvalidArgumentError('NAME=value expected.');
  return [...before, text];
}

async function run(image: string, command: string[], o: Options): Promise<void> {
  const [{ resolveImage }, { runInitramfs }, { runModules }, { parseCpuList }, os] = await Promise.all([
    import('../../guest/run/image.ts'),
    import('../../guest/run/initramfs.ts'),
    import('../../guest/run/spec.ts'),
    import('../../qmp/pin.ts'),
    import('node:os'),
  ]);
  const oci = await ociImage(image);
  const found = oci ?? resolveImage(image);
  const argv = command.length > 0 ? command : (oci?.command ?? found.about?.command);
  if (argv === undefined || argv.length === 0)
    throw new HyperturtleError('HT_USAGE', `${image} names no command of its own: give one after --`);
  if (o.service && found.about?.service === undefined)
    throw new HyperturtleError('HT_USAGE', `--service: ${image} does not say what service it is`);
  const id = idOf(o, found.name);
  const pin = o.pin === undefined ? [] : parseCpuList('--pin', o.pin);
  const wanted = parseNet(o.net);
  const shape = await shapeOf(o, id, found, wanted);
  const modules = o.modules ?? `/lib/modules/${os.release()}`;
  const initrd = await runInitramfs({ dir: modules }, runModules(shape), {
    rootType: shape.root.fileSystem,
    hostname: found.name,
    address: o.ip ?? 'up',
    gateway: o.gateway,
    nic: wanted.kind === 'direct',
    terminal: shape.console === 'terminal',
    env: [...(oci?.env ?? []), ...o.env],
    command: argv,
    ...(oci && { workingDir: oci.workingDir, user: oci.user }),
    status: !o.print,
    service: o.service ? found.about?.service : undefined,
  });
  const directory = 'directory' in found.root ? found.root.directory : undefined;
  if (o.print) return print(shape, initrd, directory);
  await prepare(shape, o);
  const network = wanted.kind === 'direct' ? wanted.network : undefined;
  await start(shape, { id, initrd, directory, pin, network }, o);
}

/** An image of an OCI layout, unpacked the first time; undefined: IMAGE is no such name. */
async function ociImage(image: string): Promise<(RunImage & OciSettings) | undefined> {
  const [{ ociRoot, parseOci }, { abortOnSignals }] = await Promise.all([
    import('../../guest/run/oci/image.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const oci = parseOci(image);
  if (oci === undefined) return undefined;
  const signals = abortOnSignals();
  try {
    const made = await ociRoot(oci.dir, oci.tag, { cache: `${CACHE}/oci`, signal: signals.signal });
    if (made.leftOut !== undefined && made.leftOut > 0)
      writeErr(`${image}: ${made.leftOut} devices and pipes of it left out\n`);
    const { command, env } = made.image;
    const name = nameFor(oci.tag ?? oci.dir);
    return {
      name,
      root: made.root,
      about: undefined,
      command,
      env,
      workingDir: made.workingDir,
      user: made.user,
    };
  } finally {
    signals.dispose();
  }
}

/** A host name out of what a layout or an image in it is called. */
const nameFor = (text: string): string =>
  (/[A-Za-z0-9][A-Za-z0-9-]*/.exec(text.split('/').findLast((p) => p !== '') ?? '')?.[0] ?? 'oci').slice(
    0,
    20,
  );

/** Names the run's directory. Throws HT_USAGE. */
function idOf(o: Pick<Options, 'name'>, image: string): string {
  const id = o.name ?? `${image.slice(0, 20)}-${process.pid}`;
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$/.test(id))
    throw new HyperturtleError(
      'HT_USAGE',
      `--name: up to 31 letters, digits, dots, dashes and underscores expected, '${id}' found`,
    );
  return id;
}

/** The guest as data, but for its initramfs and a NIC that it is yet to be given. */
async function shapeOf(o: Options, id: string, found: RunImage, wanted: Wanted): Promise<RunSpec> {
  const [{ RUN_DIR, firmwareFor, runFilesIn }, { isElf }, os, fs] = await Promise.all([
    import('../../guest/run/spec.ts'),
    import('../../guest/run/image.ts'),
    import('node:os'),
    import('node:fs'),
  ]);
  const release = os.release();
  const kernels = [`/boot/vmlinux-${release}`, `/boot/vmlinuz-${release}`, '/boot/vmlinux'];
  const kernel = o.kernel ?? firstThere(fs.existsSync, kernels);
  const net = await netOf(id, wanted);
  return {
    name: o.print ? (o.name ?? found.name) : id,
    memMib: o.memory ?? found.about?.memMib ?? 256,
    cpus: o.cpus,
    ram: o.ram,
    append: o.append,
    machine: o.machine,
    qemu: o.qemu,
    kernel,
    initrd: '',
    firmware: firmwareFor(o.firmware, net, () => isElf(kernel)),
    root:
      'directory' in found.root
        ? { path: runFilesIn(`${RUN_DIR}/${id}`).root, fileSystem: 'erofs' }
        : found.root,
    net,
    console: process.stdin.isTTY && process.stdout.isTTY ? 'terminal' : 'stream',
    balloon: o.balloon ?? false,
  };
}

async function netOf(id: string, wanted: Wanted): Promise<RunNet> {
  if (wanted.kind === 'direct') return { kind: 'direct', address: 'ADDRESS' };
  if (wanted.kind === 'none') return wanted;
  const { createHash } = await import('node:crypto');
  const digest = createHash('sha256').update(id).digest('hex');
  // locally administered
  const mac = `52:54:${digest.slice(8, 16).match(/../g)!.join(':')}`;
  return { ...wanted, tap: `ht-${digest.slice(0, 8)}`, mac };
}

type Wanted =
  | { kind: 'none' }
  | { kind: 'bridge'; bridge: string }
  | { kind: 'direct'; network: string | undefined };

function parseNet(text: string): Wanted {
  const [, kind, value] = /^(none|bridge|direct)(?:=(.+))?$/.exec(text) ?? [];
  if (kind === 'none' && value === undefined) return { kind };
  if (kind === 'bridge') return { kind, bridge: value ?? 'br0' };
  if (kind === 'direct') return { kind, network: value };
  throw new HyperturtleError(
    'HT_USAGE',
    `--net: none, bridge[=NAME] or direct[=NETWORK] expected, '${text}' found`,
  );
}

function firstThere(exists: (file: string) => boolean, files: string[]): string {
  return files.find((f) => exists(f)) ?? files[0]!;
}

/** A command to copy: with the guest's memory where programs answer for it, and without what a run adds to watch it. */
async function print(shape: RunSpec, initrd: Buffer, directory: string | undefined): Promise<void> {
  const [{ runArguments }, { packDirectory }, fs, { createHash }] = await Promise.all([
    import('../../guest/run/spec.ts'),
    import('../../guest/run/image.ts'),
    import('node:fs'),
    import('node:crypto'),
  ]);
  const file = `${CACHE}/run-${createHash('sha256').update(initrd).digest('hex').slice(0, 16)}.cpio`;
  makeDirectory(CACHE);
  fs.writeFileSync(file, initrd);
  const root =
    directory === undefined ? shape.root : await packDirectory(directory, file.replace(/cpio$/, 'erofs'));
  const { net } = shape;
  const words = [shape.qemu, ...runArguments({ ...shape, root, initrd: file })].map((w) =>
    /^[\w@%+=:,./-]+$/.test(w) ? w : `'${w.replaceAll("'", "'\\''")}'`,
  );
  writeOut(`${words.join(' ')}\n`);
  if (net.kind === 'bridge') writeErr(`then: ip link set ${net.tap} master ${net.bridge} up\n`);
  if (net.kind === 'direct') writeErr("ADDRESS: of the device that 'hyperturtle nic add' prints\n");
}

/** What can be said to be missing before anything is started. */
async function prepare(shape: RunSpec, o: Options): Promise<void> {
  const [{ existsSync, statSync }, { kindOf }, { turtlefsMount }, { TURTLEFS_DIR }] = await Promise.all([
    import('node:fs'),
    import('../../core/files.ts'),
    import('../../guest/agent/vms.ts'),
    import('../../guest/vmm/arguments.ts'),
  ]);
  const kernel = statSync(shape.kernel, { throwIfNoEntry: false });
  if (kernel === undefined)
    throw new HyperturtleError('HT_NOT_FOUND', `kernel ${shape.kernel}: no such file: give one by --kernel`);
  if (!kernel.isFile())
    throw new HyperturtleError(
      'HT_USAGE',
      `kernel ${shape.kernel} is ${kindOf(kernel)}: give a file by --kernel`,
    );
  if (shape.ram === 'turtlefs' && (turtlefsMount() !== TURTLEFS_DIR || !existsSync(o.socket)))
    throw new HyperturtleError(
      'HT_UNAVAILABLE',
      `no turtlefs at ${TURTLEFS_DIR}, or no agent at ${o.socket}: start it (hyperturtle guest agent), or take --ram tmpfs, without acceleration`,
    );
  if (shape.net.kind === 'bridge' && !existsSync(`/sys/class/net/${shape.net.bridge}/bridge`))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `bridge ${shape.net.bridge}: this machine has none of that name: ip link add ${shape.net.bridge} type bridge`,
    );
}

async function start(
  shape: RunSpec,
  r: {
    id: string;
    initrd: Buffer;
    directory: string | undefined;
    pin: readonly number[];
    network: string | undefined;
  },
  o: Options,
): Promise<void> {
  const [{ runGuest }, { abortOnSignals }, fs, { exec }] = await Promise.all([
    import('../../guest/run/run.ts'),
    import('../../core/lifecycle.ts'),
    import('node:fs'),
    import('../../core/exec.ts'),
  ]);
  const events = o.events === undefined ? undefined : fs.openSync(o.events, 'a');
  const signals = abortOnSignals();
  const { signal } = signals;
  try {
    const direct = shape.net.kind === 'direct' ? await addNic(r.id, r.network, o) : undefined;
    const terminal =
      shape.console === 'terminal'
        ? (await exec('sh', ['-c', 'stty -g </dev/tty'], { signal })).stdout.toString('utf8').trim()
        : undefined;
    process.exitCode = await runGuest(direct === undefined ? shape : { ...shape, net: direct.net }, {
      id: r.id,
      initrd: r.initrd,
      directory: r.directory,
      pin: r.pin,
      agentSocket: o.socket,
      timeoutMs: o.timeoutS * 1000,
      signal,
      leftovers: {
        ...(direct === undefined ? {} : { nic: direct.left }),
        ...(terminal === undefined ? {} : { terminal }),
      },
      onEvent: (event: RunEvent) => {
        if (events !== undefined) fs.writeSync(events, `${JSON.stringify({ run: r.id, ...event })}\n`);
      },
    });
  } catch (e) {
    // for those who follow the steps and do not see this process
    if (events !== undefined)
      fs.writeSync(events, `${JSON.stringify({ run: r.id, event: 'error', message: messageOf(e) })}\n`);
    throw e;
  } finally {
    signals.dispose();
    if (events !== undefined) fs.closeSync(events);
  }
}

/** A NIC of the host's, bound to vfio-pci; given back by what undoes the run. */
async function addNic(
  id: string,
  network: string | undefined,
  o: Options,
): Promise<{ net: RunNet; left: { id: string; command: string[] } }> {
  const [nic, { nicHost }, { withAgent }] = await Promise.all([
    import('../../guest/nic/nic.ts'),
    import('../../client/nics.ts'),
    import('../../client/session.ts'),
  ]);
  const nicId = `run-${id}`.slice(0, 31);
  const made = await withAgent({ socket: o.socket, timeoutS: o.timeoutS }, (c: AgentClient) =>
    nic.addNic({ id: nicId, ...(network === undefined ? {} : { network }) }, 'vfio-pci', {
      host: nicHost(c),
      signal: c.signal,
    }),
  );
  if (made.address === null) throw new HyperturtleError('HT_KERNEL', `NIC ${nicId}: no PCI address`);
  const program = process.argv.slice(0, 2);
  return { net: { kind: 'direct', address: made.address }, left: { id: nicId, command: program } };
}
