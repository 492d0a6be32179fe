/** Files that `hyperturtle kata install` writes, as texts. Pure. */
import { stringify } from 'smol-toml';
import type { TomlTable } from 'smol-toml';
import { PLACES } from '../../core/default-paths.ts';
import type { Hypervisor, KataSettings } from './settings.ts';
import type { NicPlug } from './version.ts';

/** Programs that Kata starts in place of VMMs: below it each has the VMM's own path, and so its name. */
const LAUNCHERS_DIR = PLACES.launchers.path;

/** Kata's readers take every file there, so that nothing half-written may ever be in it. */
export const DROP_IN_NAME = '80-hyperturtle.toml';

/** Part of the first lines of each file: without it a file is somebody else's. */
export const MARK = "Made by 'hyperturtle kata install'";

export const launcherOf = (real: string): string => `${LAUNCHERS_DIR}${real}`;

/** The VMM behind a launcher; undefined when it is none. */
export const realOf = (path: string): string | undefined =>
  path.startsWith(`${LAUNCHERS_DIR}/`) ? path.slice(LAUNCHERS_DIR.length) : undefined;

export interface LauncherSpec {
  hypervisor: Hypervisor;
  /** The VMM, or the jailer that starts it. */
  real: string;
  /** This program: Node.js and the script that it runs. */
  command: readonly [node: string, script: string];
  /** A pod fails rather than run without acceleration. */
  strict: boolean;
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * A script, as Kata resolves symbolic links and so would execute what one names. Whatever is missing around it, it ends in
 * the VMM itself: a pod never fails for it, unless that is asked for.
 */
export function launcherText({ hypervisor, real, command: [node, script], strict }: LauncherSpec): string {
  const options = launchOptions(hypervisor, strict);
  const missing = 'hyperturtle is not there any more, and its launcher is';
  const otherwise = strict
    ? `echo ${quoted(`hyperturtle vmm: ${missing}`)} >&2\nexit 127\n`
    : `text="$real is started without acceleration: ${missing}"
echo "hyperturtle vmm: $text" >&2
logger -t hyperturtle-vmm -p daemon.warning -- "$text" 2>/dev/null
exec "$real" "$@"
`;
  return `#!/bin/sh
# ${MARK}; 'hyperturtle kata uninstall' removes it.
# Kata starts this as its hypervisor. It becomes the VMM below, with its guest's memory on turtlefs.
real=${quoted(real)}
node=${quoted(node)}
script=${quoted(script)}
case "$#:\${1-}" in
1:--version | 1:-version | 1:-V | 1:--help | 1:-h | 1:-help) exec "$real" "$@" ;;
esac
if [ -x "$node" ] && [ -r "$script" ]; then
  exec "$node" "$script" vmm ${options.join(' ')} -- "$real" "$@"
fi
${otherwise}`;
}

/** Options of `hyperturtle vmm`. QEMU has a name by Kata, and RAM that is a file of /dev/shm when virtiofsd is to see it. */
export const launchOptions = (hypervisor: Hypervisor, strict: boolean): string[] => [
  '--syslog',
  ...(strict ? [] : ['--or-plain']),
  ...(hypervisor === 'qemu' ? ['--over', '/dev/shm'] : ['--name-from-id']),
];

/** A NIC's root ports: as many as `hyperturtle config` has always asked for, when there are fewer. */
const ROOT_PORTS = 2;

/** What is set, for a configuration that was read without our own drop-in. */
export function dropInValues(s: KataSettings, nic: NicPlug | undefined): TomlTable {
  const values: TomlTable = {};
  if (s.hypervisor === 'fc' && s.jailer !== '') {
    // the jailer copies the file that `path` names into the guest's root directory: it must be Firecracker itself
    values['jailer_path'] = launcherOf(s.jailer);
    values['valid_jailer_paths'] = withLauncher(s.validJailers, s.jailer);
  } else if (s.path !== undefined) {
    values['path'] = launcherOf(s.path);
    values['valid_hypervisor_paths'] = withLauncher(s.validPaths, s.path);
  }
  if (nic !== undefined) {
    values[nic === 'hot' ? 'hot_plug_vfio' : 'cold_plug_vfio'] = 'root-port';
    values['pcie_root_port'] = Math.max(s.rootPorts, ROOT_PORTS);
  }
  return values;
}

/** The list replaces the one before, whose patterns stay allowed. */
const withLauncher = (valid: readonly string[], real: string): string[] => [
  ...new Set([launcherOf(real), ...(valid.length > 0 ? valid : [real])]),
];

/** The program that Kata is to start through us. */
export const realProgram = (s: KataSettings): string | undefined =>
  s.hypervisor === 'fc' && s.jailer !== '' ? s.jailer : s.path;

export function dropInText(s: KataSettings, nic: NicPlug | undefined, kata: string): string {
  const body = stringify({ hypervisor: { [s.table]: dropInValues(s, nic) } });
  return `# ${MARK} for ${kata}; 'hyperturtle kata uninstall' removes it.
# The program starts ${realProgram(s) ?? ''} with its guest's memory on turtlefs.
${body}`;
}

/** A configuration that is copied to a directory of its own. */
export function copyText(source: string, text: string): string {
  return `# ${MARK}: a copy of ${source}; 'hyperturtle kata uninstall' removes it.
# What differs is in config.d/${DROP_IN_NAME}. Where the original changes, install again.
${text}`;
}
