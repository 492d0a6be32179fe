#!/usr/bin/env node
/** The `hyperturtle` command. Each file beside this one adds its own sub-commands in `register()`. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { codeFile } from '../core/code-file.ts';
import { exitStatus, isHyperturtleError } from '../core/errors.ts';
import { asFileError } from '../core/files.ts';
import { guardOutput, writeErr, writeOut } from '../core/output.ts';
import { runMain } from '../core/start.ts';
import { registerAgent } from './guest/agent.ts';
import { register as registerBench } from './bench/command.ts';
import { registerCheck } from './check/command.ts';
import { completionScript, registerCompletion } from './docs/completion.ts';
import { registerConfig } from './config/command.ts';
import { register as registerDemo } from './bench/demo.ts';
import { registerDoctor } from './doctor/command.ts';
import { register as registerGuest } from './guest/command.ts';
import { registerL2Commands } from './guest/l2.ts';
import { register as registerHost } from './host/command.ts';
import { registerInstall } from './install/command.ts';
import { manPages } from './docs/man.ts';
import { registerPackages } from './install/packages.ts';
import { registerFuzz } from './fuzz/command.ts';
import { registerHostDaemon } from './host/daemon.ts';
import { registerDashboard } from './host/dashboard.ts';
import { registerHostProfile } from './host/profile.ts';
import { registerKeys } from './keys/command.ts';
import { HELP_STYLE } from './shared/help.ts';
import { errorText } from './shared/error-text.ts';
import { registerEvents } from './events/command.ts';
import { registerExits } from './exits/command.ts';
import { registerFirewall } from './net/firewall.ts';
import { registerMaps } from './maps/command.ts';
import { registerNetworkPrograms } from './net/command.ts';
import { registerObjects } from './objects/command.ts';
import { registerProfile } from './profile/command.ts';
import { registerTraffic } from './net/traffic.ts';
import { register as registerLab } from './lab/command.ts';
import { registerNic } from './nic/command.ts';
import { registerRun } from './run/command.ts';
import { registerTop } from './top/command.ts';

function version(): string {
  // beside dist/ in a package, and in the payload of a lab
  const text = readFileSync(codeFile('../../package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export function createProgram(): Command {
  const program = new Command('hyperturtle')
    .description(
      'Fast nested virtualization on stock kernels: small verified eBPF programs of a guest hypervisor, run by its host.',
    )
    .version(version())
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
    .configureHelp(HELP_STYLE);
  registerAll(program);
  return program.addHelpText(
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

/** Every command, in the order and the groups in which help lists them. */
function registerAll(program: Command): void {
  program.commandsGroup('Try and measure it:');
  registerDemo(program, version());
  registerBench(program, version());
  registerLab(program);
  registerFuzz(program);
  program.commandsGroup('Programs of this guest hypervisor (L1) in its host:');
  registerObjects(program);
  registerMaps(program);
  registerEvents(program);
  registerTop(program);
  registerExits(program);
  registerProfile(program);
  program.commandsGroup('NICs of this machine from its host, and programs on them:');
  registerNic(program);
  registerNetworkPrograms(program);
  registerFirewall(program);
  registerTraffic(program);
  program.commandsGroup('Nested guests of this machine:');
  registerRun(program);
  program.commandsGroup('Objects, anywhere:');
  registerCheck(program);
  registerKeys(program);
  program.commandsGroup('Set up and look after:');
  registerConfig(program);
  registerLevels(program);
  registerDoctor(program);
  registerCompletion(program);
}

/** `host` and `guest`: both levels' own commands, and their installation. */
function registerLevels(program: Command): void {
  const host = registerHost(program);
  registerHostProfile(host);
  host.commandsGroup('The daemon and its VMs:');
  registerHostDaemon(host, version());
  registerDashboard(host);
  const guest = registerGuest(program);
  registerL2Commands(guest);
  guest.commandsGroup('The agent:');
  registerAgent(program, guest, version());
  const texts = (share: string): ReadonlyMap<string, string> => installedTexts(program, share);
  host.commandsGroup('Installation:');
  registerInstall(host, 'host', version(), texts);
  guest.commandsGroup('Installation:');
  registerInstall(guest, 'guest', version(), texts);
  registerPackages(host, version(), texts);
}

/** Manual pages and completion, below /usr/share or /usr/local/share. */
function installedTexts(program: Command, share: string): Map<string, string> {
  const pages = Array.from(manPages(program), ([name, text]) => [`${share}/man/${name}`, text] as const);
  const completion = completionScript(program, 'bash');
  return new Map([...pages, [`${share}/bash-completion/completions/hyperturtle`, completion]]);
}

async function main(): Promise<void> {
  guardOutput('hyperturtle');
  try {
    await createProgram().parseAsync();
  } catch (e) {
    if (e instanceof CommanderError) {
      // help and version end this way too; commander has printed what there is to say
      process.exitCode = e.exitCode === 0 ? 0 : 2;
      return;
    }
    const expected = asFileError(e) ?? e;
    writeErr(errorText(expected));
    process.exitCode = exitStatus(expected);
    // what an interrupted command still waits for is no reason to stay
    if (isHyperturtleError(expected, 'HT_INTERRUPTED')) setTimeout(() => process.exit(), 1000).unref();
  }
}

runMain(main);
