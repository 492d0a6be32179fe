/**
 * What a host's libvirt gets, as data: a hook script, and blocks of lines in files of others. Each block stands between two
 * lines that say whose it is; taking it out gives the file back as it was, to the byte.
 */
import { isMap, parseDocument } from 'yaml';
import { HyperturtleError } from '../../core/errors.ts';

const HOOK = '/etc/libvirt/hooks/qemu.d/hyperturtle';
export const QEMU_CONF = '/etc/libvirt/qemu.conf';
/** Debian's profile of QEMU includes it, for administrators. */
const APPARMOR_LOCAL = '/etc/apparmor.d/local/abstractions/libvirt-qemu';
const APPARMOR = '/etc/apparmor.d/abstractions/libvirt-qemu';

/** Arenas that QEMU may open: one for each VM that the daemon serves at a time. The host module has 1024. */
const ARENAS = 256;
/** As libvirt 9.0 has it where qemu.conf says nothing. */
const DEFAULT_ACL = ['null', 'full', 'zero', 'random', 'urandom', 'ptmx', 'kvm'].map((d) => `/dev/${d}`);
/** libvirt waits for its hook scripts without a deadline: this is ours, in seconds. */
const HOOK_S = 4;

interface HostFile {
  path: string;
  mode: number;
  /** Undefined: the file is to go. */
  text: string | undefined;
}

export interface HostPlan {
  /** Those that differ from what there is. */
  files: HostFile[];
  /** What the administrator has to do or to know. */
  notes: string[];
}

/** What stands there now; undefined: nothing. */
export type ReadText = (file: string) => string | undefined;

export interface HostPlanOptions {
  /** The daemon's configuration. */
  config: string;
  /** As `host.yaml` has it. */
  uri: string;
  owner: string;
  /** The command line that is this program: `[/usr/bin/node, .../main.js]`. */
  command: readonly string[];
}

/** The hook script: it ends well whatever happens, and starts nothing for domains of others. */
export function hookScript(command: readonly string[]): string {
  return `#!/bin/sh
# Tells HyperTurtle's daemon of domains that it serves (made by 'hyperturtle host libvirt enable').
# A domain never fails to start for it: it always ends with status 0, after ${HOOK_S} seconds at most.
exec >/dev/null 2>&1
case "$2" in prepare|started|stopped|release|reconnect) ;; *) exit 0 ;; esac
xml=$(cat)
case "$xml" in *urn:hyperturtle:vm:1*) ;; *) exit 0 ;; esac
tell() { printf '%s\\n' "$xml" | timeout -s KILL ${HOOK_S} ${command.map(quoted).join(' ')} host libvirt hook "$1"; }
# before a start libvirt has to wait for the arena; of the rest it needs no answer
if [ "$2" = prepare ]; then tell "$2"; else tell "$2" & fi
exit 0
`;
}

const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;

export function planEnable(read: ReadText, o: HostPlanOptions): HostPlan {
  const plan: HostPlan = { files: [], notes: [] };
  change(plan, read, { path: HOOK, mode: 0o755, text: hookScript(o.command) });
  planAcl(plan, read);
  planApparmor(plan, read);
  planConfig(plan, read, o);
  return plan;
}

/** Everything as it was before. */
export function planDisable(read: ReadText, config: string): HostPlan {
  const plan: HostPlan = { files: [], notes: [] };
  if (read(HOOK) !== undefined) plan.files.push({ path: HOOK, mode: 0o755, text: undefined });
  for (const file of [QEMU_CONF, APPARMOR_LOCAL, config]) {
    const text = read(file);
    if (text !== undefined) change(plan, read, { path: file, mode: 0o644, text: withoutBlock(text) });
  }
  return plan;
}

function change(plan: HostPlan, read: ReadText, file: HostFile): void {
  if (read(file.path) !== file.text) plan.files.push(file);
}

