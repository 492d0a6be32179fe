/** The daemon's process with the fake kernel: `node daemon-main.js CONFIG KERNEL_DIRECTORY`. */
import { runDaemon } from '../../src/host/daemon/run.ts';
import { HyperturtleError } from '../../src/core/errors.ts';
import { fakeKernel } from './fake-kernel.ts';

const [configFile = '', kernelDirectory = ''] = process.argv.slice(2);
try {
  await runDaemon({ configFile, version: '0.1.0-test', kernel: fakeKernel(kernelDirectory) });
} catch (e) {
  process.stderr.write(e instanceof HyperturtleError ? `${e.code} ${e.message}\n` : `${String(e)}\n`);
  process.exitCode = 1;
}
