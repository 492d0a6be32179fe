/**
 * Classes of errors: programs switch on these codes, never on the text. Each has its exit status, and what it means for
 * docs/reference.md.
 */
export const EXIT_STATUS = {
  HT_USAGE: { status: 2, means: 'arguments' },
  HT_NOT_FOUND: { status: 3, means: 'no such file, object, link, map, key, process, device' },
  HT_UNSUPPORTED: { status: 4, means: 'this kernel, machine or version cannot do it' },
  HT_NO_SPACE: { status: 5, means: 'no room on a disk or file system' },
  HT_NO_MEMORY: { status: 5, means: 'no memory' },
  HT_BUSY: { status: 6, means: 'in use by someone else, or too much at once: try again' },
  HT_TIMEOUT: { status: 7, means: 'not within the deadline' },
  HT_PACKAGES: { status: 8, means: 'fetching packages for the lab' },
  HT_BUILD: { status: 9, means: 'compiling' },
  HT_BOOT_FAILED: { status: 10, means: 'a machine of the lab did not boot' },
  HT_CHANNEL: { status: 11, means: 'a connection broke' },
  HT_QMP: { status: 12, means: "QEMU's monitor" },
  HT_KERNEL: { status: 13, means: 'a system call failed' },
  HT_VERIFIER_REJECTED: {
    status: 14,
    means: "the kernel's verifier; the end of its log is printed above the error, once",
  },
  HT_BPF: { status: 15, means: 'not an eBPF object, or libbpf refused it' },
  HT_COMMAND_FAILED: { status: 16, means: 'a program that was run' },
  HT_INTEGRITY: { status: 17, means: 'content is not what it must be' },
  HT_WIRE: {
    status: 18,
    means: 'the other side does not speak the protocol as documented, or a message is too long',
  },
  HT_REFUSED: { status: 19, means: 'admission: a rule, named in the message' },
  HT_QUOTA: { status: 20, means: 'a limit of this VM (`limits`)' },
  HT_SIGNATURE: { status: 21, means: 'missing, wrong or unknown signature' },
  HT_EXISTS: { status: 22, means: 'another one of that name' },
  HT_IN_USE: { status: 23, means: 'still linked' },
  HT_UNAVAILABLE: { status: 24, means: 'no agent, not connected to the host, or it is shutting down' },
  HT_CRASHED: { status: 25, means: 'a worker process ended without an answer' },
  HT_CONFIG: { status: 26, means: 'configuration file; every mistake with its line' },
  HT_INTERRUPTED: { status: 130, means: 'SIGINT or SIGTERM' },
} as const;
