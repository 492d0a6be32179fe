/** Environment variables that tests read. docs/reference.md is made of this table. */
export const TEST_VARIABLES = {
  HT_TEST_KERNEL: {
    default: "the machine's Debian's",
    means: 'kernel of the lab: `6.1`, `6.12`, `7.3`, `6.1-debug`',
  },
  HT_TEST_IMAGES: { default: '`nginx`', means: 'images of nested guests to test, or `all`' },
  HT_TEST_QEMU_ROOT: { default: 'none', means: 'root of another QEMU for tests with a real one' },
  HT_SOAK: { default: '`1` in `npm run test:soak`', means: 'longer races, more repetitions' },
  HT_LAB_TIMES: { default: 'none', means: 'file for what each test of a lab costs' },
  HT_TEST_KILLS: { default: '30; of moves 3', means: 'kills while a daemon plugs, or a VM is moved' },
  HT_LAUNCHES: { default: '24; soak: 200', means: 'launches of a VMM that are killed' },
  HT_TEST_SEED: { default: '120559', means: 'when it is killed' },
  HT_SEED: { default: 'fixed', means: 'seed of hostile objects, messages and instructions' },
  HT_MUTANTS: { default: '400 to 1,500; slow: 1,000,000', means: 'how many programs are made' },
  HT_VERIFIED: { default: 'a part of them', means: 'how many of those the verifier is asked about' },
  HT_RACES: { default: '40 or 60; soak: 80 or 200', means: 'rounds of races' },
  HT_HOLES: { default: '1,024; soak: 2,048', means: 'holes punched beside a busy nested guest' },
  HT_NESTED_STARTS: {
    default: '20; soak: 100',
    means: 'how often a nested guest begins to run a guest of its own',
  },
  HT_PLUG_CHANGES: {
    default: '8; soak: 60',
    means: 'how often memory is plugged into a nested guest or taken out',
  },
  HT_SLOT_CHANGES: { default: '20; soak: 60', means: 'changes of memory slots' },
  HT_MIGRATIONS: { default: '1', means: 'how often an L1 is moved to another QEMU and back' },
  HT_SCREENSHOTS: { default: 'none', means: 'directory for pictures of the dashboard' },
  HYPERTURTLE_CLANG: { default: "the lab's", means: 'clang for tests that compile eBPF' },
} as const;
