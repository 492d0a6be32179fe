/** The steps of a plan of installing or uninstalling, as data: run.ts carries them out, `--dry-run` prints them. */

export type Command = readonly string[];

export type Step =
  | { kind: 'write'; path: string; mode: number; content: Buffer; before: 'absent' | 'differs' }
  | { kind: 'remove'; path: string }
  | RunStep;

export interface RunStep {
  kind: 'run';
  argv: Command;
  /** Its failure leaves nothing wrong; where there is a text, that is told. */
  mayFail?: true | { told: string };
  /** Run in this order when this step or a later one fails. */
  undo?: readonly Command[];
  /** It builds the modules for `kernel`, and writes of it to `log`, which is copied to `kept` when it fails. */
  dkms?: { kernel: string; log: string; kept: string };
}

export interface Plan {
  steps: Step[];
  /** What was looked at and is left as it is, with the reason. */
  left: { path: string; why: string }[];
}

export function stepText(s: Step): string {
  switch (s.kind) {
    case 'write':
      return `${s.before === 'absent' ? 'write  ' : 'replace'} ${s.path}`;
    case 'remove':
      return `remove  ${s.path}`;
    case 'run':
      return `run     ${s.argv.join(' ')}`;
  }
}