/** QEMU sees and may use devices of this list alone: those that exist when its domain starts. */
function planAcl(plan: HostPlan, read: ReadText): void {
  const text = read(QEMU_CONF);
  const rest = withoutBlock(text ?? '');
  if (/^[ \t]*cgroup_device_acl[ \t]*=/m.test(rest)) {
    const missing = arenas().filter((d) => !rest.includes(`"${d}"`));
    if (missing.length > 0)
      plan.notes.push(
        `${QEMU_CONF} has a cgroup_device_acl of yours: add "${missing[0]}" and so on up to "${missing.at(-1)}" to it`,
      );
    return;
  }
  // what the file shows as the default is that of this libvirt
  const shown = /^#cgroup_device_acl = \[([^\]]*)\]/m.exec(rest)?.[1] ?? '';
  const defaults = [...shown.matchAll(/"([^"]+)"/g)].map((m) => m[1] ?? '');
  const all = [...(defaults.length > 0 ? defaults : DEFAULT_ACL), ...arenas()];
  const acl = `cgroup_device_acl = [\n${all.map((d) => `  "${d}"`).join(',\n')}\n]`;
  change(plan, read, { path: QEMU_CONF, mode: 0o600, text: withBlock(text ?? '', acl) });
}

const arenas = (): string[] => Array.from({ length: ARENAS }, (_, n) => `/dev/hyperturtle-arena${n}`);

function planApparmor(plan: HostPlan, read: ReadText): void {
  const profile = read(APPARMOR);
  if (profile === undefined) return;
  if (!/include (if exists )?<local\/abstractions\/libvirt-qemu>/.test(profile)) {
    plan.notes.push(`${APPARMOR} does not include ${APPARMOR_LOCAL}: add to it what stands there`);
  }
  const rules = ['/dev/hyperturtle-arena[0-9]* rw,', '/var/lib/libvirt/qemu/hyperturtle-*.qmp rw,'];
  const text = read(APPARMOR_LOCAL) ?? '';
  change(plan, read, { path: APPARMOR_LOCAL, mode: 0o644, text: withBlock(text, rules.join('\n')) });
}

function planConfig(plan: HostPlan, read: ReadText, { config, uri, owner }: HostPlanOptions): void {
  const text = read(config) ?? '';
  const rest = withoutBlock(text);
  const top = parseDocument(rest).contents;
  if (isMap(top) && top.has('libvirt')) return;
  if (isMap(top) && top.flow === true)
    throw new HyperturtleError(
      'HT_USAGE',
      `${config} is written with braces: add "libvirt": {"uri": "${uri}", "owner": "${owner}"} to it, then run this again`,
    );
  change(plan, read, {
    path: config,
    mode: 0o644,
    text: withBlock(text, `libvirt: {uri: '${uri}', owner: '${owner}'}`),
  });
}

const BEGIN = "# begin hyperturtle: 'hyperturtle host libvirt disable' takes these lines out";
/** The same where the last line of the file had no end. */
const BEGIN_JOINED = `${BEGIN}, and the end of the line before`;
const END = '# end hyperturtle';
const BLOCK = new RegExp(`(\\n?)^${BEGIN}(, and the end of the line before)?\\n[^]*?^${END}\\n`, 'm');

/** The text with exactly this block. */
export function withBlock(text: string, lines: string): string {
  const rest = withoutBlock(text);
  const joined = rest !== '' && !rest.endsWith('\n');
  return `${rest}${joined ? '\n' : ''}${joined ? BEGIN_JOINED : BEGIN}\n${lines}\n${END}\n`;
}

export function withoutBlock(text: string): string {
  return text.replace(BLOCK, (_, newline: string, joined: string | undefined) => (joined ? '' : newline));
}

/** QEMU's user by libvirt's configuration; undefined: its own default. */
export const userOf = (qemuConf: string | undefined): string | undefined =>
  /^[ \t]*user[ \t]*=[ \t]*"([^"]+)"/m.exec(qemuConf ?? '')?.[1];
