/**
 * The shell between a run and its QEMU. $1: what to do when all is over; the rest: QEMU and its arguments. Descriptor 3
 * is a pipe whose other end the run's process holds: when that ends, however it does, so does QEMU. QEMU is a child,
 * so that its number cannot become another process's before it was waited for.
 */
export const SUPERVISOR = `undo=$1
shift
exec 5<&0
"$@" <&5 3<&- 5<&- &
qemu=$!
{ read -r _ <&3; kill -KILL $qemu; } >/dev/null 2>&1 5<&- </dev/null &
reader=$!
exec 3<&- </dev/null
wait $qemu
status=$?
kill $reader 2>/dev/null
eval "$undo" >/dev/null 2>&1 <&5
exit $status
`;

/** What a run holds that neither QEMU's end nor its directory's removal gives back. */
export interface RunLeftovers {
  /** A NIC that was added for it, and how to ask for its removal. */
  nic?: { id: string; command: readonly string[] };
  /** Terminal settings by `stty -g`, to be restored: QEMU sets the terminal to raw mode. */
  terminal?: string;
}

const word = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** Shell text. Harmless when it runs twice. */
export function undoScript(dir: string, left: RunLeftovers): string {
  return [
    ...(left.terminal === undefined ? [] : [`stty ${word(left.terminal)}`]),
    ...(left.nic === undefined
      ? []
      : [[...left.nic.command, 'nic', 'del', left.nic.id, '--force'].map(word).join(' ')]),
    `rm -rf ${word(dir)}`,
  ].join('\n');
}
