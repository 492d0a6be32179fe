/**
 * apt with directories of our own: the host's sources, keys, proxy and pins are used, signatures are checked,
 * and nothing of the host is changed. Works as root and as an ordinary user. Owns `apt/` and `debs/` of the cache.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { exec } from '../core/exec.ts';
import type { ExecResult } from '../core/exec.ts';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';

export interface DebRecord {
  name: string;
  version: string;
  /** File name inside `debs/`. */
  file: string;
  bytes: number;
  sha256: string;
}

/**
 * Packages that others depend on but that none of our programs runs (maintainer scripts, boot set-up of a real
 * machine): apt is told that they are there, so it does not fetch them.
 */
const ASSUMED = [
  ...[
    'adduser',
    'coreutils',
    'cpio',
    'debconf',
    'dpkg',
    'init-system-helpers',
    'initramfs-tools',
    'iso-codes',
  ],
  ...['libpam-modules', 'linux-base', 'lsb-base', 'mount', 'passwd', 'perl', 'perl-base', 'systemd'],
  ...['sysvinit-utils', 'tar', 'udev', 'usr-is-merged', 'util-linux'],
];

/** Debian of another release than the machine's, as apt shall see it. */
export interface AptRelease {
  codename: string;
  /** A sources file in deb822 format. */
  sources: string;
}

/** Where packages are to go: into trees of tools, which lack what ASSUMED names, or into a root file system of its own. */
export type AptPurpose = 'tools' | 'root';

/** Status of setpriv where there is no such program. */
const NO_PROGRAM = 127;

export class Apt {
  readonly #dir: string;
  readonly debsDir: string;
  readonly #signal: AbortSignal | undefined;
  readonly #purpose: AptPurpose;
  readonly #release: AptRelease | undefined;

  /**
   * Two processes must not use one directory at once: the caller holds a lock. `release`: in place of the machine's
   * sources and pins, which are about its own release.
   */
  constructor(cacheRoot: string, signal?: AbortSignal, purpose: AptPurpose = 'tools', release?: AptRelease) {
    this.#dir = path.join(cacheRoot, release === undefined ? 'apt' : `apt-${release.codename}`);
    this.debsDir = path.join(cacheRoot, 'debs');
    this.#signal = signal;
    this.#purpose = purpose;
    this.#release = release;
  }

