/** What `hyperturtle kata install` writes for the Kata that was found. Pure, but for `isThere`. */
import path from 'node:path';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import type { FoundConfiguration, FoundKata } from './found.ts';
import { SEARCHED, shimOf } from './found.ts';
import { isForUs } from './settings.ts';
import type { Hypervisor, KataSettings } from './settings.ts';
import {
  DROP_IN_NAME,
  copyText,
  dropInText,
  launcherOf,
  launcherText,
  realOf,
  realProgram,
} from './texts.ts';
import { OLDEST, isAtLeast, noNicPlug } from './version.ts';
import type { KataVersion, NicPlug } from './version.ts';

export interface InstallSpec {
  /** The only configuration that is meant. */
  config: string | undefined;
  hypervisor: Hypervisor | undefined;
  nic: NicPlug | undefined;
  strict: boolean;
  /** Kata's configuration stays as it is: a copy, for a runtime of its own. */
  separate: boolean;
  command: readonly [node: string, script: string];
  /** Whether the machine has a file. */
  isThere: (file: string) => boolean;
}

export interface PlannedFile {
  path: string;
  text: string;
  mode: number;
}

/** A configuration after installation. */
export interface Target {
  /** What Kata reads. */
  config: string;
  /** What it was made of, or the same. */
  source: string;
  settings: KataSettings;
  kata: KataVersion;
  launcher: string;
}

export interface KataPlan {
  /** In the order in which they are written: nothing that Kata reads names what is not there. */
  files: readonly PlannedFile[];
  links: readonly { path: string; to: string }[];
  targets: readonly Target[];
  notes: readonly string[];
}

type ForUs = FoundConfiguration & { settings: KataSettings };

export function planInstall(kata: FoundKata, spec: InstallSpec): KataPlan {
  if (kata.shims.length === 0)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `no Kata on this machine: none of ${SEARCHED.shims.join(', ')} is there and tells its version`,
    );
  const { parts, notes } = planEach(kata, choose(kata, spec), spec);
  const taken = new Map<string, string>();
  for (const { target } of parts) {
    const before = taken.get(target.config);
    if (before !== undefined)
      throw new HyperturtleError(
        'HT_EXISTS',
        `${before} and ${target.source} would both be copied to ${target.config}: name one by --config`,
      );
    taken.set(target.config, target.source);
  }
  const files = new Map<string, PlannedFile>();
  for (const phase of ['launchers', 'copies', 'dropIns'] as const)
    for (const p of parts) for (const f of p[phase]) files.set(f.path, f);
  return {
    files: [...files.values()],
    links: parts.flatMap((p) => p.links),
    targets: parts.map((p) => p.target),
    notes: [...notes, ...parts.flatMap((p) => p.notes)],
  };
}

/** Configurations of VMMs that are not installed, as kata-deploy may leave, do not keep the others from being set up. */
function planEach(
  kata: FoundKata,
  chosen: readonly ForUs[],
  spec: InstallSpec,
): { parts: Part[]; notes: string[] } {
  const parts: Part[] = [];
  const missing: HyperturtleError[] = [];
  for (const c of chosen) {
    try {
      parts.push(planOne(kata, c, spec));
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
      missing.push(e);
    }
  }
  if (parts.length === 0 && missing[0] !== undefined) throw missing[0];
  return { parts, notes: missing.map((e) => `left out: ${e.message}`) };
}

/** Names that Kata's packages give to a hypervisor's plain configuration. */
const PLAIN: Readonly<Record<Hypervisor, readonly string[]>> = {
  qemu: ['qemu', 'qemu-runtime-rs'],
  clh: ['clh', 'cloud-hypervisor', 'clh-runtime-rs'],
  fc: ['fc', 'rs-fc'],
};

function choose({ configurations }: FoundKata, { config, hypervisor }: InstallSpec): ForUs[] {
  if (configurations.length === 0)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      config === undefined
        ? `no configuration of Kata: looked for ${SEARCHED.configurations.join(', ')}; --config names another`
        : `${config}: no such file: a configuration of Kata expected`,
    );
  const wanted = (c: FoundConfiguration): c is ForUs =>
    isForUs(c.settings) && (hypervisor === undefined || c.settings.hypervisor === hypervisor);
  const used = configurations.filter((c) => c.role !== 'beside');
  const found = used.filter(wanted);
  if (found.length > 0) return found;
  const plain = hypervisor === undefined ? [] : PLAIN[hypervisor].map((n) => `configuration-${n}.toml`);
  const beside = configurations.filter(wanted).filter((c) => plain.includes(path.basename(c.file)));
  if (beside.length > 0) return beside;
  const reasons = used.map(
    (c) => `${c.file}: ${isForUs(c.settings) ? c.settings.hypervisor : c.settings.why}`,
  );
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `no configuration of Kata with ${hypervisor ?? 'a hypervisor that is known'}: ${reasons.join('; ') || 'none is in use'}`,
  );
}

