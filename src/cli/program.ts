/** The commands of `hyperturtle`, in the order and the groups in which help lists them. */
import { Command } from 'commander';
import { writeErr, writeOut } from '../core/output.ts';
import { HELP_STYLE } from './shared/help.ts';

/** What registering a command may need besides its parent. */
interface Context {
  version: string;
  /** The program with all commands, for texts that are made of them. */
  whole: () => Promise<Command>;
  /** Manual pages and completion, below /usr/share or /usr/local/share. */
  texts: (share: string) => Promise<ReadonlyMap<string, string>>;
}

/** Commands of one module, which is loaded when one of them is asked for. */
interface Room {
  /** Heading in help, from this room on. */
  heading?: string;
  /** The command that these are sub-commands of; default: the program itself. */
  under?: Parent;
  commands: readonly string[];
  add: (parent: Command, context: Context) => Promise<unknown>;
}

const PARENTS = {
  host: 'the host hypervisor (L0): programs for its VMs',
  guest: 'the guest hypervisor (L1): its nested guests and pools',
} as const;
type Parent = keyof typeof PARENTS;

const TRY: readonly Room[] = [
  {
    heading: 'Try and measure it:',
    commands: ['demo'],
    add: async (to, { version }) => (await import('./bench/demo.ts')).register(to, version),
  },
  {
    commands: ['bench'],
    add: async (to, { version }) => (await import('./bench/command.ts')).register(to, version),
  },
  { commands: ['lab'], add: async (to) => (await import('./lab/command.ts')).register(to) },
  { commands: ['fuzz'], add: async (to) => (await import('./fuzz/command.ts')).registerFuzz(to) },
];

const PROGRAMS: readonly Room[] = [
  {
    heading: 'Programs of this guest hypervisor (L1) in its host:',
    commands: ['load', 'replace', 'link', 'unlink', 'unload', 'list', 'stats', 'limits'],
    add: async (to) => (await import('./objects/command.ts')).registerObjects(to),
  },
  { commands: ['map'], add: async (to) => (await import('./maps/command.ts')).registerMaps(to) },
  { commands: ['call'], add: async (to) => (await import('./call/command.ts')).registerCall(to) },
  { commands: ['events'], add: async (to) => (await import('./events/command.ts')).registerEvents(to) },
  { commands: ['top'], add: async (to) => (await import('./top/command.ts')).registerTop(to) },
  { commands: ['exits'], add: async (to) => (await import('./exits/command.ts')).registerExits(to) },
  { commands: ['profile'], add: async (to) => (await import('./profile/command.ts')).registerProfile(to) },
];

const NICS: readonly Room[] = [
  {
    heading: 'NICs of this machine from its host, and programs on them:',
    commands: ['nic'],
    add: async (to) => (await import('./nic/command.ts')).registerNic(to),
  },
  {
    commands: ['enable', 'disable'],
    add: async (to) => (await import('./net/command.ts')).registerNetworkPrograms(to),
  },
  { commands: ['firewall'], add: async (to) => (await import('./net/firewall.ts')).registerFirewall(to) },
  {
    commands: ['rate-limit', 'tcptop', 'packet-counter'],
    add: async (to) => (await import('./net/traffic.ts')).registerTraffic(to),
  },
];

const HOST: readonly Room[] = [
  {
    heading: 'By hand, for a VM that no daemon has:',
    under: 'host',
    commands: ['attach', 'stats', 'pin', 'run'],
    add: async (to) => (await import('./host/command.ts')).registerByHand(to),
  },
  {
    under: 'host',
    commands: ['profile'],
    add: async (to) => (await import('./host/profile.ts')).registerHostProfile(to),
  },
  {
    heading: 'The daemon and its VMs:',
    under: 'host',
    commands: ['vm', 'daemon', 'status', 'health', 'reload', 'doctor', 'args', 'nics'],
    add: async (to, { version }) => (await import('./host/daemon.ts')).registerHostDaemon(to, version),
  },
  {
    heading: 'A VM that is moved, with its nested guests running:',
    under: 'host',
    commands: ['quiesce', 'resume', 'migrate', 'save', 'restore', 'cancel'],
    add: async (to) => (await import('./host/move.ts')).registerMoves(to),
  },
  {
    under: 'host',
    commands: ['libvirt'],
    add: async (to) => (await import('./host/libvirt.ts')).registerLibvirt(to),
  },
  {
    under: 'host',
    commands: ['kubevirt'],
    add: async (to) => (await import('./host/kubevirt.ts')).registerKubevirt(to),
  },
  {
    under: 'host',
    commands: ['dashboard'],
    add: async (to) => (await import('./host/dashboard.ts')).registerDashboard(to),
  },
  {
    heading: 'Installation:',
    under: 'host',
    commands: ['install', 'uninstall'],
    add: async (to, { version, texts }) =>
      (await import('./install/command.ts')).registerInstall(to, 'host', version, texts),
  },
  {
    under: 'host',
    commands: ['packages'],
    add: async (to, { version, texts }) =>
      (await import('./install/packages.ts')).registerPackages(to, version, texts),
  },
];

