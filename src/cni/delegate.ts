/** Stock plugins that do a part of the work: IPAM, and the bridge for veth pairs. */
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import type { Command, CniRequest } from './config.ts';
import { CniError } from './errors.ts';
import { parseResult } from './result.ts';
import type { CniResult } from './result.ts';

const DELEGATE_MS = 60_000;
/** Stock plugins of Debian 12 know no later one. */
const LATEST_OF_STOCK = '1.0.0';

export interface Delegation {
  plugin: string;
  command: Command;
  /** Its whole configuration. */
  config: Readonly<Record<string, unknown>>;
  signal: AbortSignal;
}

/** Runs it with this request's environment. Throws its own error with its number, or CniError IO_FAILURE. */
export async function delegate(request: CniRequest, d: Delegation): Promise<CniResult | undefined> {
  const file = find(d.plugin, request.pluginPath);
  const older = request.version === '1.1.0' ? { cniVersion: LATEST_OF_STOCK } : {};
  const r = await exec(file, [], {
    env: {
      ...process.env,
      CNI_COMMAND: d.command,
      CNI_CONTAINERID: request.attachment.containerId,
      CNI_IFNAME: request.attachment.ifname,
      CNI_NETNS: request.netns ?? '',
      CNI_PATH: request.pluginPath.join(':'),
    },
    input: JSON.stringify({ ...d.config, ...older }),
    timeoutMs: DELEGATE_MS,
    signal: d.signal,
    okStatus: [0, 1],
  });
  const text = r.stdout.toString('utf8');
  if (r.status === 0) return d.command === 'ADD' ? parseResult(text, d.plugin) : undefined;
  throw theirError(d.plugin, text, r.stderr.toString('utf8'));
}

function theirError(plugin: string, text: string, stderr: string): CniError {
  try {
    const e = JSON.parse(text) as { code?: unknown; msg?: unknown; details?: unknown };
    const code = typeof e.code === 'number' ? e.code : 'FAILED';
    const details = typeof e.details === 'string' ? e.details : '';
    return new CniError(code, `${plugin}: ${typeof e.msg === 'string' ? e.msg : 'failed'}`, details);
  } catch {
    return new CniError('IO_FAILURE', `${plugin} failed without saying why`, (text + stderr).slice(-1000));
  }
}

function find(plugin: string, dirs: readonly string[]): string {
  for (const dir of dirs) {
    const file = path.join(dir, plugin);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // in the next one, perhaps
    }
  }
  throw new CniError(
    'INVALID_CONFIG',
    `plugin '${plugin}' is in none of the directories of CNI_PATH: ${dirs.join(', ') || 'none given'}`,
  );
}
