/** The system's log, as its own client writes to it: to journald, or another syslog daemon. */

/** The command that logs a line. Pure. */
export const logCommand = (text: string): [program: string, ...words: string[]] => [
  'logger',
  '-t',
  'hyperturtle-vmm',
  '-p',
  'daemon.warning',
  '--',
  text,
];
