/**
 * Starts the outer machine of an Intel lab: Bochs, and a relay for each of its serial ports. The relay (socat) joins a
 * terminal, which Bochs wants, to the pair of named pipes that a Channel is everywhere. It ends when Bochs does.
 */
import { constants } from 'node:fs';
import { copyFile, mkdir, open, rm, stat, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { waitFor } from '../core/wait.ts';
import type { BochsParts } from './artifacts.ts';
import { BOCHS_MODEL, bochsConfig, CYLINDER_BYTES } from './bochs-config.ts';
import type { BootSpec, Machine, StartOptions } from './boot.ts';
import { levelsOf } from './boot.ts';
import { startChild } from './emulator.ts';
import type { Emulator } from './emulator.ts';
import { l1Machine, l1Script, runFiles, SERIAL_SEAT } from './machine.ts';
import type { RunFiles } from './machine.ts';
import { killProcess } from '../core/process.ts';
import type { ProcessId } from '../core/process.ts';
import { exists } from './xdg.ts';

/** Throws what `onQemu` throws; Bochs has ended then. */
async function startEmulator(
  parts: BochsParts,
  o: Pick<StartOptions, 'dir' | 'lifetime' | 'onQemu'>,
  files: RunFiles,
  endRelays: () => Promise<void>,
): Promise<Emulator> {
  const at = (name: string): string => path.join(o.dir, name);
  // Debian builds it with its debugger, which waits for a command: go on
  await writeFile(at('debugger'), 'c\n');
  const child = await startChild({
    name: 'Bochs',
    program: parts.bochs,
    cwd: parts.cwd,
    lifetime: o.lifetime,
    args: ['-q', '-f', at('bochsrc'), '-rc', at('debugger')],
    logPath: files.qemuLog,
    reasonPath: at('bochs.log'),
  });
  const emulator: Emulator = { ...child, end: () => killProcess(child.id).then(endRelays) };
  try {
    await o.onQemu?.(child.id);
  } catch (e) {
    await emulator.end();
    throw e;
  }
  return emulator;
}

export async function startBochs(
  spec: BootSpec,
  parts: BochsParts,
  o: Omit<StartOptions, 'ramFile' | 'incoming' | 'imagesDisk'> & { onRelays: (ids: ProcessId[]) => void },
): Promise<Machine> {
  await mkdir(o.dir, { recursive: true, mode: 0o700 });
  const files = runFiles(o.dir);
  const at = (name: string): string => path.join(o.dir, name);
  const l1 = l1Machine(spec.l1, spec.artifacts.kernelArgs(1), SERIAL_SEAT);
  await copyFile(spec.artifacts.baseImage, at('base.img'), constants.COPYFILE_FICLONE);
  await writeFile(at('l1.img'), l1Script(l1, SERIAL_SEAT));
  for (const image of [at('base.img'), o.payloadDisk, at('l1.img')]) await padToCylinders(image);
  for (const log of [files.serial[0], files.serial[1]]) await (await open(log, 'a')).close();

  const channels = [files.channel.l0, files.channel.l1];
  const pipes = channels.flatMap((c) => [`${c}.in`, `${c}.out`]);
  await exec('mkfifo', ['-m', '600', ...pipes], { signal: o.signal });
  const relays: ProcessId[] = [];
  const endAll = async (): Promise<void> => {
    for (const r of relays) await killProcess(r);
  };
  try {
    for (const c of channels) relays.push(await startRelay(parts, c, o.lifetime));
    o.onRelays(relays);
    await writeFile(
      at('bochsrc'),
      bochsConfig({
        model: spec.bochsModel ?? BOCHS_MODEL,
        biosRom: parts.biosRom,
        vgaRom: parts.vgaRom,
        iso: parts.iso,
        baseDisk: at('base.img'),
        payloadDisk: o.payloadDisk,
        l1ScriptDisk: at('l1.img'),
        serialPath: files.serial[0],
        terminals: channels.map(terminalOf),
        logPath: at('bochs.log'),
      }),
    );
    const emulator = await startEmulator(parts, o, files, endAll);
    return { emulator, files, ...levelsOf(files, 'bochs') };
  } catch (e) {
    await endAll();
    throw e;
  }
}

const terminalOf = (channel: string): string => `${channel}.tty`;

async function startRelay(
  parts: BochsParts,
  channel: string,
  lifetime: 'owner' | 'detached',
): Promise<ProcessId> {
  const terminal = terminalOf(channel);
  await rm(terminal, { force: true });
  const { id, check } = await startChild({
    name: 'socat',
    program: parts.relay,
    lifetime,
    logPath: `${channel}.relay.log`,
    // opened for both ways, a pipe never looks closed
    args: [
      `OPEN:${channel}.in,rdwr!!OPEN:${channel}.out,rdwr`,
      `PTY,link=${terminal},rawer,wait-slave,mode=600`,
    ],
  });
  try {
    await waitFor(
      'a relay for a serial port',
      async () => {
        check();
        return (await exists(terminal)) ? true : undefined;
      },
      { timeoutMs: 20_000, intervalMs: 10 },
    );
  } catch (e) {
    await killProcess(id);
    throw e;
  }
  return id;
}

/** Bochs takes no image that is no whole number of cylinders. */
async function padToCylinders(image: string): Promise<void> {
  const { size } = await stat(image);
  await truncate(image, Math.ceil(size / CYLINDER_BYTES) * CYLINDER_BYTES);
}
