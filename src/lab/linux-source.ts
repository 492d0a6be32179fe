/** Debian's linux-source package: unpacked, and built in with the lab's own tools. */
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { toolEnv, TRIPLET } from './tools.ts';
import type { ToolsTree } from './tools.ts';
import { exists } from './xdg.ts';

export const KERNEL_CC = 'gcc-12';

export interface LinuxSource {
  series: string;
  tools: ToolsTree;
  /** The package, and tools that are only needed here. */
  extra: ToolsTree;
  src: string;
  signal?: AbortSignal | undefined;
}

/** Into `s.src`, unless it is there. `parts`: only these of its folders and files; default all. */
export async function unpackLinux(s: LinuxSource, parts: readonly string[] = []): Promise<void> {
  if (await exists(s.src)) return;
  const name = `linux-source-${s.series}`;
  const archive = path.join(s.extra.root, `usr/src/${name}.tar.xz`);
  const staging = `${s.src}.staging`;
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { recursive: true });
  const args = ['-x', '-I', 'xz', '-f', archive, '-C', staging, '--strip-components=1', '--no-same-owner'];
  await exec('tar', [...args, ...parts.map((p) => `${name}/${p}`)], {
    env: sourceEnv(s),
    timeoutMs: 1_800_000,
    signal: s.signal,
  });
  await rename(staging, s.src);
}

export function sourceEnv(s: Pick<LinuxSource, 'tools' | 'extra'>): NodeJS.ProcessEnv {
  const env = toolEnv(s.tools);
  const at = (p: string): string => path.join(s.extra.root, p);
  return {
    ...env,
    PATH: `${at('usr/bin')}:${env['PATH'] ?? ''}`,
    LD_LIBRARY_PATH: `${env['LD_LIBRARY_PATH'] ?? ''}:${at(`usr/lib/${TRIPLET}`)}`,
    BISON_PKGDATADIR: at('usr/share/bison'),
    M4: at('usr/bin/m4'),
  };
}

export interface MakeOptions {
  /** For the error: `Linux 6.1-debug`. */
  what: string;
  args: readonly string[];
  timeoutMs: number;
  onOutput?: (chunk: Buffer) => void;
}

/** Programs that run while building are static, since the C library's shared objects are not in the tools' root. */
export async function makeInSource(s: LinuxSource, o: MakeOptions): Promise<void> {
  const sysroot = `--sysroot=${s.tools.root}`;
  const common = [
    ...['-C', s.src, `HOSTCC=${KERNEL_CC}`, `HOSTCFLAGS=${sysroot}`],
    // libz, since libelf needs it then
    `HOSTLDFLAGS=${sysroot} -static -lz`,
  ];
  try {
    await exec(path.join(s.tools.root, 'usr/bin/make'), [...common, ...o.args], {
      env: sourceEnv(s),
      timeoutMs: o.timeoutMs,
      signal: s.signal,
      ...(o.onOutput ? { onOutput: o.onOutput } : {}),
    });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_COMMAND_FAILED')) throw e;
    const { tail } = e.detail;
    throw new HyperturtleError(
      'HT_BUILD',
      `${o.what} does not build:\n${typeof tail === 'string' ? tail : e.message}`,
      { cause: e },
    );
  }
}
