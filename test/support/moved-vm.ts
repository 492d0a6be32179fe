/**
 * Stock QEMUs for tests of migration, on this host: the machine's processor halts at its first instruction, its memory holds
 * what takes time to send, and a test plays the guest's kernel at the arena's root port.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import type { QemuProgram } from '../../src/lab/artifacts.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { HmpGuest } from './hmp-guest.ts';
import { RealQemu } from './real-qemu.ts';

const ARENA_SLOT = 8;
const LOAD_MIB = 24;
/** As a busy machine bears it. */
const LOOK_MS = 50;
/** Ends at f000:fff0, where a processor begins: cli; hlt; jmp -3. */
const HALT = [0xfa, 0xf4, 0xeb, 0xfd];

export interface MovedVm {
  qemu: RealQemu;
  /** The test's own connection. */
  qmp: QmpClient;
  guest: HmpGuest;
  /** running, postmigrate ... */
  state(): Promise<string>;
  arenas(): Promise<number>;
  end(): Promise<void>;
}

/** `incoming`: it waits for a state there, or `defer`. Else it runs when this returns. */
export async function startMovedVm(
  program: QemuProgram,
  dir: string,
  name: string,
  incoming?: string,
): Promise<MovedVm> {
  const at = (file: string): string => path.join(dir, file);
  const bios = Buffer.alloc(64 << 10, 0xf4);
  bios.set(HALT, bios.length - 16);
  writeFileSync(at('bios'), bios);
  writeFileSync(at('load'), randomBytes(LOAD_MIB << 20));
  const sockets = [at(`${name}.qmp`), at(`${name}.test`)];
  const qemu = await RealQemu.start(program, sockets, [
    ...['-bios', at('bios'), '-device', `loader,file=${at('load')},addr=0x1000000,force-raw=on`],
    ...['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'],
    ...['-device', `pcie-root-port,id=arena0,chassis=9,addr=${ARENA_SLOT}`],
    ...['-device', 'virtio-serial-pci,id=serial'],
    ...(incoming === undefined ? [] : ['-incoming', incoming]),
  ]);
  const qmp = await QmpClient.connect(at(`${name}.test`));
  const state = async (): Promise<string> =>
    ((await qmp.execute('query-status')) as { status: string }).status;
  // it was started stopped (-S); one that waits goes on when it has arrived
  await qmp.execute('cont');
  return {
    ...{ qemu, qmp, state, guest: new HmpGuest(qmp, ARENA_SLOT, LOOK_MS) },
    arenas: async () =>
      ((await qmp.execute('qom-list', { path: '/machine/peripheral' })) as { name: string }[]).filter((d) =>
        /^hyperturtle-arena-/.test(d.name),
      ).length,
    async end() {
      qmp.close();
      await qemu.end();
    },
  };
}
