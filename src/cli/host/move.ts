/** `hyperturtle host quiesce|resume|migrate|save|restore|cancel`: a VM that is moved, with its nested guests running. */
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { Option } from 'commander';
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { createProgress } from '../../core/progress.ts';
import { connectSocket } from '../../core/sockets.ts';
import { sleep } from '../../core/wait.ts';
import type { VmReport } from '../../host/daemon/admin-schema.ts';
import { SavedFile, checkSaved, readSaved, savedState, startAgain } from '../../host/saved-file.ts';
import { print } from '../shared/agent-options.ts';
import { integer } from '../shared/values.ts';
import { adminOptions, ask, moveText, withDaemon } from './admin.ts';
import type { AdminOptions, Request } from './admin.ts';

interface GuestOptions extends AdminOptions {
  nics: 'refuse' | 'take';
  guestTimeoutS: number;
}

interface LeaveOptions extends GuestOptions {
  deadlineS: number;
  downtimeMs?: number;
  mibPerS?: number;
  quit?: boolean;
}

type LastMove = NonNullable<VmReport['lastMove']>;

const LOOK_MS = 300;

export function registerMoves(host: Command): void {
  guestOptions(adminOptions(host.command('quiesce').argument('<vm>')))
    .description(
      'end what the host does for a VM, so that it can be migrated or saved; its nested guests run on',
    )
    .action(quiesce);
  adminOptions(host.command('resume').argument('<vm>'))
    .description('serve a VM again that was made quiet')
    .action(resume);
  leaveOptions(host.command('migrate').argument('<vm>'))
    .description("send a VM with its nested guests to another QEMU, which waits for it with '-incoming'")
    .requiredOption('--to <uri>', 'tcp:HOST:PORT or unix:PATH, where that QEMU listens')
    .addHelpText(
      'after',
      `
Whatever fails before the other QEMU has all of it, the VM is served here as before. docs/migration.md says what is
kept, refused and lost.`,
    )
    .action(migrate);
  leaveOptions(host.command('save').argument('<vm>').argument('<file>'))
    .description('write a VM with its nested guests into a file')
    .option('--go-on', 'the VM goes on here')
    .action(save);
  adminOptions(host.command('restore').argument('<vm>').argument('<file>'))
    .description("have a QEMU that waits with '-incoming defer' go on where the file was saved")
    .option('--check', 'only check the file, and say what to start for it')
    .option(...deadline)
    .action(restore);
  adminOptions(host.command('cancel').argument('<vm>'))
    .description('give up what another command does to move a VM, and undo it')
    .action(cancel);
}

const deadline = [
  '--deadline-s <number>',
  'seconds for the state to be moved; then it is given up',
  integer('--deadline-s', 1, 604_800),
  3600,
] as const;

function guestOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--nics <policy>', 'NICs that the host gave the VM: refuse to go on, or take them back')
        .choices(['refuse', 'take'])
        .default('refuse'),
    )
    .option(
      '--guest-timeout-s <number>',
      'seconds for the guest to let its arena go',
      integer('--guest-timeout-s', 1, 600),
      60,
    );
}

function leaveOptions(command: Command): Command {
  return guestOptions(adminOptions(command))
    .option(...deadline)
    .option(
      '--downtime-ms <number>',
      "milliseconds that the VM may stand still; default: QEMU's own",
      integer('--downtime-ms', 1, 2_000_000),
    )
    .option('--mib-per-s <number>', "default: QEMU's own limit", integer('--mib-per-s', 1, 2 ** 20))
    .option('--quit', 'end the QEMU here when its state has gone');
}

const guestParams = (name: string, o: GuestOptions) => ({
  name,
  nics: o.nics,
  guestMs: o.guestTimeoutS * 1000,
});

const leaveParams = (name: string, o: LeaveOptions) => ({
  ...guestParams(name, o),
  deadlineMs: o.deadlineS * 1000,
  quit: o.quit ?? false,
  ...(o.downtimeMs === undefined ? {} : { downtimeMs: o.downtimeMs }),
  ...(o.mibPerS === undefined ? {} : { mibPerS: o.mibPerS }),
});

async function quiesce(name: string, options: GuestOptions): Promise<void> {
  const end = await withDaemon(options, async (request, signal) => {
    await request('admin.vm.quiesce', guestParams(name, options));
    return whenOver(name, request, signal);
  });
  print(options, end, () => `${name}: quiesced; its nested guests run on without acceleration`);
}

async function resume(name: string, options: AdminOptions): Promise<void> {
  print(options, await ask(options, 'admin.vm.resume', { name }), () => `${name}: served again`);
}

async function cancel(name: string, options: AdminOptions): Promise<void> {
  print(
    options,
    await ask(options, 'admin.vm.cancel', { name }),
    () => `${name}: nothing is under way any more`,
  );
}

async function migrate(name: string, options: LeaveOptions & { to: string }): Promise<void> {
  const end = await withDaemon(options, async (request, signal) => {
    await request('admin.vm.migrate', { ...leaveParams(name, options), uri: options.to });
    return whenOver(name, request, signal);
  });
  print(options, end, () => `${name}: moved to ${options.to}; ${figures(end)}${stillHere(options)}`);
}

