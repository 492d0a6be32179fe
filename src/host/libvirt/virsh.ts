/** libvirt by its own client, virsh: domains, their XML, and a stream of events. Every call has a deadline. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';

const CALL_MS = 15_000;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** What virsh may print; of more the beginning is cut off, and domains there are missing. */
const MAX_BYTES = 64 << 20;

export interface DomainState {
  uuid: string;
  name: string;
  /** As libvirt says it: `running`, `shut off`. */
  state: string;
}

export class Virsh {
  readonly uri: string;

  constructor(uri: string) {
    this.uri = uri;
  }

  /** What it printed. Throws HT_COMMAND_FAILED with libvirt's words, HT_NOT_FOUND without virsh, HT_TIMEOUT. */
  async run(args: readonly string[], signal?: AbortSignal): Promise<string> {
    try {
      const r = await exec('virsh', ['-q', '-c', this.uri, ...args], {
        env: ENV(),
        timeoutMs: CALL_MS,
        maxBytes: MAX_BYTES,
        signal,
      });
      return r.stdout.toString('utf8');
    } catch (e) {
      if (isHyperturtleError(e, 'HT_NOT_FOUND'))
        throw new HyperturtleError('HT_NOT_FOUND', 'virsh not found: install libvirt-clients', { cause: e });
      if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
      throw new HyperturtleError('HT_COMMAND_FAILED', `libvirt at ${this.uri}: ${wordsOf(e)}`, { cause: e });
    }
  }

  /** UUIDs of domains that run, paused ones too. */
  async active(signal?: AbortSignal): Promise<string[]> {
    return (await this.run(['list', '--uuid'], signal)).split('\n').filter((line) => UUID.test(line));
  }

  /** Domains, with those that do not run. */
  async all(): Promise<DomainState[]> {
    const uuids = (await this.run(['list', '--all', '--uuid'])).split('\n').filter((line) => UUID.test(line));
    const found: DomainState[] = [];
    for (const uuid of uuids) {
      // one may be undefined meanwhile
      const [name, state] = await Promise.all([
        this.run(['domname', uuid]).catch(() => ''),
        this.run(['domstate', uuid]).catch(() => ''),
      ]);
      if (name !== '') found.push({ uuid, name: name.replace(/\n+$/, ''), state: state.trim() });
    }
    return found;
  }

  /** XML of running domains; one that has ended meanwhile is left out. */
  async live(uuids: readonly string[], signal?: AbortSignal): Promise<string[]> {
    if (uuids.length === 0) return [];
    // one process for all: virsh goes on with the next command, and fails when the last one did
    const script = uuids.map((uuid) => `dumpxml ${uuid}`).join('; ');
    const text = await this.run([`${script}; echo`], signal);
    return text.match(/<domain[ >][^]*?\n<\/domain>/g) ?? [];
  }

  /** As it will be started the next time, with its secrets. `domain`: name or UUID. */
  inactive(domain: string): Promise<string> {
    return this.run(['dumpxml', '--inactive', '--security-info', '--domain', domain]);
  }

  /** Replaces the definition. */
  async define(xml: string): Promise<void> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'hyperturtle-'));
    try {
      const file = path.join(dir, 'domain.xml');
      writeFileSync(file, xml, { mode: 0o600 });
      await this.run(['define', file]);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }

  /** Calls `onEvent` at each event of a domain until libvirtd ends or the signal aborts. Never throws; says why it ended. */
  async events(onEvent: () => void, signal: AbortSignal): Promise<string> {
    // ends with us, also when we are killed
    const command = ['--pdeathsig', 'KILL', 'virsh', '-q', '-c', this.uri, 'event', '--all', '--loop'];
    const child = spawn('setpriv', command, { env: ENV(), stdio: ['ignore', 'pipe', 'pipe'] });
    const stop = (): void => void child.kill('SIGKILL');
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    let words = '';
    child.stderr.on('data', (c: Buffer) => (words = (words + c.toString()).slice(-2000)));
    createInterface(child.stdout).on('line', onEvent);
    try {
      await once(child, 'close');
    } catch (e) {
      words = String(e);
    } finally {
      signal.removeEventListener('abort', stop);
    }
    return firstLine(words) ?? 'virsh has ended';
  }
}

const ENV = (): NodeJS.ProcessEnv => ({ ...process.env, LC_ALL: 'C' });

const firstLine = (text: string): string | undefined =>
  text
    .split('\n')
    .map((l) => l.replace(/^error: /, '').trim())
    .find((l) => l !== '');

/** libvirt says first what could not be done, then why. */
function wordsOf(e: HyperturtleError): string {
  const { tail } = e.detail;
  const lines = (typeof tail === 'string' ? tail : e.message)
    .split('\n')
    .map((l) => l.replace(/^error: /, '').trim())
    .filter((l) => l !== '');
  return lines.slice(0, 2).join(': ');
}
