/** Stock plugins that do a part of the work: IPAM, and the bridge for veth pairs. */
import { accessSync, constants, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { exec } from '../core/exec.ts';
import { CNI_VERSIONS } from './versions.ts';
import type { CniVersion } from './versions.ts';
import type { Command, CniRequest } from './config.ts';
import { CniError } from './errors.ts';
import { CniResult, formatResult, parseResult } from './result.ts';

const DELEGATE_MS = 60_000;
const VERSION_MS = 10_000;

export interface Delegation {
  plugin: string;
  command: Command;
  /** Its whole configuration. */
  config: Readonly<Record<string, unknown>>;
  signal: AbortSignal;
}

/**
 * Runs a stock plugin with this request's environment, in the newest version that both speak: configuration and
 * `prevResult` are converted to it. Undefined for commands without a result, and for STATUS and GC where that version has
 * none. Throws the plugin's own error with its number, or CniError IO_FAILURE.
 */
export async function delegate(request: CniRequest, d: Delegation): Promise<CniResult | undefined> {
  const file = find(d.plugin, request.pluginPath);
  const cniVersion = await commonVersion(file, request, d);
  if ((d.command === 'STATUS' || d.command === 'GC') && cniVersion !== '1.1.0') return undefined;
  const { prevResult } = d.config;
  const converted =
    prevResult === undefined ? {} : { prevResult: formatResult(CniResult().parse(prevResult), cniVersion) };
  const r = await run(file, request, {
    command: d.command,
    input: { ...d.config, ...converted, cniVersion },
    timeoutMs: DELEGATE_MS,
    signal: d.signal,
  });
  if (r.status === 0) return d.command === 'ADD' ? parseResult(r.stdout, d.plugin) : undefined;
  throw theirError(d.plugin, r.stdout, r.stderr);
}

/** Every stock plugin speaks 0.4.0 and 1.0.0; whether it speaks 1.1.0 it has to be asked. */
async function commonVersion(file: string, request: CniRequest, d: Delegation): Promise<CniVersion> {
  if (request.version !== '1.1.0') return request.version;
  const r = await run(file, request, {
    command: 'VERSION',
    input: { cniVersion: '1.0.0' },
    timeoutMs: VERSION_MS,
    signal: d.signal,
  });
  const theirs = supported(r.stdout);
  return CNI_VERSIONS.findLast((v) => theirs.includes(v)) ?? '1.0.0';
}

function supported(text: string): readonly string[] {
  try {
    return z.object({ supportedVersions: z.array(z.string()) }).parse(JSON.parse(text)).supportedVersions;
  } catch {
    return [];
  }
}

async function run(
  file: string,
  request: CniRequest,
  o: { command: Command; input: object; timeoutMs: number; signal: AbortSignal },
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const { status, stdout, stderr } = await exec(file, [], {
    env: {
      ...process.env,
      CNI_COMMAND: o.command,
      CNI_CONTAINERID: request.attachment.containerId,
      CNI_IFNAME: request.attachment.ifname,
      CNI_NETNS: request.netns ?? '',
      CNI_PATH: request.pluginPath.join(':'),
    },
    input: JSON.stringify(o.input),
    timeoutMs: o.timeoutMs,
    signal: o.signal,
    okStatus: [0, 1],
  });
  return { status, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
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
      if (statSync(file).isFile()) return file; // a directory may be entered, not run
    } catch {
      // in the next one, perhaps
    }
  }
  throw new CniError(
    'INVALID_CONFIG',
    `plugin '${plugin}' is in none of the directories of CNI_PATH: ${dirs.join(', ') || 'none given'}`,
  );
}