interface Part {
  launchers: PlannedFile[];
  copies: PlannedFile[];
  dropIns: PlannedFile[];
  links: { path: string; to: string }[];
  target: Target;
  notes: string[];
}

function planOne(kata: FoundKata, c: ForUs, spec: InstallSpec): Part {
  const { settings: s } = c;
  const version = checkedVersion(kata, c);
  const real = checkedProgram(c, spec);
  checkNic(c, version, spec.nic);
  const launcher: PlannedFile = {
    path: launcherOf(real),
    text: launcherText({ hypervisor: s.hypervisor, real, command: spec.command, strict: spec.strict }),
    mode: 0o755,
  };
  const inCopy = spec.separate || c.others.length > 0;
  const dir = inCopy ? copyDir(s) : path.dirname(c.file);
  const config = inCopy ? `${dir}/configuration.toml` : c.file;
  const named = `Kata ${version.text} (${s.flavor === 'go' ? 'Go' : 'runtime-rs'})`;
  const plain = (at: string, text: string): PlannedFile => ({ path: at, text, mode: 0o644 });
  const part: Part = {
    launchers: [launcher],
    copies: inCopy
      ? [
          ...c.dropIns.map((d) =>
            plain(`${dir}/config.d/${path.basename(d.file)}`, copyText(d.file, d.text)),
          ),
          plain(config, copyText(c.file, c.text)),
        ]
      : [],
    dropIns: [plain(`${dir}/config.d/${DROP_IN_NAME}`, dropInText(s, spec.nic, named))],
    links: [],
    target: { config, source: c.file, settings: s, kata: version, launcher: launcher.path },
    notes: s.warnings.map((w) => `${c.file}: ${w}`),
  };
  if (inCopy) placeCopy(part, c, spec);
  return part;
}

/** A copy is read when the default leads to it, or when the container runtime names it. */
function placeCopy(part: Part, c: ForUs, spec: InstallSpec): void {
  const { config } = part.target;
  const link = `/etc/kata-containers/${c.settings.flavor === 'rs' ? 'runtime-rs/' : ''}configuration.toml`;
  if (c.others.length > 0 && !spec.separate)
    part.notes.push(
      `${c.file}: ${c.others.length} more configurations would read a drop-in beside it, so ${config} is a copy of it`,
    );
  if (c.role === 'default' && !spec.separate && (c.copied || !spec.isThere(link)))
    part.links.push({ path: link, to: config });
  part.notes.push(`a runtime of containerd that has a ConfigPath is to have ConfigPath = "${config}"`);
}

const copyDir = (s: KataSettings): string =>
  `/etc/kata-containers/hyperturtle-${s.hypervisor}${s.flavor === 'rs' ? '-rs' : ''}`;

function checkedVersion(kata: FoundKata, c: ForUs): KataVersion {
  const shim = shimOf(kata, c);
  const [major = 3, minor = 2] = OLDEST.split('.').map(Number);
  if (shim !== undefined && isAtLeast(shim.version, major, minor)) return shim.version;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    `${shim?.file ?? 'Kata'} is version ${shim?.version.text ?? 'unknown'}: ${OLDEST} or newer expected`,
  );
}

function checkedProgram(c: ForUs, { isThere }: InstallSpec): string {
  const real = realProgram(c.settings);
  const fail = (what: string): never => {
    throw new HyperturtleError('HT_CONFIG', `${c.file}: ${what}`);
  };
  if (real === undefined) return fail(`no 'path' in [hypervisor.${c.settings.table}]: name the VMM there`);
  if (!path.isAbsolute(real) || path.normalize(real) !== real || /[\n\0]/.test(real))
    return fail(`'${real}' is the VMM there: an absolute path without '..' expected`);
  if (realOf(real) !== undefined)
    return fail(`'${real}' is a launcher of hyperturtle already: name the VMM itself there`);
  if (!isThere(real)) throw new HyperturtleError('HT_NOT_FOUND', `${c.file}: its VMM '${real}' is not there`);
  return real;
}

function checkNic({ file, settings: s }: ForUs, version: KataVersion, nic: NicPlug | undefined): void {
  if (nic === undefined) return;
  const why = noNicPlug(nic, s.hypervisor, s.flavor, version);
  if (why !== undefined)
    throw new HyperturtleError('HT_UNSUPPORTED', `${file}, Kata ${version.text}: ${why}`);
  const [other, is] = nic === 'hot' ? (['cold', s.coldPlug] as const) : (['hot', s.hotPlug] as const);
  if (is !== 'no-port')
    throw new HyperturtleError(
      'HT_CONFIG',
      `${file}: ${other}_plug_vfio is '${is}': Kata takes only one of the two, so that has to be 'no-port' first`,
    );
  if (s.hypervisor === 'qemu' && s.machine !== 'q35')
    throw new HyperturtleError('HT_CONFIG', `${file}: machine_type is '${s.machine}': root ports need 'q35'`);
}