const GUEST: readonly Room[] = [
  {
    heading: 'The kernel module, without the agent:',
    under: 'guest',
    commands: ['status', 'set', 'register'],
    add: async (to) => (await import('./guest/command.ts')).registerModule(to),
  },
  {
    under: 'guest',
    commands: ['l2'],
    add: async (to) => (await import('./guest/l2.ts')).registerL2Commands(to),
  },
  {
    heading: 'The agent:',
    under: 'guest',
    commands: ['agent', 'desired', 'reload', 'forget', 'release'],
    add: async (to, { version }) => (await import('./guest/agent.ts')).registerAgent(to, version),
  },
  {
    heading: 'Installation:',
    under: 'guest',
    commands: ['install', 'uninstall'],
    add: async (to, { version, texts }) =>
      (await import('./install/command.ts')).registerInstall(to, 'guest', version, texts),
  },
];

/** @public test/unit/cli/program.test.ts */
export const ROOMS: readonly Room[] = [
  ...TRY,
  ...PROGRAMS,
  ...NICS,
  {
    heading: 'Nested guests of this machine:',
    commands: ['run'],
    add: async (to) => (await import('./run/command.ts')).registerRun(to),
  },
  { commands: ['vmm'], add: async (to) => (await import('./vmm/command.ts')).registerVmm(to) },
  {
    commands: ['kata'],
    add: async (to, { version }) => (await import('./kata/command.ts')).registerKata(to, version),
  },
  {
    commands: ['kubernetes'],
    add: async (to, { version }) => (await import('./kubernetes/command.ts')).registerKubernetes(to, version),
  },
  {
    heading: 'Objects, anywhere:',
    commands: ['check'],
    add: async (to) => (await import('./check/command.ts')).registerCheck(to),
  },
  {
    commands: ['keygen', 'sign', 'verify'],
    add: async (to) => (await import('./keys/command.ts')).registerKeys(to),
  },
  {
    heading: 'Set up and look after:',
    commands: ['config'],
    add: async (to) => (await import('./config/command.ts')).registerConfig(to),
  },
  { commands: ['metrics'], add: async (to) => (await import('./metrics/command.ts')).registerMetrics(to) },
  ...HOST,
  ...GUEST,
  { commands: ['status'], add: async (to) => (await import('./guest/status.ts')).registerStatus(to) },
  { commands: ['doctor'], add: async (to) => (await import('./doctor/command.ts')).registerDoctor(to) },
  {
    commands: ['completion'],
    add: async (to, { whole }) => (await import('./docs/completion.ts')).registerCompletion(to, whole),
  },
];

/** Options that no command is needed for. */
const VERSION = ['-V', '--version'];

/** The rooms that a command line needs: one for a command, those of `host` or `guest`, or all for help and typing errors. */
function roomsFor([first, second]: readonly string[]): readonly Room[] {
  if (first !== undefined && VERSION.includes(first)) return [];
  const named = ROOMS.filter((r) => r.under === undefined && r.commands.includes(first ?? ''));
  if (named.length > 0) return named;
  const under = ROOMS.filter((r) => r.under === first);
  const sub = under.filter((r) => r.commands.includes(second ?? ''));
  if (sub.length > 0) return sub;
  return first !== undefined && under.length > 0 ? under : ROOMS;
}

/** `words`: of the command line; without any the program has all commands. */
export async function createProgram(version: string, words: readonly string[] = []): Promise<Command> {
  const program = emptyProgram(version);
  const whole = (): Promise<Command> => createProgram(version);
  const context: Context = { version, whole, texts: async (share) => installedTexts(await whole(), share) };
  const parents = new Map<Parent, Command>();
  const parent = (name: Parent): Command => {
    const made = parents.get(name) ?? program.command(name).description(PARENTS[name]);
    parents.set(name, made);
    return made;
  };
  for (const { heading, under, add } of roomsFor(words)) {
    const to = under === undefined ? program : parent(under);
    if (heading !== undefined) to.commandsGroup(heading);
    await add(to, context);
  }
  return program;
}

function emptyProgram(version: string): Command {
  return new Command('hyperturtle')
    .description(
      'Fast nested virtualization on stock kernels: small verified eBPF programs of a guest hypervisor, run by its host.',
    )
    .version(version)
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({
      writeOut,
      writeErr,
      // one line, as all errors are
      outputError: (text, write) =>
        write(
          `${text
            .trim()
            .replace(/^error/, 'hyperturtle')
            .replace(/\s*\n\s*/g, ' ')}; --help lists what there is\n`,
        ),
    })
    .configureHelp(HELP_STYLE)
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle demo                       see it work, on emulated machines, without root
  hyperturtle load npf.bpf.o --link      in an L1: have the host answer nested page faults with it
  hyperturtle top                        what it does, live
  hyperturtle doctor                     what is missing, and how to fix it
Every command has --help; most have --json. Exit statuses: docs/reference.md.`,
    );
}

async function installedTexts(program: Command, share: string): Promise<Map<string, string>> {
  const [{ manPages }, { completionScript }] = await Promise.all([
    import('./docs/man.ts'),
    import('./docs/completion.ts'),
  ]);
  const pages = Array.from(manPages(program), ([name, text]) => [`${share}/man/${name}`, text] as const);
  const completion = completionScript(program, 'bash');
  return new Map([...pages, [`${share}/bash-completion/completions/hyperturtle`, completion]]);
}
