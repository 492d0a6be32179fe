/** Who an image's command runs as, by the image's own tables. Pure. */
import { HyperturtleError } from '../../../core/errors.ts';

export interface RunUser {
  uid: number;
  gid: number;
  home: string;
}

const ROOT_USER: RunUser = { uid: 0, gid: 0, home: '/root' };

/** `user`: a name or number, and a group after a colon. `passwd` and `group`: the image's; empty: it has none. */
export function userOf(user: string, passwd: string, group: string): RunUser {
  if (user === '') return ROOT_USER;
  const [who = '', groupName] = user.split(':', 2);
  const isNumber = /^\d{1,10}$/.test(who);
  const fields = lines(passwd).find((f) => (isNumber ? f[2] === who : f[0] === who));
  if (fields === undefined && !isNumber) throw missing(user, `user '${who}'`, '/etc/passwd');
  const uid = id(fields?.[2] ?? who, user);
  const home = fields?.[5] === undefined || fields[5] === '' ? '/' : fields[5];
  if (groupName === undefined) return { uid, gid: id(fields?.[3] ?? '0', user), home };
  if (/^\d{1,10}$/.test(groupName)) return { uid, gid: id(groupName, user), home };
  const gid = lines(group).find((f) => f[0] === groupName)?.[2];
  if (gid === undefined) throw missing(user, `group '${groupName}'`, '/etc/group');
  return { uid, gid: id(gid, user), home };
}

const lines = (table: string): string[][] => table.split('\n').map((l) => l.split(':'));

function id(text: string, user: string): number {
  const n = Number(text);
  if (/^\d{1,10}$/.test(text) && n <= 0xffff_fffe) return n;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    `image's user '${user}': a number below 2^32 - 1 expected, '${text}' found`,
  );
}

const missing = (user: string, what: string, where: string): HyperturtleError =>
  new HyperturtleError('HT_UNSUPPORTED', `image's user '${user}': no ${what} in its ${where}`);
