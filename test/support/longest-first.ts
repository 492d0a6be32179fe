/**
 * The order of test files: the longest first, so that two workers end together. Without it vitest goes by the size of files
 * where it has run none of them yet.
 */
import { BaseSequencer } from 'vitest/node';
import type { TestSpecification } from 'vitest/node';

/** Files that take long, the longest first. Only the order counts. */
const LONGEST: readonly string[] = [
  ...['tenants', 'arena-again', 'run', 'smoke', 'nested-nic', 'races', 'profile', 'modules', 'overruns'],
  ...['control', 'large', 'slots', 'exits', 'memory', 'call', 'network', 'lab', 'attach', 'vmm', 'fill'],
  ...['npf-program', 'packages'],
  ...['agent-and-daemon', 'without-daemon', 'hostile-objects', 'guest-agent', 'gates', 'hostile-messages'],
  ...['killed-while-plugging', 'cni-podman', 'packet-chain', 'nics', 'host-daemon', 'cni-policy'],
];

const rank = (file: TestSpecification): number => {
  const at = LONGEST.findIndex((name) => file.moduleId.endsWith(`/${name}.test.ts`));
  return at < 0 ? LONGEST.length : at;
};

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}