  /** Both purposes share lists and archives; only what counts as installed differs. */
  get #names(): { conf: string; status: string } {
    return this.#purpose === 'tools'
      ? { conf: 'apt.conf', status: 'dpkg/status' }
      : { conf: 'apt-root.conf', status: 'dpkg/status-root' };
  }

  get #conf(): string {
    return path.join(this.#dir, this.#names.conf);
  }

  async #prepare(): Promise<void> {
    for (const d of ['lists/partial', 'state', 'cache/archives/partial', 'plan/partial', 'dpkg', 'log'])
      await mkdir(path.join(this.#dir, d), { recursive: true });
    await mkdir(this.debsDir, { recursive: true });
    const assumed = this.#purpose === 'tools' ? ASSUMED : [];
    await writeFile(path.join(this.#dir, this.#names.status), assumed.map(assumedEntry).join(''));
    if (this.#release !== undefined)
      await writeFile(path.join(this.#dir, 'debian.sources'), this.#release.sources);
    await writeFile(this.#conf, this.#config());
  }

  #config(): string {
    const d = this.#dir;
    // hooks of the host would touch the host (docker images delete archives, desktops rebuild indexes)
    const hooks = ['APT::Update::Pre-Invoke', 'APT::Update::Post-Invoke', 'APT::Update::Post-Invoke-Success'];
    const dpkgHooks = ['DPkg::Pre-Install-Pkgs', 'DPkg::Pre-Invoke', 'DPkg::Post-Invoke'];
    return [
      ...[...hooks, ...dpkgHooks, 'APT::Architectures'].map((h) => `#clear ${h};`),
      'APT::Architecture "amd64";',
      'APT::Architectures { "amd64"; };',
      // root's cache is not readable for the user _apt, which apt would change to
      'APT::Sandbox::User "root";',
      'APT::Install-Recommends "false";',
      'APT::Install-Suggests "false";',
      'Acquire::Languages "none";',
      'Acquire::Retries "3";',
      'Acquire::http::Timeout "30";',
      'Acquire::https::Timeout "30";',
      `Dir::State "${d}/state";`,
      `Dir::State::lists "${d}/lists";`,
      `Dir::State::status "${d}/${this.#names.status}";`,
      `Dir::Cache "${d}/cache";`,
      `Dir::Cache::archives "${d}/cache/archives";`,
      `Dir::Log "${d}/log";`,
      ...(this.#release === undefined
        ? []
        : [
            `Dir::Etc::sourcelist "${d}/debian.sources";`,
            ...['sourceparts', 'preferences', 'preferencesparts'].map((e) => `Dir::Etc::${e} "/dev/null";`),
          ]),
      '',
    ].join('\n');
  }

  /** Ended with this process, however that ends: it would hold apt's locks, and fail who starts again. */
  async #run(tool: string, args: string[], timeoutMs: number, cwd = '/'): Promise<ExecResult> {
    try {
      return await exec('setpriv', ['--pdeathsig', 'KILL', tool, '-c', this.#conf, '-q', ...args], {
        cwd,
        env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
        timeoutMs,
        signal: this.#signal,
        maxBytes: 64 << 20,
      });
    } catch (e) {
      const missing =
        isHyperturtleError(e) && (e.code === 'HT_NOT_FOUND' || e.detail['status'] === NO_PROGRAM);
      if (missing)
        throw new HyperturtleError(
          'HT_PACKAGES',
          `${tool} not found: the lab is made of Debian packages, so run it on Debian, or in a Debian container`,
          { cause: e },
        );
      throw e;
    }
  }

  /** Fetches the package lists. Throws HT_PACKAGES when not one source could be reached. */
  async update(): Promise<void> {
    await this.#prepare();
    let found: string;
    try {
      // without Error-Mode apt reports success with no list fetched when the network is down
      await this.#run('apt-get', ['update', '-o', 'APT::Update::Error-Mode=any'], 600_000);
      found = 'no package lists for amd64';
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      found = aptErrors(e);
      // one dead third-party source must not stop us while Debian's lists are there
      if ((await this.#lists()) === 0) throw offline(found, e);
      return;
    }
    if ((await this.#lists()) === 0) throw offline(found);
  }

  async #lists(): Promise<number> {
    try {
      return (await readdir(path.join(this.#dir, 'lists'))).filter((f) => /_Packages(\.\w+)?$/.test(f))
        .length;
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return 0;
      throw e;
    }
  }

  /** Fetches the lists unless they are there. */
  async haveLists(): Promise<void> {
    await this.#prepare();
    if ((await this.#lists()) === 0) await this.update();
  }

  /** Archives in the lists: where they are, and who says to have made them. */
  async archives(): Promise<Archive[]> {
    const format = '$(REPO_URI) $(CODENAME) $(ORIGIN) $(LABEL)';
    const r = await this.#run(
      'apt-get',
      ['indextargets', '--format', format, 'Created-By: Packages'],
      60_000,
    );
    return r.stdout
      .toString('utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => {
        const [uri = '', codename = '', origin = '', ...label] = line.split(' ');
        return { uri, codename, origin, label: label.join(' ') };
      });
  }

  /** Names in the lists that begin with `prefix`. */
  async names(prefix: string): Promise<string[]> {
    const r = await this.#run('apt-cache', ['pkgnames', prefix], 60_000);
    return r.stdout.toString('utf8').split('\n').filter(Boolean).sort();
  }

  /** Versions that the lists have of a package, newest first. */
  async versions(name: string): Promise<string[]> {
    const r = await this.#run('apt-cache', ['madison', name], 60_000);
    const lines = r.stdout
      .toString('utf8')
      .split('\n')
      .filter((l) => l.includes(' Packages'));
    return [...new Set(lines.map((l) => l.split('|')[1]?.trim() ?? ''))];
  }

  /** `roots` and all they depend on, as apt would install them now. Fetches nothing. `suite`: where what they need may come from too, such as backports. */
  async plan(roots: readonly string[], suite?: string): Promise<DebRecord[]> {
    const empty = path.join(this.#dir, 'plan'); // a package already in the archives would not be listed
    let uris: ExecResult;
    try {
      uris = await this.#run(
        'apt-get',
        [
          ...['install', '-y', '--print-uris', '-o', `Dir::Cache::archives=${empty}`],
          ...(suite === undefined ? [] : ['-t', suite]),
          ...roots,
        ],
        120_000,
      );
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      throw new HyperturtleError('HT_PACKAGES', `apt cannot provide the lab's packages: ${aptErrors(e)}`, {
        cause: e,
      });
    }
    const wanted = parseUris(uris.stdout.toString('utf8'));
    const shown = await this.#run(
      'apt-cache',
      ['show', ...wanted.map((w) => `${w.name}=${w.version}`)],
      60_000,
    );
    const hashes = parseHashes(shown.stdout.toString('utf8'));
    return wanted.map((w) => {
      const h = hashes.get(`${w.name}=${w.version}`);
      if (h === undefined)
        throw new HyperturtleError(
          'HT_PACKAGES',
          `${w.name} ${w.version}: apt's lists give no SHA256 for it`,
        );
      return { name: w.name, version: w.version, file: w.file, bytes: h.bytes, sha256: h.sha256 };
    });
  }

  /** Packages of `debs` that are not in `debs/` whole. */
  async missing(debs: readonly DebRecord[]): Promise<DebRecord[]> {
    const out: DebRecord[] = [];
    for (const d of debs) {
      const file = path.join(this.debsDir, d.file);
      try {
        // the size first: it spares hashing what was cut short
        if ((await stat(file)).size === d.bytes && (await sha256(file)) === d.sha256) continue;
      } catch (e) {
        if (errnoCode(e) !== 'ENOENT') throw e;
      }
      out.push(d);
    }
    return out;
  }

  /** Downloads by apt, which checks against the signed lists; a file gets its name in `debs/` when its hash is right. */
  async download(debs: readonly DebRecord[], onBytes: (bytes: number) => void): Promise<void> {
    if (debs.length === 0) return;
    const archives = path.join(this.#dir, 'cache/archives');
    const timer = setInterval(() => {
      directoryBytes(archives).then(onBytes, () => {});
    }, 500);
    try {
      const exact = debs.map((d) => `${d.name}=${d.version}`);
      // `download` takes single packages, without what they depend on: the plan has it all
      await this.#run('apt-get', ['download', ...exact], 3_600_000, archives);
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      throw offline(aptErrors(e), e);
    } finally {
      clearInterval(timer);
    }
    for (const d of debs) {
      const from = path.join(archives, d.file);
      if (!(await isFile(from)) || (await sha256(from)) !== d.sha256) {
        await rm(from, { force: true });
        throw new HyperturtleError(
          'HT_PACKAGES',
          `${d.file}: what apt fetched is not what its list names: try again; if it stays, the mirror is broken`,
        );
      }
      await rename(from, path.join(this.debsDir, d.file));
    }
  }
}

function assumedEntry(name: string): string {
  return [
    `Package: ${name}`,
    'Status: install ok installed',
    'Architecture: amd64',
    'Multi-Arch: foreign',
    'Version: 9999:9999',
    'Maintainer: none <none@localhost>',
    'Description: assumed to be there',
    '\n',
  ].join('\n');
}

function offline(found: string, cause?: unknown): HyperturtleError {
  return new HyperturtleError(
    'HT_PACKAGES',
    `the lab's packages are not in the cache yet, and apt cannot fetch them: ${found}: check the network and /etc/apt/sources.list*, then run it again`,
    { cause },
  );
}

/** The first of apt's own error lines: `E: ...`. */
function aptErrors(e: HyperturtleError): string {
  const { tail } = e.detail;
  const lines = (typeof tail === 'string' ? tail : e.message).split('\n');
  const errors = lines.filter((l) => /^E:|^Err:/.test(l)).map((l) => l.replace(/^E: |^Err:\d+ /, '').trim());
  return (errors[0] ?? lines.at(-1) ?? 'unknown error').replace(/\s+/g, ' ').slice(0, 300);
}

export interface Archive {
  uri: string;
  codename: string;
  /** Origin in its signed Release file: `Debian`. */
  origin: string;
  /** `Debian`, `Debian-Security`. */
  label: string;
}

export interface WantedDeb {
  name: string;
  version: string;
  file: string;
}

/** Lines of `apt-get --print-uris`: `'URI' NAME_VERSION_ARCH.deb BYTES HASH`; a colon of the version is `%3a`. */
export function parseUris(text: string): WantedDeb[] {
  const out: WantedDeb[] = [];
  for (const line of text.split('\n')) {
    const m = /^'[^']+' ([^_ ]+)_([^_ ]+)_([a-z0-9]+)\.deb \d+/.exec(line);
    if (m) {
      const arch = m[3]!;
      const escaped = m[2]!;
      // `apt-get download` writes the file under this same, escaped name
      out.push({
        name: m[1]!,
        version: decodeURIComponent(escaped),
        file: `${m[1]!}_${escaped}_${arch}.deb`,
      });
    }
  }
  return out;
}

/** Stanzas of `apt-cache show`, by `name=version`. */
export function parseHashes(text: string): Map<string, { bytes: number; sha256: string }> {
  const out = new Map<string, { bytes: number; sha256: string }>();
  for (const stanza of text.split(/\n\n+/)) {
    const field = (f: string): string | undefined => new RegExp(`^${f}: *(\\S+)`, 'm').exec(stanza)?.[1];
    const [name, version, bytes, hash] = [field('Package'), field('Version'), field('Size'), field('SHA256')];
    if (name && version && bytes && hash)
      out.set(`${name}=${version}`, { bytes: Number(bytes), sha256: hash });
  }
  return out;
}

async function isFile(file: string): Promise<boolean> {
  try {
    return (await stat(file)).isFile();
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return false;
    throw e;
  }
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}

async function directoryBytes(dir: string): Promise<number> {
  let sum = 0;
  for (const e of await readdir(dir, { withFileTypes: true })) {
    const p = path.join(dir, e.name);
    if (e.isDirectory()) sum += await directoryBytes(p);
    else if (e.isFile())
      sum += await stat(p).then(
        (s) => s.size,
        () => 0, // renamed meanwhile
      );
  }
  return sum;
}
