/** A walk of the tables that L1's KVM runs its nested guest with, from outside of L1: L0 reads the memory of L1's QEMU. */
import { z } from 'zod';
import type { Lab } from '../../src/lab/lab.ts';
import { run } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';

const foundSchema = z.object({
  roots: z.number(),
  /** Entries with a frame, MMIO left out, in all of the tables. */
  leaves: z.number(),
  /** Of these, how many are of 2 MiB. */
  large: z.number(),
  /** Guest addresses of entries within the range that was asked for: none may be there when it has no slot. */
  within: z.array(z.number()),
  /** Entries of exported pages whose frame is not the one in the page's word. */
  wrong: z.array(z.number()),
  exported: z.number(),
});
export type NestedTables = z.infer<typeof foundSchema>;

/** The roots are those of the last entries of L2 `number`, which stands still meanwhile. */
export async function walkNestedTables(
  lab: Lab,
  o: { number: number; from: number; to: number },
): Promise<NestedTables> {
  await lab.l0.writeFile('/run/walk.mjs', WALK);
  const args = [L1_RUN.pidFile, L1_RUN.qmpSocket, String(o.number), String(o.from), String(o.to)];
  const out = await run(lab.l0, ['node', '/run/walk.mjs', ...args], { timeoutMs: 120_000 });
  return foundSchema.parse(JSON.parse(out));
}

const WALK = `
import fs from 'node:fs';
import { HT_ARENA_HEADER, HT_EXIT_CPU, HT_L2 } from '/payload/app/dist/src/kernel/arena.js';
import { QmpClient } from '/payload/app/dist/src/qmp/client.js';
const [pidFile, qmp, number, from, to] = process.argv.slice(2).map((x, i) => (i < 2 ? x : Number(x)));
const pid = fs.readFileSync(pidFile, 'utf8').trim();
const memory = fs.openSync('/proc/' + pid + '/mem', 'r');
const read = (at, bytes) => {
  const b = Buffer.alloc(bytes);
  if (fs.readSync(memory, b, 0, bytes, at) !== bytes) throw new Error('short read');
  return b;
};
const client = await QmpClient.connect(qmp, { timeoutMs: 30000 });
const said = await client.execute('human-monitor-command', { 'command-line': 'gpa2hva 0x100000' });
client.close();
const ram = BigInt(/is (0x[0-9a-f]+)/.exec(said)[1]) - 0x100000n;
const line = fs.readFileSync('/proc/' + pid + '/maps', 'utf8').split('\\n').find((l) => l.includes('hyperturtle-arena'));
const arenaAt = BigInt('0x' + line.split('-')[0]);
const header = HT_ARENA_HEADER.decode(read(arenaAt, HT_ARENA_HEADER.size));
const arena = read(arenaAt, header.arena_bytes);
const FRAME = 0x000ffffffffff000n;
const l2 = HT_L2.decode(arena.subarray(header.l2_off + number * HT_L2.size, header.l2_off + (number + 1) * HT_L2.size));
const roots = new Set();
for (let i = 0; i < header.exit_cpus; i++) {
  const at = header.exit_off + i * HT_EXIT_CPU.size;
  const cpu = HT_EXIT_CPU.decode(arena.subarray(at, at + HT_EXIT_CPU.size));
  if (cpu.l2 === number) roots.add(cpu.root);
}
const found = { roots: roots.size, leaves: 0, large: 0, within: [], wrong: [], exported: l2.slot_count };
const leaf = (gpa, entry, bytes) => {
  found.leaves++;
  if (bytes > 4096) found.large++;
  if (gpa + bytes > from && gpa < to) found.within.push(gpa);
  for (let at = gpa; at < gpa + bytes; at += 4096) {
    const slot = l2.slots.slice(0, l2.slot_count).find((s) => at / 4096 >= s.gfn && at / 4096 < s.gfn + s.npages);
    if (!slot) continue;
    const word = arena.readBigUInt64LE(slot.word_off + (at / 4096 - slot.gfn) * 8);
    if ((word & 1n) === 0n || (word & FRAME) !== (entry & FRAME) + BigInt(at - gpa)) found.wrong.push(at);
  }
};
const walk = (table, level, gpa) => {
  const page = read(ram + table, 4096);
  for (let i = 0; i < 512; i++) {
    const entry = page.readBigUInt64LE(i * 8), at = gpa + i * 2 ** (12 + 9 * (level - 1));
    // bit 51 with the present bit: KVM's mark of a page without memory
    if ((entry & 1n) === 0n || (entry >> 51n) & 1n) continue;
    if (level === 1 || (entry & 0x80n)) leaf(at, entry & ~0xfe00000000000000n, 2 ** (12 + 9 * (level - 1)));
    else walk(entry & FRAME, level - 1, at);
  }
};
for (const root of roots) walk(root, 4, 0);
console.log(JSON.stringify(found));
process.exit(0);
`;
