/** What ends a problem of the agent's, as commands to type. */
import type { Problem } from './schema.ts';

const LOG = "see the agent's log (journalctl -u hyperturtle-agent)";
const AGAIN = "the agent tries it again by itself: 'hyperturtle status' says since when";

/** Object and NIC that a step is about, by its text (reconcile.ts, registrar.ts). */
function subject(step: string): { object: string | undefined; nic: string | undefined } {
  const [, object, nic] =
    /^(?:un)?link (\S+) at \S+?(?: of (\S+))?$/.exec(step) ??
    /^(?:load|replace|policy|unload|read) (\S+)$/.exec(step) ??
    [];
  return { object, nic };
}

export function fixOf({ step, kind }: Pick<Problem, 'step' | 'kind'>): string {
  const { object = 'OBJECT', nic } = subject(step);
  const giveUp =
    nic === undefined
      ? `'hyperturtle unload ${object} --force' gives it up`
      : `'hyperturtle nic del ${nic} --force' gives up all that is wanted for ${nic}`;
  switch (kind) {
    case 'REFUSED':
    case 'VERIFIER':
      return `hyperturtle check FILE explains it; load a corrected object (hyperturtle load --replace); ${giveUp}`;
    case 'SIGNATURE':
      return `sign the object with a key that the host knows (hyperturtle sign); ${giveUp}`;
    case 'QUOTA':
      return `hyperturtle limits shows what is used; unload something, or ask the host's operator; ${giveUp}`;
    case 'ENDED':
      return 'load a faster program (hyperturtle load --replace); hyperturtle link tries this one again';
    case 'HOOK_BUSY':
      return `unlink what is there (hyperturtle list, hyperturtle unlink); ${giveUp}`;
    case 'HT_NO_SPACE':
      return 'a larger arena, or fewer nested guests at a time';
    case 'NOT_FOUND':
      return notFound(step, object, nic, giveUp);
    case 'INVALID_PARAMS':
      return `the host does not take it so (hyperturtle guest desired, hyperturtle limits): link it in another way; ${giveUp}`;
    case 'UNSUPPORTED':
      return `the host cannot do it: its operator asks 'hyperturtle host doctor'; ${giveUp}`;
    case 'HT_UNSUPPORTED':
    case 'HT_KERNEL':
      return "this machine's kernel log (dmesg) says what it lacks";
    case 'HT_USAGE':
      return "correct module and l2 in guest.yaml, then 'hyperturtle guest reload'";
    case 'BUSY':
    case 'DEADLINE':
    case 'UNAVAILABLE':
    case 'NO_HELLO':
    case 'CANCELLED':
      return AGAIN;
    default:
      return LOG;
  }
}

function notFound(step: string, object: string, nic: string | undefined, giveUp: string): string {
  if (nic !== undefined)
    return `${giveUp}; 'hyperturtle nic add ${nic}' gets a NIC of that name again ('hyperturtle nic list' shows NICs and their hooks)`;
  if (step === 'read state') return LOG;
  if (step.startsWith('read '))
    return `put the file of ${object} back, or take it out of guest.yaml, then 'hyperturtle guest reload'`;
  return `hyperturtle guest desired shows what is wanted; ${giveUp}`;
}
