/** A live migration of an L2 within L1, for tests: what slots that are logged for it do to the fault path. */

/** In L1: migrates the L2 into a second QEMU made from the first one's arguments, and compares what both have as RAM. */
export const MIGRATE = `
import { readFileSync, readdirSync, mkdirSync } from 'node:fs';
import { spawn, execFileSync } from 'node:child_process';
import { QmpClient } from '/payload/app/dist/src/qmp/client.js';
const pause = (ms) => new Promise((f) => setTimeout(f, ms));
const argsOf = (p) => readFileSync('/proc/' + p + '/cmdline', 'latin1').split(String.fromCharCode(0)).slice(0, -1);
const args = readdirSync('/proc').filter((p) => Number(p) > 1).map(argsOf)
  .find((a) => a.includes('-qmp') && a.some((x) => x.includes('mem-path=/run/hyperturtle/ram')));
const source = /unix:([^,]+)/.exec(args[args.lastIndexOf('-qmp') + 1])[1];
mkdirSync('/run/target', { recursive: true });
const other = args.slice(1).map((x) => x
  .replace(/unix:.*[/]([a-z]+),/, 'unix:/run/target/$1,')
  .replace(/file:[^,]+/, 'file:/run/target/serial')
  .replace(/mem-path=[^,]+/, 'mem-path=/dev/shm')
  .replace(/^(pipe|serial|socket),id=([^,]+),.*/, 'null,id=$2'));
const target = spawn(args[0], [...other, '-incoming', 'defer'], { stdio: 'inherit' });
try {
  let to;
  for (let i = 0; to === undefined; i++) {
    to = await QmpClient.connect('/run/target/qmp', { timeoutMs: 5000 }).catch((e) => { if (i > 50) throw e; });
    await pause(200);
  }
  const from = await QmpClient.connect(source, { timeoutMs: 20000 });
  await to.execute('migrate-incoming', { uri: 'unix:/run/target/stream' });
  await from.execute('migrate-set-parameters', { 'max-bandwidth': 1 << 30, 'downtime-limit': 2000 });
  await from.execute('migrate', { uri: 'unix:/run/target/stream' });
  let m;
  do {
    await pause(300);
    m = await from.execute('query-migrate');
    if (m.status === 'failed') throw new Error(JSON.stringify(m));
  } while (m.status !== 'completed');
  const save = (c, filename) => c.execute('pmemsave', { val: 1 << 20, size: 127 << 20, filename }, { timeoutMs: 120000 });
  await save(from, '/dev/shm/a'); await save(to, '/dev/shm/b');
  // KVM itself moves the few bytes of its paravirtual clock after the VM was stopped, on tmpfs too
  const bytes = Number(execFileSync('sh', ['-c', 'cmp -l /dev/shm/a /dev/shm/b | wc -l; rm /dev/shm/a /dev/shm/b']));
  console.log(bytes <= 32 ? 'same RAM, ' + m.ram['dirty-sync-count'] + ' rounds of copying' : bytes + ' bytes differ');
  from.close(); to.close();
} finally { target.kill('SIGKILL'); }
process.exit(0);
`;