async function save(name: string, file: string, options: LeaveOptions & { goOn?: boolean }): Promise<void> {
  const saved = await SavedFile.create(file);
  try {
    const end = await withDaemon(options, async (request, signal) => {
      const command = await commandOf(name, request);
      const params = { ...leaveParams(name, options), goOn: options.goOn ?? false };
      const { socket } = await request('admin.vm.save', params);
      const over = whenOver(name, request, signal);
      const whole = await written(saved, { name, command }, await connectSocket(socket, signal), request);
      await request('admin.vm.saved', { name, whole: whole === true }).catch(() => {}); // its end is what is told
      // a file that could not be written tells more than what QEMU made of it
      if (whole instanceof HyperturtleError && whole.code !== 'HT_INTEGRITY') {
        await over.catch(() => {});
        throw whole;
      }
      return over;
    });
    print(
      options,
      end,
      () => `${name}: saved in ${file}; ${figures(end)}${options.goOn ? '' : stillHere(options)}`,
    );
  } finally {
    await saved.discard();
  }
}

/** True when all of it is on the disk; else what kept it from that. False: QEMU gave up. */
async function written(
  saved: SavedFile,
  { name, command }: { name: string; command: string[] },
  from: AsyncIterable<Buffer>,
  request: Request,
): Promise<unknown> {
  try {
    await saved.take(from, { vm: name, command });
    for (;;) {
      const { move } = await stateOf(name, request);
      if (!move) return false;
      if (move.phase === 'writing') break;
      await sleep(LOOK_MS);
    }
    await saved.keep();
    return true;
  } catch (e) {
    return e;
  }
}

async function restore(
  name: string,
  file: string,
  options: AdminOptions & { check?: boolean; deadlineS: number },
): Promise<void> {
  const head = await readSaved(file);
  await checkSaved(file, head);
  const start = startAgain(head.command);
  if (options.check) {
    const { vm, at, bytes } = head;
    print(
      options,
      { vm, at, bytes, start },
      () => `${file}: VM '${vm}', saved ${at}, whole\n${startText(start)}`,
    );
    return;
  }
  const end = await withDaemon(options, async (request, signal) => {
    const { socket } = await request('admin.vm.restore', {
      name,
      deadlineMs: options.deadlineS * 1000,
    }).catch((e: unknown) => withStart(e, start));
    const over = whenOver(name, request, signal);
    over.catch(() => {}); // awaited below
    await pour(savedState(file), await connectSocket(socket, signal), over);
    return over;
  });
  print(options, end, () => `${name}: restored from ${file}`);
}

/** Writes all of it, or as much as is wanted: how it ended is what `over` tells. */
async function pour(from: AsyncIterable<Buffer>, to: Socket, over: Promise<unknown>): Promise<void> {
  const ended = over.then(
    () => {},
    () => {},
  );
  const closed = new Promise<void>((resolve) => to.once('close', resolve));
  // so that the other side's end is noticed
  to.on('error', () => {}).resume();
  try {
    for await (const chunk of from) {
      if (to.destroyed) break;
      const drained = new Promise<void>((resolve) => to.once('drain', resolve));
      if (!to.write(chunk)) await Promise.race([drained, closed, ended]);
    }
    to.end();
    await ended;
  } finally {
    to.destroy();
  }
}

function withStart(e: unknown, start: readonly string[]): never {
  if (!(e instanceof HyperturtleError)) throw e;
  throw new HyperturtleError(e.code, `${e.message}\n${startText(start)}`, { cause: e });
}

const startText = (start: readonly string[]): string =>
  `start it as it was, without its arena, to wait for its state:\n  ${start.map(shellWord).join(' ')}`;

const shellWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

const figures = ({ downtimeMs, totalMs, sentMib }: LastMove): string =>
  `${sentMib ?? 0} MiB in ${((totalMs ?? 0) / 1000).toFixed(1)} s, it stood still for ${downtimeMs ?? '?'} ms`;

const stillHere = (o: { quit?: boolean }): string =>
  o.quit ? '' : '; its QEMU here stands still: end it, it must not go on at both ends';

/** Arguments of the VM's QEMU. */
async function commandOf(name: string, request: Request): Promise<string[]> {
  const { pid } = await stateOf(name, request);
  const text = pid === null ? '' : await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return text.split('\0').slice(0, -1);
}

async function stateOf(name: string, request: Request): Promise<VmReport> {
  const found = (await request('admin.vm.list', {})).vms.find((v) => v.name === name);
  if (found) return found;
  throw new HyperturtleError('HT_NOT_FOUND', `there is no VM '${name}' any more`);
}

/**
 * Shows how far the daemon is with it, and gives how it ended. Throws what it ended with. A signal has the daemon give it up;
 * then this waits until it has undone it.
 */
async function whenOver(name: string, request: Request, signal: AbortSignal): Promise<LastMove> {
  const step = createProgress().step(name);
  const stop = (): void => void request('admin.vm.cancel', { name }).catch(() => {});
  signal.addEventListener('abort', stop, { once: true });
  try {
    for (;;) {
      const { move, lastMove } = await stateOf(name, request);
      if (move) step.update(moveText(move));
      else if (lastMove) {
        if (lastMove.problem)
          throw new HyperturtleError(
            lastMove.problem.code,
            `${name}: ${lastMove.what}: ${lastMove.problem.message}`,
          );
        step.done(lastMove.what);
        return lastMove;
      }
      await sleep(LOOK_MS);
    }
  } catch (e) {
    step.fail();
    throw e;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
