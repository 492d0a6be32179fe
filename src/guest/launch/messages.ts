/** What `hyperturtle vmm` and its supervisor tell each other. */

/** Descriptor of the supervisor: the channel from the launcher, or from a guardian the listener. */
export const PASSED_FD = 3;
/** One byte from the supervisor when it can answer, and one when a guardian has the listener too. */
export const READY = 'r';
export const GUARDED = 'g';
/** One from the launcher when the program could not be executed. */
export const NOT_STARTED = 'x';
/** What the supervisor tells its guardian when all is over. */
export const OVER = 'over\n';

/** The supervisor's one argument, as JSON. */
export interface SupervisorTask {
  /** Where RAM comes from. */
  dir: string;
  /** The process that becomes the VMM. */
  pid: number;
  /** Its program, for messages. */
  program: string;
  minBytes: number;
  /** Filters that the VMM is started with; undefined on kernels that do not count them. */
  filters: number | undefined;
  /** The supervisor before this one was killed: the descriptor that is passed is the listener itself. */
  again: boolean;
  /** What it says also goes to the system's log. */
  syslog: boolean;
}
